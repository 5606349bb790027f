//! The command line without any server: help, bad input, exit codes, configuration files.

mod support;

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::process::Stdio;

use clap::CommandFactory as _;
use escrow_cli::args::Cli;
use rustix::fs::{FlockOperation, flock};
use support::{NOBODY, escrow, run};

/// Every command that does something, with its path.
fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    let path = format!("{path} {}", command.get_name());
    let mut has_commands = false;
    for sub in command.get_subcommands() {
        has_commands = true;
        leaves(sub, &path, found);
    }
    if !has_commands {
        found.push((path, command.clone()));
    }
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_an_example() {
    let mut found = Vec::new();
    leaves(&Cli::command(), "", &mut found);
    assert!(found.len() >= 25, "{found:?}");
    for (path, mut command) in found {
        let help = command.render_long_help().to_string();
        let name = path.trim().to_owned();
        let example =
            help.split("Examples:").nth(1).unwrap_or_else(|| panic!("{name} has no example:\n{help}"));
        assert!(example.contains(&name), "the example of '{name}' is of another command:\n{help}");
    }
}

#[test]
fn help_names_the_exit_codes() {
    let ran = run("transfer --help");
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stdout.contains("3 canceled") && ran.stdout.contains("4 outcome not known yet"),
        "{}",
        ran.stdout
    );
}

#[test]
fn bad_input_is_2_before_any_server_is_asked() {
    let long = "x".repeat(65);
    let transfer = |rest: &str| format!("transfer --endpoint {NOBODY} {rest}");
    for line in [
        "nonsense".to_owned(),
        transfer("--from a --to b --currency USD"),
        transfer("--from a --to b --amount 0 --currency USD"),
        transfer("--from a --to b --amount -1 --currency USD"),
        transfer("--from a --to b --amount 1.001 --currency USD"),
        transfer("--from a --to b --amount 1e3 --currency USD"),
        transfer("--from a --to b --amount 99999999999999999999 --currency USD"),
        transfer("--from a --to b --amount 1 --currency XXX"),
        transfer(&format!("--from {long} --to b --amount 1 --currency USD")),
        transfer(&format!("--from a --to b --amount 1 --currency USD --id {long}")),
        transfer("--from a --to b --amount 1 --currency USD --timeout 5"),
        transfer("--from a --to b --amount 1 --currency USD --wait forever"),
        format!("account open a --currency USD --overdraft much --endpoint {NOBODY}"),
        "account show a --endpoint nowhere".to_owned(),
        format!("tx force 0-1-1 cancel --reason r --endpoint {NOBODY}"),
        format!("tx give-up 0-1-1 --reason r --endpoint {NOBODY}"),
        format!("tx list --state odd --endpoint {NOBODY}"),
        format!("reserve --from a --currency USD --endpoint {NOBODY}"),
        format!("execute --debit a --credit b=1 --currency USD --endpoint {NOBODY}"),
        format!("bench --cross-shard 101 --endpoint {NOBODY}"),
        "up --participants 0".to_owned(),
        "up --coordinators 11".to_owned(),
        "up --replicas 2".to_owned(),
        "up --replicas 0".to_owned(),
        "up --replicas 9".to_owned(),
        "participant --replica-number 1".to_owned(),
        "participant --replica-number 1 --replica 2=http://10.0.0.2:7410".to_owned(),
        "participant --replica 1=http://10.0.0.1:7410".to_owned(),
        "participant --found".to_owned(),
        format!("coordinator --participant 0={NOBODY} --heartbeat-ms 10"),
        format!("coordinator --participant 0={NOBODY} --replica-number 1 --replica 1={NOBODY}"),
        "coordinator".to_owned(),
        "coordinator --participant nonsense".to_owned(),
        "participant --shards 0,0".to_owned(),
        "status --log-level =loud".to_owned(),
    ] {
        let ran = run(&line);
        assert_eq!(ran.code, Some(2), "{line}: {ran:?}");
        assert!(!ran.stderr.is_empty() && !ran.stderr.contains("panicked"), "{line}: {ran:?}");
    }
}

#[test]
fn an_id_that_is_empty_or_not_utf_8_is_bad_input() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    for id in [OsStr::new(""), OsStr::from_bytes(b"a\xff"), OsStr::new("a\u{7}")] {
        let ran = escrow(&["account", "show"]).arg(id).args(["--endpoint", NOBODY]).output().unwrap();
        assert_eq!(ran.status.code(), Some(2), "{id:?}: {ran:?}");
    }
}

