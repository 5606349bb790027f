//! `escrow cluster` against processes that only say how their replicas stand, so that every answer can be had.

// Helpers are not functions marked #[test], which is where clippy allows it.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use escrow_proto::ERROR_DOMAIN;
use escrow_proto::v1::change_group_request::{Change, Replace};
use escrow_proto::v1::replica::Role;
use escrow_proto::v1::replica_service_server::{ReplicaService, ReplicaServiceServer};
use escrow_proto::v1::{self, group_name};
use serde_json::{Value, json};
use support::{NOBODY, Ran, run};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A member in its first life.
const fn first(number: u64) -> u64 {
    number << 32
}

/// What the processes of shard 0 say, and what they were asked.
#[derive(Default)]
struct Shard {
    members: Vec<v1::Member>,
    /// Which member leads; 0: none.
    leader: u64,
    /// Which member is thought to lead by whoever is asked how it stands.
    thought: u64,
    refusal: Option<Status>,
    changes: Vec<Change>,
}

impl Shard {
    fn endpoint_of(&self, id: u64) -> String {
        let member = self.members.iter().find(|member| member.id == id);
        member.map_or_else(String::new, |member| member.endpoint.clone())
    }

    fn replica(&self, id: u64) -> v1::Replica {
        let leads = id == self.thought;
        let member = |member: &v1::Member| v1::ReplicaMember {
            voter: true,
            matched: leads.then_some(90),
            silent_ms: leads.then_some(7),
            member: Some(member.clone()),
        };
        v1::Replica {
            group: Some(v1::GroupName { kind: group_name::Kind::Shard.into(), number: 0 }),
            id,
            role: if leads { Role::Leader } else { Role::Follower }.into(),
            term: 3,
            leader: self.endpoint_of(self.thought),
            last: 100,
            committed: 99,
            applied: 98,
            checkpointed: 50,
            purged: 40,
            members: self.members.iter().map(member).collect(),
            digest: String::new(),
        }
    }

    fn change(&mut self, change: Change) {
        match &change {
            Change::Add(member) => self.members.push(member.clone()),
            Change::Remove(id) => self.members.retain(|member| member.id != *id),
            Change::Replace(Replace { old, new }) => {
                self.members.retain(|member| member.id != *old);
                self.members.extend(new.clone());
            }
            Change::Lead(id) => (self.leader, self.thought) = (*id, *id),
        }
        self.changes.push(change);
    }
}

/// One process of the shard.
struct Process {
    id: u64,
    shard: Arc<Mutex<Shard>>,
}

#[tonic::async_trait]
impl ReplicaService for Process {
    async fn call(&self, _: Request<v1::CallRequest>) -> Result<Response<v1::CallResponse>, Status> {
        Err(Status::unimplemented("nobody calls"))
    }

    async fn get_replicas(
        &self,
        _: Request<v1::GetReplicasRequest>,
    ) -> Result<Response<v1::GetReplicasResponse>, Status> {
        let replicas = vec![self.shard.lock().unwrap().replica(self.id)];
        Ok(Response::new(v1::GetReplicasResponse { replicas }))
    }

    async fn change_group(
        &self,
        request: Request<v1::ChangeGroupRequest>,
    ) -> Result<Response<v1::ChangeGroupResponse>, Status> {
        let mut shard = self.shard.lock().unwrap();
        if self.id != shard.leader {
            let leader = HashMap::from([("leader".to_owned(), shard.endpoint_of(shard.leader))]);
            let details = ErrorDetails::with_error_info("NOT_LEADER", ERROR_DOMAIN, leader);
            return Err(Status::with_error_details(Code::Unavailable, "not me", details));
        }
        if let Some(refusal) = &shard.refusal {
            return Err(refusal.clone());
        }
        shard.change(request.into_inner().change.unwrap());
        Ok(Response::new(v1::ChangeGroupResponse { replica: Some(shard.replica(self.id)) }))
    }

    type ExportGroupStream = tokio_stream::Empty<Result<v1::ExportGroupResponse, Status>>;

    async fn export_group(
        &self,
        _: Request<v1::ExportGroupRequest>,
    ) -> Result<Response<Self::ExportGroupStream>, Status> {
        Err(Status::unimplemented("nobody makes a backup"))
    }
}

/// A shard of three processes, of which the second leads.
struct World {
    shard: Arc<Mutex<Shard>>,
    endpoints: Vec<String>,
    _runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shard = Arc::new(Mutex::new(Shard { leader: first(2), thought: first(2), ..Shard::default() }));
        let endpoints = (1..=3).map(|number| runtime.block_on(serve(first(number), &shard))).collect();
        Self { shard, endpoints, _runtime: runtime }
    }

    /// Runs a command that knows the first process only.
    fn run(&self, line: &str) -> Ran {
        run(&format!("cluster {line} --process {} -o json", self.endpoints[0]))
    }

    fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.shard.lock().unwrap().changes)
    }
}

