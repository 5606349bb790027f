//! What reaches the owner, on two queues: requests, which are bounded and may have to wait, and events of participants,
//! which are answers to what the owner itself has sent and so are bounded by what is in flight.

use escrow_invariants::{Canary, canary};
use escrow_proto::v1;
use escrow_proto::v1::exchange_response::Message;
use escrow_replica::Replica;
use escrow_service::{not_leader, unknown_outcome};
use escrow_tcc::content::Leg;
use escrow_tcc::driver::{Answered, CallKind, CallerId, TransferRequest, Wait, Waiter};
use escrow_tcc::machine::Names;
use escrow_types::{AccountKey, Amount, Currency, Epoch, Millis, ParticipantId, Sequence, TransactionKey};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use super::seat::Serving;
use super::{CallerSink, Owner};

/// One thing for the owner to do.
pub(crate) enum Input {
    /// A stream of a caller opens.
    Register(CallerId, CallerSink),
    /// A stream of a caller has ended.
    Unregister(CallerId),
    /// One transfer.
    Transfer(Box<Transfer>),
    /// Transfers of a stream, as many as had arrived.
    Transfers(Vec<Transfer>),
    /// Rows of transfers; columns are of equal length, the currency is valid.
    Columns(CallerId, Currency, Wait, Box<v1::TransferColumnsRequest>),
    /// A transaction of several legs.
    Legs(Box<Legs>),
    /// A link changed.
    Link(ParticipantId, LinkEvent),
    /// Columns of answers of a participant.
    Answers(ParticipantId, Message),
    /// An external participant answered a call.
    Called(ParticipantId, CallKind, Epoch, Sequence, Result<u8, String>),
    /// Anything rare that only a leader may do: operators, look-ups, two-step ends. Dropped if this replica does not lead.
    With(With),
    /// Anything rare that is about this replica alone.
    WithAny(With),
    /// As [`Input::With`], when an index is applied.
    WithAt(u64, With),
    /// What a link tells that was made for a term: of no meaning in another.
    OfTerm(u64, Box<Input>),
}

impl Input {
    /// How many transfers, answers or questions it has, and 1 at least: what has none costs something too.
    fn rows(&self) -> usize {
        let rows = match self {
            Self::Transfers(transfers) => transfers.len(),
            Self::Columns(_, _, _, columns) => columns.amount.len(),
            Self::Answers(_, message) => match message {
                Message::Tried(columns)
                | Message::TriedAndConfirmed(columns)
                | Message::Confirmed(columns)
                | Message::Canceled(columns) => columns.sequence.len(),
                Message::OutcomeQuery(query) => query.sequence.len(),
                Message::Hello(_) => 1,
            },
            Self::OfTerm(_, input) => input.rows(),
            _ => 1,
        };
        rows.max(1)
    }
}

/// A piece of work on the owner.
pub(crate) type With = Box<dyn FnOnce(&mut Owner) + Send>;

/// One transfer, checked for form.
pub(crate) struct Transfer {
    pub(crate) key: TransactionKey,
    pub(crate) from: AccountKey,
    pub(crate) to: AccountKey,
    pub(crate) amount: Amount,
    pub(crate) currency: Currency,
    pub(crate) timeout_ms: Millis,
    pub(crate) names: Option<Box<Names>>,
    pub(crate) waiter: Waiter,
    /// For unary calls: where the one answer goes; the waiter's tag is then given by the owner.
    pub(crate) reply: Option<Reply>,
}

impl Transfer {
    /// As the driver takes it.
    pub(super) fn request(&self) -> TransferRequest<'_> {
        TransferRequest {
            key: self.key,
            from: self.from,
            to: self.to,
            amount: self.amount,
            currency: self.currency,
            timeout_ms: self.timeout_ms,
            names: self.names.as_deref(),
        }
    }
}

/// A transaction of several legs, checked for form.
pub(crate) struct Legs {
    pub(crate) key: TransactionKey,
    pub(crate) transaction_id: Option<Box<str>>,
    pub(crate) two_step: bool,
    pub(crate) rows: Vec<Leg>,
    pub(crate) timeout_ms: Millis,
    pub(crate) wait: Wait,
    pub(crate) reply: Reply,
}

/// Where the one answer of a unary call goes.
pub(crate) type Reply = oneshot::Sender<Answered>;

