//! One participant process that hosts several wallet shards behind one endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use escrow_coordinator::{ParticipantConfig, ParticipantKind};
use escrow_proto::v1;
use escrow_proto::v1::account_service_client::AccountServiceClient;
use escrow_proto::v1::operator_service_client::OperatorServiceClient;
use escrow_proto::v1::transfer_service_client::TransferServiceClient;
use escrow_tests::wait::{holds, until};
use escrow_tests::world::scratch;
use tokio::sync::oneshot;

const ANYWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

fn open(account_id: &str, unlimited: bool) -> v1::OpenAccount {
    let policy = if unlimited {
        v1::overdraft::Policy::Unlimited(true)
    } else {
        v1::overdraft::Policy::Forbidden(true)
    };
    let overdraft = Some(v1::Overdraft { policy: Some(policy) });
    v1::OpenAccount { account_id: account_id.into(), currency: "USD".into(), overdraft }
}

#[tokio::test]
async fn two_shards_in_one_process_hold_their_own_accounts_and_move_money_between_them() {
    let dir = scratch();
    let listen = SocketAddr::from(ANYWHERE);
    let participant = escrow_participant::Server::bind(escrow_participant::Config {
        data_dir: dir.path().join("participant"),
        listen,
        shards: vec![0, 1],
        ..escrow_participant::Config::default()
    });
    let participant = participant.await.unwrap();
    let endpoint = format!("http://{}", participant.local_addr());
    let shard = |id: u16| ParticipantConfig {
        id,
        name: id.to_string(),
        endpoint: endpoint.clone(),
        kind: ParticipantKind::Stream,
    };
    let coordinator = escrow_coordinator::Server::bind(escrow_coordinator::Config {
        data_dir: dir.path().join("coordinator"),
        listen,
        participants: vec![shard(0), shard(1)],
        ..escrow_coordinator::Config::default()
    });
    let coordinator = coordinator.await.unwrap();
    let endpoint = format!("http://{}", coordinator.local_addr());
    let (stop_participant, participant_stops) = oneshot::channel::<()>();
    let (stop_coordinator, coordinator_stops) = oneshot::channel::<()>();
    let participant = tokio::spawn(participant.run(async { drop(participant_stops.await) }));
    let coordinator = tokio::spawn(coordinator.run(async { drop(coordinator_stops.await) }));

    let mut operator = OperatorServiceClient::connect(endpoint.clone()).await.unwrap();
    until("both shards are greeted", Duration::from_secs(10), async || {
        let status = operator.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        holds(status.participants.iter().all(|participant| participant.ready), status)
    })
    .await;

    let mut accounts = AccountServiceClient::connect(endpoint.clone()).await.unwrap();
    let names = ["alice", "bob", "carol", "dave", "frank"];
    let rows = std::iter::once(open("treasury", true)).chain(names.iter().map(|name| open(name, false)));
    let opened = accounts.open_accounts(v1::OpenAccountsRequest { accounts: rows.collect() }).await.unwrap();
    assert!(opened.into_inner().results.iter().all(|result| result.opened));
    let page = v1::ListAccountsRequest { page_size: 0, cursor: String::new() };
    let listed = accounts.list_accounts(page).await.unwrap().into_inner().accounts;
    assert_eq!(listed.len(), 6, "each account once");
    for shard in ["0", "1"] {
        assert!(listed.iter().any(|account| account.participant == shard), "shard {shard} holds some");
    }

    let mut transfers = TransferServiceClient::connect(endpoint).await.unwrap();
    for (number, name) in names.iter().enumerate() {
        let request = v1::TransferRequest {
            transaction_id: format!("fund-{number}"),
            from_account_id: "treasury".into(),
            to_account_id: (*name).into(),
            amount: 100,
            currency: "USD".into(),
            wait: v1::Wait::Completed.into(),
            timeout_ms: 0,
        };
        let answer = transfers.transfer(request).await.unwrap().into_inner();
        assert_eq!((answer.state(), answer.completed), (v1::TransactionState::Confirmed, true), "{name}");
        let account_id = (*name).to_owned();
        let account = accounts.get_account(v1::GetAccountRequest { account_id, bounds: None }).await.unwrap();
        assert_eq!(account.into_inner().account.unwrap().balances[0].posted, 100);
    }

    stop_coordinator.send(()).unwrap();
    coordinator.await.unwrap().unwrap();
    stop_participant.send(()).unwrap();
    participant.await.unwrap().unwrap();
}
