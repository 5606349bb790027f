//! A coordinator that answers from a script, behind a proxy that can cut every connection; alone, or one replica of a group.

// Each test file uses a part of it; clippy knows only functions marked #[test] as tests.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use escrow_client::{Client, Options, RetryPolicy, Transfer};
use escrow_proto::v1 as proto;
use escrow_proto::v1::transfer_service_server::{TransferService, TransferServiceServer};
use escrow_service::{not_leader, refusal};
use escrow_types::{Currency, Reason};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What the fake does with one attempt; beyond the script it confirms.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Answers a transport-like UNAVAILABLE, without a reason of the catalogue.
    Unavailable,
    /// Does what a server does.
    Confirm,
    /// Refuses with a reason of the catalogue.
    Refuse(Reason),
    /// Refuses the row of a stream, in its answer.
    RefuseRow(Reason),
    /// Takes the request and cuts the connection.
    CutConnection,
    /// Takes the request, cuts the connection, and is never reached again.
    Die,
    /// Takes the request and never answers.
    Hang,
}

/// What a replica believes of its group.
#[derive(Debug, Clone)]
pub enum Role {
    Leads,
    /// Refuses, and names this leader.
    Follows(Option<String>),
    /// Refuses so many times, and leads then.
    LeadsAfter(usize),
}

#[derive(Clone)]
pub struct Fake {
    script: Arc<Mutex<std::collections::VecDeque<Step>>>,
    /// The transaction_id of every attempt that arrived.
    seen: Arc<Mutex<Vec<String>>>,
    rows_seen: Arc<Mutex<Vec<u64>>>,
    role: Arc<Mutex<Role>>,
    /// How often it refused because it does not lead.
    refused: Arc<AtomicUsize>,
    cut: watch::Sender<u64>,
    front: AbortHandle,
}

impl Fake {
    /// Starts it and gives it with the endpoint to connect to.
    pub async fn start(script: &[Step]) -> (Self, String) {
        let (cut, cuts) = watch::channel(0);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (front, accepting) = proxy(listener.local_addr().unwrap(), cuts).await;
        let fake = Self {
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
            seen: Arc::default(),
            rows_seen: Arc::default(),
            role: Arc::new(Mutex::new(Role::Leads)),
            refused: Arc::default(),
            cut,
            front: accepting,
        };
        let service = TransferServiceServer::new(fake.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener)),
        );
        (fake, format!("http://{front}"))
    }

    /// Three replicas, of which the first leads; with the endpoint of each.
    pub async fn group() -> ([Self; 3], [String; 3]) {
        let [(a, a_at), (b, b_at), (c, c_at)] =
            [Self::start(&[]).await, Self::start(&[]).await, Self::start(&[]).await];
        for follower in [&b, &c] {
            follower.set_role(Role::Follows(Some(a_at.clone())));
        }
        ([a, b, c], [a_at, b_at, c_at])
    }

    pub fn set_role(&self, role: Role) {
        *self.role.lock().unwrap() = role;
    }

    pub fn set_script(&self, script: &[Step]) {
        *self.script.lock().unwrap() = script.iter().copied().collect();
    }

    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    fn check_leads(&self) -> Result<(), Status> {
        let mut role = self.role.lock().unwrap();
        let leader = match &mut *role {
            Role::Leads | Role::LeadsAfter(0) => return Ok(()),
            Role::Follows(leader) => leader.as_deref(),
            Role::LeadsAfter(refusals) => {
                *refusals -= 1;
                None
            }
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(not_leader(leader))
    }

    /// Answers a message in two parts, each a step of the script.
    async fn answer_halves(
        &self,
        message: &proto::TransferColumnsRequest,
        answers: &mpsc::Sender<Result<proto::TransferColumnsResponse, Status>>,
    ) -> Result<(), Status> {
        let rows = message.amount.len();
        for part in [0..rows / 2, rows / 2..rows] {
            let ids = &message.transaction_id_low[part.clone()];
            self.rows_seen.lock().unwrap().extend_from_slice(ids);
            let refused = self.step("columns").await?;
            let state =
                refused.map_or(proto::TransactionState::Confirmed, |_| proto::TransactionState::Refused);
            let answer = proto::TransferColumnsResponse {
                tag: part.clone().map(|row| message.first_tag + row as u64).collect(),
                state: vec![state as u8; part.len()],
                reason: vec![refused.map_or(0, |reason| reason as u8); part.len()],
                sequence: ids.to_vec(),
                partition: 0,
                epoch: 1,
            };
            // The caller may be gone.
            let _ = answers.send(Ok(answer)).await;
        }
        Ok(())
    }

    /// The low halves of the ids of all rows of columns that arrived.
    pub fn rows_seen(&self) -> Vec<u64> {
        self.rows_seen.lock().unwrap().clone()
    }

    fn die(&self) {
        self.front.abort();
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The reason with which the row is refused, if it is.
    async fn step(&self, transaction_id: &str) -> Result<Option<Reason>, Status> {
        self.check_leads()?;
        self.seen.lock().unwrap().push(transaction_id.to_owned());
        let step = self.script.lock().unwrap().pop_front();
        match step {
            None | Some(Step::Confirm) => Ok(None),
            Some(Step::RefuseRow(reason)) => Ok(Some(reason)),
            Some(Step::Unavailable) => Err(Status::unavailable("scripted")),
            Some(Step::Refuse(reason)) => Err(refusal(reason, "scripted")),
            Some(Step::CutConnection) => {
                self.cut.send_modify(|cuts| *cuts += 1);
                std::future::pending().await
            }
            Some(Step::Die) => {
                self.die();
                std::future::pending().await
            }
            Some(Step::Hang) => std::future::pending().await,
        }
    }
}

/// Passes bytes on, and drops every connection when `cuts` changes. Listens until the task is aborted.
async fn proxy(to: SocketAddr, cuts: watch::Receiver<u64>) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut cuts = cuts.clone();
            cuts.mark_unchanged();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = cuts.changed() => {}
                }
            });
        }
    });
    (address, accepting.abort_handle())
}