/// What a link task tells.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// Connected and greeted: messages may be sent.
    Ready(mpsc::UnboundedSender<v1::ExchangeRequest>),
    /// The connection ended.
    Lost(String),
    /// An attempt to connect failed; the next is due after so many milliseconds. The breaker opens if it says so.
    Failed { error: String, next_in_ms: Millis, breaker_open: bool },
    /// The attempt under way takes too long: the breaker opens.
    Overdue,
    /// The participant refused our epoch: another leader is in charge.
    Deposed,
}

/// A handle to the owner, for everybody.
#[derive(Clone)]
pub(crate) struct Mailbox {
    requests: mpsc::Sender<Input>,
    events: mpsc::UnboundedSender<Input>,
    /// Of a replica.
    group: Option<(Replica, watch::Receiver<Serving>)>,
    /// Of links that were made for a term.
    term: Option<u64>,
}

/// The owner's side.
pub(crate) struct Receivers {
    pub(crate) requests: mpsc::Receiver<Input>,
    pub(crate) events: mpsc::UnboundedReceiver<Input>,
    /// Keeps the events queue open.
    _events: mpsc::UnboundedSender<Input>,
}

/// So many rows make a turn; the last message of it may exceed them. What a turn puts out leaves when it has ended: with smaller
/// turns the participants, the log and the callers have work while the owner does the next. And fewer rows would cost more messages
/// and syncs.
const ROWS_PER_TURN: usize = 4_096;
/// So many requests may wait for the owner; then senders wait, and with them their connections.
const REQUESTS_MAX: usize = 4_096;

/// Makes the mailbox.
pub(crate) fn mailbox() -> (Mailbox, Receivers) {
    let (requests, requests_receiver) = mpsc::channel(REQUESTS_MAX);
    let (events, events_receiver) = mpsc::unbounded_channel();
    let receivers =
        Receivers { requests: requests_receiver, events: events_receiver, _events: events.clone() };
    (Mailbox { requests, events, group: None, term: None }, receivers)
}

impl Receivers {
    /// Whether nothing has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.requests.is_empty()
    }

    /// Takes what else has arrived, and waits for nothing; [`ROWS_PER_TURN`] rows are enough. Events first: they free what requests
    /// need. Returns whether it was enough: more may have arrived.
    pub(crate) fn drain(&mut self, inputs: &mut Vec<Input>, with_requests: bool) -> bool {
        let mut rows: usize = inputs.iter().map(Input::rows).sum();
        while rows < ROWS_PER_TURN {
            let event = self.events.try_recv().ok();
            let Some(input) =
                event.or_else(|| if with_requests { self.requests.try_recv().ok() } else { None })
            else {
                return false;
            };
            rows += input.rows();
            inputs.push(input);
        }
        true
    }
}

impl Mailbox {
    /// Hands a request over, waiting for room.
    pub(crate) async fn request(&self, input: Input) -> Result<(), Status> {
        self.requests.send(input).await.map_err(|_| stopped())
    }

    /// Hands an event over. After the owner has stopped it is dropped: nobody is left to act on it.
    pub(crate) fn event(&self, input: Input) {
        let input = match self.term {
            Some(term) => Input::OfTerm(term, Box::new(input)),
            None => input,
        };
        let _ = self.events.send(input);
    }

    /// The same for a replica: asked only while it leads.
    pub(crate) fn of_group(self, replica: Replica, serving: watch::Receiver<Serving>) -> Self {
        Self { group: Some((replica, serving)), ..self }
    }

    /// The same for links that are made for a term.
    pub(crate) fn of_term(&self, term: u64) -> Self {
        Self { term: Some(term), ..self.clone() }
    }

    /// Whether this replica leads; says who does.
    pub(crate) fn check_leads(&self) -> Result<(), Status> {
        let Some((_, serving)) = &self.group else { return Ok(()) };
        let serving = serving.borrow();
        match serving.term {
            Some(_) => Ok(()),
            None => Err(not_leader(serving.leader.as_deref())),
        }
    }

    /// The term in which this replica leads; 0 without replication.
    pub(crate) fn term(&self) -> Option<u64> {
        self.group.as_ref().map_or(Some(0), |(_, serving)| serving.borrow().term)
    }

    /// The term for which this link was made; 0 without replication.
    pub(crate) fn term_of_link(&self) -> u64 {
        self.term.unwrap_or(0)
    }

