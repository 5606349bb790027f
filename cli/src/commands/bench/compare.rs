//! `escrow bench compare`: two runs, or the medians of several, beside each other.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bench::compare::{Middle, Row, compare, differences, is_run};
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// `escrow bench compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  escrow bench -o json > before.json
  escrow bench compare before.json after.json
  escrow bench compare --a a1.json,a2.json,a3.json --b b1.json,b2.json,b3.json
  escrow bench compare before.json after.json --anyway -o json

Of several files a side the medians are compared, with the lowest and the highest beside them.
Runs of different settings (all but --seed and --interval count) are refused, unless --anyway.")]
pub(in crate::commands) struct Args {
    /// What to compare with
    #[arg(value_name = "A.json", required_unless_present = "a", requires = "second", conflicts_with_all = ["a", "b"])]
    first: Option<PathBuf>,
    /// What to compare
    #[arg(value_name = "B.json")]
    second: Option<PathBuf>,
    /// Runs to compare with, in place of A.json; may be repeated
    #[arg(long, value_delimiter = ',', value_name = "FILES", requires = "b")]
    a: Vec<PathBuf>,
    /// Runs to compare, in place of B.json; may be repeated
    #[arg(long, value_delimiter = ',', value_name = "FILES", requires = "a")]
    b: Vec<PathBuf>,
    /// Also runs of different settings
    #[arg(long)]
    anyway: bool,
}

/// The largest document that is read: thousands of intervals are a megabyte.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

pub(super) fn run(args: Args, output: &Output) -> Result<Exit, Failure> {
    let side = |one: Option<PathBuf>, several: Vec<PathBuf>| one.map_or(several, |one| vec![one]);
    let (a_files, b_files) = (side(args.first, args.a), side(args.second, args.b));
    let (a, b) = (read_all(&a_files)?, read_all(&b_files)?);
    let names: Vec<String> = a_files.iter().chain(&b_files).map(|path| path.display().to_string()).collect();
    let runs: Vec<(&str, &Value)> = names.iter().map(String::as_str).zip(a.iter().chain(&b)).collect();
    let different = differences(&runs);
    if !different.is_empty() && !args.anyway {
        return Err(Failure {
            exit: Exit::BadInput,
            code: "DIFFERENT_SETTINGS",
            message: format!(
                "the runs are of different settings (--anyway compares them): {}",
                different.join("; ")
            ),
        });
    }
    let rows = compare(&a, &b);
    output.json(&json!({ "a": a_files, "b": b_files, "differences": different, "figures": rows }));
    for difference in &different {
        output.line(format!("different: {difference}"));
    }
    output.table(&["figure", "a", "b", "b/a"], rows.iter().map(cells));
    Ok(Exit::Ok)
}

fn cells(row: &Row) -> Vec<String> {
    let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
    vec![row.figure.clone(), cell(row.a), cell(row.b), ratio]
}

/// The median, and where there are several runs their range.
fn cell(middle: Option<Middle>) -> String {
    let Some(Middle { median, min, max }) = middle else { return "-".to_owned() };
    if min < max {
        format!("{} ({} to {})", number(median), number(min), number(max))
    } else {
        number(median)
    }
}

/// Three digits at least.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        below if below < 10.0 => format!("{value:.3}"),
        below if below < 1_000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Value, Failure> {
    let wrong = |what: &dyn std::fmt::Display| Failure::bad_input(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let mut text = String::new();
    let read = file.take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    if read as u64 > DOCUMENT_BYTES_MAX {
        return Err(wrong(&format_args!("it is larger than {DOCUMENT_BYTES_MAX} bytes")));
    }
    let document: Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
    if !is_run(&document) {
        return Err(wrong(&"it is not what escrow bench -o json printed"));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in [(0.0, "0"), (0.5, "0.500"), (12.34, "12.3"), (479_000.4, "479000")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_range_is_told_where_there_is_one() {
        assert_eq!(cell(Some(Middle { median: 200.0, min: 100.0, max: 300.0 })), "200.0 (100.0 to 300.0)");
        assert_eq!(cell(Some(Middle { median: 7.0, min: 7.0, max: 7.0 })), "7.000");
        assert_eq!(cell(None), "-");
    }
}
