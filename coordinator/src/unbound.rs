//! A coordinator that has recovered, on whatever ground and network it is put: [`crate::Server`] puts it on TCP.
//!
//! **Invariant:** nothing here knows sockets or threads; [`Ground`] and [`Incoming`] do.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use escrow_replica::{GroupId, Replica, Replicas, Settings, Transport};
use escrow_service::Incoming;
use escrow_types::Partition;

use crate::config::{Config, ParticipantKind};
use crate::edge::Service;
use crate::error::CoordinatorError;
use crate::ground::{Background, Clock, Ground};
use crate::links::{LinkSenders, Peer};
use crate::owner::{Owner, Parts, Seat, mailbox};
use crate::server::{Opened, Recovery};

/// A coordinator that has recovered and has an epoch of its own, or is a replica, but is reached by nobody yet.
pub struct Unbound {
    opened: Opened,
    clock: Clock,
    connector: escrow_grpc::Connector,
    background: Background,
    seat: Option<Seat>,
}

/// Another replica takes over at once, or cannot.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);

/// What the replica of a partition is.
pub(crate) fn settings(opened: &Opened, transport: Arc<dyn Transport>) -> Settings {
    let config = &opened.config;
    let membership = opened.identity.replica.expect("the directory is that of a replica");
    let replication = config.replication.as_ref().expect("checked with the identity");
    Settings {
        group: GroupId::Coordinator(Partition(config.partition)),
        me: replication.me(membership.life),
        members: replication.members(membership.life),
        is_new: membership.life == 0,
        cluster_id: opened.identity.cluster_id.clone(),
        times: replication.times(),
        transport,
        disk: Arc::clone(&opened.disk),
        snapshot_dir: config.data_dir.clone(),
        bytes_kept: replication.bytes_kept,
    }
}

impl Unbound {
    /// Locks the data directory, recovers, and opens a new epoch, durably. Blocks. Must be called within a tokio runtime if the
    /// ground needs one.
    pub async fn open(config: Config, ground: Ground) -> Result<Self, CoordinatorError> {
        let Ground { disk, clock, delays, connector, journal, background, transport } = ground;
        let mut opened = Opened::open(config.validated()?, disk, delays, || clock())?;
        journal(&opened.journal, opened.steps.take().expect("just opened"))?;
        let seat = match opened.replica.take() {
            Some(Recovery { log, position, checkpointed, .. }) => {
                let settings = settings(&opened, transport);
                let start = Replica::start(settings, log, position.clone(), checkpointed);
                let (replica, feed) = start.await?;
                Some(Seat::new(replica, feed, position))
            }
            None => None,
        };
        Ok(Self { opened, clock, connector, background, seat })
    }

    /// Serves whoever comes until `shutdown` resolves, then refuses new work, lets running transactions end within the drain
    /// time, writes a checkpoint and returns. What has not ended goes on at the next start.
    pub async fn run(
        self,
        incoming: impl Incoming,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), CoordinatorError> {
        let Self { opened, clock, connector, background, seat } = self;
        let Opened { config, disk, identity, driver, window, journal, applied, checkpointed, lock, .. } =
            opened;
        let (mut mailbox, receivers) = mailbox();
        let led = seat.as_ref().map(|seat| (seat.replica().clone(), seat.serving()));
        if let Some((replica, serving)) = &led {
            mailbox = mailbox.of_group(replica.clone(), serving.clone());
        }
        let replicas = Replicas::new(led.iter().map(|(replica, _)| replica.clone()));
        let peers = config.participants.iter().map(|participant| Peer::new(participant, &connector));
        let peers: Vec<Peer> = peers.collect::<Result<_, _>>()?;
        let (links, calls) = LinkSenders::new(&config);
        let (routing, edge_journal) = (driver.routing().clone(), journal.clone());
        let unfinished = driver.machine().live().len() as u64;
        let service = Service::new(
            mailbox.clone(),
            Arc::clone(&config),
            routing,
            peers.clone(),
            edge_journal,
            unfinished,
            replicas.clone(),
        );
        let drain = Duration::from_millis(config.drain_ms);
        let owner = Owner::new(Parts {
            config: Arc::clone(&config),
            clock: Box::new(move || clock()),
            disk,
            driver,
            window,
            journal,
            links,
            applied,
            checkpointed,
            background: Box::new(move |job| background(job)),
            seat,
        });
        let (stop_owner, stopped) = tokio::sync::oneshot::channel();
        let mut owner = tokio::spawn(owner.run(receivers, stopped));
        let streams: Vec<Peer> =
            peers.iter().filter(|peer| peer.config.kind == ParticipantKind::Stream).cloned().collect();
        let cluster_id = identity.cluster_id.clone();
        let mut tasks: Vec<_> = match led {
            None => streams.iter().map(|peer| crate::links::start(peer, &cluster_id, &mailbox)).collect(),
            Some((_, serving)) => {
                vec![tokio::spawn(crate::links::follow_terms(streams, cluster_id, mailbox.clone(), serving))]
            }
        };
        for (id, queue) in calls {
            let peer = peers.iter().find(|peer| peer.config.id == id.0).expect("made from the same list");
            tasks.push(crate::links::start_external(peer, queue, &mailbox));
        }
        tracing::info!(partition = config.partition, "coordinator ready");

        let limits = escrow_service::Limits {
            message_bytes_max: config.message_bytes_max,
            // The owner has drained before connections are closed: what is left are callers who read nothing.
            drain: drain.min(Duration::from_secs(1)),
            ..escrow_service::Limits::default()
        };
        // The owner refuses new work and drains while its answers can still leave; then connections are closed.
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let begun = async { drop(begun.await) };
        let closed = async { drop(closed.await) };
        let serving = {
            let (transfers, others) = (service.transfers(), service.routes());
            escrow_service::serve_until(incoming, transfers, others, limits, begun, closed)
        };
        tokio::pin!(serving, shutdown);
        let result = tokio::select! {
            () = async { (&mut shutdown).await; hand_over(&replicas).await } => {
                let _ = begin.send(());
                let _ = stop_owner.send(drain);
                let result = tokio::select! {
                    result = &mut owner => joined(result),
                    served = &mut serving => return served.map_err(CoordinatorError::from),
                };
                let _ = close.send(());
                result.and(serving.await.map_err(CoordinatorError::from))
            }
            result = &mut owner => joined(result),
            served = &mut serving => served.map_err(CoordinatorError::from),
        };
        for task in tasks {
            task.abort();
        }
        for replica in replicas.iter() {
            replica.stop().await;
        }
        drop(lock);
        result
    }
}

/// Lets another replica lead: callers hardly notice.
async fn hand_over(replicas: &Replicas) {
    for replica in replicas.iter() {
        if !replica.hand_over(HAND_OVER_TIMEOUT).await {
            tracing::warn!(group = %replica.group(), "nobody took over leadership in time");
        }
    }
}

fn joined(
    result: Result<Result<(), CoordinatorError>, tokio::task::JoinError>,
) -> Result<(), CoordinatorError> {
    match result {
        Ok(result) => result,
        // A broken invariant: it must not be survived.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
