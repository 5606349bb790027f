//! A cluster of real processes, a client, and the questions that tests ask about it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use escrow_client::report::replica_service_client::ReplicaServiceClient;
use escrow_client::{
    Balance, Client, OpenAccount, Options, Overdraft, RetryPolicy, ShardClient, State, Transfer,
};
use escrow_client::{Outcome, report};
use escrow_cluster::{Cluster, GroupId, NodeId, Restart, Spec, groups};
use escrow_types::{AccountId, Currency, Slot, TransactionId};
use escrow_verify::{Settings, verify};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::wait::{holds, until};

pub use crate::failpoints::role_of;

/// The currency of tests that do not care.
pub const USD: Currency = Currency::USD;
/// Where money comes from and goes to: overdraft unlimited.
pub const TREASURY: &str = "treasury";
/// A transaction that a crash interrupted must have ended by then.
pub const IN_DOUBT_MAX: Duration = Duration::from_secs(10);

/// A cluster with its client. Everything ends when it is dropped; its data goes, unless the test failed.
#[derive(Debug)]
pub struct World {
    /// The processes.
    pub cluster: Cluster,
    /// Asks all coordinators.
    pub client: Client,
    dir: Option<TempDir>,
}

/// The program under test. Cargo builds it beside the directory of the test programs.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own program");
    let profile = test.parent().and_then(Path::parent).expect("test programs are in target/PROFILE/deps");
    let binary = profile.join("escrow-under-test");
    assert!(binary.exists(), "{} is missing: tests need the feature `failpoints`' binary", binary.display());
    binary
}

/// A directory of a test's own, on the disk that holds the target directory: not in memory, so that fsync means something.
pub fn scratch() -> TempDir {
    let target = binary().parent().and_then(Path::parent).map(|target| target.join("tmp"));
    let target = target.expect("programs are in target/PROFILE");
    std::fs::create_dir_all(&target).expect("the target directory can be written");
    tempfile::Builder::new()
        .prefix("escrow-")
        .tempdir_in(target)
        .expect("the target directory can be written")
}

/// A group by its name.
pub fn group(name: &str) -> GroupId {
    groups::parse_group(name).expect("a group")
}

/// Limits of the tests' client: patient enough for a restart, and quick to try again.
pub fn options() -> Options {
    let retry = RetryPolicy {
        first: Duration::from_millis(10),
        cap: Duration::from_millis(200),
        ..RetryPolicy::default()
    };
    Options {
        attempt_timeout: Duration::from_secs(10),
        deadline: Duration::from_secs(40),
        retry,
        ..Options::default()
    }
}

impl World {
    /// A coordinator and two participants.
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// A cluster as `change` wants it. Segments are small, so that starting is quick and logs are trimmed soon.
    pub async fn with(change: impl FnOnce(&mut Spec)) -> Self {
        let world = Self::over(scratch(), change).await;
        world.open([(&id(TREASURY), Overdraft::Unlimited)]).await;
        world
    }

    /// A coordinator and two shards, each three times, and an account with so much money on each shard.
    pub async fn replicated(funds: u64) -> (Self, AccountId, AccountId) {
        let world = Self::with(|spec| spec.replicas = 3).await;
        let alice = world.rich(0, "alice", funds).await;
        let bob = world.rich(1, "bob", funds).await;
        (world, alice, bob)
    }

    /// A cluster over what is in a directory.
    pub async fn over(dir: TempDir, change: impl FnOnce(&mut Spec)) -> Self {
        let mut spec = Spec::new(dir.path()).expect("a test knows its own program");
        spec.executable = binary();
        spec.restart = Restart::Never;
        spec.coordinator_args = ["--segment-bytes", "16777216"].map(Into::into).into();
        spec.participant_args = ["--segment-bytes", "1048576"].map(Into::into).into();
        change(&mut spec);
        let cluster =
            Cluster::start(spec).await.unwrap_or_else(|error| panic!("the cluster does not start: {error}"));
        let client =
            Client::connect(cluster.coordinator_endpoints(), options()).expect("endpoints are endpoints");
        Self { cluster, client, dir: Some(dir) }
    }

