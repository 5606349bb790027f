//! The connections to participants: one task for each wallet shard, unary calls for external ones.
//!
//! A dead participant costs the others nothing: each has its own queue, its own connection and its own failures.
//!
//! **Invariant:** a link knows nothing of transactions; it carries columns and reports what happened to them.

mod backoff;
mod stream;
mod unary;

pub(crate) use backoff::Delays;
pub(crate) use stream::{End, greeted, hello};
pub(crate) use unary::{UnaryCall, UnaryRequest};

use std::time::Duration;

use escrow_proto::v1;
use escrow_tcc::driver::{Call, Send};
use escrow_tcc::machine::Live;
use escrow_types::{Epoch, ParticipantId};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::config::{Config, ParticipantConfig, ParticipantKind};
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
    externals: Vec<(ParticipantId, External)>,
}

/// The calls to external participants, a queue each: to be made by [`start_external`].
pub(crate) type Calls = Vec<(ParticipantId, mpsc::UnboundedReceiver<UnaryCall>)>;

impl LinkSenders {
    /// No connection yet. The calls to external participants come out of the queues.
    pub(crate) fn new(config: &Config) -> (Self, Calls) {
        let of_kind = |kind| config.participants.iter().filter(move |participant| participant.kind == kind);
        let senders = of_kind(ParticipantKind::Stream)
            .map(|participant| (ParticipantId(participant.id), None))
            .collect();
        let (mut externals, mut queues) = (Vec::new(), Vec::new());
        for participant in of_kind(ParticipantKind::Unary) {
            let (calls, queue) = mpsc::unbounded_channel();
            let id = ParticipantId(participant.id);
            externals.push((id, External::new(participant, config.partition, calls)));
            queues.push((id, queue));
        }
        (Self { senders, externals }, queues)
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

/// Starts the task that calls an external participant.
pub(crate) fn start_external(
    peer: &Peer,
    queue: mpsc::UnboundedReceiver<UnaryCall>,
    mailbox: &Mailbox,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(unary::make_calls(peer.channel.clone(), queue, mailbox.clone()))
}

/// Starts the task of a wallet shard.
pub(crate) fn start(peer: &Peer, cluster_id: &str, mailbox: &Mailbox) -> tokio::task::JoinHandle<()> {
    let link = stream::StreamLink::new(peer, cluster_id, mailbox.clone());
    tokio::spawn(link.run())
}
