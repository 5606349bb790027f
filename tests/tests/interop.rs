//! Other languages: a client and a participant in Python with nothing but grpcio and server reflection, in `interop/`.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use escrow_client::report::TransactionFilter;
use escrow_client::{Leg, State, Wait};
use escrow_cluster::NodeId;
use escrow_tests::World;
use escrow_tests::wait::{holds, until};
use escrow_tests::world::{USD, binary, tx};
use escrow_types::AccountId;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name)
}

/// Runs a command to its end; what it printed.
async fn run(command: &mut Command, what: &str) -> (bool, String) {
    let child = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(300), child)
        .await
        .unwrap_or_else(|_| panic!("{what} hangs"));
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        eprintln!("{what}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    (output.status.success(), text)
}

/// Python with grpcio, in an environment of its own under the target directory; made at the first need.
async fn python() -> PathBuf {
    static MADE: OnceCell<PathBuf> = OnceCell::const_new();
    MADE.get_or_init(make_environment).await.clone()
}

async fn make_environment() -> PathBuf {
    let target = binary().parent().and_then(Path::parent).expect("programs are in target/PROFILE").to_owned();
    let wanted = std::fs::read_to_string(script("requirements.txt")).expect("requirements.txt is there");
    let environment = target.join("interop-venv");
    let (python, made) = (environment.join("bin/python"), environment.join("made-of.txt"));
    if std::fs::read_to_string(&made).is_ok_and(|made| made == wanted) {
        return python;
    }
    let (ok, _) =
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment), "python3 -m venv")
            .await;
    assert!(ok, "the interop tests need python3 with venv and pip (Debian: apt-get install python3-venv)");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(script("requirements.txt"));
    let (ok, _) = run(&mut pip, "pip install").await;
    assert!(
        ok,
        "the interop tests need the packages of tests/interop/requirements.txt, from PyPI or a mirror"
    );
    std::fs::write(&made, wanted).expect("the target directory can be written");
    python
}