async fn serve(id: u64, shard: &Arc<Mutex<Shard>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    shard.lock().unwrap().members.push(v1::Member { id, endpoint: endpoint.clone() });
    let process = ReplicaServiceServer::new(Process { id, shard: Arc::clone(shard) });
    let server = tonic::transport::Server::builder().add_service(process);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    endpoint
}

fn members(document: &Value) -> Vec<&str> {
    let members = document["members"].as_array().unwrap();
    members.iter().map(|member| member["member"].as_str().unwrap()).collect()
}

#[test]
fn one_process_is_enough_to_see_the_whole_group() {
    let world = World::new();
    let gone = v1::Member { id: first(4) | 0x9f21, endpoint: NOBODY.to_owned() };
    world.shard.lock().unwrap().members.push(gone);
    let ran = world.run("status");
    let (document, endpoints) = (ran.json(), &world.endpoints);
    assert_eq!((ran.code, document["groups"].as_array().unwrap().len()), (Some(0), 1), "{ran:?}");
    let group = &document["groups"][0];
    assert_eq!(
        (&group["group"], &group["leader"], &group["term"]),
        (&json!("shard-0"), &json!("2"), &json!(3))
    );
    assert_eq!(members(group), ["1", "2", "3", "4.00009f21"]);
    assert_eq!(
        group["members"][0],
        json!({
            "member": "1", "endpoint": endpoints[0], "role": "follower", "voter": true, "term": 3, "last": 100,
            "committed": 99, "applied": 98, "checkpointed": 50, "purged": 40, "digest": null, "lag": 10,
            "silent_ms": 7, "error": null,
        })
    );
    let leader = &group["members"][1];
    assert_eq!(
        (&leader["role"], &leader["lag"], &leader["silent_ms"]),
        (&json!("leader"), &Value::Null, &Value::Null)
    );
    let down = &group["members"][3];
    assert_eq!((&down["role"], &down["last"]), (&json!("down"), &Value::Null), "{down}");
    assert_eq!(down["error"], "it does not listen");
    assert_eq!(document["silent"][0]["endpoint"], NOBODY);
}

#[test]
fn people_get_a_table_and_are_told_who_is_missing() {
    let world = World::new();
    world.shard.lock().unwrap().thought = 0;
    let ran = run(&format!("cluster status --process {}", world.endpoints[0]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let header = ran.stdout.lines().next().unwrap().split_whitespace().collect::<Vec<_>>();
    let columns = "GROUP MEMBER ENDPOINT ROLE TERM LAST COMMITTED APPLIED CHECKPOINT PURGED LAG SILENT";
    assert_eq!(header.join(" "), columns);
    assert!(ran.stdout.contains("shard-0 HAS NO LEADER: 3 of 3 members answer"), "{}", ran.stdout);
}

#[test]
fn changes_are_asked_of_the_leader() {
    let world = World::new();
    let member = |id: u64, endpoint: &str| v1::Member { id, endpoint: endpoint.to_owned() };
    let new = member(first(4), "http://10.0.0.4:7410");
    let added = world.run("add --group shard-0 --member 4=http://10.0.0.4:7410");
    assert_eq!((added.code, world.changes()), (Some(0), vec![Change::Add(new)]), "{added:?}");
    assert_eq!(members(&added.json()), ["1", "2", "3", "4"]);
    assert_eq!(added.json()["leader"], "2");

    let removed = world.run("remove --group shard-0 --member 3");
    assert_eq!((removed.code, world.changes()), (Some(0), vec![Change::Remove(first(3))]), "{removed:?}");

    let again = member(first(3) | 0xa, "http://10.0.0.3:7410");
    let replaced = world.run("replace --group shard-0 --old 4 --new 3.a=http://10.0.0.3:7410");
    let change = Change::Replace(Replace { old: first(4), new: Some(again) });
    assert_eq!((replaced.code, world.changes()), (Some(0), vec![change]), "{replaced:?}");
    assert_eq!(members(&replaced.json()), ["1", "2", "3.0000000a"]);

    let lead = world.run("lead --group shard-0 --to 1");
    assert_eq!((lead.code, world.changes()), (Some(0), vec![Change::Lead(first(1))]), "{lead:?}");
    let any = world.run("lead --group shard-0");
    assert_eq!((any.code, world.changes()), (Some(0), vec![Change::Lead(0)]), "{any:?}");
}

#[test]
fn a_leader_that_is_none_any_more_says_who_is() {
    let world = World::new();
    world.shard.lock().unwrap().thought = first(3);
    let removed = world.run("remove --group shard-0 --member 1");
    assert_eq!((removed.code, world.changes()), (Some(0), vec![Change::Remove(first(1))]), "{removed:?}");
}

#[test]
fn a_group_without_a_leader_is_unavailable() {
    let world = World::new();
    world.shard.lock().unwrap().change(Change::Lead(0));
    let ran = world.run("lead --group shard-0 --within 300ms");
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(5), "NOT_LEADER"), "{ran:?}");
}

