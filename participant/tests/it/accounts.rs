//! Accounts: opening, pages, freezing; one process with several shards.

use escrow_participant::{Config, PARTICIPANT_METADATA};
use escrow_proto::v1 as proto;
use escrow_types::{Answer, Reason};
use tonic::{Code, Request};

use crate::fixture::{check_refusal, config, debit, start};

fn open(id: &str, currency: &str) -> proto::OpenAccount {
    proto::OpenAccount { account_id: id.to_owned(), currency: currency.to_owned(), overdraft: None }
}

#[tokio::test]
async fn each_row_of_an_opening_has_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    let unlimited = proto::Overdraft { policy: Some(proto::overdraft::Policy::Unlimited(true)) };
    let accounts = vec![
        open("alice", "USD"),
        open("alice", "EUR"),
        open("", "USD"),
        open("carol", "XXX"),
        proto::OpenAccount { overdraft: Some(unlimited), ..open("bob", "USD") },
        open("carol", "USD"),
    ];
    let results =
        server.accounts().open_accounts(proto::OpenAccountsRequest { accounts }).await.unwrap().into_inner();
    let results: Vec<_> = results.results.iter().map(|result| (result.opened, result.reason())).collect();
    let refused = |reason| (false, reason);
    assert_eq!(
        results,
        [
            refused(proto::Reason::Unspecified),
            (true, proto::Reason::Unspecified),
            refused(proto::Reason::InvalidAccountId),
            refused(proto::Reason::InvalidCurrency),
            refused(proto::Reason::AccountExists),
            (true, proto::Reason::Unspecified),
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn accounts_come_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    let accounts = (0..25).map(|number| open(&format!("account-{number}"), "USD")).collect();
    server.accounts().open_accounts(proto::OpenAccountsRequest { accounts }).await.unwrap();
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let request = proto::ListAccountsRequest { page_size: 10, cursor };
        let page = server.accounts().list_accounts(request).await.unwrap().into_inner();
        ids.extend(page.accounts.into_iter().map(|account| account.account_id));
        cursor = page.next_cursor;
        if cursor.is_empty() {
            break;
        }
    }
    assert_eq!(ids, (0..25).map(|number| format!("account-{number}")).collect::<Vec<_>>());
    let request = proto::ListAccountsRequest { page_size: 10, cursor: "nonsense".into() };
    let status = server.accounts().list_accounts(request).await.unwrap_err();
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn a_frozen_account_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    server.fund().await;
    server.hello(0, 1).await.unwrap();
    let freeze = |id: &str, frozen| proto::SetFrozenRequest { account_id: id.to_owned(), frozen };
    let account =
        server.accounts().set_frozen(freeze("alice", true)).await.unwrap().into_inner().account.unwrap();
    assert!(account.frozen);
    let frozen = Answer::Rejected(Reason::AccountFrozen);
    assert_eq!(server.try_leg(1, 0, debit("alice", 1)).await.unwrap(), frozen);
    server.accounts().set_frozen(freeze("alice", false)).await.unwrap();
    assert_eq!(server.try_leg(1, 1, debit("alice", 1)).await.unwrap(), Answer::Reserved);
    let status = server.accounts().set_frozen(freeze("nobody", true)).await.unwrap_err();
    check_refusal(&status, Code::NotFound, Reason::AccountNotFound);
    server.stop().await;
}

#[tokio::test]
async fn one_process_may_hold_several_shards() {
    let dir = tempfile::tempdir().unwrap();
    let two = Config { shards: vec![4, 2], ..config(dir.path()) };
    let server = start(two.clone()).await;
    let accounts = |id: &str| proto::OpenAccountsRequest { accounts: vec![open(id, "USD")] };
    let status = server.accounts().open_accounts(accounts("alice")).await.unwrap_err();
    check_refusal(&status, Code::InvalidArgument, Reason::InvalidArgument);
    for (id, shard) in [("alice", "2"), ("bob", "4")] {
        let mut request = Request::new(accounts(id));
        request.metadata_mut().insert(PARTICIPANT_METADATA, shard.parse().unwrap());
        assert!(server.accounts().open_accounts(request).await.unwrap().into_inner().results[0].opened);
    }
    server.stop().await;
    let server = start(two).await;
    for (id, shard) in [("alice", "2"), ("bob", "4")] {
        let request = proto::GetAccountRequest { account_id: id.to_owned(), bounds: None };
        let account = server.accounts().get_account(request).await.unwrap().into_inner().account.unwrap();
        assert_eq!(account.participant, shard);
    }
    let request = proto::ListAccountsRequest { page_size: 1, cursor: String::new() };
    let page = server.accounts().list_accounts(request).await.unwrap().into_inner();
    assert_eq!(page.accounts[0].account_id, "alice");
    let request = proto::ListAccountsRequest { page_size: 1, cursor: page.next_cursor };
    let page = server.accounts().list_accounts(request).await.unwrap().into_inner();
    assert_eq!((page.accounts[0].account_id.as_str(), page.next_cursor.as_str()), ("bob", ""));
    server.stop().await;
}
