//! The .proto files of package `escrow.v1` (under `proto/proto/escrow/v1`) and the code generated from them; nothing else.

pub mod codec;

/// Package `escrow.v1`.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, missing_docs, unreachable_pub)]
    tonic::include_proto!("escrow.v1");
}

/// The encoded `FileDescriptorSet` of the package, for server reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/escrow.v1.bin"));

/// `domain` of every `google.rpc.ErrorInfo` of ours.
pub const ERROR_DOMAIN: &str = "escrow.v1";

/// Metadata that names the participant (wallet shard) that is meant, where one process may hold several and the message
/// does not say.
pub const PARTICIPANT_METADATA: &str = "escrow-participant";
