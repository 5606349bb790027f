//! One coordinator, two or three wallet shards, a network and disks that fail: everything from one seed.
//!
//! The coordinator is the real [`escrow_tcc::Driver`] over its [`escrow_tcc::Machine`], the shards are real
//! [`escrow_wallet::Wallet`]s; every message and every log entry goes through its bytes. Disks lose what was not durable,
//! connections break, delay, repeat and overtake each other, processes die at any step, callers ask again under the same
//! id, operators meddle. Then faults stop, and everything must end.
//!
//! One seed again: `ESCROW_SEED=17 cargo test -p escrow-tcc --test simulation`; more of them: `ESCROW_SEEDS=50000`,
//! starting at `ESCROW_FIRST_SEED`.

mod callers;
mod checks;
mod coordinator;
mod disk;
mod jobs;
mod network;
mod prng;
mod shard;
mod world;

use std::panic::catch_unwind;

use world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn seeds() {
    if let Some(seed) = number("ESCROW_SEED") {
        World::new(seed).run(500);
        return;
    }
    let first = number("ESCROW_FIRST_SEED").unwrap_or(0);
    for seed in first..first + number("ESCROW_SEEDS").unwrap_or(1_500) {
        if let Err(panic) = catch_unwind(|| World::new(seed).run(500)) {
            println!("again: ESCROW_SEED={seed} cargo test -p escrow-tcc --test simulation");
            std::panic::resume_unwind(panic);
        }
    }
}