#[test]
fn what_makes_no_sense_is_refused_and_says_what_would() {
    let world = World::new();
    let stranger = world.run("lead --group shard-7");
    assert_eq!(
        (stranger.code, stranger.error_code().as_str()),
        (Some(2), "INVALID_ARGUMENT"),
        "{stranger:?}"
    );
    assert!(stranger.stderr.contains("there is no shard-7: the cluster has shard-0"), "{stranger:?}");

    world.shard.lock().unwrap().members[0].id = first(1) | 0xbeef;
    let status = world.run("status").json();
    let member = &status["groups"][0]["members"][0];
    assert_eq!((&member["role"], &member["error"]), (&json!("down"), &json!("it is 1 now")), "{status}");
    for line in ["remove --group shard-0 --member 1", "lead --group shard-0 --to 1.beee"] {
        let ran = world.run(line);
        assert!(ran.code == Some(2) && ran.stderr.contains("it has 1.0000beef"), "{line}: {ran:?}");
    }
    assert_eq!(world.changes(), []);

    world.shard.lock().unwrap().refusal = Some(Status::failed_precondition("it is the last member"));
    let refused = world.run("remove --group shard-0 --member 2");
    assert_eq!((refused.code, refused.error_code().as_str()), (Some(2), "REJECTED"), "{refused:?}");
    assert!(refused.stderr.contains("shard-0: it is the last member"), "{refused:?}");
}

#[test]
fn a_member_that_is_gone_already_can_be_removed_again() {
    let world = World::new();
    for _ in 0..2 {
        assert_eq!(world.run("remove --group shard-0 --member 3").code, Some(0));
    }
    assert_eq!(world.changes().len(), 2);
}

#[test]
fn processes_are_found_by_the_data_directory_or_by_their_coordinators() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let of_data_dir = format!("cluster status --data-dir {} -o json", directory.path().display());
    let none = run(&of_data_dir);
    assert!(none.code == Some(2) && none.stderr.contains("there is no cluster.json"), "{none:?}");
    let entry = |replica: usize, endpoint: &str| json!({"id": 0, "replica": replica, "pid": null, "endpoint": endpoint});
    let manifest = json!({ "coordinators": [], "participants": [entry(1, &world.endpoints[0])] });
    std::fs::write(directory.path().join("cluster.json"), manifest.to_string()).unwrap();
    assert_eq!(run(&of_data_dir).json()["groups"][0]["leader"], "2");

    // A part of an endpoint that is silent does not hide the others.
    let list = format!("{NOBODY}+{}", world.endpoints[2]);
    let found = run(&format!("cluster status --endpoint {list} -o json"));
    assert_eq!((found.code, &found.json()["groups"][0]["leader"]), (Some(0), &json!("2")), "{found:?}");
}

#[test]
fn nobody_there_is_5_and_nonsense_is_2() {
    let nobody = run(&format!("cluster status --process {NOBODY} -o json"));
    assert_eq!((nobody.code, nobody.error_code().as_str()), (Some(5), "UNAVAILABLE"), "{nobody:?}");
    for line in [
        "status --process nowhere".to_owned(),
        format!("status --process {NOBODY} --data-dir /tmp"),
        format!("add --group shard-0 --process {NOBODY}"),
        format!("add --group shard-0 --member 4 --process {NOBODY}"),
        format!("add --group shard --member 4=http://a:1 --process {NOBODY}"),
        format!("remove --group shard-0 --member x --process {NOBODY}"),
        format!("replace --group shard-0 --old 2 --process {NOBODY}"),
        format!("lead --group participant-0 --process {NOBODY}"),
        format!("lead --group shard-0 --to 1.x --process {NOBODY}"),
    ] {
        let ran = run(&format!("cluster {line}"));
        assert!(ran.code == Some(2) && !ran.stderr.is_empty(), "{line}: {ran:?}");
    }
}
