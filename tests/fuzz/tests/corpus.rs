//! The committed seeds are those that the encoders make today. A change of a format shows here; if it is meant, run with
//! `ESCROW_BLESS=1` and commit what it writes.

use escrow_fuzz::TARGETS;

/// All of it, so that a clone stays small.
const CORPUS_BYTES_MAX: u64 = 200_000;

#[test]
fn seeds_are_what_the_encoders_make() {
    let bless = std::env::var_os("ESCROW_BLESS").is_some();
    for target in TARGETS {
        let dir = target.corpus_dir();
        let seeds = (target.seeds)();
        if bless {
            std::fs::create_dir_all(&dir).unwrap();
        }
        let mut expected = Vec::new();
        for (name, bytes) in seeds {
            let name = format!("seed-{name}");
            if bless {
                std::fs::write(dir.join(&name), &bytes).unwrap();
            }
            let found = std::fs::read(dir.join(&name)).unwrap_or_default();
            assert!(found == bytes, "{}: {name} is not what its encoder makes", target.name);
            expected.push(name);
        }
        for entry in std::fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                expected.contains(&name) || name.starts_with("found-"),
                "{}: what is {name}?",
                target.name
            );
        }
    }
}

#[test]
fn the_corpus_is_small() {
    let files = TARGETS.iter().flat_map(|target| std::fs::read_dir(target.corpus_dir()).unwrap());
    let bytes: u64 = files.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes");
}
