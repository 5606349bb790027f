//! `escrow coordinator`: one coordinator in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use escrow_coordinator::{Archive, Config, CoordinatorError, ParticipantConfig, ParticipantKind, Server};
use escrow_service::ListenError;

use super::place::{Place, PlaceArgs};
use super::replication::ReplicationArgs;
use super::servers::shutdown;
use crate::cluster_file::Kind;
use crate::config::{self, external_id, parse_archive, parse_named_url, parse_numbered_url, set};
use crate::exit::{Exit, Failure};
use crate::time::parse_duration;

/// `escrow coordinator`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow coordinator --data-dir /var/lib/escrow/coordinator --listen 127.0.0.1:7400 \\
      --participant 0=http://127.0.0.1:7410 --participant 1=http://127.0.0.1:7411
  escrow coordinator --config /etc/escrow/coordinator.toml --log-format json
  escrow coordinator --participant 0=http://10.0.0.1:7410 --external bank=http://10.0.0.9:9000
  escrow coordinator --replica-number 1 --replica 1=http://10.0.0.1:7400 --replica 2=http://10.0.0.2:7400 \\
      --replica 3=http://10.0.0.3:7400 --cluster-id 0191f3c0a1b27c3d8e4f5a6b7c8d9e0f --found \\
      --participant 0=http://10.0.0.1:7410+http://10.0.0.2:7410+http://10.0.0.3:7410
  escrow coordinator --cluster-file /etc/escrow/cluster.toml --node coordinator-0.1

A flag wins over its environment variable, that over the file, that over the default. The file has the
same names with underscores, times in milliseconds, [[participants]] with id, endpoint, name, kind, and
[replication] with number, members, found, heartbeat_ms, election_ms.")]
pub struct Args {
    /// TOML file
    #[arg(long, value_name = "FILE", env = "ESCROW_CONFIG")]
    config: Option<PathBuf>,
    /// Where journal, checkpoints and idempotency window live
    #[arg(long, value_name = "DIR", env = "ESCROW_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where to listen; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", env = "ESCROW_LISTEN")]
    listen: Option<SocketAddr>,
    /// The partition that this coordinator leads
    #[arg(long, value_name = "N", env = "ESCROW_PARTITION", conflicts_with = "cluster_file")]
    partition: Option<u16>,
    /// The cluster that it belongs to, the same for all its coordinators: 32 hex digits (default: made at the first start)
    #[arg(long, value_name = "HEX", env = "ESCROW_CLUSTER_ID", conflicts_with = "cluster_file")]
    cluster_id: Option<String>,
    /// A wallet shard by its number, with + between the URLs of its replicas; may be repeated
    #[arg(long = "participant", value_name = "ID=URL", value_parser = parse_numbered_url::<u16>,
        conflicts_with = "cluster_file")]
    participants: Vec<(u16, String)>,
    /// An external participant by the name that legs use; may be repeated
    #[arg(long = "external", value_name = "NAME=URL", value_parser = parse_named_url)]
    externals: Vec<(String, String)>,
    /// Unfinished for this long: in doubt
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    in_doubt_after: Option<Duration>,
    /// Unfinished transactions at a time; more are refused with OVERLOADED
    #[arg(long, value_name = "N")]
    in_flight_max: Option<usize>,
    /// Timeout of a transaction whose caller names none
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    default_timeout: Option<Duration>,
    /// How long a reservation stands when its caller names nothing
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    default_hold: Option<Duration>,
    /// How long ended transactions are remembered
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    idempotency_window: Option<Duration>,
    /// A checkpoint at least this often
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    checkpoint_interval: Option<Duration>,
    /// A checkpoint at least every so many bytes of log
    #[arg(long, value_name = "BYTES")]
    checkpoint_bytes: Option<u64>,
    /// Size of a log segment
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// What becomes of old log segments: keep, compress or delete (default: compress). Deleted, the past cannot be rebuilt
    #[arg(long, value_name = "WHAT", value_parser = parse_archive::<Archive>)]
    archive: Option<Archive>,
    /// The largest message taken
    #[arg(long, value_name = "BYTES")]
    message_bytes_max: Option<usize>,
    #[command(flatten)]
    replication: ReplicationArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

