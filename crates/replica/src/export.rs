//! A snapshot of a group for whoever keeps it: a backup. Made by the leader, with everything that was acknowledged before it was
//! asked for; the same file that a follower would be sent.
//!
//! **Invariant:** asks only: nothing of the group changes, but for a checkpoint that its owner writes sooner than it would have.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use escrow_journal::storage::{Disk, DiskFile};
use escrow_proto::v1;
use futures_util::Stream;
use futures_util::stream;
use tokio::sync::oneshot;

use crate::error::NotLeader;
use crate::group::Replica;
use crate::network::CHUNK_BYTES;
use crate::runtime;
use crate::types::Position;
use crate::wire;

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotExported {
    /// Ask the leader.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// It could not be made.
    #[error("the snapshot cannot be made: {0}")]
    Failed(String),
}

/// A snapshot in a file of its own, which is removed when this is dropped.
pub struct Exported {
    file: Arc<dyn DiskFile>,
    bytes: u64,
    position: Position,
    _removed: Removed,
}

struct Removed {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a snapshot that was sent could not be removed");
        }
    }
}

impl Replica {
    /// Makes a snapshot that includes everything that was acknowledged before this call, by whichever leader.
    pub async fn export(&self) -> Result<Exported, NotExported> {
        let (told, exported) = oneshot::channel();
        let replica = self.clone();
        // In a task of its own: when whoever asked has gone, the file goes with the answer that nobody takes.
        runtime::spawn(async move { drop(told.send(replica.make_export().await)) });
        exported.await.unwrap_or_else(|_| Err(NotExported::Failed("the replica has ended".into())))
    }

    async fn make_export(&self) -> Result<Exported, NotExported> {
        let failed = |error: &dyn std::fmt::Display| NotExported::Failed(error.to_string());
        let index = self.read_index().await?;
        let (path, position) = self.0.peers.export("backup", index).await.map_err(|error| failed(&error))?;
        let removed = Removed { disk: Arc::clone(&self.0.peers.disk), path };
        let file = removed.disk.open(&removed.path).map_err(|error| failed(&error))?;
        let bytes = file.size().map_err(|error| failed(&error))?;
        if position.index() < index {
            return Err(NotExported::Failed(format!("it is of entry {}, not of {index}", position.index())));
        }
        Ok(Exported { file: Arc::from(file), bytes, position, _removed: removed })
    }
}

impl Exported {
    /// Where in the log it is of.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// What it has, in messages; an empty stream is none that ended well.
    pub fn into_chunks(self) -> impl Stream<Item = io::Result<v1::ExportGroupResponse>> + Send {
        stream::try_unfold((self, 0), |(this, offset)| async move {
            if offset == this.bytes {
                return Ok(None);
            }
            let (file, len) = (Arc::clone(&this.file), CHUNK_BYTES.min((this.bytes - offset) as usize));
            let read = runtime::blocking(move || {
                let mut chunk = vec![0; len];
                file.read_exact_at(&mut chunk, offset).map(|()| chunk)
            });
            let chunk = read.await.ok_or_else(|| io::Error::other("reading it was cut off"))??;
            let position = (offset == 0).then(|| wire::position(&this.position));
            let bytes = if offset == 0 { this.bytes } else { 0 };
            let message = v1::ExportGroupResponse { position, bytes, chunk };
            Ok(Some((message, (this, offset + len as u64))))
        })
    }
}