fn confirmed(transaction_id: String) -> proto::TransferResponse {
    proto::TransferResponse {
        transaction_id,
        xid: "0-1-0".to_owned(),
        state: proto::TransactionState::Confirmed.into(),
        completed: true,
        ..proto::TransferResponse::default()
    }
}

fn refused_row(transaction_id: &str, reason: Reason) -> proto::TransferResponse {
    proto::TransferResponse {
        transaction_id: transaction_id.to_owned(),
        state: proto::TransactionState::Refused.into(),
        reason: reason as i32,
        ..proto::TransferResponse::default()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl TransferService for Fake {
    type TransferStreamStream = Answers<proto::TransferResponse>;
    type TransferColumnsStream = Answers<proto::TransferColumnsResponse>;

    async fn transfer(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::TransferResponse>, Status> {
        let transaction_id = request.into_inner().transaction_id;
        self.step(&transaction_id).await?;
        Ok(Response::new(confirmed(transaction_id)))
    }

    async fn transfer_stream(
        &self,
        request: Request<Streaming<proto::TransferRequest>>,
    ) -> Result<Response<Self::TransferStreamStream>, Status> {
        self.check_leads()?;
        let fake = self.clone();
        let answers = request.into_inner().then(move |message| {
            let fake = fake.clone();
            async move {
                let transaction_id = message?.transaction_id;
                let refused = fake.step(&transaction_id).await?;
                Ok(refused.map_or_else(
                    || confirmed(transaction_id.clone()),
                    |reason| refused_row(&transaction_id, reason),
                ))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn transfer_columns(
        &self,
        request: Request<Streaming<proto::TransferColumnsRequest>>,
    ) -> Result<Response<Self::TransferColumnsStream>, Status> {
        self.check_leads()?;
        let (fake, mut messages) = (self.clone(), request.into_inner());
        let (answers, stream) = mpsc::channel(16);
        tokio::spawn(async move {
            let answering = async {
                while let Some(message) = messages.message().await? {
                    fake.answer_halves(&message, &answers).await?;
                }
                Ok::<(), Status>(())
            };
            if let Err(status) = answering.await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_transaction(
        &self,
        request: Request<proto::GetTransactionRequest>,
    ) -> Result<Response<proto::GetTransactionResponse>, Status> {
        let id = request.into_inner().id;
        self.step(&id).await?;
        Ok(Response::new(proto::GetTransactionResponse {
            transaction_id: id,
            state: proto::TransactionState::NotFound.into(),
            ..proto::GetTransactionResponse::default()
        }))
    }
}

/// Short limits, so that a test of a deadline is short.
pub fn options() -> Options {
    Options {
        attempt_timeout: Duration::from_millis(400),
        deadline: Duration::from_secs(5),
        retry: RetryPolicy {
            first: Duration::from_millis(1),
            cap: Duration::from_millis(20),
            attempts_max: 100,
        },
        ..Options::default()
    }
}

pub fn client(endpoint: &str) -> Client {
    Client::connect([endpoint], options()).unwrap()
}

pub fn transfer() -> Transfer {
    Transfer::new("alice".parse().unwrap(), "bob".parse().unwrap(), 100, Currency::USD)
}
