//! What commands print: tables for people, JSON for machines. The only module that writes to stdout.
//!
//! A reader that goes away (`escrow tx list | head -1`) is no error: what is written afterwards is dropped, and
//! [`Output::is_closed`] lets endless commands end.

#![allow(clippy::print_stdout)]

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::exit::Failure;

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Table,
    /// One JSON document; endless commands print one a line.
    Json,
}

/// Where commands print to.
#[derive(Debug)]
pub struct Output {
    format: Format,
    closed: AtomicBool,
}

impl Output {
    /// To stdout.
    pub const fn new(format: Format) -> Self {
        Self { format, closed: AtomicBool::new(false) }
    }

    /// Whether machines read.
    pub const fn is_json(&self) -> bool {
        matches!(self.format, Format::Json)
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn write(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    /// A line for people; nothing when machines read.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.is_json() {
            self.write(&format!("{}\n", text.as_ref()));
        }
    }

    /// Text as it is, whoever reads: completion scripts.
    pub fn raw(&self, text: &str) {
        self.write(text);
    }

    /// A document for machines; nothing when people read. Indented on a terminal, one line elsewhere.
    pub fn json(&self, value: &impl Serialize) {
        if self.is_json() {
            let text = if io::stdout().is_terminal() {
                serde_json::to_string_pretty(value)
            } else {
                serde_json::to_string(value)
            };
            let text = text.unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"));
            self.write(&format!("{text}\n"));
        }
    }

    /// A table for people; nothing when machines read.
    pub fn table(&self, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        if self.is_json() {
            return;
        }
        let mut table = Table::new();
        table.load_preset(NOTHING).set_header(header.iter().map(|name| name.to_uppercase()));
        for row in rows {
            table.add_row(row.into_iter().map(|cell| printable(&cell)));
        }
        // Every cell is padded; blanks at the ends of lines only hurt those who paste.
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
            text.push('\n');
        }
        self.write(&text);
    }

    /// An error: a sentence on stderr, and for machines an object on stdout too.
    pub fn failure(&self, failure: &Failure) {
        // A closed stderr leaves the exit code.
        let _ = writeln!(io::stderr(), "error: {} ({})", printable(&failure.message), failure.code);
        self.failure_json(failure);
    }

    /// Only the object of [`Output::failure`].
    pub fn failure_json(&self, failure: &Failure) {
        self.json(&serde_json::json!({ "error": { "code": failure.code, "message": failure.message } }));
    }
}

/// Ids and messages come from elsewhere: no control character of theirs reaches the terminal, but for line ends.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() && letter != '\n' { '\u{fffd}' } else { letter })
        .collect()
}

/// Whether a command line that could not be parsed asks for JSON.
pub fn asks_for_json(words: &[String]) -> bool {
    let pairs =
        words.windows(2).any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && pair[1] == "json");
    pairs || words.iter().any(|word| matches!(word.as_str(), "-ojson" | "-o=json" | "--output=json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\nc");
    }

    #[test]
    fn json_is_found_among_words_that_do_not_parse() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(asks_for_json(&words("escrow transfer -o json --bad")));
        assert!(asks_for_json(&words("escrow --output=json nonsense")));
        assert!(!asks_for_json(&words("escrow transfer --from json")));
    }
}
