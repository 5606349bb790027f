//! `escrow participant`: one or more wallet shards in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use escrow_participant::{Archive, Config, ParticipantError, Server};
use escrow_service::ListenError;

use super::place::{Place, PlaceArgs};
use super::replication::ReplicationArgs;
use super::servers::shutdown;
use crate::cluster_file::Kind;
use crate::config::{self, parse_archive, set};
use crate::exit::{Exit, Failure};
use crate::time::parse_duration;

/// `escrow participant`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow participant --data-dir /var/lib/escrow/shard-0 --listen 127.0.0.1:7410 --shards 0
  escrow participant --data-dir /data --listen 0.0.0.0:7410 --shards 0,1
  escrow participant --config /etc/escrow/participant.toml --log-format json
  escrow participant --shards 0 --replica-number 1 --replica 1=http://10.0.0.1:7410 \\
      --replica 2=http://10.0.0.2:7410 --replica 3=http://10.0.0.3:7410 \\
      --cluster-id 0191f3c0a1b27c3d8e4f5a6b7c8d9e0f --found
  escrow participant --cluster-file /etc/escrow/cluster.toml --node participant-0.1

A flag wins over its environment variable, that over the file, that over the default. The file has the
same names with underscores, times in milliseconds, and [replication] with number, members, found,
heartbeat_ms, election_ms.")]
pub struct Args {
    /// TOML file
    #[arg(long, value_name = "FILE", env = "ESCROW_CONFIG")]
    config: Option<PathBuf>,
    /// Where journal and tables live
    #[arg(long, value_name = "DIR", env = "ESCROW_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where to listen; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", env = "ESCROW_LISTEN")]
    listen: Option<SocketAddr>,
    /// The wallet shards that this process holds, with commas between them
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "SHARD",
        env = "ESCROW_SHARDS",
        conflicts_with = "cluster_file"
    )]
    shards: Vec<u16>,
    /// A checkpoint at least this often
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    checkpoint_interval: Option<Duration>,
    /// Size of a log segment
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// What becomes of old log segments: keep, compress or delete (default: compress). Deleted, the past cannot be rebuilt
    #[arg(long, value_name = "WHAT", value_parser = parse_archive::<Archive>)]
    archive: Option<Archive>,
    /// The largest message taken
    #[arg(long, value_name = "BYTES")]
    message_bytes_max: Option<usize>,
    /// The cluster that it serves: 32 hex digits; needed with replicas (default: that of the coordinator that greets it first)
    #[arg(long, value_name = "HEX", env = "ESCROW_CLUSTER_ID", conflicts_with = "cluster_file")]
    cluster_id: Option<String>,
    #[command(flatten)]
    replication: ReplicationArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

impl Args {
    fn resolve(self) -> Result<Config, Failure> {
        let mut config: Config = config::load(self.config.as_deref())?;
        if let Some(place) = self.place.find(Kind::Participant)? {
            put_at(&mut config, &place);
        }
        set(&mut config.data_dir, self.data_dir);
        set(&mut config.listen, self.listen);
        set(&mut config.shards, (!self.shards.is_empty()).then_some(self.shards));
        set(&mut config.checkpoint_interval_ms, self.checkpoint_interval.map(|span| span.as_millis() as u64));
        set(&mut config.segment_bytes, self.segment_bytes);
        set(&mut config.archive, self.archive);
        set(&mut config.message_bytes_max, self.message_bytes_max);
        config.cluster_id = self.cluster_id.or(config.cluster_id);
        config.replication = self.replication.over(config.replication)?;
        config.validated().map_err(|error| Failure::bad_config(error.to_string()))
    }
}

/// What a cluster file says of a server.
fn put_at(config: &mut Config, place: &Place) {
    if config.data_dir == Config::default().data_dir {
        config.data_dir = place.data_dir();
    }
    config.listen = place.node.listen;
    config.shards = vec![place.node.group];
    config.cluster_id = Some(place.file.cluster_id.clone());
    config.replication = place.file.replication(&place.node);
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let config = args.resolve()?;
    let shutdown = shutdown()?;
    let server = Server::bind(config).await.map_err(|error| failed(&error))?;
    tracing::info!(listen = %server.local_addr(), "participant serves");
    server.run(shutdown).await.map_err(|error| failed(&error))?;
    Ok(Exit::Ok)
}

fn failed(error: &ParticipantError) -> Failure {
    let message = format!("participant: {error}");
    match error {
        ParticipantError::Config(_) => Failure::bad_config(message),
        ParticipantError::InUse(_) => Failure::coded("DATA_DIR_IN_USE", message),
        ParticipantError::Foreign { .. } => Failure::coded("DATA_DIR_FOREIGN", message),
        ParticipantError::Listen(error) if matches!(**error, ListenError::InUse(_)) => {
            Failure::coded("PORT_IN_USE", message)
        }
        _ => Failure::internal(message),
    }
}