    /// Where its data is.
    pub fn data_dir(&self) -> &Path {
        &self.cluster.spec().data_dir
    }

    /// Waits until every replica votes, has applied what its leader has, and holds the same state.
    pub async fn whole(&self) {
        /// A group has all its replicas again by then, on a machine that has other things to do.
        const WITHIN: Duration = Duration::from_secs(60);
        let groups: Vec<GroupId> = self.cluster.spec().groups().collect();
        for group in groups {
            until(&format!("{group} has all its replicas"), WITHIN, async || {
                let mut seen = Vec::new();
                for node in self.cluster.spec().replicas_of(group) {
                    let replica = self.replica(node).await.map_err(|why| vec![format!("{node}: {why}")])?;
                    let voters = replica.members.iter().filter(|member| member.voter);
                    let voters: Vec<u64> =
                        voters.filter_map(|member| Some(member.member.as_ref()?.id)).collect();
                    seen.push((voters.contains(&replica.id), voters, replica.applied, replica.digest));
                }
                let all_vote = seen.iter().all(|(votes, voters, ..)| *votes && voters.len() == seen.len());
                let is_whole = all_vote && seen.iter().all(|other| *other == seen[0]);
                holds(is_whole, seen.iter().map(|seen| format!("{seen:?}")).collect::<Vec<_>>())
            })
            .await;
        }
    }

    /// How many participants there are.
    pub fn shards(&self) -> u16 {
        self.cluster.spec().participants
    }

    /// The endpoint of the first coordinator, with all its replicas.
    pub fn endpoint(&self) -> String {
        self.cluster.coordinator_endpoints().swap_remove(0)
    }

