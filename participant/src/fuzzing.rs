//! Doors of private decoders for the fuzz targets of `tests/fuzz`: bytes in, what they mean out. Only with the feature
//! `fuzzing`, so never part of a release build. Decides nothing itself.

use escrow_proto::v1;
use escrow_wallet::{Command, Sender};
use prost::Message as _;

use crate::store::Meta;

pub use crate::edge::fuzzing::{exchange, unary};

/// A message of an `Exchange` stream after its hello, as bytes of the wire; `None` if it is refused.
pub fn exchange_request(bytes: &[u8], sender: Sender) -> Option<Command> {
    exchange(v1::ExchangeRequest::decode(bytes).ok()?, sender)
}

/// The record that says what a view is of, read and written again; `None` if it is refused.
pub fn view_meta(bytes: &[u8]) -> Option<Vec<u8>> {
    Meta::decode(bytes).ok().map(|meta| meta.encode())
}

/// The record that says what a view is of, for seeds.
pub fn meta_of(shard: u16, applied: u64, position: Vec<u8>) -> Vec<u8> {
    Meta { shard, applied, cluster_id: None, position }.encode()
}

/// Whether a directory whose `identity.json` has this content is one with these shards.
pub fn is_identity(dir: &std::path::Path, shards: &[u16]) -> bool {
    let disk = escrow_journal::storage::OsDisk::shared();
    crate::identity::Identity::open(disk, dir, shards, None).is_ok()
}
