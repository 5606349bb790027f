//! Compiles the .proto files with protox (pure Rust), so that no protoc needs to be installed.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from("proto");
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("escrow/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("escrow.v1.bin"), descriptors.encode_to_vec())?;
    // Entries of a log and chunks of snapshots are passed on, never looked into: `Bytes` are not copied.
    let uncopied = ["escrow.v1.LogEntry.commands", "escrow.v1.SnapshotCall.chunk"];
    let build = uncopied.iter().fold(tonic_prost_build::configure(), |build, field| build.bytes(field));
    build.codec_path("crate::codec::FittingCodec").compile_fds(descriptors)?;
    Ok(())
}
