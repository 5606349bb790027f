//! The connections to participants: one task for each wallet shard, unary calls for external ones.
//!
//! A dead participant costs the others nothing: each has its own queue, its own connection and its own failures.
//!
//! **Invariant:** a link knows nothing of transactions; it carries columns and reports what happened to them.

mod backoff;
mod stream;
mod unary;

pub(crate) use backoff::Delays;

use std::sync::Arc;
use std::time::Duration;

use escrow_proto::v1;
use escrow_tcc::driver::{Call, Send};
use escrow_tcc::machine::Live;
use escrow_types::{Epoch, ParticipantId};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::config::{ParticipantConfig, ParticipantKind};
use crate::error::CoordinatorError;
use crate::owner::Mailbox;
use unary::External;

/// A channel to a participant, with the house's HTTP/2 settings; connects when first used, and again when lost.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, CoordinatorError> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|error| CoordinatorError::Config(format!("endpoint '{address}': {error}")))?;
    Ok(endpoint
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(4))
        .keep_alive_while_idle(true)
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true))
}

/// One participant, as the edge reaches it for accounts and status.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) config: ParticipantConfig,
    pub(crate) channel: Channel,
}

/// Where the owner's messages go.
pub(crate) struct LinkSenders {
    senders: Vec<(ParticipantId, Option<mpsc::UnboundedSender<v1::ExchangeRequest>>)>,
    externals: Vec<(ParticipantId, Arc<External>)>,
}

impl LinkSenders {
    /// No connection yet.
    pub(crate) fn new(peers: &[Peer], partition: u16, mailbox: &Mailbox) -> Self {
        let id = |peer: &Peer| ParticipantId(peer.config.id);
        let of_kind = |kind| peers.iter().filter(move |peer| peer.config.kind == kind);
        let senders = of_kind(ParticipantKind::Stream).map(|peer| (id(peer), None)).collect();
        let external = |peer: &Peer| (id(peer), Arc::new(External::new(peer, partition, mailbox.clone())));
        Self { senders, externals: of_kind(ParticipantKind::Unary).map(external).collect() }
    }

    /// The connection of a participant came or went.
    pub(crate) fn set(
        &mut self,
        participant: ParticipantId,
        sender: Option<mpsc::UnboundedSender<v1::ExchangeRequest>>,
    ) {
        if let Some(slot) = self.senders.iter_mut().find(|(id, _)| *id == participant) {
            slot.1 = sender;
        }
    }

    /// Sends columns. Without a connection they are dropped: the driver sends again when there is one.
    pub(crate) fn send(&self, participant: ParticipantId, send: Send) {
        let slot = self.senders.iter().find(|(id, _)| *id == participant);
        if let Some((_, Some(sender))) = slot {
            let _ = sender.send(stream::message(send));
        }
    }

    /// Calls an external participant; the result comes back as an event.
    pub(crate) fn call(&self, call: Call, live: &Live, sender_epoch: Epoch) {
        if let Some((_, external)) = self.externals.iter().find(|(id, _)| *id == call.participant) {
            external.call(call, live, sender_epoch);
        }
    }
}

/// Starts the task of a wallet shard.
pub(crate) fn start(
    peer: &Peer,
    partition: u16,
    cluster_id: &str,
    mailbox: &Mailbox,
) -> tokio::task::JoinHandle<()> {
    let link = stream::StreamLink::new(peer, partition, cluster_id, mailbox.clone());
    tokio::spawn(link.run())
}
