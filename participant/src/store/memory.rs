//! A view in memory: what a simulation has in place of sled. It survives what its owner wants it to survive.
//!
//! Records and applied index are replaced as one, as by a batch of sled; nothing is ever half written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use escrow_wallet::{Changes, Wallet};

use super::{Meta, View, Written};
use crate::error::ParticipantError;

/// A view in memory. Clones are handles of the same view.
#[derive(Debug, Clone, Default)]
pub struct MemoryView {
    shard: u16,
    records: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
}

impl MemoryView {
    /// An empty view of a shard.
    pub fn new(shard: u16) -> Self {
        Self { shard, records: Arc::default() }
    }

    /// Loses everything, as if the directory had been moved aside.
    pub fn lose(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.records.lock().expect("nothing panics while it is held")
    }
}

impl View for MemoryView {
    fn read(&self) -> Result<(Wallet, u64), ParticipantError> {
        let failed = |why: String| ParticipantError::Store { shard: self.shard, path: "memory".into(), why };
        let records = self.lock();
        let Some(meta) = records.get(Meta::KEY) else { return Ok((Wallet::default(), 0)) };
        let meta = Meta::decode(meta).map_err(|error| failed(error.to_string()))?;
        let wallet = Wallet::from_view(records.iter().filter(|(key, _)| !Meta::is_key(key)));
        Ok((wallet.map_err(|error| failed(error.to_string()))?, meta.applied))
    }

    fn write(&self, changes: Option<&Changes>, meta: &Meta) -> Result<Written, ParticipantError> {
        let mut records = self.lock();
        for (key, value) in changes.into_iter().flat_map(Changes::records) {
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        records.insert(Meta::KEY.to_vec(), meta.encode());
        Ok(Written { records: records.len(), files_synced: 0 })
    }
}