    /// Resolves when this replica does not lead any more, or in another term than now; never without replication.
    pub(crate) async fn led_until(&self) -> Status {
        let Some((_, serving)) = &self.group else { return std::future::pending().await };
        let mut serving = serving.clone();
        let term = serving.borrow().term;
        let changed = serving.wait_for(|serving| serving.term.is_none() || serving.term != term).await;
        changed.map_or_else(|_| stopped(), |serving| not_leader(serving.leader.as_deref()))
    }

    /// What is to be said to whoever got no answer: this replica stopped leading, or the coordinator is stopping.
    pub(crate) fn unanswered(&self) -> Status {
        let Some((_, serving)) = &self.group else { return stopped() };
        let message = "the replica stopped leading before the outcome was known; ask again with the same transaction_id";
        unknown_outcome(message, serving.borrow().leader.as_deref())
    }

    /// Runs `ask` on the owner, if this replica leads, and returns what it gives.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.check_leads()?;
        self.ask_with(Input::With, ask).await
    }

    /// As [`Mailbox::ask`]; what is read includes everything that was acknowledged before, by whichever leader.
    pub(crate) async fn ask_newest<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let Some((replica, _)) = &self.group else { return self.ask(ask).await };
        if canary::is_on(Canary::DeposedLeaderAnswers) {
            return self.ask(ask).await;
        }
        self.check_leads()?;
        let index = replica.read_index().await.map_err(|error| not_leader(error.leader.as_deref()))?;
        self.ask_with(|with| Input::WithAt(index, with), ask).await
    }

    /// Runs `ask` on the owner of this very replica, whether it leads or not.
    pub(crate) async fn ask_here<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.ask_with(Input::WithAny, ask).await
    }

    async fn ask_with<T: Send + 'static>(
        &self,
        input: impl FnOnce(With) -> Input,
        ask: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let with = move |owner: &mut Owner| {
            // The asker may have gone; what it asked for is done all the same.
            let _ = reply.send(ask(owner));
        };
        self.request(input(Box::new(with))).await?;
        answer.await.map_err(|_| self.unanswered())
    }
}

/// The owner is gone: what was asked may or may not have happened.
pub(crate) fn stopped() -> Status {
    escrow_service::refusal(
        escrow_types::Reason::OutcomeUnknown,
        "the coordinator is stopping; ask again with the same transaction_id",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfers(rows: usize) -> Input {
        let columns = v1::TransferColumnsRequest { amount: vec![1; rows], ..Default::default() };
        Input::Columns(CallerId(1), Currency::USD, Wait::Decided, Box::new(columns))
    }

    fn answers(rows: usize) -> Input {
        let columns = v1::AnswerColumns { sequence: vec![1; rows], ..Default::default() };
        Input::Answers(ParticipantId(0), Message::Tried(columns))
    }

    fn taken(receivers: &mut Receivers, with_requests: bool) -> (bool, Vec<usize>) {
        let mut inputs = Vec::new();
        let is_full = receivers.drain(&mut inputs, with_requests);
        (is_full, inputs.iter().map(Input::rows).collect())
    }

    #[tokio::test]
    async fn a_turn_ends_with_the_message_that_fills_it_and_begins_with_events() {
        let (mailbox, mut receivers) = mailbox();
        for rows in [ROWS_PER_TURN - 1, 7, 5] {
            mailbox.request(transfers(rows)).await.unwrap();
        }
        mailbox.of_term(3).event(answers(1));
        assert_eq!(taken(&mut receivers, true), (true, vec![1, ROWS_PER_TURN - 1]));
        mailbox.event(answers(2));
        assert_eq!(taken(&mut receivers, false), (false, vec![2]), "no requests");
        assert_eq!(taken(&mut receivers, true), (false, vec![7, 5]));
        assert!(receivers.is_empty());
    }

    #[tokio::test]
    async fn messages_without_rows_fill_a_turn_too() {
        let (mailbox, mut receivers) = mailbox();
        for _ in 0..=ROWS_PER_TURN {
            mailbox.event(answers(0));
        }
        let (is_full, taken) = taken(&mut receivers, true);
        assert_eq!((is_full, taken.len(), receivers.is_empty()), (true, ROWS_PER_TURN, false));
    }

    #[tokio::test]
    async fn what_a_turn_begins_with_counts() {
        let (mailbox, mut receivers) = mailbox();
        mailbox.request(transfers(1)).await.unwrap();
        let mut inputs = vec![answers(ROWS_PER_TURN)];
        assert!(receivers.drain(&mut inputs, true));
        assert_eq!(inputs.len(), 1);
        assert!(!receivers.is_empty());
    }
}
