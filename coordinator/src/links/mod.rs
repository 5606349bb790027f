//! The connections to participants: one task for each wallet shard, unary calls for external ones. A wallet shard may have
//! replicas; its link follows the one that leads.
//!
//! A dead participant costs the others nothing: each has its own queue, its own connection and its own failures.
//!
//! **Invariant:** a link knows nothing of transactions; it carries columns and reports what happened to them.

mod backoff;
mod peer;
mod stream;
mod unary;

pub(crate) use backoff::Delays;
pub(crate) use peer::Peer;
pub(crate) use stream::{End, greeted, hello, with_sequences};
pub(crate) use unary::{UnaryCall, UnaryRequest};

use escrow_proto::v1;
use escrow_tcc::driver::{Call, Send};
use escrow_tcc::machine::Live;
use escrow_types::{Epoch, ParticipantId};
use tokio::sync::{mpsc, watch};

use crate::config::{Config, ParticipantKind};
use crate::owner::{Mailbox, Serving};
use unary::External;

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

    /// All connections are gone.
    pub(crate) fn clear(&mut self) {
        for (_, sender) in &mut self.senders {
            *sender = None;
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
    tokio::spawn(unary::make_calls(peer.leader(), queue, mailbox.clone()))
}

/// Starts the task of a wallet shard.
pub(crate) fn start(peer: &Peer, cluster_id: &str, mailbox: &Mailbox) -> tokio::task::JoinHandle<()> {
    let link = stream::StreamLink::new(peer, cluster_id, mailbox.clone());
    tokio::spawn(link.run())
}

/// Connects to the wallet shards whenever this replica leads, anew in each term: a new leader says hello to everybody.
pub(crate) async fn follow_terms(
    peers: Vec<Peer>,
    cluster_id: String,
    mailbox: Mailbox,
    mut serving: watch::Receiver<Serving>,
) {
    loop {
        let Ok(term) = serving.wait_for(|serving| serving.term.is_some()).await.map(|serving| serving.term)
        else {
            return;
        };
        let term = term.expect("just waited for");
        let mailbox = mailbox.of_term(term);
        // Dropping the set aborts the tasks.
        let mut links = tokio::task::JoinSet::new();
        for peer in &peers {
            links.spawn(stream::StreamLink::new(peer, &cluster_id, mailbox.clone()).run());
        }
        if serving.wait_for(|serving| serving.term != Some(term)).await.is_err() {
            return;
        }
    }
}