    /// A connection to the first coordinator, for what the typed client would refuse to send.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.endpoint()).expect("an endpoint");
        endpoint.connect().await.expect("the coordinator listens")
    }

    /// An account that lives on a shard: `name`, with a number if that is needed to get there.
    pub fn account(&self, shard: u16, name: &str) -> AccountId {
        account_on(shard, self.shards(), name)
    }

    /// Opens accounts in USD.
    pub async fn open<'a>(&self, accounts: impl IntoIterator<Item = (&'a AccountId, Overdraft)>) {
        let accounts: Vec<OpenAccount> = accounts
            .into_iter()
            .map(|(account, overdraft)| OpenAccount { account_id: account.clone(), currency: USD, overdraft })
            .collect();
        for opened in self.client.open_accounts(&accounts).await.expect("accounts are opened") {
            assert_eq!(opened.reason, None, "{}", opened.account_id);
        }
    }

    /// An open account without money on a shard.
    pub async fn poor(&self, shard: u16, name: &str) -> AccountId {
        let account = self.account(shard, name);
        self.open([(&account, Overdraft::Forbidden)]).await;
        account
    }

    /// An open account with money on a shard.
    pub async fn rich(&self, shard: u16, name: &str, amount: u64) -> AccountId {
        let account = self.poor(shard, name).await;
        self.fund(&account, amount).await;
        account
    }

    /// Moves money from the treasury.
    pub async fn fund(&self, account: &AccountId, amount: u64) {
        let outcome = self.transfer(&id(TREASURY), account, amount).await;
        assert_eq!(outcome.state, State::Confirmed, "funding {account}: {outcome:?}");
    }

    /// A transfer in USD that must be answered.
    pub async fn transfer(&self, from: &AccountId, to: &AccountId, amount: u64) -> Outcome {
        self.client.transfer(&transfer(from, to, amount)).await.expect("the transfer is answered")
    }

    /// The balance of an account in USD.
    pub async fn balance(&self, account: &AccountId) -> Balance {
        let account = self.client.get_account(account).await.expect("the account is there");
        let usd = account.balances.into_iter().find(|balance| balance.currency == USD);
        usd.expect("it holds USD")
    }

    /// What is posted on an account in USD.
    pub async fn posted(&self, account: &AccountId) -> i64 {
        self.balance(account).await.posted
    }

    /// What a coordinator says of itself.
    pub async fn status(&self) -> report::GetStatusResponse {
        self.client.status(0).await.expect("the coordinator tells its status")
    }

    /// Reservations that a shard holds now.
    pub async fn reservations(&self, shard: u16) -> u64 {
        let endpoint = self.cluster.participant_endpoints().swap_remove(shard.into());
        let client = ShardClient::connect(endpoint, options()).expect("an endpoint");
        client.totals(shard.into()).await.expect("the shard tells its totals").reservations
    }

    /// Waits until no transaction is unfinished and no shard holds a reservation. Gives how long that took.
    pub async fn settled(&self) -> Duration {
        let begun = Instant::now();
        until("every transaction ends and every reservation goes", IN_DOUBT_MAX, async || {
            let mut left = Vec::new();
            for partition in 0..self.client.partitions() {
                let status = self.client.status(partition).await.map_err(|error| vec![error.to_string()])?;
                let unfinished = status.coordinator.unwrap_or_default().unfinished;
                left.extend(
                    (unfinished > 0).then(|| format!("coordinator {partition}: {unfinished} unfinished")),
                );
            }
            for shard in 0..self.shards() {
                let held = self.reservations(shard).await;
                left.extend((held > 0).then(|| format!("participant {shard}: {held} reservations")));
            }
            holds(left.is_empty(), left)
        })
        .await;
        begun.elapsed()
    }

    /// Checks with `verify`: conservation, no orphan, checkpoint + log = live, whole log = live.
    pub async fn sound(&self) {
        let patient = Options {
            attempt_timeout: Duration::from_secs(60),
            deadline: Duration::from_secs(60),
            ..options()
        };
        let client = Client::connect(self.cluster.coordinator_endpoints(), patient).expect("endpoints");
        let report =
            verify(&client, Settings::default(), |_| ()).await.expect("the cluster answers to verify");
        assert!(report.ok(), "verify found: {:#?}", report.checks);
        let logs = report.checks.iter().filter(|check| check.check.contains("log")).count();
        let servers = usize::from(self.shards()) + self.client.partitions();
        assert!(
            logs >= 2 * servers,
            "each server's checkpoint and whole log are checked: {:#?}",
            report.checks
        );
    }

    /// Kills a process with SIGKILL and starts it again. Returns when it serves.
    pub async fn kill_and_restart(&mut self, node: NodeId) {
        self.cluster.kill(node).await.expect("it is killed");
        self.restart(node).await;
    }

    /// Starts a process that is down; returns when it serves and the coordinators are connected to every shard.
    pub async fn restart(&mut self, node: NodeId) {
        self.restart_quietly(node).await;
        self.connected().await;
    }

    /// Starts a process that is down; returns when it listens, whatever its group can do.
    pub async fn restart_quietly(&mut self, node: NodeId) {
        let pid = self.cluster.start_node(node).await;
        pid.unwrap_or_else(|error| panic!("{node} does not start again: {error}"));
    }

    /// Waits until every coordinator is connected to every shard.
    pub async fn connected(&self) {
        until("every coordinator has greeted every shard", Duration::from_secs(30), async || {
            for partition in 0..self.client.partitions() {
                let status = self.client.status(partition).await.map_err(|error| error.to_string())?;
                let missing = status.participants.iter().find(|shard| shard.kind == "stream" && !shard.ready);
                if let Some(shard) = missing {
                    return Err(format!("participant {}: {}", shard.id, shard.last_error));
                }
            }
            Ok(())
        })
        .await;
    }

    /// The replica that leads a partition or shard; waits until there is one.
    pub async fn leader(&self, group: GroupId) -> NodeId {
        until(&format!("somebody leads {group}"), Duration::from_secs(30), async || {
            self.cluster.leader(group).await.ok_or("nobody does")
        })
        .await
    }

    /// The replicas of a partition or shard that do not lead it.
    pub async fn followers(&self, group: GroupId) -> Vec<NodeId> {
        let leader = self.leader(group).await;
        self.cluster.spec().replicas_of(group).filter(|node| *node != leader).collect()
    }

    /// What a process says of the replica that it holds.
    pub async fn replica(&self, node: NodeId) -> Result<report::Replica, String> {
        let mut replicas = groups::ask(&self.cluster.endpoint(node), Duration::from_secs(5)).await?;
        replicas.pop().ok_or_else(|| "it has none".to_owned())
    }

    /// Has a follower lead its group.
    pub async fn let_lead(&self, node: NodeId) {
        let change = report::change_group_request::Change::Lead(self.member(node).await);
        until(&format!("{node} leads"), Duration::from_secs(30), async || {
            let changed = self.change_group(node.group(), change.clone()).await;
            let leader = self.leader(node.group()).await;
            holds(leader == node, (leader.to_string(), changed))
        })
        .await;
    }

    /// The id of the member that a process is.
    pub async fn member(&self, node: NodeId) -> u64 {
        self.replica(node).await.unwrap_or_else(|why| panic!("{node}: {why}")).id
    }

    /// Asks the leader of a group to change it.
    pub async fn change_group(
        &self,
        group: GroupId,
        change: report::change_group_request::Change,
    ) -> Result<(), String> {
        let endpoint = self.cluster.endpoint(self.leader(group).await);
        let endpoint = Endpoint::from_shared(endpoint).expect("an endpoint");
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let request =
            report::ChangeGroupRequest { group: Some(groups::name_of(group)), change: Some(change) };
        let changed = ReplicaServiceClient::new(channel).change_group(request).await;
        changed.map(drop).map_err(|status| status.message().to_owned())
    }

    /// Starts a process again, this time with a failpoint set. It was ended in order, so that nothing of the past can
    /// reach the failpoint.
    pub async fn arm(&mut self, node: NodeId, failpoint: &str) {
        self.cluster.stop_node(node).await.expect("it stops");
        let env = vec![("FAILPOINTS".into(), format!("{failpoint}=return").into())];
        self.cluster.spec_mut().env = env;
        self.restart(node).await;
        self.cluster.spec_mut().env.clear();
    }

    /// Waits for the end of a process.
    pub async fn dead(&self, node: NodeId) {
        until(&format!("{node} dies"), Duration::from_secs(15), async || {
            holds(self.cluster.pid(node).is_none(), "it still runs")
        })
        .await;
    }

    /// Every process.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.cluster.spec().nodes().collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for pid in self.nodes().into_iter().filter_map(|node| self.cluster.pid(node)) {
            end(pid);
        }
        if !std::thread::panicking() {
            return;
        }
        for node in self.nodes() {
            let log = std::fs::read_to_string(self.cluster.spec().log_path(node)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(25)..].join("\n");
            eprintln!("--- the end of the log of {node}:\n{last}");
        }
        if let Some(dir) = self.dir.take() {
            eprintln!("--- data and logs are kept in {}", dir.keep().display());
        }
    }
}

/// Kills a child of ours and waits until it is gone, so that its directory can go too. Leaves it to be reaped.
fn end(pid: u32) {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else { return };
    // It may have ended and been reaped already.
    if kill_process(pid, Signal::KILL).is_ok() {
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    }
}

/// An account id that is one.
pub fn id(text: &str) -> AccountId {
    text.parse().unwrap_or_else(|error| panic!("'{text}': {error}"))
}

/// A transaction id that is one.
pub fn tx(text: &str) -> TransactionId {
    text.parse().unwrap_or_else(|error| panic!("'{text}': {error}"))
}

/// A transfer in USD, with an id of its own so that it can be asked again.
pub fn transfer(from: &AccountId, to: &AccountId, amount: u64) -> Transfer {
    Transfer::new(from.clone(), to.clone(), amount, USD).with_id(escrow_client::id::new_transaction_id())
}

/// An account that lives on a shard, of so many: `name`, with a number if that is needed to get there.
pub fn account_on(shard: u16, shards: u16, name: &str) -> AccountId {
    (0..10_000)
        .map(|number| if number == 0 { id(name) } else { id(&format!("{name}-{number}")) })
        .find(|account| Slot::of(account.key()).shard_of(shards) == shard)
        .expect("names spread over all shards")
}
