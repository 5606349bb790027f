//! Counts as a table of Markdown, which people and this program read; and the difference of two.

use std::fmt::Write as _;

use crate::Operation;
use crate::callgrind::Count;

const HEAD: &str = "| operation | rows a batch | instructions a row | what it is |";
const RULE: &str = "|---|--:|--:|---|";

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Of the operation.
    pub name: String,
    /// Rows at a time.
    pub batch: u64,
    /// Instructions a row.
    pub each: f64,
}

impl Row {
    /// Of an operation that was counted.
    pub fn of(operation: &Operation, count: Count) -> Self {
        // As it will stand in the table, so that the same count is no difference.
        let each = (100.0 * count.instructions as f64 / count.counted.rows as f64).round() / 100.0;
        Self { name: operation.name.to_owned(), batch: count.counted.batch, each }
    }
}

/// The table as it stands in a document.
pub fn write(rows: &[Row]) -> String {
    let mut text = format!("{HEAD}\n{RULE}\n");
    for row in rows {
        let what = Operation::named(&row.name).map_or("", |operation| operation.what);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{}` | {} | {:.2} | {what} |", row.name, row.batch, row.each);
    }
    text
}

/// The table in a document; what is no row of it is left out.
pub fn read(document: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?.to_owned();
        Some(Row { name, batch: cells.next()?.parse().ok()?, each: cells.next()?.parse().ok()? })
    };
    document.lines().skip_while(|line| *line != HEAD).skip(2).map_while(row).collect()
}

/// The document with another table; `None` if it has none. What follows the table's head line and is no row of it stays.
pub fn replace(document: &str, rows: &[Row]) -> Option<String> {
    let start = document.find(HEAD)?;
    let table = document[start..].lines().take_while(|line| line.starts_with('|')).map(|line| line.len() + 1);
    let end = (start + table.sum::<usize>()).min(document.len());
    Some(format!("{}{}{}", &document[..start], write(rows), &document[end..]))
}

/// How one operation stands against another count of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// What was counted now.
    pub now: Row,
    /// Instructions a row before; `None` if it was not counted then.
    pub before: Option<f64>,
}

impl Difference {
    /// In percent of what it was; 0 where there is nothing to compare with.
    pub fn percent(&self) -> f64 {
        self.before.map_or(0.0, |before| 100.0 * (self.now.each / before - 1.0))
    }

    /// Whether it grew by more than so many percent.
    pub fn exceeds(&self, tolerance_percent: f64) -> bool {
        self.percent() > tolerance_percent
    }
}

/// Each of the rows of now beside the one of before.
pub fn compare(before: &[Row], now: &[Row]) -> Vec<Difference> {
    let each = |name: &str| before.iter().find(|row| row.name == name).map(|row| row.each);
    now.iter().map(|row| Difference { before: each(&row.name), now: row.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, each: f64) -> Row {
        Row { name: name.to_owned(), batch: 4_096, each }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let rows = vec![row("a/b", 12.5), row("c", 0.25)];
        let document = format!("# Title\n\nText | with a bar.\n\n{}\nMore.\n", write(&rows));
        assert_eq!(read(&document), rows);
        assert_eq!(read("no table"), vec![]);
    }

    #[test]
    fn only_the_table_is_replaced() {
        let document = format!("before\n\n{}\nafter\n", write(&[row("a", 1.0)]));
        let replaced = replace(&document, &[row("a", 2.0), row("b", 3.0)]).unwrap();
        assert_eq!(read(&replaced), vec![row("a", 2.0), row("b", 3.0)]);
        assert!(replaced.starts_with("before\n\n|") && replaced.ends_with("|\n\nafter\n"));
        assert_eq!(replace("no table", &[]), None);
        assert_eq!(replace(write(&[]).trim_end(), &[]), Some(write(&[])), "a table at the very end");
    }

    #[test]
    fn growth_beyond_the_tolerance_is_seen() {
        let before = [row("same", 100.0), row("grown", 100.0), row("less", 100.0)];
        let now = [row("same", 102.9), row("grown", 103.1), row("less", 50.0), row("new", 9.0)];
        let exceeds: Vec<_> =
            compare(&before, &now).iter().map(|difference| difference.exceeds(3.0)).collect();
        assert_eq!(exceeds, [false, true, false, false]);
    }
}
