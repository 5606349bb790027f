//! One target of `escrow_fuzz`, the one that `ESCROW_FUZZ_TARGET` names, under libFuzzer.
#![no_main]

use std::sync::LazyLock;

use escrow_fuzz::{TARGETS, Target};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("ESCROW_FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    Target::named(&name).unwrap_or_else(|| panic!("ESCROW_FUZZ_TARGET names one of {names:?}"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));
