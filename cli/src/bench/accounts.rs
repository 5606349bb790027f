//! The accounts of a run: opened, and funded from a treasury whose overdraft is unlimited.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use escrow_client::bulk::Batch;
use escrow_client::{Client, IdSequence, OpenAccount, Overdraft, State, Wait};
use escrow_types::{AccountId, AccountKey, Currency, Slot};

use super::BenchError;
use super::chooser::Choice;

/// What each account is given, in minor units.
const FUNDS: u64 = 100_000_000;
const TREASURY: &str = "bench-treasury";
/// Rows of a funding message; as many are in flight.
const FUNDING_ROWS: usize = 8_192;

/// Accounts that are opened at a time, so that ten million need no second copy of themselves.
const OPENING_ACCOUNTS: usize = 100_000;
/// How long a single funding transfer may take, however many there are.
const FUNDING_TIMEOUT: Duration = Duration::from_secs(60);

/// What accounts are wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How many in all.
    pub count: usize,
    /// On which shards; empty: on all.
    pub shards: BTreeSet<u16>,
    /// In which currency.
    pub currency: Currency,
    /// How long all of the funding may take.
    pub within: Duration,
}

/// Accounts, dealt out by the shard that holds them.
#[derive(Debug, Clone)]
pub struct Accounts {
    shards: Arc<[Members]>,
}

/// The accounts of a shard by both their names. Keys are by themselves, close together: with millions of accounts each look-up
/// of one misses the cache.
#[derive(Debug, Clone, Default)]
struct Members {
    ids: Vec<AccountId>,
    keys: Vec<AccountKey>,
}

impl Accounts {
    pub(super) fn id(&self, (shard, number): Choice) -> &AccountId {
        &self.shards[shard].ids[number]
    }

    #[inline]
    pub(super) fn key(&self, (shard, number): Choice) -> AccountKey {
        self.shards[shard].keys[number]
    }

    pub(super) fn counts(&self) -> Vec<usize> {
        self.shards.iter().map(|members| members.keys.len()).collect()
    }

    /// How many accounts there are, and on how many shards.
    pub fn size(&self) -> (usize, usize) {
        (self.counts().iter().sum(), self.shards.len())
    }
}

/// Opens and funds the accounts. Doing it again tops them up.
pub async fn prepare(client: &Client, wanted: &Wanted) -> Result<Accounts, BenchError> {
    let status = client.status(0).await?;
    let shards = status.participants.iter().filter(|participant| participant.kind == "stream").count();
    let shards = u16::try_from(shards).unwrap_or(u16::MAX);
    if shards == 0 {
        return Err(BenchError::Setup("the coordinator has no wallet shards".to_owned()));
    }
    let accounts = deal(wanted, shards)?;
    let treasury = treasury(wanted, shards);
    let each = accounts.shards.iter().flat_map(|members| &members.ids).map(|id| (id, Overdraft::Forbidden));
    let mut opening = std::iter::once((&treasury, Overdraft::Unlimited)).chain(each).peekable();
    while opening.peek().is_some() {
        let open = |(account_id, overdraft): (&AccountId, _)| OpenAccount {
            account_id: account_id.clone(),
            currency: wanted.currency,
            overdraft,
        };
        let some: Vec<OpenAccount> = opening.by_ref().take(OPENING_ACCOUNTS).map(open).collect();
        for opened in client.open_accounts(&some).await? {
            if let Some(reason) = opened.reason {
                return Err(BenchError::Setup(format!(
                    "account {} was not opened: {reason}",
                    opened.account_id
                )));
            }
        }
    }
    fund(client, wanted, treasury.key(), &accounts).await?;
    Ok(accounts)
}

