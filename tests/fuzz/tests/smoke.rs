//! The short run of every target: its corpus, then mutated inputs, bounded by their number.
//!
//! `ESCROW_FUZZ_RUNS=N` multiplies how many, `ESCROW_SEED=S` makes other ones. An input that breaks a rule is written to
//! the temporary directory of the build and named; it belongs into `corpus/TARGET/found-…` with the fix.

use std::panic::{AssertUnwindSafe, catch_unwind};

use escrow_fuzz::Target;
use escrow_fuzz::mutate::Mutator;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut inputs: Vec<_> = std::fs::read_dir(target.corpus_dir())
        .expect("each target has a folder in the corpus")
        .map(|entry| entry.expect("readable").path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).expect("readable")))
        .collect();
    inputs.sort();
    inputs
}

fn run(target: &Target, input: &[u8], name: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("found-{}", target.name));
        std::fs::write(&path, input).expect("writable");
        panic!("{} is broken by {name}, kept as {}", target.name, path.display());
    }
}

/// Says what was run.
fn smoke(name: &str) -> String {
    let target = Target::named(name).expect("in the list");
    let inputs = corpus(target);
    for (path, input) in &inputs {
        run(target, input, path);
    }
    let inputs: Vec<_> = inputs.into_iter().map(|(_, input)| input).collect();
    let seed = number("ESCROW_SEED", 1);
    let runs = target.short_runs * number("ESCROW_FUZZ_RUNS", 1);
    let mut mutator = Mutator::new(seed ^ u64::from(crc32c::crc32c(name.as_bytes())));
    for number in 0..runs {
        run(target, &mutator.next(&inputs), &format!("input {number} of seed {seed}"));
    }
    format!("{name}: {} of the corpus, {runs} mutated", inputs.len())
}

macro_rules! smoke {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { println!("{}", smoke(stringify!($name))); })*

        #[test]
        fn every_target_is_here() {
            let names: Vec<_> = escrow_fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

smoke!(
    types_codec,
    types_text,
    wallet_entry,
    wallet_view,
    tcc_entry,
    tcc_checkpoint,
    tcc_answers,
    journal_damage,
    journal_forged,
    participant_exchange,
    participant_unary,
    participant_files,
    coordinator_requests,
    coordinator_files,
    replica_log,
    replica_snapshot,
    settings,
);