#[test]
fn machines_get_errors_as_an_object_with_a_code() {
    for (line, code) in [
        ("transfer --from a --to b --amount 0 --currency USD -o json", "AMOUNT_ZERO"),
        ("transfer --from a --to b --amount -2 --currency USD -o json", "INVALID_AMOUNT"),
        ("transfer --from a -o json", "INVALID_ARGUMENT"),
        ("nonsense --output=json", "INVALID_ARGUMENT"),
        ("coordinator --config /no/such.toml -o json", "CONFIG_INVALID"),
    ] {
        let ran = run(line);
        assert_eq!((ran.code, ran.error_code().as_str()), (Some(2), code), "{line}: {ran:?}");
        assert!(!ran.json()["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_server_that_is_not_there_is_5() {
    for line in ["account show a", "status", "transfer --from a --to b --amount 1 --currency USD", "verify"] {
        let ran = run(&format!("{line} --endpoint {NOBODY} -o json"));
        assert_eq!((ran.code, ran.error_code().as_str()), (Some(5), "UNAVAILABLE"), "{line}: {ran:?}");
        assert!(ran.stderr.contains("127.0.0.1:1"), "it says where: {ran:?}");
    }
}

#[test]
fn the_endpoint_can_come_from_the_environment() {
    let ran = escrow(&["status"]).env("ESCROW_ENDPOINT", "http://127.0.0.1:2").output().unwrap();
    assert_eq!(ran.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("127.0.0.1:2"));
}

#[test]
fn a_wrong_configuration_file_names_file_key_and_alternatives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.toml");
    for (command, text, parts) in [
        ("coordinator", "listen_on = 'x'", ["listen_on", "`listen`", "line 1"]),
        ("coordinator", "[[participants]]\nid = 0\nurl = 'http://x'", ["url", "`endpoint`", "line 3"]),
        ("coordinator", "in_flight_max = 'many'", ["in_flight_max", "invalid type", "line 1"]),
        ("participant", "shard = 0", ["shard", "`shards`", "line 1"]),
        ("participant", "shards = [", ["line 1", "TOML", "array"]),
    ] {
        fs::write(&path, text).unwrap();
        let ran = run(&format!("{command} --config {} -o json", path.display()));
        assert_eq!((ran.code, ran.error_code().as_str()), (Some(2), "CONFIG_INVALID"), "{text}: {ran:?}");
        for part in parts.iter().copied().chain(["server.toml"]) {
            assert!(ran.stderr.contains(part), "'{part}' is missing for {text}: {}", ran.stderr);
        }
    }
}

#[test]
fn replication_without_a_cluster_or_with_hasty_times_is_refused_by_name() {
    let group = format!("participant --replica-number 1 --replica 1={NOBODY} -o json");
    let ran = run(&group);
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(2), "CONFIG_INVALID"), "{ran:?}");
    assert!(ran.stderr.contains("replication needs a cluster_id"), "{ran:?}");
    let cluster = "--cluster-id 0123456789abcdef0123456789abcdef";
    let hasty = run(&format!("{group} {cluster} --heartbeat-ms 100 --election-timeout-ms 200"));
    assert!(hasty.code == Some(2) && hasty.stderr.contains("election_ms"), "{hasty:?}");
    let stranger = run(&format!("participant --replica-number 2 --replica 1={NOBODY} {cluster}"));
    assert!(stranger.code == Some(2) && stranger.stderr.contains("number 2 is not among"), "{stranger:?}");
}

#[test]
fn flags_of_replication_win_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.toml");
    let text = "cluster_id = '0123456789abcdef0123456789abcdef'\n[replication]\nnumber = 1\n\
                [replication.members]\n1 = 'http://10.0.0.1:7410'\n2 = 'http://10.0.0.2:7410'\n";
    fs::write(&path, text).unwrap();
    // That the file was read as well shows in who is not among its members.
    let ran = run(&format!("participant --config {} --replica-number 3", path.display()));
    assert!(ran.code == Some(2) && ran.stderr.contains("number 3 is not among"), "{ran:?}");
}

