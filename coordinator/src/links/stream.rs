//! The link of one wallet shard: connect, hello, then columns both ways until the connection ends; for ever.
//!
//! A shard with replicas has one link, to the replica that leads. When that one is lost, or never led, the link goes to the one
//! that is named, or to the next one; once around without a pause.

use std::sync::Arc;
use std::time::Duration;

use escrow_grpc::Channel;
use escrow_invariants::{Canary, canary};
use escrow_proto::v1;
use escrow_proto::v1::exchange_request::Message as Request;
use escrow_proto::v1::exchange_response::Message as Response;
use escrow_proto::v1::participant_service_client::ParticipantServiceClient;
use escrow_service::{Course, Replicas, leader_of, reason_of};
use escrow_tcc::driver::{EndColumns, Send, TryColumns};
use escrow_types::{Millis, ParticipantId, Reason, dense};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::Peer;
use super::backoff::Reconnect;
use crate::owner::{Input, LinkEvent, Mailbox, Owner};

/// Not reached for so long, whether attempts fail or hang: the breaker opens.
const BREAKER_AFTER: Duration = Duration::from_secs(1);
/// Where there are several replicas, a silent one keeps the others from being tried: this long at first.
const REPLICA_HELLO_TIMEOUT: Duration = super::peer::REPLICA_TIMEOUT;
/// A participant that is recovering accepts no connection; one that accepts must greet within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct StreamLink {
    participant: ParticipantId,
    cluster_id: String,
    peer: Peer,
    replicas: Arc<Replicas>,
    /// One for each replica.
    clients: Vec<ParticipantServiceClient<Channel>>,
    mailbox: Mailbox,
}

/// What goes to a participant, and what comes from it.
type Connection = (mpsc::UnboundedSender<v1::ExchangeRequest>, Streaming<v1::ExchangeResponse>);

/// Why a connection ended.
pub(crate) enum End {
    Lost(String),
    /// The participant knows a newer leader.
    Deposed,
}

/// Why an attempt or a connection to one replica is over.
enum Over {
    Ended(End),
    /// There was no answer to hello in time.
    Silent,
    /// It does not lead its group; the endpoint of the one that does, if it said so.
    NotLeader(Option<String>, String),
}

impl From<Status> for Over {
    fn from(status: Status) -> Self {
        let error = describe(&status);
        match reason_of(&status) {
            Some(Reason::NotLeader) => Self::NotLeader(leader_of(&status), error),
            _ => Self::Ended(End::Lost(error)),
        }
    }
}

impl Over {
    /// Sets the course to the replica that is next; `true` if it is to be tried at once.
    fn steer(&self, course: &mut Course<'_>) -> bool {
        match self {
            Self::Ended(_) => course.unanswered(),
            Self::Silent => course.timed_out(),
            Self::NotLeader(leader, _) => course.refused(leader.as_deref()),
        }
    }

    fn into_end(self) -> End {
        match self {
            Self::Ended(end) => end,
            Self::Silent => End::Lost("connected, but no answer to hello".into()),
            Self::NotLeader(_, error) => End::Lost(error),
        }
    }
}

/// The first message of a connection: the epoch, and what the coordinator still has unfinished there.
pub(crate) fn hello(owner: &Owner, participant: ParticipantId, cluster_id: &str) -> v1::ExchangeRequest {
    let mut unfinished = owner.driver.unfinished_for(participant);
    if canary::is_on(Canary::HelloNamesNothing) {
        unfinished.clear();
    }
    let hello = v1::HelloRequest {
        partition: u32::from(owner.config.partition),
        epoch: owner.driver.machine().epoch().0,
        participant: u32::from(participant.0),
        unfinished_epoch: unfinished.iter().map(|(epoch, _)| epoch.0).collect(),
        unfinished_sequence: unfinished.iter().map(|&(_, sequence)| sequence).collect(),
        cluster_id: cluster_id.to_owned(),
    };
    v1::ExchangeRequest { message: Some(Request::Hello(hello)) }
}

/// Whether the first message that came back lets the coordinator go on.
pub(crate) fn greeted(participant: ParticipantId, first: Option<v1::ExchangeResponse>) -> Result<(), End> {
    match first.and_then(|first| first.message) {
        Some(Response::Hello(answer)) if answer.accepted => Ok(()),
        Some(Response::Hello(answer)) => {
            tracing::error!(participant = participant.0, newer = answer.epoch, "hello refused");
            Err(End::Deposed)
        }
        _ => Err(End::Lost("the first message is not an answer to hello".into())),
    }
}

