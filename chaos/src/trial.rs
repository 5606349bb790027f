//! A world under load, for tests: from the first balances to the judgement.

use escrow_types::AccountId;

use crate::load::{Ears, Load, Running};
use crate::oracle::{self, Account, Figures, Oracle};
use crate::scenario::Mix;
use crate::world::World;

/// Load on accounts of a world.
#[derive(Debug)]
pub struct Trial {
    ears: Ears,
    first: Vec<i64>,
    running: Running,
}

impl Trial {
    /// Waits until nothing moves, and starts. `accounts` are those of each shard, all with money.
    pub async fn begin(world: &World, accounts: &[Vec<AccountId>], rate: u64, mix: Mix, seed: u64) -> Self {
        world.settled().await;
        let all = accounts.concat();
        let first = oracle::balances(&world.client, &all).await.expect("accounts are listed");
        let mut next: Account = 0;
        let mut places = |shard: &Vec<AccountId>| {
            let places = next..next + shard.len() as Account;
            next = places.end;
            places.collect()
        };
        let shards = accounts.iter().map(&mut places).collect();
        let ears = Ears::new(Oracle::new(all));
        let load = Load { rate, mix, shards, seed };
        let running = load.start(&world.client, &ears).expect("endpoints are endpoints");
        Self { ears, first, running }
    }

    /// How many transactions have begun so far.
    pub fn count(&self) -> usize {
        self.ears.oracle.count()
    }

    /// Stops the load, waits until nothing is in doubt, and judges. Panics with whatever is wrong.
    pub async fn end(self, world: &World) -> Figures {
        let Self { ears: Ears { oracle, meter, .. }, first, running } = self;
        running.stop().await.expect("the load does not panic");
        world.settled().await;
        assert_eq!(meter.totals().held_back, 0, "the loop was open all the time");
        let ends = oracle::outcomes(&world.client, &oracle.keys()).await.expect("the coordinator answers");
        let real = oracle::balances(&world.client, oracle.accounts()).await.expect("accounts are listed");
        let judgement = oracle.judge(&ends, &first, &real);
        assert!(judgement.is_sound(), "{}\n{:#?}", judgement.figures, judgement.verdicts);
        judgement.figures
    }
}
