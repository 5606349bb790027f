//! `escrow-model`: runs the model by hand.
#![allow(clippy::print_stdout)] // It prints its report: that is what it is for.

use std::process::ExitCode;

use clap::Parser;
use escrow_model::bounds::Counted;
use escrow_model::{Bound, Canary, Search, run};

/// Checks the model of the protocol.
#[derive(Debug, Parser)]
struct Args {
    /// How much to check.
    #[arg(long, value_enum, default_value = "small")]
    bound: Bound,
    /// Only the configuration with this name.
    #[arg(long)]
    only: Option<String>,
    /// Break this rule, and show the shortest way to harm. `list` names them all.
    #[arg(long)]
    canary: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Nearest states first, on one thread.
    #[arg(long)]
    shortest: bool,
    /// Also print how each sight is reached.
    #[arg(long)]
    ways: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(name) = &args.canary {
        let Some(canary) = Canary::named(name) else {
            for canary in Canary::ALL {
                println!("{:<26} {}", canary.name(), canary.text());
            }
            return ExitCode::FAILURE;
        };
        println!("{}", canary.text());
        print!("{}", run(canary.config(), Search::Shortest));
        return ExitCode::SUCCESS;
    }
    let mut good = true;
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    for Counted { config, states } in args.bound.configs() {
        if !wanted(config.name) {
            continue;
        }
        let search = if args.shortest { Search::Shortest } else { Search::All(args.threads) };
        let report = run(config, search);
        if args.ways {
            print!("{report:#}");
        } else {
            print!("{report}");
        }
        good &= report.is_good() && report.states == states;
        if report.states != states {
            println!("  {states} states were expected");
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
