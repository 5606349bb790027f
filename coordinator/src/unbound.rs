//! A coordinator that has recovered, on whatever ground and network it is put: [`crate::Server`] puts it on TCP.
//!
//! **Invariant:** nothing here knows sockets or threads; [`Ground`] and [`Incoming`] do.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use escrow_service::Incoming;

use crate::config::{Config, ParticipantKind};
use crate::edge::Service;
use crate::error::CoordinatorError;
use crate::ground::{Background, Clock, Ground};
use crate::links::{LinkSenders, Peer};
use crate::owner::{Owner, Parts, mailbox};
use crate::server::Opened;

/// A coordinator that has recovered and has an epoch of its own, but is reached by nobody yet.
pub struct Unbound {
    opened: Opened,
    clock: Clock,
    connector: escrow_service::Connector,
    background: Background,
}

impl Unbound {
    /// Locks the data directory, recovers, and opens a new epoch, durably. Blocks. Must be called within a tokio runtime if the
    /// ground needs one.
    pub fn open(config: Config, ground: Ground) -> Result<Self, CoordinatorError> {
        let Ground { disk, clock, delays, connector, journal, background } = ground;
        let mut opened = Opened::open(config.validated()?, disk, delays, || clock())?;
        journal(&opened.journal, opened.steps.take().expect("just opened"))?;
        Ok(Self { opened, clock, connector, background })
    }

    /// Serves whoever comes until `shutdown` resolves, then refuses new work, lets running transactions end within the drain
    /// time, writes a checkpoint and returns. What has not ended goes on at the next start.
    pub async fn run(
        self,
        incoming: impl Incoming,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), CoordinatorError> {
        let Self { opened, clock, connector, background } = self;
        let Opened { config, disk, identity, driver, window, journal, applied, checkpointed, lock, .. } =
            opened;
        let (mailbox, receivers) = mailbox();
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
        });
        let (stop_owner, stopped) = tokio::sync::oneshot::channel();
        let mut owner = tokio::spawn(owner.run(receivers, stopped));
        let streams = peers.iter().filter(|peer| peer.config.kind == ParticipantKind::Stream);
        let mut tasks: Vec<_> =
            streams.map(|peer| crate::links::start(peer, &identity.cluster_id, &mailbox)).collect();
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
        let serving = escrow_service::serve_until(incoming, service.routes(), limits, begun, closed);
        tokio::pin!(serving, shutdown);
        let result = tokio::select! {
            () = &mut shutdown => {
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
        drop(lock);
        result
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
