//! What the two server commands are told of their replicas, on the command line.

use std::collections::BTreeMap;

use escrow_replica::Replication;

use crate::config::{parse_numbered_url, set};
use crate::exit::Failure;

/// The flags of replication; a server without any of them, and without `[replication]` in its file, has no replicas.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Replication")]
pub(super) struct ReplicationArgs {
    /// Which replica this process is, from 1
    #[arg(long, value_name = "N", conflicts_with = "cluster_file")]
    replica_number: Option<u32>,
    /// Where a replica listens, by its number; repeated for all of them, this one included
    #[arg(long = "replica", value_name = "N=URL", value_parser = parse_numbered_url::<u32>,
        conflicts_with = "cluster_file")]
    replicas: Vec<(u32, String)>,
    /// The group is new, and these are its first members: only for the first start of a cluster
    #[arg(long)]
    found: bool,
    /// A follower that hears nothing from its leader for so many milliseconds or more stands for election
    #[arg(long, value_name = "MS")]
    election_timeout_ms: Option<u64>,
    /// A leader says that it is there every so many milliseconds
    #[arg(long, value_name = "MS")]
    heartbeat_ms: Option<u64>,
}

impl ReplicationArgs {
    /// Puts the flags over what the file says.
    pub(super) fn over(self, file: Option<Replication>) -> Result<Option<Replication>, Failure> {
        let members = members(self.replicas)?;
        let mut replication = match (file, self.replica_number, members) {
            (Some(file), number, members) => {
                let members = if members.is_empty() { file.members } else { members };
                Replication { number: number.unwrap_or(file.number), members, ..file }
            }
            (None, Some(number), members) if !members.is_empty() => Replication::new(number, members, false),
            (None, Some(number), _) => {
                return Err(Failure::bad_config(format!(
                    "--replica-number {number} needs --replica N=URL for every replica, this one included"
                )));
            }
            (None, None, members) if !members.is_empty() => {
                return Err(Failure::bad_config(
                    "--replica needs --replica-number: which of them is this process?",
                ));
            }
            (None, None, _) => {
                let is_alone =
                    !self.found && self.election_timeout_ms.is_none() && self.heartbeat_ms.is_none();
                return if is_alone {
                    Ok(None)
                } else {
                    Err(Failure::bad_config(
                        "--found, --election-timeout-ms and --heartbeat-ms are for replicas: they need \
                         --replica-number N and --replica N=URL",
                    ))
                };
            }
        };
        replication.found |= self.found;
        set(&mut replication.election_ms, self.election_timeout_ms);
        set(&mut replication.heartbeat_ms, self.heartbeat_ms);
        Ok(Some(replication))
    }
}

fn members(given: Vec<(u32, String)>) -> Result<BTreeMap<u32, String>, Failure> {
    let mut members = BTreeMap::new();
    for (number, url) in given {
        if members.insert(number, url).is_some() {
            return Err(Failure::bad_config(format!("--replica {number} is given twice")));
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Words {
        #[command(flatten)]
        args: ReplicationArgs,
        #[command(flatten)]
        _place: crate::commands::place::PlaceArgs,
    }

    fn over(file: Option<Replication>, line: &str) -> Result<Option<Replication>, String> {
        let words = Words::try_parse_from(format!("escrow {line}").split_whitespace());
        words.map_err(|error| error.to_string())?.args.over(file).map_err(|failure| failure.message)
    }

    fn two() -> BTreeMap<u32, String> {
        BTreeMap::from([(1, "http://a:1".to_owned()), (2, "http://b:1".to_owned())])
    }

    #[test]
    fn without_flags_the_file_stands() {
        assert_eq!(over(None, ""), Ok(None));
        let file = Replication::new(2, two(), true);
        assert_eq!(over(Some(file.clone()), ""), Ok(Some(file)));
    }

    #[test]
    fn flags_make_a_group() {
        let made = over(None, "--replica-number 2 --replica 1=http://a:1 --replica 2=http://b:1 --found");
        assert_eq!(made, Ok(Some(Replication::new(2, two(), true))));
        let times = "--replica-number 2 --replica 1=http://a:1 --replica 2=http://b:1 --election-timeout-ms \
                     900 --heartbeat-ms 90";
        let made = over(None, times).unwrap().unwrap();
        assert_eq!((made.found, made.election_ms, made.heartbeat_ms), (false, 900, 90));
    }

    #[test]
    fn flags_win_over_the_file_one_by_one() {
        let file = Replication { heartbeat_ms: 70, ..Replication::new(1, two(), false) };
        let made = over(Some(file.clone()), "--replica-number 2 --election-timeout-ms 900").unwrap().unwrap();
        assert_eq!(made, Replication { number: 2, election_ms: 900, ..file.clone() });
        // Members are replaced as a whole: a mixture would be hard to see through.
        let made = over(Some(file), "--replica 1=http://c:1").unwrap().unwrap();
        assert_eq!(made.members, BTreeMap::from([(1, "http://c:1".to_owned())]));
    }

    #[test]
    fn what_is_incomplete_says_what_is_missing() {
        for (line, part) in [
            ("--replica-number 1", "needs --replica N=URL"),
            ("--replica 1=http://a:1", "needs --replica-number"),
            ("--found", "need --replica-number"),
            ("--heartbeat-ms 5", "need --replica-number"),
            ("--election-timeout-ms 5", "need --replica-number"),
            (
                "--replica-number 1 --replica 1=http://a:1 --replica 1=http://b:1",
                "--replica 1 is given twice",
            ),
            ("--replica-number x", "invalid value"),
            ("--replica 1=a:1", "is not N=URL"),
            ("--replica one=http://a:1", "is not N=URL"),
        ] {
            let message = over(None, line).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}
