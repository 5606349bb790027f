//! `s` + `meta` → u32 format version, u16 shard, u64 applied index, u32 length and bytes of the cluster id (empty: none); in version 2, which
//! replicas write, also u32 length and bytes of the position in the group's log.

use escrow_types::codec::{Malformed, Put as _, Take};

const VERSION: u32 = 1;
/// With a position.
const VERSION_OF_REPLICAS: u32 = 2;

/// What a view is a view of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) shard: u16,
    /// All entries of the log up to here are in it.
    pub(crate) applied: u64,
    pub(crate) cluster_id: Option<String>,
    /// Where a replica is in its group's log; empty without replication.
    pub(crate) position: Vec<u8>,
}

impl Meta {
    pub(super) const KEY: &'static [u8] = b"smeta";

    /// Whether a key is of this kind, and not of the wallet.
    pub(super) fn is_key(key: &[u8]) -> bool {
        key.first() == Some(&b's')
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let is_replica = !self.position.is_empty();
        out.put_u32(if is_replica { VERSION_OF_REPLICAS } else { VERSION });
        out.put_u16(self.shard);
        out.put_u64(self.applied);
        out.put_bytes(self.cluster_id.as_deref().unwrap_or_default().as_bytes());
        if is_replica {
            out.put_bytes(&self.position);
        }
        out
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take::new(value);
        let version = take.u32()?;
        if !matches!(version, VERSION | VERSION_OF_REPLICAS) {
            return Err(Malformed("a view of an unknown format version"));
        }
        let (shard, applied) = (take.u16()?, take.u64()?);
        let cluster_id = Some(take.text()?.to_owned()).filter(|text| !text.is_empty());
        let position = if version == VERSION { Vec::new() } else { take.bytes()?.to_vec() };
        take.finish()?;
        Ok(Self { shard, applied, cluster_id, position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        for (cluster_id, position) in [(None, vec![]), (Some("ab".to_owned()), vec![7; 9])] {
            let meta = Meta { shard: 3, applied: u64::MAX, cluster_id, position };
            let bytes = meta.encode();
            assert_eq!(Meta::decode(&bytes), Ok(meta));
            for length in 0..bytes.len() {
                assert!(Meta::decode(&bytes[..length]).is_err(), "cut at {length}");
            }
        }
    }
}