#[test]
fn an_even_number_of_replicas_is_refused_with_the_reason() {
    let ran = run("up --replicas 4 -o json");
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(2), "INVALID_ARGUMENT"), "{ran:?}");
    assert!(ran.stderr.contains("take 3 or 5"), "{ran:?}");
}

#[test]
fn completions_are_there_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&format!("completions {shell}"));
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("give-up"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_not_a_panic() {
    let mut child =
        escrow(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn up_refuses_a_data_directory_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let lock = OpenOptions::new().create(true).append(true).open(directory.path().join("LOCK")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let ran = run(&format!("up --data-dir {} --base-port 0 -o json", directory.path().display()));
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(1), "DATA_DIR_IN_USE"), "{ran:?}");
    assert!(ran.stderr.contains(directory.path().to_str().unwrap()));
}

#[test]
fn up_refuses_a_port_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ran = run(&format!("up --data-dir {} --base-port {port} -o json", directory.path().display()));
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(1), "PORT_IN_USE"), "{ran:?}");
    // Others of its ports may be taken too, by whatever else runs here; this one is named in any case.
    let mut numbers = ran.stderr.split(|char: char| !char.is_ascii_digit());
    assert!(numbers.any(|number| number == port.to_string()), "{ran:?}");
}

#[test]
fn servers_refuse_a_port_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, directory) = (taken.local_addr().unwrap().port(), directory.path().display());
    for line in [
        format!("participant --data-dir {directory}/p --listen 127.0.0.1:{port} -o json"),
        format!(
            "coordinator --data-dir {directory}/c --listen 127.0.0.1:{port} --participant 0={NOBODY} -o json"
        ),
    ] {
        let ran = run(&line);
        assert_eq!((ran.code, ran.error_code().as_str()), (Some(1), "PORT_IN_USE"), "{line}: {ran:?}");
    }
}

#[test]
fn a_cluster_file_is_made_and_says_what_a_server_is() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let path = directory.path().join("cluster.toml");
    let init = format!("cluster init --shards 1 --replicas 1 --host 127.0.0.1 --base-port {port}");
    fs::write(&path, run(&init).stdout).unwrap();
    let of = |command: &str, node: &str, more: &str| {
        let file = path.display();
        run(&format!("{command} --cluster-file {file} --node {node} --data-dir {file}.d -o json{more}"))
    };
    // It listens where the file says.
    let ran = of("coordinator", "coordinator-0", "");
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(1), "PORT_IN_USE"), "{ran:?}");
    assert!(ran.stderr.contains(&port.to_string()), "{ran:?}");
    for (ran, part) in [
        (of("participant", "coordinator-0", ""), "escrow coordinator runs it"),
        (of("participant", "participant-7", ""), "coordinator-0, participant-0"),
        (of("participant", "participant-0", " --shards 1"), "cannot be used with"),
        (of("coordinator", "coordinator-0", " --replica 1=http://a:1"), "cannot be used with"),
        (run(&format!("participant --cluster-file {}", path.display())), "--node <NAME>"),
        (run("participant --cluster-file /no/such.toml --node x"), "/no/such.toml"),
        (of("coordinator", "coordinator-0", " --found"), "need --replica-number"),
    ] {
        assert!(ran.code == Some(2) && ran.stderr.contains(part), "'{part}' is missing: {ran:?}");
    }
}

#[test]
fn a_cluster_file_for_machines_puts_replicas_apart() {
    let init = "cluster init --shards 2 --replicas 3 --host a --host b";
    let ran = run(&format!("{init} -o json"));
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(2), "INVALID_ARGUMENT"), "{ran:?}");
    let made = run(&format!("{init} --host c -o json")).json();
    assert_eq!(made["node"].as_array().unwrap().len(), 9, "{made}");
    let text = run(&format!("{init} --host c")).stdout;
    assert!(
        text.contains("[[node]]") && text.contains("--endpoint http://c:7400+http://a:7400+http://b:7400"),
        "{text}"
    );
}

#[test]
fn chaos_without_failpoints_says_which_program_has_them() {
    let ran = run("chaos run crash-table --duration 10s -o json");
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(7), "CANNOT_RUN_HERE"), "{ran:?}");
    assert!(ran.stderr.contains("escrow-under-test -- chaos run crash-table"), "{ran:?}");
}
