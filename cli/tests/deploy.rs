//! The examples in `deploy/` are what this program understands: flags exist, files parse, and the members of a group agree on who they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use escrow_cli::args::Cli;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> String {
    let path = deploy().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words after the program, of one server.
type Line = Vec<String>;

fn words(line: &str) -> Line {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Of unit files, as systemd would run them for instance 0, after the first start.
fn of_units(text: &str) -> Vec<Line> {
    let started = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    let expanded = started.map(|line| line.replace("%i", "0").replace("%S", "/var/lib"));
    expanded
        .map(|line| words(&line)[1..].iter().filter(|word| *word != "$ESCROW_FOUND").cloned().collect())
        .collect()
}

/// The block below a key: what is indented more than it.
fn below<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> = (0..lines.len()).filter(|&at| lines[at].trim() == key).collect();
    starts.into_iter().map(move |at| {
        let of_block = lines[at + 1..].iter().take_while(|line| indent(line) > indent(lines[at]));
        of_block.map(|line| line.trim()).collect()
    })
}

/// Of Kubernetes manifests, for the replica of a number.
fn of_manifest(text: &str, number: u32) -> Vec<Line> {
    let number = number.to_string();
    let word = |line: &str| line.strip_prefix("- ").expect("a list").replace("$(REPLICA_NUMBER)", &number);
    below(text, "args:").map(|block| block.into_iter().map(word).collect()).collect()
}

/// Of a compose file.
fn of_compose(text: &str) -> Vec<Line> {
    let line = |block: Vec<&str>| block.join(" ").replace("${ESCROW_FOUND:-}", "");
    let id = |line: String| match line.split_once("${ESCROW_CLUSTER_ID:-") {
        Some((before, after)) => format!("{before}{}", after.replacen('}', "", 1)),
        None => line,
    };
    below(text, "command: >-").map(line).map(id).map(|line| words(&line)).collect()
}

fn parse(line: &[String]) -> Result<(), String> {
    let words = std::iter::once("escrow").chain(line.iter().map(String::as_str));
    Cli::try_parse_from(words).map(drop).map_err(|error| error.to_string())
}

/// The values of a flag, written with a space or with `=`.
fn values(line: &[String], flag: &str) -> Vec<String> {
    let joined = format!("{flag}=");
    let at = |(at, word): (usize, &String)| {
        let next = (word == flag).then(|| line[at + 1].clone());
        next.or_else(|| word.strip_prefix(&joined).map(str::to_owned))
    };
    line.iter().enumerate().filter_map(at).collect()
}

fn one(line: &[String], flag: &str) -> String {
    let values = values(line, flag);
    assert_eq!(values.len(), 1, "{flag} in {line:?}");
    values[0].clone()
}

/// Every group has three members who agree, and coordinators find all of them; nobody founds anything.
fn check_groups(lines: &[Line]) {
    let mut groups: BTreeMap<String, (Vec<String>, BTreeSet<String>)> = BTreeMap::new();
    for line in lines {
        parse(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert!(!line.contains(&"--found".to_owned()), "only the first start founds: {line:?}");
        let which = if line[0] == "coordinator" { one(line, "--partition") } else { one(line, "--shards") };
        let members = values(line, "--replica");
        let group = groups
            .entry(format!("{} {which}", line[0]))
            .or_insert_with(|| (members.clone(), BTreeSet::new()));
        assert_eq!(group.0, members, "the members of a group agree");
        let number = one(line, "--replica-number");
        assert!(members.iter().any(|member| member.starts_with(&format!("{number}="))), "{line:?}");
        assert!(group.1.insert(number), "two members of one number: {line:?}");
    }
    for (name, (members, numbers)) in &groups {
        assert_eq!((members.len(), numbers.len()), (3, 3), "{name}");
    }
    for line in lines.iter().filter(|line| line[0] == "coordinator") {
        let participants = values(line, "--participant");
        let shards = groups.keys().filter(|name| name.starts_with("participant"));
        assert_eq!(participants.len(), shards.count(), "{line:?}");
        for participant in participants {
            let (shard, endpoint) = participant.split_once('=').expect("ID=URL");
            let members = &groups[&format!("participant {shard}")].0;
            let listed: Vec<&str> =
                members.iter().map(|member| member.split_once('=').expect("N=URL").1).collect();
            assert_eq!(endpoint.split('+').collect::<Vec<_>>(), listed, "{line:?}");
        }
    }
}

#[test]
fn the_manifests_give_groups() {
    let files =
        ["coordinator-0", "shard-0", "shard-1"].map(|name| read(&format!("kubernetes/base/{name}.yaml")));
    let lines: Vec<Line> =
        (1..=3).flat_map(|number| files.iter().flat_map(move |text| of_manifest(text, number))).collect();
    assert_eq!(lines.len(), 9);
    check_groups(&lines);
    let founding = read("kubernetes/founding/kustomization.yaml");
    assert!(founding.contains("value: --found"));
    let mut first = lines[0].clone();
    first.push("--found".to_owned());
    parse(&first).unwrap();
}

#[test]
fn compose_gives_groups() {
    let text = read("compose.yaml");
    let lines = of_compose(&text);
    assert_eq!(lines.len(), 9);
    check_groups(&lines);
    for line in &lines {
        assert_eq!(one(line, "--cluster-id").len(), 32);
    }
}

#[test]
fn units_are_understood_and_their_files_too() {
    for role in ["coordinator", "participant"] {
        let lines = of_units(&read(&format!("systemd/escrow-{role}@.service")));
        assert_eq!(lines.len(), 1);
        parse(&lines[0]).unwrap();
        assert_eq!(lines[0][0], role);
    }
    assert!(read("systemd/founding.conf").contains("\nEnvironment=ESCROW_FOUND=--found\n"));
    let coordinator: escrow_coordinator::Config =
        toml::from_str(&read("systemd/coordinator-0.toml")).unwrap();
    let coordinator = coordinator.validated().unwrap();
    assert!(!coordinator.replication.unwrap().found);
    for participant in &coordinator.participants {
        let path = format!("systemd/participant-{}.toml", participant.id);
        let shard: escrow_participant::Config = toml::from_str(&read(&path)).unwrap();
        let shard = shard.validated().unwrap();
        assert_eq!((shard.shards, shard.cluster_id), (vec![participant.id], coordinator.cluster_id.clone()));
        let replication = shard.replication.unwrap();
        let members: Vec<String> = replication.members.into_values().collect();
        assert_eq!((members.join("+"), replication.found), (participant.endpoint.clone(), false), "{path}");
    }
}

#[test]
fn commands_that_the_readme_names_exist() {
    let text = read("README.md");
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("escrow ")).collect();
    assert!(!commands.is_empty());
    for command in commands {
        parse(&words(command.trim_end_matches('&'))[1..])
            .unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}
