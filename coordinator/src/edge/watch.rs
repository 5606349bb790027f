//! Transactions as they change: a snapshot of what matches, then every change.
//!
//! The state is compared a few times a second; a slow watcher skips states and never holds anything up.

use std::collections::HashMap;
use std::time::Duration;

use escrow_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Service;
use super::operator::Wanted;
use super::transaction::{Found, find};

pub(super) type Watch = ReceiverStream<Result<v1::WatchTransactionsResponse, Status>>;

/// How often the state is compared.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A watcher follows so many transactions at a time.
const WATCHED_MAX: usize = 10_000;

impl Service {
    pub(super) fn watch(&self, wanted: Wanted) -> Watch {
        let (sender, receiver) = mpsc::channel(256);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(status) = service.watch_until_gone(wanted, &sender).await {
                // The watcher may be gone already.
                let _ = sender.send(Err(status)).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn watch_until_gone(
        &self,
        wanted: Wanted,
        sender: &mpsc::Sender<Result<v1::WatchTransactionsResponse, Status>>,
    ) -> Result<(), Status> {
        let wanted = std::sync::Arc::new(wanted);
        let mut seen: HashMap<String, v1::Transaction> = HashMap::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = sender.closed() => return Ok(()),
            }
            for transaction in self.changes(&wanted, &mut seen).await? {
                let change = v1::WatchTransactionsResponse { transaction: Some(transaction) };
                if sender.send(Ok(change)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn changes(
        &self,
        wanted: &std::sync::Arc<Wanted>,
        seen: &mut HashMap<String, v1::Transaction>,
    ) -> Result<Vec<v1::Transaction>, Status> {
        let (service, wanted) = (self.clone(), std::sync::Arc::clone(wanted));
        let before: Vec<String> = seen.keys().cloned().collect();
        let (now, gone) = self
            .mailbox
            .ask(move |owner| {
                let views = owner.driver.select(owner.now(), &wanted.filter, None);
                let shown = views.map(|view| service.show(&view)).filter(|shown| wanted.matches(shown));
                let now: Vec<v1::Transaction> = shown.take(WATCHED_MAX).collect();
                let mut gone = Vec::new();
                for xid in before {
                    if now.iter().any(|transaction| transaction.xid == xid) {
                        continue;
                    }
                    let named = super::form::Named::Xid(xid.parse().expect("shown by this server"));
                    let shown = match find(owner, &named) {
                        Some(Found::Ended(row)) => Some(service.show_ended(&row)),
                        Some(Found::Unfinished { epoch, sequence }) => {
                            service.show_unfinished(owner, epoch, sequence)
                        }
                        None => None,
                    };
                    // Known no more: its row has left memory. It has ended all the same.
                    gone.push((xid, shown));
                }
                (now, gone)
            })
            .await?;
        let mut changes = Vec::new();
        for (xid, last) in gone {
            let before = seen.remove(&xid).expect("asked for by this name");
            if let Some(mut last) = last {
                last.transaction_id = before.transaction_id;
                changes.push(last);
            }
        }
        for transaction in now {
            if seen.get(&transaction.xid) != Some(&transaction) {
                seen.insert(transaction.xid.clone(), transaction.clone());
                changes.push(transaction);
            }
        }
        Ok(changes)
    }
}
