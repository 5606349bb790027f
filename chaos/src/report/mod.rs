//! Shows what came of a run: `report.html` for people, `summary.json` for programs.
//!
//! # Layout
//! - `page`: the page as a whole; its parts are `headline`, `replicas`, `timeline` and `tables`
//! - `timeline`: faults (`lanes`) and `charts` on one time axis
//! - `columns`, `scale`, `svg`: from samples to shapes
//! - `html`, `units`: how text and figures are written
//! - `summary`: the JSON
//!
//! **Invariant:** the page refers to nothing outside of itself, is complete without scripts, and depends on the record alone:
//! no clock, no machine, no order of a hash table. What a record says is shown as text and never obeyed as markup.

mod charts;
mod columns;
mod headline;
mod html;
mod lanes;
mod page;
mod replicas;
mod scale;
mod summary;
mod svg;
mod tables;
#[cfg(test)]
mod tests;
mod timeline;
mod units;

use std::io;
use std::path::{Path, PathBuf};

use crate::record::Record;

/// The files of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The page: `report.html`.
    pub html: PathBuf,
    /// The record with what follows from it: `summary.json`.
    pub json: PathBuf,
}

/// Writes both files into a directory, which is made if it is not there. Files of a report before are replaced.
pub fn write(record: &Record, dir: &Path) -> io::Result<Files> {
    std::fs::create_dir_all(dir)?;
    let files = Files { html: dir.join("report.html"), json: dir.join("summary.json") };
    std::fs::write(&files.json, json(record)?)?;
    std::fs::write(&files.html, html(record))?;
    Ok(files)
}

/// The page, for whoever wants to put it elsewhere.
pub fn html(record: &Record) -> String {
    page::page(record)
}

/// The summary. It can be read back as a [`Record`].
pub fn json(record: &Record) -> io::Result<String> {
    summary::summary(record)
}
