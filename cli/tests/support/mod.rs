//! Runs the binary, and a cluster of it.

// Each test file uses a part of it; clippy knows only functions marked #[test] as tests.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

pub const NOBODY: &str = "http://127.0.0.1:1";

/// The binary, with nothing of this environment that could change what it does.
pub fn escrow(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_escrow"));
    command.args(words).stdin(Stdio::null());
    for variable in ["RUST_LOG", "ESCROW_ENDPOINT", "ESCROW_CONFIG", "ESCROW_DATA_DIR", "ESCROW_LISTEN"] {
        command.env_remove(variable);
    }
    command
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// What was printed for machines.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// `error.code` of what was printed for machines.
    pub fn error_code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs a command line, split at spaces.
pub fn run(line: &str) -> Ran {
    let words: Vec<&str> = line.split(' ').collect();
    escrow(&words).output().unwrap().into()
}

/// `escrow up`, ready. Killed when dropped.
pub struct Up {
    pub child: Child,
    pub manifest: Value,
    pub stdout: Lines<BufReader<ChildStdout>>,
    pub stderr: Lines<BufReader<ChildStderr>>,
}

impl Up {
    /// Starts a cluster on free ports and waits until it says that it is ready.
    pub fn start(data_dir: &Path, more: &[&str]) -> Self {
        let directory = data_dir.to_str().unwrap();
        let mut words = vec!["up", "--data-dir", directory, "--base-port", "0", "-o", "json"];
        words.extend(more);
        let mut child = escrow(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let Some(Ok(line)) = stdout.next() else {
            let said: Vec<String> = stderr.by_ref().map_while(Result::ok).collect();
            panic!("up ended before it was ready: {said:?}");
        };
        let manifest = serde_json::from_str(&line).unwrap();
        Self { child, manifest, stdout, stderr }
    }

    /// All coordinators, as `--endpoint` takes them.
    pub fn endpoints(&self) -> String {
        let coordinators = self.manifest["coordinators"].as_array().unwrap();
        coordinators.iter().map(|one| one["endpoint"].as_str().unwrap()).collect::<Vec<_>>().join(",")
    }

    pub fn participant(&self, number: usize) -> &Value {
        &self.manifest["participants"][number]
    }

    /// Runs a client command against it.
    pub fn run(&self, line: &str) -> Ran {
        run(&format!("{line} --endpoint {} -o json", self.endpoints()))
    }

    /// Reads what it tells on stderr until a line contains `part`.
    pub fn wait_told(&mut self, part: &str) -> String {
        self.stderr
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains(part))
            .unwrap_or_else(|| panic!("up ended without telling '{part}'"))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
