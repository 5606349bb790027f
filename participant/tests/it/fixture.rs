//! A server in a temporary directory, and short words for calls.

use std::path::Path;

use escrow_participant::{Config, ParticipantError, Server};
use escrow_proto::v1 as proto;
use escrow_types::{AccountId, Answer, Reason, dense};
use proto::account_service_client::AccountServiceClient;
use proto::exchange_request::Message as Ask;
use proto::exchange_response::Message as Told;
use proto::overdraft::Policy;
use proto::participant_service_client::ParticipantServiceClient;
use proto::shard_service_client::ShardServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

pub(crate) const USD: u16 = 840;
pub(crate) const USD_CREDIT: u16 = USD + 0x8000;
pub(crate) const CLUSTER: &str = "0123456789abcdef0123456789abcdef";
/// A deadline that no test reaches.
pub(crate) const LATER: u64 = u64::MAX;

/// Small, quick to ask, and without timers that matter.
pub(crate) fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        segment_bytes: 1 << 20,
        sled_cache_bytes: 1 << 20,
        outcome_interval_ms: 10,
        drain_ms: 2_000,
        ..Config::default()
    }
}

pub(crate) struct Running {
    pub(crate) address: std::net::SocketAddr,
    channel: Channel,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ParticipantError>>,
}

pub(crate) async fn start(config: Config) -> Running {
    let server = Server::bind(config).await.unwrap();
    let address = server.local_addr();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async { drop(stopped.await) }));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    Running { address, channel, stop, task }
}

/// The error that keeps a server from starting.
pub(crate) async fn refused(config: Config) -> String {
    match Server::bind(config).await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        drop(self.channel);
        self.task.await.unwrap().unwrap();
    }

    pub(crate) fn branches(&self) -> ParticipantServiceClient<Channel> {
        ParticipantServiceClient::new(self.channel.clone())
    }

    pub(crate) fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel.clone())
    }

    pub(crate) fn shards(&self) -> ShardServiceClient<Channel> {
        ShardServiceClient::new(self.channel.clone())
    }

    /// Opens alice, bob and external in USD, in epoch 1 of partition 9, and gives alice 1,000.
    pub(crate) async fn fund(&self) {
        let overdraft = |policy| Some(proto::Overdraft { policy: Some(policy) });
        let row = |id: &str, policy| proto::OpenAccount {
            account_id: id.to_owned(),
            currency: "USD".to_owned(),
            overdraft: overdraft(policy),
        };
        let accounts = vec![
            row("alice", Policy::Forbidden(true)),
            row("bob", Policy::Forbidden(true)),
            row("external", Policy::Unlimited(true)),
        ];
        let request = proto::OpenAccountsRequest { accounts };
        let results = self.accounts().open_accounts(request).await.unwrap().into_inner().results;
        assert!(results.iter().all(|result| result.reason == 0));
        let mut exchange = self.exchange(9, 1).await;
        exchange
            .send(Ask::TryAndConfirm(columns(
                1,
                LATER,
                &[(0, "external", 1_000, USD), (0, "alice", 1_000, USD_CREDIT)],
            )))
            .await;
        assert_eq!(exchange.answers().await, [(0, Answer::Confirmed)]);
    }

    pub(crate) async fn hello(&self, partition: u32, epoch: u32) -> Result<proto::HelloResponse, Status> {
        self.branches().hello(hello(partition, epoch, &[])).await.map(tonic::Response::into_inner)
    }

    /// A stream that said hello.
    pub(crate) async fn exchange(&self, partition: u32, epoch: u32) -> Exchange {
        self.exchange_with(hello(partition, epoch, &[])).await
    }

    pub(crate) async fn exchange_with(&self, hello: proto::HelloRequest) -> Exchange {
        let mut exchange = self.silent().await;
        exchange.send(Ask::Hello(hello)).await;
        match exchange.told().await {
            Told::Hello(response) => assert!(response.accepted),
            other => panic!("{other:?}"),
        }
        exchange
    }

    /// A stream that has said nothing yet.
    pub(crate) async fn silent(&self) -> Exchange {
        silent_over(self.channel.clone()).await
    }

    /// A stream on a connection of its own that takes in little ahead of its reader.
    pub(crate) async fn exchange_with_small_window(&self, partition: u32, epoch: u32) -> Exchange {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let channel = endpoint.initial_stream_window_size(65_535).connect().await.unwrap();
        let mut exchange = silent_over(channel).await;
        exchange.send(Ask::Hello(hello(partition, epoch, &[]))).await;
        assert!(matches!(exchange.told().await, Told::Hello(response) if response.accepted));
        exchange
    }

    pub(crate) async fn try_leg(
        &self,
        sender: u32,
        sequence: u64,
        leg: proto::Leg,
    ) -> Result<Answer, Status> {
        let request = proto::TryRequest {
            xid: Some(xid(1, sequence)),
            sender_epoch: sender,
            legs: vec![leg],
            deadline_ms: LATER,
            ..Default::default()
        };
        let response = self.branches().r#try(request).await?.into_inner();
        Ok(answer(response.answer, response.reason))
    }

    pub(crate) async fn confirm(&self, sequence: u64) -> Answer {
        let request = proto::ConfirmBranchRequest {
            xid: Some(xid(1, sequence)),
            sender_epoch: 1,
            ..Default::default()
        };
        answer(self.branches().confirm(request).await.unwrap().into_inner().answer, 0)
    }

    pub(crate) async fn cancel(&self, sequence: u64) -> Answer {
        let request =
            proto::CancelBranchRequest { xid: Some(xid(1, sequence)), sender_epoch: 1, ..Default::default() };
        answer(self.branches().cancel(request).await.unwrap().into_inner().answer, 0)
    }

    /// Posted, reserved, incoming.
    pub(crate) async fn balance(&self, id: &str) -> (i64, u64, u64) {
        let request = proto::GetAccountRequest { account_id: id.to_owned(), bounds: None };
        let account = self.accounts().get_account(request).await.unwrap().into_inner().account.unwrap();
        let balance = &account.balances[0];
        (balance.posted, balance.reserved, balance.incoming)
    }

    pub(crate) async fn status(&self) -> proto::ShardStatus {
        let response = self.shards().get_shard_status(proto::GetShardStatusRequest {}).await.unwrap();
        response.into_inner().shards.remove(0)
    }

    pub(crate) async fn log(&self) -> proto::LogCursors {
        self.status().await.log.unwrap()
    }

    /// Waits until the view has everything that is logged by now.
    pub(crate) async fn checkpointed(&self) -> u64 {
        let until = self.log().await.appended;
        loop {
            let checkpointed = self.log().await.checkpointed;
            if checkpointed >= until {
                return checkpointed;
            }
        }
    }

    /// The last line of each check.
    pub(crate) async fn verify(&self) -> Vec<(String, bool, String)> {
        let request = proto::VerifyShardRequest { participant: 0 };
        let mut lines = self.shards().verify_shard(request).await.unwrap().into_inner();
        let mut checks = Vec::new();
        while let Some(line) = lines.message().await.unwrap() {
            if line.done {
                checks.push((line.check, line.ok, line.detail));
            }
        }
        checks
    }
}

