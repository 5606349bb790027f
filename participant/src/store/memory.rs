//! A view in memory: what a simulation has in place of sled. It survives what its owner wants it to survive.
//!
//! Records and applied index are replaced as one, as by a batch of sled; nothing is ever half written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use escrow_wallet::{Changes, Record, Wallet};

use super::{Held, Meta, Records, TakeRecord, View, Written};
use crate::error::ParticipantError;

/// A view in memory. Clones are handles of the same view.
#[derive(Debug, Clone, Default)]
pub struct MemoryView {
    shard: u16,
    records: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// Of the checkpoint that was begun with this handle: lost with it.
    draft: Vec<Record>,
}

impl MemoryView {
    /// An empty view of a shard.
    pub fn new(shard: u16) -> Self {
        Self { shard, records: Arc::default(), draft: Vec::new() }
    }

    /// Loses everything, as if the directory had been moved aside.
    pub fn lose(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.records.lock().expect("nothing panics while it is held")
    }
}

impl MemoryView {
    fn failed(&self, why: impl std::fmt::Display) -> ParticipantError {
        ParticipantError::Store { shard: self.shard, path: "memory".into(), why: why.to_string() }
    }
}

impl View for MemoryView {
    fn read(&self) -> Result<Held, ParticipantError> {
        let records = self.lock();
        let Some(meta) = records.get(Meta::KEY) else { return Ok(Held::default()) };
        let Meta { applied, position, .. } = Meta::decode(meta).map_err(|error| self.failed(error))?;
        let wallet = Wallet::from_view(records.iter().filter(|(key, _)| !Meta::is_key(key)));
        Ok(Held { wallet: wallet.map_err(|error| self.failed(error))?, applied, position })
    }

    fn meta(&self) -> Result<Meta, ParticipantError> {
        let records = self.lock();
        let meta = records.get(Meta::KEY).ok_or_else(|| self.failed("there is no checkpoint yet"))?;
        Meta::decode(meta).map_err(|error| self.failed(error))
    }

    fn export(&self, take: TakeRecord<'_>) -> Result<Meta, ParticipantError> {
        for (key, value) in self.lock().iter().filter(|(key, _)| !Meta::is_key(key)) {
            take(key, value)?;
        }
        self.meta()
    }

    fn replace(&mut self, records: Records<'_>, meta: &Meta) -> Result<(), ParticipantError> {
        let mut new = BTreeMap::new();
        for record in records {
            let (key, value) = record?;
            new.extend(value.map(|value| (key, value)));
        }
        new.insert(Meta::KEY.to_vec(), meta.encode());
        *self.lock() = new;
        Ok(())
    }

    fn begin(&mut self, meta: &Meta) -> Result<(), ParticipantError> {
        self.draft = vec![(Meta::KEY.to_vec(), Some(meta.encode()))];
        Ok(())
    }

    fn add(&mut self, changes: &Changes) -> Result<(), ParticipantError> {
        self.draft.extend(changes.records());
        Ok(())
    }

    fn commit(&mut self) -> Result<Written, ParticipantError> {
        let draft = std::mem::take(&mut self.draft);
        let mut records = self.lock();
        let mut bytes = 0;
        for (key, value) in draft {
            bytes += (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        Ok(Written { records: records.len(), bytes, files_synced: 0 })
    }
}
