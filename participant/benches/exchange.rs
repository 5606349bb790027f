//! Try and Confirm over the columnar stream, every answer durable: client and server on a thread each, over loopback.
//! Bounded: a few seconds. `BATCH=64 BATCHES=1000 cargo bench -p escrow-participant` measures other shapes.

use std::time::{Duration, Instant};

use escrow_participant::{Config, Server};
use escrow_proto::v1 as proto;
use escrow_types::{AccountId, Currency};
use escrow_wallet::kind_of;
use proto::exchange_request::Message as Ask;
use proto::exchange_response::Message as Told;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

const ACCOUNTS: u64 = 100_000;
/// Batches of Trys under way at a time.
const IN_FLIGHT: u64 = 8;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn main() {
    let (batch, batches) = (number("BATCH", 8_192), number("BATCHES", 300));
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config {
        data_dir: dir.path().to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        ..Config::default()
    };
    let (bound, address) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        runtime().block_on(async move {
            let server = Server::bind(config).await.expect("it binds");
            bound.send(server.local_addr()).expect("somebody waits");
            server.run(async { drop(stopped.await) }).await.expect("it ends in order");
        });
    });
    let address = address.recv().expect("it listens");
    let took = runtime().block_on(run(format!("http://{address}"), batch, batches));
    stop.send(()).expect("it runs");
    server.join().expect("it ends");
    let branches = batch * batches;
    let rate = branches as f64 / took.as_secs_f64();
    report(&format!(
        "{branches} branches in batches of {batch}, Try and Confirm: {took:?}, {rate:.0} a second"
    ));
}

async fn run(address: String, batch: u64, batches: u64) -> Duration {
    let endpoint = tonic::transport::Endpoint::from_shared(address).expect("an address");
    let endpoint = endpoint.initial_stream_window_size(16 << 20).initial_connection_window_size(64 << 20);
    let channel = endpoint.tcp_nodelay(true).connect().await.expect("it listens");
    let ids: Vec<String> = (0..ACCOUNTS).map(|number| format!("account-{number}")).collect();
    let mut accounts = proto::account_service_client::AccountServiceClient::new(channel.clone());
    let unlimited = proto::Overdraft { policy: Some(proto::overdraft::Policy::Unlimited(true)) };
    for ids in ids.chunks(10_000) {
        let row = |id: &String| proto::OpenAccount {
            account_id: id.clone(),
            currency: "USD".to_owned(),
            overdraft: Some(unlimited),
        };
        let request = proto::OpenAccountsRequest { accounts: ids.iter().map(row).collect() };
        accounts.open_accounts(request).await.expect("they open");
    }
    let keys: Vec<_> = ids.iter().map(|id| AccountId::new(id).expect("short").key().halves()).collect();

    let mut branches = proto::participant_service_client::ParticipantServiceClient::new(channel)
        .max_decoding_message_size(64 << 20);
    let (sender, receiver) = mpsc::channel(64);
    let mut responses =
        branches.exchange(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
    let send = |message| sender.send(proto::ExchangeRequest { message: Some(message) });
    let hello = proto::HelloRequest { epoch: 1, ..proto::HelloRequest::default() };
    send(Ask::Hello(hello)).await.expect("the stream is open");

    let start = Instant::now();
    let (mut tried, mut ended, mut place) = (0, 0, 1_u64);
    while ended < batches {
        while tried < batches && tried < ended + IN_FLIGHT {
            let sequence: Vec<u64> = (tried * batch..(tried + 1) * batch).collect();
            let rows = sequence.len();
            let mut columns =
                proto::TryColumns { epoch: 1, deadline_ms: u64::MAX, sequence, ..Default::default() };
            for _ in 0..rows {
                // A fixed walk over the accounts, so that runs can be compared.
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (high, low) = keys[((place >> 33) % ACCOUNTS) as usize];
                columns.account_high.push(high);
                columns.account_low.push(low);
                columns.kind.extend(kind_of(Currency::USD, place >> 63 == 1).to_le_bytes());
            }
            columns.amount = vec![1; rows];
            send(Ask::Try(columns)).await.expect("the stream is open");
            tried += 1;
        }
        match responses.message().await.expect("it goes on").and_then(|message| message.message) {
            Some(Told::Tried(columns)) => {
                assert!(columns.answer.iter().all(|&answer| answer == proto::Answer::Reserved as u8));
                let (epoch, sequence) = (columns.epoch, columns.sequence);
                send(Ask::Confirm(proto::EndColumns { epoch, sequence, ..Default::default() }))
                    .await
                    .expect("open");
            }
            Some(Told::Confirmed(columns)) => {
                assert!(columns.answer.iter().all(|&answer| answer == proto::Answer::Confirmed as u8));
                ended += 1;
                let below = ended * batch;
                let watermark = proto::Watermark { epoch: 1, below, except: Vec::new() };
                send(Ask::Watermark(watermark)).await.expect("open");
            }
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
    start.elapsed()
}

#[expect(clippy::print_stdout, reason = "a bench is a tool that prints")]
fn report(line: &str) {
    println!("{line}");
}
