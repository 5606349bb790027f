//! A snapshot of a group for whoever keeps it: a backup. Made by the leader, with everything that was acknowledged before it was
//! asked for; the same file that a follower would be sent.
//!
//! **Invariant:** asks only: nothing of the group changes, but for a checkpoint that its owner writes sooner than it would have.

use std::io;
use std::sync::Arc;

use escrow_journal::storage::DiskFile;
use escrow_proto::v1;
use futures_util::Stream;
use futures_util::stream;

use crate::error::NotLeader;
use crate::group::Replica;
use crate::network::{CHUNK_BYTES, Outgoing};
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
    _outgoing: Outgoing,
}

impl Replica {
    /// Makes a snapshot that includes everything that was acknowledged before this call, by whichever leader.
    pub async fn export(&self) -> Result<Exported, NotExported> {
        let failed = |error: &dyn std::fmt::Display| NotExported::Failed(error.to_string());
        let index = self.read_index().await?;
        let (outgoing, position) = match self.0.peers.export("backup", index).await {
            Ok(exported) => exported,
            // Whoever leads no more lets go of what is to include an entry: it may never come there.
            Err(_) if !self.0.standing.borrow().leads => return Err(self.not_leader().into()),
            Err(why) => return Err(NotExported::Failed(why)),
        };
        let file = outgoing.open().map_err(|error| failed(&error))?;
        let bytes = file.size().map_err(|error| failed(&error))?;
        if position.index() < index {
            return Err(NotExported::Failed(format!("it is of entry {}, not of {index}", position.index())));
        }
        Ok(Exported { file: Arc::from(file), bytes, position, _outgoing: outgoing })
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