/// One command of the Python client; its answer.
async fn client(world: &World, words: &[&str]) -> Value {
    let mut command = Command::new(python().await);
    command.arg(script("client.py")).arg(world.endpoint()).args(words);
    let (ok, text) = run(&mut command, &format!("client.py {words:?}")).await;
    assert!(ok, "client.py {words:?}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("client.py {words:?}: {error}: {text}"))
}

#[tokio::test]
async fn a_python_client_opens_accounts_transfers_and_lists_what_is_in_doubt() {
    let mut world = World::start().await;
    let (alice, bob) = (world.account(0, "alice"), world.account(1, "bob"));
    let opened = client(&world, &["open", alice.as_str(), bob.as_str(), "bank-of-python"]).await;
    assert!(opened["results"].as_array().unwrap().iter().all(|result| result["opened"] == true), "{opened}");
    let funded = client(&world, &["transfer", "bank-of-python", alice.as_str(), "1000", "order-1"]).await;
    assert_eq!(
        (&funded["state"], &funded["transaction_id"]),
        (&json!("TRANSACTION_STATE_CONFIRMED"), &json!("order-1"))
    );
    let paid = client(&world, &["transfer", alice.as_str(), bob.as_str(), "400", "order-2"]).await;
    assert_eq!(
        client(&world, &["transfer", alice.as_str(), bob.as_str(), "400", "order-2"]).await,
        paid,
        "the same again"
    );
    assert_eq!(client(&world, &["balance", bob.as_str()]).await, 400);
    let short = client(&world, &["transfer", alice.as_str(), bob.as_str(), "4000", "order-3"]).await;
    assert_eq!(
        (&short["state"], &short["reason"]),
        (&json!("TRANSACTION_STATE_CANCELED"), &json!("REASON_INSUFFICIENT_FUNDS"))
    );
    assert_eq!(client(&world, &["in-doubt"]).await, json!({}));

    world.cluster.kill(NodeId::participant(1)).await.unwrap();
    let hanging = escrow_tests::world::transfer(&alice, &bob, 5)
        .with_id(tx("order-4"))
        .with_timeout(Duration::from_secs(60));
    let rust = world.client.clone();
    let call = tokio::spawn(async move { rust.transfer(&hanging).await });
    until("the Python client sees it in doubt", Duration::from_secs(15), async || {
        let listed = client(&world, &["in-doubt"]).await;
        holds(listed["transactions"][0]["transaction_id"] == "order-4", listed)
    })
    .await;
    world.restart(NodeId::participant(1)).await;
    assert_eq!(call.await.unwrap().unwrap().state, State::Confirmed);
    world.settled().await;
    assert_eq!(client(&world, &["in-doubt"]).await, json!({}));
    assert_eq!(client(&world, &["get", "order-4"]).await["state"], "TRANSACTION_STATE_CONFIRMED");
    world.sound().await;
}

/// A Python participant beside the wallet shards, under the name `bank`.
struct Bank {
    world: World,
    alice: AccountId,
    port: u16,
    file: PathBuf,
    _dir: tempfile::TempDir,
    process: Option<Child>,
}

impl Bank {
    async fn new() -> Self {
        let python = python().await;
        // Free now; nobody else is given it, for the coordinator is told only once.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let world =
            World::with(|spec| spec.externals.push(("bank".into(), format!("http://127.0.0.1:{port}"))))
                .await;
        let alice = world.rich(0, "alice", 1_000).await;
        let dir = escrow_tests::world::scratch();
        let file = dir.path().join("bank.sqlite");
        let mut bank = Self { world, alice, port, file, _dir: dir, process: None };
        bank.start(&python).await;
        bank
    }

    async fn start(&mut self, python: &Path) {
        let process = Command::new(python)
            .arg(script("participant.py"))
            .args([self.world.endpoint(), self.port.to_string()])
            .arg(&self.file)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("python can be run");
        self.process = Some(process);
        until("the Python participant listens", Duration::from_secs(20), async || {
            TcpStream::connect(("127.0.0.1", self.port)).await.map(drop)
        })
        .await;
    }

    /// It dies by SIGKILL after its next call of this method is durable, and before its answer.
    fn dies_after(&self, method: &str) {
        let mut path = self.file.clone().into_os_string();
        path.push(".die");
        std::fs::write(path, method).unwrap();
    }

    async fn dead(&mut self) {
        let process = self.process.as_mut().expect("it was started");
        tokio::time::timeout(Duration::from_secs(20), process.wait()).await.expect("it dies").unwrap();
    }

    /// What an account of the bank holds, read from its own file.
    async fn holds(&self, account: &str) -> i64 {
        let query = "import sqlite3, sys; row = sqlite3.connect(sys.argv[1]).execute(\
                     'SELECT posted FROM balance WHERE account = ?', (sys.argv[2],)).fetchone(); print(row[0] if row else 0)";
        let mut command = Command::new(python().await);
        command.args(["-c", query]).arg(&self.file).arg(account);
        let (ok, text) = run(&mut command, "reading the bank's file").await;
        assert!(ok);
        text.trim().parse().unwrap()
    }

    /// Pays 300 out of alice's wallet: 290 to an account at the bank, 10 to a wallet on the other shard.
    fn payout(&self, fees: &AccountId, amount: u64) -> [Leg; 3] {
        [
            Leg::debit(self.alice.clone(), amount, USD),
            Leg::credit("iban-1".parse().unwrap(), amount - 10, USD).on("bank"),
            Leg::credit(fees.clone(), 10, USD),
        ]
    }
}

#[tokio::test]
async fn a_python_participant_takes_part_in_a_transaction_of_many_legs() {
    let bank = Bank::new().await;
    let fees = bank.world.poor(1, "fees").await;
    let legs = bank.payout(&fees, 300);
    let outcome = bank.world.client.execute(Some(&tx("payout")), &legs, Wait::Completed, None).await.unwrap();
    assert_eq!(outcome.state, State::Confirmed, "{outcome:?}");
    assert_eq!((bank.holds("iban-1").await, bank.world.posted(&bank.alice).await), (290, 700));
    assert_eq!(bank.world.posted(&fees).await, 10);

    let legs = bank.payout(&fees, 5_000);
    let outcome =
        bank.world.client.execute(Some(&tx("too-much")), &legs, Wait::Completed, None).await.unwrap();
    assert_eq!(outcome.state, State::Canceled, "{outcome:?}");
    assert_eq!(
        (bank.holds("iban-1").await, bank.world.posted(&bank.alice).await),
        (290, 700),
        "nothing happened"
    );
    bank.world.settled().await;
}

/// The participant dies at one of its calls and is started again; the transaction completes, once.
async fn killed_after(method: &str, outcome: State) {
    let mut bank = Bank::new().await;
    let fees = bank.world.poor(1, "fees").await;
    bank.dies_after(method);
    let (client, legs) = (bank.world.client.clone(), bank.payout(&fees, 300));
    let call = tokio::spawn(async move {
        let (id, within) = (tx("payout"), Some(Duration::from_secs(30)));
        if outcome == State::Confirmed {
            return client.execute(Some(&id), &legs, Wait::Completed, within).await;
        }
        let reserved = client.reserve(Some(&id), &legs, within).await?;
        assert_eq!(reserved.outcome.state, State::Reserved, "{reserved:?}");
        client.cancel(id.as_str(), Wait::Completed).await
    });
    bank.dead().await;
    until("the transaction waits for the bank", Duration::from_secs(10), async || {
        let filter =
            TransactionFilter { participant: "bank".into(), min_attempts: 1, ..TransactionFilter::default() };
        let (found, _) = bank.world.client.list_transactions(0, &filter, 10, "").await.unwrap();
        holds(found.len() == 1 && found[0].in_doubt, found)
    })
    .await;
    bank.start(&python().await).await;
    let answered = call.await.unwrap().expect("it is answered");
    assert_eq!(answered.state, outcome, "{answered:?}");
    bank.world.settled().await;
    let (at_bank, at_wallet) = if outcome == State::Confirmed { (290, 700) } else { (0, 1_000) };
    assert_eq!(
        (bank.holds("iban-1").await, bank.world.posted(&bank.alice).await),
        (at_bank, at_wallet),
        "exactly once"
    );
    bank.world.sound().await;
}

#[tokio::test]
async fn a_python_participant_that_is_killed_after_try_goes_on() {
    killed_after("Try", State::Confirmed).await;
}

#[tokio::test]
async fn a_python_participant_that_is_killed_after_confirm_does_not_post_twice() {
    killed_after("Confirm", State::Confirmed).await;
}

#[tokio::test]
async fn a_python_participant_that_is_killed_after_cancel_stays_canceled() {
    killed_after("Cancel", State::Canceled).await;
}

#[tokio::test]
async fn a_coordinator_that_is_killed_meanwhile_finishes_with_the_python_participant() {
    let mut bank = Bank::new().await;
    let fees = bank.world.poor(1, "fees").await;
    bank.dies_after("Confirm");
    let (client, legs) = (bank.world.client.clone(), bank.payout(&fees, 300));
    let call = tokio::spawn(async move {
        client.execute(Some(&tx("payout")), &legs, Wait::Completed, Some(Duration::from_secs(30))).await
    });
    bank.dead().await;
    bank.world.kill_and_restart(NodeId::coordinator(0)).await;
    bank.start(&python().await).await;
    assert_eq!(call.await.unwrap().expect("it is answered").state, State::Confirmed);
    bank.world.settled().await;
    assert_eq!(
        (bank.holds("iban-1").await, bank.world.posted(&bank.alice).await),
        (290, 700),
        "exactly once"
    );
}
