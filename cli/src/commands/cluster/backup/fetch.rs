//! Snapshots that leaders make, and the way of them to this machine.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use escrow_cluster::{GroupId, groups};
use escrow_proto::v1;
use escrow_proto::v1::replica_service_client::ReplicaServiceClient;
use escrow_service::reason_of;
use escrow_types::Reason;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use super::{PAUSE, Progress};
use crate::backup::at;
use crate::exit::{Exit, Failure};

/// How long a group may be without a leader.
const LEADERLESS_MAX: Duration = Duration::from_secs(20);
/// How long a leader may take to write its state to a file, and how long between two chunks of it.
const EXPORT_WITHIN: Duration = Duration::from_secs(300);
/// How long a look at a replica may take.
const LOOK: Duration = Duration::from_secs(2);

/// The replica that leads, and where; waits a while for one.
pub(super) async fn find_leader(
    group: GroupId,
    endpoints: &[String],
) -> Result<(String, v1::Replica), Failure> {
    let deadline = Instant::now() + LEADERLESS_MAX;
    loop {
        let mut asking = Vec::new();
        for endpoint in endpoints.iter().cloned() {
            asking.push(tokio::spawn(async move { (groups::ask(&endpoint, LOOK).await, endpoint) }));
        }
        let mut replicas = Vec::new();
        for asked in asking {
            let Ok((Ok(answer), endpoint)) = asked.await else { continue };
            let mine = answer.into_iter().find(|replica| groups::group_of(replica) == Some(group));
            replicas.extend(mine.map(|replica| (endpoint, replica)));
        }
        let leader = groups::leader(replicas.iter().enumerate().map(|(at, (_, replica))| (at, replica)));
        if let Some(leader) = leader {
            return Ok(replicas.swap_remove(leader));
        }
        if Instant::now() >= deadline {
            let message = format!("{group} has no leader: more than half of its members must be there");
            return Err(Failure { exit: Exit::Unavailable, code: "NOT_LEADER", message });
        }
        sleep(PAUSE).await;
    }
}

/// A snapshot that its leader has made; it is still to be fetched.
pub(super) struct Export {
    group: GroupId,
    bytes: u64,
    first: Vec<u8>,
    stream: Streaming<v1::ExportGroupResponse>,
}

/// Why a leader was not heard to have made a snapshot.
#[derive(Debug)]
enum NotOpened {
    /// It leads no more, or has gone: another may do it.
    Elsewhere(String),
    /// It could not, and another that is asked makes it no better.
    Failed(String),
}

impl NotOpened {
    fn of(status: &Status) -> Self {
        let why = status.message().to_owned();
        // What comes from no server is of the transport.
        let is_lost = || matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        match reason_of(status) {
            Some(Reason::NotLeader) => Self::Elsewhere(why),
            None if is_lost() => Self::Elsewhere(why),
            _ => Self::Failed(why),
        }
    }
}

/// Has the leader make a snapshot; asks another one when that is none any more.
pub(super) async fn open_export(group: GroupId, endpoints: Vec<String>) -> Result<Export, Failure> {
    let deadline = Instant::now() + LEADERLESS_MAX;
    loop {
        let (endpoint, _) = find_leader(group, &endpoints).await?;
        match timeout(EXPORT_WITHIN, ask_for(group, &endpoint)).await {
            Ok(Ok(export)) => return Ok(export),
            Ok(Err(NotOpened::Elsewhere(_))) if Instant::now() < deadline => sleep(PAUSE).await,
            Ok(Err(NotOpened::Elsewhere(why) | NotOpened::Failed(why))) => return Err(lost(group, &why)),
            Err(_) => return Err(lost(group, "its leader does not get its snapshot done")),
        }
    }
}

fn lost(group: GroupId, why: &str) -> Failure {
    Failure::coded("EXPORT_FAILED", format!("{group}: {why}"))
}

async fn ask_for(group: GroupId, endpoint: &str) -> Result<Export, NotOpened> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned());
    let endpoint = endpoint.map_err(|error| NotOpened::Failed(error.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(LOOK)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10));
    let gone = |_| NotOpened::Elsewhere("its leader has gone".to_owned());
    let channel = endpoint.connect().await.map_err(gone)?;
    let request = v1::ExportGroupRequest { group: Some(groups::name_of(group)) };
    let asked = ReplicaServiceClient::new(channel).export_group(request).await;
    let mut stream = asked.map_err(|status| NotOpened::of(&status))?.into_inner();
    let first = stream.message().await.map_err(|status| NotOpened::of(&status))?;
    let first = first.ok_or_else(|| NotOpened::Failed("an empty snapshot".to_owned()))?;
    Ok(Export { group, bytes: first.bytes, first: first.chunk, stream })
}

impl Export {
    /// Writes it to a new file.
    pub(super) async fn fetch(mut self, path: &Path) -> Result<(), Failure> {
        let failed = |why: &str| lost(self.group, why);
        let mut file = File::create_new(path).map_err(at(path))?;
        let (mut bytes, mut progress) = (self.first.len() as u64, Progress::begin());
        file.write_all(&self.first).map_err(at(path))?;
        loop {
            let next = timeout(EXPORT_WITHIN, self.stream.message()).await;
            let next = next.map_err(|_| failed("its snapshot stopped on the way"))?;
            let Some(next) = next.map_err(|status| failed(status.message()))? else { break };
            bytes += next.chunk.len() as u64;
            file.write_all(&next.chunk).map_err(at(path))?;
            progress.tell(|| format!("{}: {} of {} MiB", self.group, bytes >> 20, self.bytes >> 20));
        }
        if bytes != self.bytes {
            return Err(failed(&format!("{bytes} of {} bytes came", self.bytes)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_does_not_lead_or_has_gone_is_asked_again() {
        let is_elsewhere = |status: &Status| matches!(NotOpened::of(status), NotOpened::Elsewhere(_));
        assert!(is_elsewhere(&escrow_service::not_leader(None)));
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled] {
            assert!(is_elsewhere(&Status::new(code, "transport error")), "{code:?}");
        }
        for status in [
            Status::internal("the snapshot cannot be made: no space left on device"),
            Status::failed_precondition("no replica of shard-0 is here"),
            escrow_service::refusal(Reason::Overloaded, "not now"),
        ] {
            assert!(!is_elsewhere(&status), "{status:?}");
        }
    }
}
