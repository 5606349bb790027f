//! Why a cluster cannot start or go on.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a cluster cannot start or go on. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Another supervisor works there.
    #[error("data directory {} is in use by another escrow up{}", .path.display(), pid_text(*.pid))]
    DataDirInUse {
        /// Which.
        path: PathBuf,
        /// The other's pid, if it could be read.
        pid: Option<u32>,
    },
    /// The data directory belongs to a cluster of another size.
    #[error(
        "data directory {} belongs to a cluster with --coordinators {coordinators} --participants {participants} \
         --replicas {replicas}: accounts are dealt out over the participants, and replicas know each other, so these numbers \
         cannot change; use them or another --data-dir", .path.display()
    )]
    Topology {
        /// Which.
        path: PathBuf,
        /// How many it was made with.
        coordinators: u16,
        /// How many it was made with.
        participants: u16,
        /// How many it was made with.
        replicas: u16,
    },
    /// Other processes listen there: all ports that are taken, so that whoever chooses others sees what is in the way.
    #[error("{} in use by another process: choose others with --base-port (0 picks free ones)", ports_text(.0))]
    PortsInUse(Vec<u16>),
    /// The numbers make no cluster.
    #[error("{0}")]
    Invalid(String),
    /// A file or directory of the cluster.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A process ended before it was ready.
    #[error("{name} ended before it was ready ({status}); the end of its log:\n{log_tail}")]
    EndedEarly {
        /// Which.
        name: String,
        /// How.
        status: ExitStatus,
        /// The last lines of its log.
        log_tail: String,
    },
    /// A process did not become ready.
    #[error("{name} was not ready after {waited:?} ({last}); the end of its log:\n{log_tail}")]
    NotReady {
        /// Which.
        name: String,
        /// How long it was waited for.
        waited: Duration,
        /// What the last look at it said.
        last: String,
        /// The last lines of its log.
        log_tail: String,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn ports_text(ports: &[u16]) -> String {
    let listed = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    if ports.len() == 1 { format!("port {listed} is") } else { format!("ports {listed} are each") }
}

impl ClusterError {
    /// A stable name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::DataDirInUse { .. } => "DATA_DIR_IN_USE",
            Self::Topology { .. } => "TOPOLOGY_MISMATCH",
            Self::PortsInUse(_) => "PORT_IN_USE",
            Self::Invalid(_) => "INVALID_ARGUMENT",
            Self::Io { .. } => "IO",
            Self::EndedEarly { .. } => "PROCESS_ENDED",
            Self::NotReady { .. } => "PROCESS_NOT_READY",
        }
    }
}

/// Names the path in an error of the operating system.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ClusterError {
    let path = path.into();
    move |source| ClusterError::Io { path, source }
}