impl StreamLink {
    pub(super) fn new(peer: &Peer, cluster_id: &str, mailbox: Mailbox) -> Self {
        let client = |channel: &Channel| {
            ParticipantServiceClient::new(channel.clone())
                .max_decoding_message_size(256 << 20)
                .max_encoding_message_size(256 << 20)
        };
        Self {
            participant: ParticipantId(peer.config.id),
            cluster_id: cluster_id.to_owned(),
            peer: peer.clone(),
            replicas: Arc::clone(&peer.replicas),
            clients: peer.channels().iter().map(client).collect(),
            mailbox,
        }
    }

    pub(super) async fn run(mut self) {
        let replicas = Arc::clone(&self.replicas);
        let mut course = Course::new(&replicas);
        let mut reconnect = Reconnect::new();
        // From the moment that it was lost, not from the first attempt that failed: an attempt may hang for seconds.
        let mut breaker_due = Instant::now() + BREAKER_AFTER;
        loop {
            match self.connect_or_open(&course, breaker_due).await {
                Ok((sender, responses)) => {
                    reconnect.reset();
                    course.answered();
                    self.tell(LinkEvent::Ready(sender));
                    let over = self.read(responses).await;
                    over.steer(&mut course);
                    breaker_due = Instant::now() + BREAKER_AFTER;
                    if let End::Lost(error) = over.into_end() {
                        self.tell(LinkEvent::Lost(error));
                    }
                }
                Err(over) => {
                    let at_once = over.steer(&mut course);
                    let End::Lost(error) = over.into_end() else {
                        self.tell(LinkEvent::Deposed);
                        return;
                    };
                    let delay = if at_once { Duration::ZERO } else { reconnect.next() };
                    self.tell(LinkEvent::Failed {
                        error,
                        next_in_ms: delay.as_millis() as Millis,
                        breaker_open: Instant::now() >= breaker_due,
                    });
                    if !at_once {
                        tokio::time::sleep(delay).await;
                        course.paused();
                    }
                }
            }
        }
    }

    /// Connects and greets; if that takes beyond `breaker_due`, the owner hears of it meanwhile.
    async fn connect_or_open(
        &mut self,
        course: &Course<'_>,
        breaker_due: Instant,
    ) -> Result<Connection, Over> {
        if Instant::now() >= breaker_due {
            // It was told already.
            return self.connect(course).await;
        }
        let (participant, mailbox) = (self.participant, self.mailbox.clone());
        let mut connecting = std::pin::pin!(self.connect(course));
        if let Ok(connected) = tokio::time::timeout_at(breaker_due, connecting.as_mut()).await {
            return connected;
        }
        mailbox.event(Input::Link(participant, LinkEvent::Overdue));
        connecting.await
    }

    fn tell(&self, event: LinkEvent) {
        self.mailbox.event(Input::Link(self.participant, event));
    }

    /// Connects and greets.
    async fn connect(&mut self, course: &Course<'_>) -> Result<Connection, Over> {
        let (participant, cluster_id) = (self.participant, self.cluster_id.clone());
        let hello = self.mailbox.ask(move |owner| hello(owner, participant, &cluster_id)).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = sender.send(hello);
        let client = &mut self.clients[course.at()];
        let greet = async {
            let mut responses = client.exchange(UnboundedReceiverStream::new(receiver)).await?.into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first))
        };
        let patience = course.patience(REPLICA_HELLO_TIMEOUT, HELLO_TIMEOUT);
        let (responses, first) = tokio::time::timeout(patience, greet).await.map_err(|_| Over::Silent)??;
        self.reached(first.as_ref().map_or(0, |first| first.position));
        greeted(participant, first).map_err(Over::Ended)?;
        Ok((sender, responses))
    }

    fn reached(&self, position: u64) {
        self.peer.reached(self.mailbox.term_of_link(), position);
    }

    async fn read(&self, mut responses: Streaming<v1::ExchangeResponse>) -> Over {
        loop {
            match responses.message().await {
                Ok(Some(response)) => {
                    // Before whoever is told of it can ask for it.
                    self.reached(response.position);
                    let Some(message) = response.message else { continue };
                    let Some(message) = with_sequences(message) else {
                        // On the next connection everything is asked again.
                        let error = "answers without as many sequences".to_owned();
                        return Over::Ended(End::Lost(error));
                    };
                    self.mailbox.event(Input::Answers(self.participant, message));
                }
                Ok(None) => return Over::Ended(End::Lost("the participant closed the connection".into())),
                Err(status) => return status.into(),
            }
        }
    }
}