/// Names accounts one after the other, so that the same run has the same ones, and keeps those on wanted shards.
fn deal(wanted: &Wanted, shards: u16) -> Result<Accounts, BenchError> {
    if let Some(missing) = wanted.shards.iter().find(|&&shard| shard >= shards) {
        return Err(BenchError::Setup(format!("there is no shard {missing}: the cluster has {shards}")));
    }
    let chosen: Vec<u16> =
        (0..shards).filter(|shard| wanted.shards.is_empty() || wanted.shards.contains(shard)).collect();
    // The accounts are spread as evenly as their number allows; each shard needs two to move money within it.
    let each = wanted.count.div_ceil(chosen.len()).max(2);
    let mut dealt = vec![Members::default(); chosen.len()];
    let mut missing = chosen.len() * each;
    for number in 0u64.. {
        let id = AccountId::new(&format!("bench-{number:08}")).expect("it is short and plain");
        let key = id.key();
        let shard = Slot::of(key).shard_of(shards);
        if let Some(place) = chosen.iter().position(|&chosen| chosen == shard)
            && dealt[place].keys.len() < each
        {
            dealt[place].ids.push(id);
            dealt[place].keys.push(key);
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    Ok(Accounts { shards: dealt.into() })
}

/// A treasury on a wanted shard, so that nobody else is needed to fund.
fn treasury(wanted: &Wanted, shards: u16) -> AccountId {
    let wanted_shard = |id: &AccountId| {
        wanted.shards.is_empty() || wanted.shards.contains(&Slot::of(id.key()).shard_of(shards))
    };
    let mut id = AccountId::new(TREASURY).expect("it is short and plain");
    let mut number = 0u32;
    while !wanted_shard(&id) {
        number += 1;
        id = AccountId::new(&format!("{TREASURY}-{number}")).expect("it is short and plain");
    }
    id
}

async fn fund(
    client: &Client,
    wanted: &Wanted,
    treasury: AccountKey,
    accounts: &Accounts,
) -> Result<(), BenchError> {
    let funding = async {
        let (sender, mut receiver) = client.bulk_stream(0).await?;
        let mut ids = IdSequence::new();
        let mut batch = Batch::new(
            FUNDING_ROWS,
            wanted.currency,
            Wait::Completed,
            Some(wanted.within.min(FUNDING_TIMEOUT)),
        );
        let mut keys = accounts.shards.iter().flat_map(|members| members.keys.iter().copied()).peekable();
        while keys.peek().is_some() {
            // With one age for millions of ids the coordinator looks for each of them in all that it remembers of that age.
            ids.refresh_clock();
            for key in keys.by_ref().take(FUNDING_ROWS) {
                batch.push(ids.next_key(), treasury, key, FUNDS);
            }
            let mut unanswered = batch.len();
            sender.send(&mut batch, 0).await?;
            while unanswered > 0 {
                let closed =
                    || BenchError::Setup("the stream ended before the accounts were funded".to_owned());
                let answers = receiver.next().await?.ok_or_else(closed)?;
                for answer in answers.iter() {
                    let answer = answer?;
                    if answer.state != State::Confirmed {
                        let reason = answer.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                        return Err(BenchError::Setup(format!(
                            "an account was not funded: {}{reason}",
                            answer.state.code()
                        )));
                    }
                }
                unanswered = unanswered.saturating_sub(answers.len());
            }
        }
        Ok(())
    };
    tokio::time::timeout(wanted.within, funding).await.unwrap_or_else(|_| {
        Err(BenchError::Setup(format!("the accounts were not funded within {:?}", wanted.within)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(count: usize, shards: &[u16]) -> Wanted {
        let shards = shards.iter().copied().collect();
        Wanted { count, shards, currency: Currency::USD, within: Duration::from_secs(1) }
    }

    #[test]
    fn accounts_are_where_they_are_said_to_be() {
        let accounts = deal(&wanted(1_000, &[]), 3).unwrap();
        for (shard, members) in accounts.shards.iter().enumerate() {
            assert_eq!((members.ids.len(), members.keys.len()), (334, 334));
            for number in 0..334 {
                let (id, key) = (accounts.id((shard, number)), accounts.key((shard, number)));
                assert_eq!((id.key(), usize::from(Slot::of(key).shard_of(3))), (key, shard));
            }
        }
    }

    #[test]
    fn only_wanted_shards_are_touched() {
        let wanted = wanted(10, &[0, 2]);
        let accounts = deal(&wanted, 3).unwrap();
        let shards: BTreeSet<u16> = accounts
            .shards
            .iter()
            .flat_map(|members| &members.keys)
            .map(|&key| Slot::of(key).shard_of(3))
            .collect();
        assert_eq!(shards, BTreeSet::from([0, 2]));
        assert_ne!(Slot::of(treasury(&wanted, 3).key()).shard_of(3), 1);
        assert!(deal(&super::tests::wanted(10, &[3]), 3).is_err());
    }
}
