//! Counts, shows how that differs from the table in the repository, and writes the table when it is told to bless.
//!
//! `tests/bench/instructions.sh` is the door: it knows where the table is, and what has to be installed.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use escrow_instructions::table::{self, Difference, Row};
use escrow_instructions::{Operation, callgrind};

#[derive(Debug, Parser)]
#[command(about = "Counts instructions under valgrind, and compares them with the table")]
struct Arguments {
    #[command(subcommand)]
    command: Option<RunOne>,
    /// The document with the table
    #[arg(long, value_name = "FILE", default_value = "docs/instructions.md")]
    table: PathBuf,
    /// Compare with the table of another document
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// What an operation may grow by, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    tolerance: f64,
    /// Count only operations whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Write what was counted into the table
    #[arg(long)]
    bless: bool,
}

#[derive(Debug, Subcommand)]
enum RunOne {
    /// Run one operation, to be counted from outside
    #[command(hide = true)]
    Run { name: String },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Some(RunOne::Run { name }) => run(name),
        None => count_all(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}

fn run(name: &str) -> Result<ExitCode, String> {
    let operation = Operation::named(name).ok_or_else(|| format!("there is no operation {name}"))?;
    println!("{}", callgrind::report(operation.run()));
    Ok(ExitCode::SUCCESS)
}

fn read_document(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn count_all(arguments: &Arguments) -> Result<ExitCode, String> {
    let document = read_document(&arguments.table)?;
    let before = match &arguments.against {
        Some(path) => table::read(&read_document(path)?),
        None => table::read(&document),
    };
    let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let mut rows = Vec::new();
    println!("{:<26}{:>12}{:>12}{:>10}", "instructions a row", "before", "now", "");
    for operation in Operation::all().filter(|operation| operation.name.contains(&arguments.only)) {
        let row = Row::of(operation, callgrind::count(&program, operation.name)?);
        let difference = table::compare(&before, std::slice::from_ref(&row)).remove(0);
        show(&difference, arguments.tolerance);
        rows.push(row);
    }
    if arguments.bless {
        return bless(arguments, &document, &rows);
    }
    Ok(judge(&table::compare(&before, &rows), arguments.tolerance))
}

fn show(difference: &Difference, tolerance: f64) {
    let Difference { now, before } = difference;
    let Some(before) = before else {
        println!("{:<26}{:>12}{:>12.2}       new", now.name, "-", now.each);
        return;
    };
    let verdict = if difference.exceeds(tolerance) { "  GROWN" } else { "" };
    println!("{:<26}{before:>12.2}{:>12.2}{:>+9.2}%{verdict}", now.name, now.each, difference.percent());
}

/// Rows that were not counted stay as they are.
fn bless(arguments: &Arguments, document: &str, counted: &[Row]) -> Result<ExitCode, String> {
    let known = table::read(document);
    let find = |rows: &[Row], name: &str| rows.iter().find(|row| row.name == name).cloned();
    let rows: Vec<Row> =
        Operation::all().filter_map(|of| find(counted, of.name).or_else(|| find(&known, of.name))).collect();
    let path = arguments.table.display();
    let blessed = table::replace(document, &rows).ok_or_else(|| format!("{path} has no table"))?;
    fs::write(&arguments.table, blessed).map_err(|error| format!("{path}: {error}"))?;
    println!("\nwritten to {path}");
    Ok(ExitCode::SUCCESS)
}

fn judge(differences: &[Difference], tolerance: f64) -> ExitCode {
    let grown: Vec<&str> = differences
        .iter()
        .filter(|difference| difference.exceeds(tolerance))
        .map(|difference| difference.now.name.as_str())
        .collect();
    if grown.is_empty() {
        println!("\nnothing grew by more than {tolerance} %");
        return ExitCode::SUCCESS;
    }
    println!("\n{} grew by more than {tolerance} %: {}", grown.len(), grown.join(", "));
    ExitCode::FAILURE
}