/// A message of a participant with each sequence named; `None` if they are not as many as its answers.
pub(crate) fn with_sequences(mut message: Response) -> Option<Response> {
    match &mut message {
        Response::Tried(columns)
        | Response::TriedAndConfirmed(columns)
        | Response::Confirmed(columns)
        | Response::Canceled(columns) => {
            let named = std::mem::take(&mut columns.sequence);
            columns.sequence = dense::of_message(named, columns.first_sequence, columns.answer.len())?;
        }
        Response::Hello(_) | Response::OutcomeQuery(_) => {}
    }
    Some(message)
}

/// What a status says, in one line, with the cause below it (connection refused, say).
pub(super) fn describe(status: &Status) -> String {
    use std::error::Error as _;
    let mut text = format!("{}: {}", status.code(), status.message());
    let mut cause = status.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn try_columns(columns: TryColumns) -> v1::TryColumns {
    let first = dense::first_of(&columns.sequences);
    v1::TryColumns {
        epoch: columns.epoch.0,
        deadline_ms: columns.deadline_ms,
        first_sequence: first.unwrap_or_default(),
        sequence: if first.is_some() { Vec::new() } else { columns.sequences },
        account_high: columns.account_high,
        account_low: columns.account_low,
        amount: columns.amounts,
        kind: columns.kinds,
    }
}

fn end_columns(columns: EndColumns) -> v1::EndColumns {
    let first = dense::first_of(&columns.sequences).filter(|_| columns.sequences.len() <= dense::ROWS_MAX);
    v1::EndColumns {
        epoch: columns.epoch.0,
        first_sequence: first.unwrap_or_default(),
        rows: first.map_or(0, |_| columns.sequences.len() as u32),
        sequence: if first.is_some() { Vec::new() } else { columns.sequences },
        partial_legs: columns.partial_legs,
        partial_amount: columns.partial_amounts,
    }
}

/// The message as it goes on the wire.
pub(super) fn message(send: Send) -> v1::ExchangeRequest {
    let message = match send {
        Send::Try(columns) => Request::Try(try_columns(columns)),
        Send::TryAndConfirm(columns) => Request::TryAndConfirm(try_columns(columns)),
        Send::Confirm(columns) => Request::Confirm(end_columns(columns)),
        Send::Cancel(columns) => Request::Cancel(end_columns(columns)),
        Send::Fence(columns) => Request::Fence(end_columns(columns)),
        Send::Watermark { epoch, below, except } => {
            Request::Watermark(v1::Watermark { epoch: epoch.0, below, except })
        }
    };
    v1::ExchangeRequest { message: Some(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(sequence: &[u64], first_sequence: u64, answers: usize) -> Response {
        let (sequence, answer) = (sequence.to_vec(), vec![1; answers]);
        Response::Confirmed(v1::AnswerColumns { epoch: 3, sequence, answer, first_sequence })
    }

    fn sequences(message: Response) -> Option<Vec<u64>> {
        match with_sequences(message)? {
            Response::Confirmed(columns) => Some(columns.sequence),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_have_as_many_sequences_or_are_none() {
        assert_eq!(sequences(answers(&[], 7, 3)), Some(vec![7, 8, 9]));
        assert_eq!(sequences(answers(&[9, 7], 0, 2)), Some(vec![9, 7]));
        assert_eq!(sequences(answers(&[9, 7], 0, 3)), None);
        assert_eq!(sequences(answers(&[], u64::MAX, 2)), None);
    }

    #[test]
    fn more_ends_than_a_participant_takes_unnamed_are_named() {
        for (rows, is_named) in [(dense::ROWS_MAX, false), (dense::ROWS_MAX + 1, true)] {
            let columns = EndColumns { sequences: (5..).take(rows).collect(), ..EndColumns::default() };
            let message = end_columns(columns);
            assert_eq!(
                (message.sequence.len(), message.rows as usize),
                if is_named { (rows, 0) } else { (0, rows) }
            );
        }
    }
}
