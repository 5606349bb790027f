//! One child process, from its start to its end.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Command;
use tokio::sync::watch;

use crate::arguments::CommandLines;
use crate::child::SUPERVISOR_ENV;
use crate::error::{ClusterError, at};
use crate::spec::NodeId;

/// How much of a log is shown in an error.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 << 10;

/// A running child, or one that has just ended. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) started: Instant,
    /// Signals go through this handle: they can never hit another process that was given the same pid later.
    handle: OwnedFd,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts a process of a cluster; its output is appended to its log.
    pub(crate) fn start(lines: &CommandLines<'_>, node: NodeId) -> Result<Self, ClusterError> {
        let spec = lines.spec;
        let log_path = spec.log_path(node);
        let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(at(&log_path))?;
        let log_too = log.try_clone().map_err(at(&log_path))?;
        let mut child = Command::new(&spec.executable)
            .args(lines.of(node))
            .envs(spec.env.iter().cloned())
            .envs(spec.node_env.get(&node).into_iter().flatten().cloned())
            .env(SUPERVISOR_ENV, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            // A group of its own: Ctrl-C reaches the supervisor alone, which then stops the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(at(&spec.executable))?;
        let pid = child.id().expect("a child that was just started has a pid");
        let handle = Pid::from_raw(pid.cast_signed())
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|error| at(&spec.executable)(error.into()))?;
        let (ending, ended) = watch::channel(None);
        tokio::spawn(async move {
            // Waiting for a child of ours cannot fail; were it to, the child counts as ended.
            let status = child.wait().await.unwrap_or_default();
            ending.send_replace(Some(status));
        });
        Ok(Self { pid, started: Instant::now(), handle, ended })
    }

    /// Its exit status, once it ended.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> impl Future<Output = ExitStatus> + use<> {
        let mut ended = self.ended.clone();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(status) => status.unwrap_or_default(),
                // The task that waits is gone with its runtime; so is the child.
                Err(_) => ExitStatus::default(),
            }
        }
    }

    /// Sends a signal; a process that has ended does not mind.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.handle, signal) {
            tracing::debug!(pid = self.pid, ?signal, %error, "the process has ended already");
        }
    }

    /// SIGTERM, and SIGKILL when that does not help in time. Gives whether it had to be killed.
    pub(crate) async fn stop(&self, within: Duration) -> bool {
        self.signal(Signal::TERM);
        if tokio::time::timeout(within, self.wait()).await.is_ok() {
            return false;
        }
        self.kill().await;
        true
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status().is_none() {
            self.signal(Signal::KILL);
        }
    }
}

/// The last lines of a log; what is wrong with reading it stands in for them.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        Ok(lines[lines.len().saturating_sub(TAIL_LINES)..]
            .iter()
            .flat_map(|line| ["  ", line, "\n"])
            .collect())
    };
    match read() {
        Ok(tail) if tail.is_empty() => "  (empty)\n".to_owned(),
        Ok(tail) => tail,
        Err(error) => format!("  ({}: {error})\n", path.display()),
    }
}
