//! The binary as people run it: one command with its output and exit code.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use tokio::process::{Child, Command};

use escrow_chaos::world::{World, binary};

/// No command of a test takes longer.
const WITHIN: Duration = Duration::from_secs(120);

/// A command that ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Ran {
    /// Its output as one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Itself, if its exit code is this.
    #[allow(clippy::return_self_not_must_use)] // often the check is all that is wanted
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// A command that runs; killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// For whoever reads why a test failed.
    words: String,
}

/// Starts `escrow` with these words, without a terminal and without input.
pub fn start(words: &[&str]) -> Running {
    let child = Command::new(binary())
        .args(words)
        .env_remove("ESCROW_ENDPOINT")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary can be run");
    Running { child, words: format!("escrow {words:?}") }
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().expect("it was not waited for").cast_signed()).expect("a pid")
    }

    /// Waits for its end.
    pub async fn ends_within(self, within: Duration) -> Ran {
        let Self { child, words } = self;
        let ended = tokio::time::timeout(within, child.wait_with_output()).await;
        let output =
            ended.unwrap_or_else(|_| panic!("{words} did not end")).expect("a child can be waited for");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        let code = output.status.code().unwrap_or_else(|| panic!("{words} was killed: {:?}", output.status));
        Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs `escrow` with these words, without a terminal and without input.
pub async fn escrow(words: &[&str]) -> Ran {
    start(words).ends_within(WITHIN).await
}

/// Runs a client command against a cluster, with JSON as its output. Words are divided at blanks.
pub async fn escrow_at(world: &World, words: &str) -> Ran {
    let endpoint = world.endpoint();
    let mut all: Vec<&str> = words.split_whitespace().collect();
    all.extend(["--endpoint", &endpoint, "-o", "json"]);
    escrow(&all).await
}