impl Args {
    fn resolve(self) -> Result<Config, Failure> {
        let mut config: Config = config::load(self.config.as_deref())?;
        let place = self.place.find(Kind::Coordinator)?;
        if let Some(place) = &place {
            put_at(&mut config, place);
        }
        let millis = |span: Option<Duration>| span.map(|span| span.as_millis() as u64);
        set(&mut config.data_dir, self.data_dir);
        set(&mut config.listen, self.listen);
        set(&mut config.partition, self.partition);
        config.cluster_id = self.cluster_id.or(config.cluster_id);
        set(&mut config.in_doubt_after_ms, millis(self.in_doubt_after));
        set(&mut config.in_flight_max, self.in_flight_max);
        set(&mut config.default_timeout_ms, millis(self.default_timeout));
        set(&mut config.default_hold_ms, millis(self.default_hold));
        set(&mut config.idempotency_window_ms, millis(self.idempotency_window));
        set(&mut config.checkpoint_interval_ms, millis(self.checkpoint_interval));
        set(&mut config.checkpoint_bytes, self.checkpoint_bytes);
        set(&mut config.segment_bytes, self.segment_bytes);
        set(&mut config.archive, self.archive);
        set(&mut config.message_bytes_max, self.message_bytes_max);
        config.replication = self.replication.over(config.replication)?;
        let shards = self.participants.into_iter().map(|(id, endpoint)| ParticipantConfig {
            id,
            name: id.to_string(),
            endpoint,
            kind: ParticipantKind::Stream,
        });
        let externals = self.externals.into_iter().map(|(name, endpoint)| ParticipantConfig {
            id: external_id(&name),
            name,
            endpoint,
            kind: ParticipantKind::Unary,
        });
        let given: Vec<ParticipantConfig> = shards.chain(externals).collect();
        // Flags name the whole cluster or nothing of it: a mixture with the file would be hard to see through. A cluster file names
        // the shards, so that only externals can be given.
        match place {
            _ if given.is_empty() => {}
            Some(place) => config.participants = place.participants(given),
            None => config.participants = given,
        }
        if !config.participants.iter().any(|participant| participant.kind == ParticipantKind::Stream) {
            return Err(Failure::bad_config(
                "a coordinator needs wallet shards: --participant 0=http://127.0.0.1:7410, or [[participants]] in the file",
            ));
        }
        config.validated().map_err(|error| Failure::bad_config(error.to_string()))
    }
}

/// What a cluster file says of a server.
fn put_at(config: &mut Config, place: &Place) {
    if config.data_dir == Config::default().data_dir {
        config.data_dir = place.data_dir();
    }
    config.listen = place.node.listen;
    config.partition = place.node.group;
    config.cluster_id = Some(place.file.cluster_id.clone());
    config.participants = place.participants(std::mem::take(&mut config.participants));
    config.slots = place.file.slots.clone();
    config.replication = place.file.replication(&place.node);
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let config = args.resolve()?;
    let shutdown = shutdown()?;
    let server = Server::bind(config).await.map_err(|error| failed(&error))?;
    tracing::info!(listen = %server.local_addr(), "coordinator serves");
    server.run(shutdown).await.map_err(|error| failed(&error))?;
    Ok(Exit::Ok)
}

fn failed(error: &CoordinatorError) -> Failure {
    let message = format!("coordinator: {error}");
    match error {
        CoordinatorError::Config(_) => Failure::bad_config(message),
        CoordinatorError::InUse(_) => Failure::coded("DATA_DIR_IN_USE", message),
        CoordinatorError::Foreign { .. } => Failure::coded("DATA_DIR_FOREIGN", message),
        CoordinatorError::Listen(ListenError::InUse(_)) => Failure::coded("PORT_IN_USE", message),
        _ => Failure::internal(message),
    }
}
