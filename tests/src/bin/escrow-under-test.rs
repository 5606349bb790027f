//! The program under test: `escrow`, and with the feature `failpoints` one that dies where `FAILPOINTS` says.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Reads FAILPOINTS; what it configures lasts as long as the scenario.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    #[cfg(feature = "failpoints")]
    escrow_chaos::failpoints::are_compiled_in();
    escrow_cli::main()
}
