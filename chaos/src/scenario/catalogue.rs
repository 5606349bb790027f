//! The scenarios that are in the binary.

macro_rules! scenarios {
    ($($name:literal,)*) => {
        /// Name and text of every scenario of `chaos/scenarios/`, in the order in which they are told.
        pub const ALL: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml"))),)*];
    };
}

scenarios! {
    "participants-killed",
    "coordinator-killed",
    "everything-killed",
    "participant-frozen",
    "partition",
    "slow-and-lossy",
    "crash-table",
    "disk-full",
    "rolling-restart",
    "hot-account",
    "clock-jump",
    "ten-thousand-in-doubt",
    "mixed",
    "leaders-killed",
    "leaders-paused",
    "minority-partition",
    "wiped-follower",
    "replicas-restarted",
    "replicas-mixed",
}

/// The text of a scenario by its name.
pub fn find(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn every_file_is_in_the_list_and_parses() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let listed: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(files, listed);
        for (name, text) in ALL {
            let scenario = Scenario::parse(name, text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.name, *name, "a file is called as its scenario");
        }
    }
}
