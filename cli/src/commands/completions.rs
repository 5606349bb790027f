//! `escrow completions`: scripts for shells.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::Exit;
use crate::output::Output;

/// `escrow completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow completions bash > ~/.local/share/bash-completion/completions/escrow
  escrow completions zsh > ~/.zfunc/_escrow
  escrow completions fish > ~/.config/fish/completions/escrow.fish")]
pub struct Args {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &Args, output: &Output) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "escrow", &mut script);
    output.raw(&String::from_utf8_lossy(&script));
    Exit::Ok
}