async fn silent_over(channel: Channel) -> Exchange {
    let (sender, receiver) = mpsc::channel(1_000);
    let mut branches = ParticipantServiceClient::new(channel);
    let responses = branches.exchange(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    Exchange { sender, responses }
}

pub(crate) struct Exchange {
    pub(crate) sender: mpsc::Sender<proto::ExchangeRequest>,
    pub(crate) responses: Streaming<proto::ExchangeResponse>,
}

impl Exchange {
    pub(crate) async fn send(&self, message: Ask) {
        self.sender.send(proto::ExchangeRequest { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn told(&mut self) -> Told {
        self.responses.message().await.unwrap().expect("the stream goes on").message.unwrap()
    }

    /// The next answers to branches; questions in between are passed over.
    pub(crate) async fn answers(&mut self) -> Vec<(u64, Answer)> {
        loop {
            match self.told().await {
                Told::OutcomeQuery(_) => {}
                Told::Tried(columns)
                | Told::TriedAndConfirmed(columns)
                | Told::Confirmed(columns)
                | Told::Canceled(columns) => {
                    let bytes = columns.answer.iter().map(|&byte| Answer::from_byte(byte).unwrap());
                    let (first, rows) = (columns.first_sequence, columns.answer.len());
                    let sequences = dense::of_message(columns.sequence, first, rows);
                    return sequences.expect("as many as answers").into_iter().zip(bytes).collect();
                }
                Told::Hello(hello) => panic!("{hello:?}"),
            }
        }
    }

    /// Reads to the end: the status with which the stream ends.
    pub(crate) async fn end(mut self) -> Result<(), Status> {
        while self.responses.message().await?.is_some() {}
        Ok(())
    }
}

pub(crate) fn hello(partition: u32, epoch: u32, unfinished: &[(u32, u64)]) -> proto::HelloRequest {
    proto::HelloRequest {
        partition,
        epoch,
        participant: 0,
        unfinished_epoch: unfinished.iter().map(|xid| xid.0).collect(),
        unfinished_sequence: unfinished.iter().map(|xid| xid.1).collect(),
        cluster_id: CLUSTER.to_owned(),
    }
}

pub(crate) fn xid(epoch: u32, sequence: u64) -> proto::Xid {
    proto::Xid { partition: 0, epoch, sequence }
}

pub(crate) fn columns(epoch: u32, deadline_ms: u64, rows: &[(u64, &str, u64, u16)]) -> proto::TryColumns {
    let keys: Vec<_> = rows.iter().map(|row| AccountId::new(row.1).unwrap().key().halves()).collect();
    proto::TryColumns {
        epoch,
        deadline_ms,
        sequence: rows.iter().map(|row| row.0).collect(),
        account_high: keys.iter().map(|key| key.0).collect(),
        account_low: keys.iter().map(|key| key.1).collect(),
        amount: rows.iter().map(|row| row.2).collect(),
        kind: rows.iter().flat_map(|row| row.3.to_le_bytes()).collect(),
        first_sequence: 0,
    }
}

pub(crate) fn ends(epoch: u32, sequences: &[u64]) -> proto::EndColumns {
    proto::EndColumns { epoch, sequence: sequences.to_vec(), ..Default::default() }
}

pub(crate) fn debit(id: &str, amount: u64) -> proto::Leg {
    leg(id, amount, proto::Direction::Debit)
}

pub(crate) fn leg(id: &str, amount: u64, direction: proto::Direction) -> proto::Leg {
    proto::Leg {
        account_id: id.to_owned(),
        direction: direction as i32,
        amount,
        currency: "USD".to_owned(),
        participant: String::new(),
    }
}

fn answer(number: i32, reason: i32) -> Answer {
    if number == proto::Answer::Rejected as i32 {
        return Answer::Rejected(Reason::from_number(u8::try_from(reason).unwrap()).unwrap());
    }
    Answer::from_byte(u8::try_from(number).unwrap()).unwrap()
}

#[track_caller]
pub(crate) fn check_refusal(status: &Status, code: Code, reason: Reason) {
    assert_eq!((status.code(), escrow_service::reason_of(status)), (code, Some(reason)), "{status:?}");
}

/// A copy of a directory as a crash would leave it: whatever is in the files by now.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), &target) {
            // A file that sled or the journal removes meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}
