//! Which server of a cluster file a server command runs.

use std::path::{Path, PathBuf};

use escrow_coordinator::{ParticipantConfig, ParticipantKind};

use crate::cluster_file::{ClusterFile, Kind, Node};
use crate::exit::Failure;

/// A cluster file, and a server of it. What it says of a server cannot be said by flags, too.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Cluster file")]
pub(super) struct PlaceArgs {
    /// All servers of the cluster: see `escrow cluster init`
    #[arg(long, value_name = "FILE", requires = "node", env = "ESCROW_CLUSTER_FILE")]
    cluster_file: Option<PathBuf>,
    /// Which of them this is
    #[arg(long, value_name = "NAME", requires = "cluster_file", env = "ESCROW_NODE")]
    node: Option<String>,
}

/// A server of a cluster file.
pub(super) struct Place {
    pub(super) file: ClusterFile,
    pub(super) node: Node,
}

impl PlaceArgs {
    /// Finds the server; `None` without a cluster file.
    pub(super) fn find(self, kind: Kind) -> Result<Option<Place>, Failure> {
        let (Some(path), Some(name)) = (self.cluster_file, self.node) else { return Ok(None) };
        let file = ClusterFile::load(&path)?;
        let node = file.node(&name, kind)?.clone();
        Ok(Some(Place { file, node }))
    }
}

impl Place {
    /// Where its data is, unless something else was said: two servers of one machine must not share a directory.
    pub(super) fn data_dir(&self) -> PathBuf {
        Path::new("escrow-data").join(&self.node.name)
    }

    /// The wallet shards, for a coordinator; others of `known` stay.
    pub(super) fn participants(&self, known: Vec<ParticipantConfig>) -> Vec<ParticipantConfig> {
        let shards = self.file.shards().into_iter().map(|(id, endpoint)| ParticipantConfig {
            id,
            name: id.to_string(),
            endpoint,
            kind: ParticipantKind::Stream,
        });
        let externals = known.into_iter().filter(|one| one.kind == ParticipantKind::Unary);
        shards.chain(externals).collect()
    }
}
