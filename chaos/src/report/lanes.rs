//! The faults over time, above the charts: a lane for every target, a bar for every fault, numbered as in the table.

use std::collections::BTreeMap;

use super::html::{Html, Text};
use super::scale::Scale;
use super::{svg, units};
use crate::record::{Fault, Record};

/// More targets than this share the last lane.
const LANES_MAX: usize = 10;
/// Labels must not overlap in a page as narrow as this, in pixels: of the plot, and of one digit or letter.
const PLOT_WIDTH: f64 = 600.0;
const LETTER_WIDTH: f64 = 6.4;
/// Room right of the plot into which a label may reach.
const MARGIN: f64 = 26.0;

/// A fault with its number, that counts from 1.
type Numbered<'a> = (usize, &'a Fault);

/// All lanes, and whether every fault has its number there.
pub(super) fn lanes(record: &Record, time: &Scale) -> (String, bool) {
    let mut by_target: BTreeMap<(String, u64), Vec<Numbered<'_>>> = BTreeMap::new();
    for (at, fault) in record.faults.iter().enumerate() {
        by_target.entry(natural(&fault.target)).or_default().push((at + 1, fault));
    }
    let mut lanes: Vec<(String, Vec<Numbered<'_>>)> =
        by_target.into_values().map(|faults| (faults[0].1.target.clone(), faults)).collect();
    if lanes.len() > LANES_MAX {
        let others = lanes.split_off(LANES_MAX - 1);
        let title = units::counted(others.len() as u64, "other");
        let mut faults: Vec<Numbered<'_>> = others.into_iter().flat_map(|(_, faults)| faults).collect();
        faults.sort_by_key(|(number, _)| *number);
        lanes.push((title, faults));
    }
    let (mut html, mut is_complete) = (Html::default(), true);
    for (title, faults) in &lanes {
        html.add(format_args!(r#"<div class="lane"><span class="target">{}</span>"#, Text(title)));
        for ((number, fault), label) in faults.iter().zip(labels(faults, time)) {
            is_complete &= label.is_some();
            bar(&mut html, record, time, (*number, fault), label.as_deref());
        }
        html.add(format_args!("</div>\n"));
    }
    (html.into_string(), is_complete)
}

/// "participant 2" comes before "participant 10".
fn natural(target: &str) -> (String, u64) {
    let name = target.trim_end_matches(|character: char| character.is_ascii_digit());
    (name.to_owned(), target[name.len()..].parse().unwrap_or(0))
}

/// What is written at each bar of a lane: its number wherever it does not touch the label before, with what was done where
/// there is room for that before the next fault.
fn labels(faults: &[Numbered<'_>], time: &Scale) -> Vec<Option<String>> {
    let width = |label: &str| label.chars().count() as f64 * LETTER_WIDTH + 4.0;
    let left = |fault: &Fault| time.at(fault.begun_ms as f64) * PLOT_WIDTH;
    let mut free_from = 0.0;
    let mut place = |at: usize| {
        let (number, fault) = faults[at];
        let begin = left(fault);
        let next = faults.get(at + 1).map_or(PLOT_WIDTH + MARGIN, |(_, next)| left(next));
        let (short, long) = (number.to_string(), format!("{number} {}", fault.what));
        let fits_long = begin + width(&long) <= next;
        let fits_short = begin + width(&short) <= PLOT_WIDTH + MARGIN;
        let label = Some(if fits_long { long } else { short });
        let label = label.filter(|_| begin >= free_from && (fits_long || fits_short))?;
        free_from = begin + width(&label);
        Some(label)
    };
    (0..faults.len()).map(&mut place).collect()
}

fn bar(html: &mut Html, record: &Record, time: &Scale, numbered: Numbered<'_>, label: Option<&str>) {
    let (number, fault) = numbered;
    let begin = time.at(fault.begun_ms as f64);
    let end = time.at(fault.ended_ms.unwrap_or_else(|| record.end_ms()) as f64);
    let title = format!("{number}: {} {}, {}", fault.what, fault.target, when(fault));
    html.add(format_args!(
        r##"<a class="bar" href="#fault-{number}" style="left:{};width:{}" title="{}"><span>{}</span></a>"##,
        svg::percent(begin),
        svg::percent(end - begin),
        Text(&title),
        Text(label.unwrap_or_default()),
    ));
    if let Some(drained) = fault.drained_ms.filter(|_| fault.is_recovery_measured) {
        let ended = fault.ended_ms.unwrap_or(fault.begun_ms) as f64;
        let width = svg::percent(time.at(ended + drained) - time.at(ended));
        let left = svg::percent(time.at(ended));
        html.add(format_args!(r#"<i class="drain" style="left:{left};width:{width}"></i>"#));
    }
}

/// When it was, for a reader.
pub(super) fn when(fault: &Fault) -> String {
    let begun = units::instant(fault.begun_ms);
    match fault.ended_ms {
        Some(ended) => format!("at {begun} for {}", units::length(ended.saturating_sub(fault.begun_ms))),
        None => format!("from {begun} to the end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_at(begun_ms: &[u64]) -> Vec<Option<String>> {
        let fault = |begun_ms: &u64| Fault { begun_ms: *begun_ms, what: "pause".into(), ..Fault::default() };
        let faults: Vec<Fault> = begun_ms.iter().map(fault).collect();
        let numbered: Vec<Numbered<'_>> = faults.iter().enumerate().map(|(at, f)| (at + 1, f)).collect();
        labels(&numbered, &Scale::time(1_000))
    }

    #[test]
    fn labels_say_what_there_is_room_for_and_never_overlap() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(labels_at(&[0, 500]), [some("1 pause"), some("2 pause")]);
        assert_eq!(labels_at(&[0, 30, 500]), [some("1"), some("2 pause"), some("3 pause")]);
        assert_eq!(labels_at(&[0, 5, 10, 500]), [some("1"), None, None, some("4 pause")]);
        assert_eq!(labels_at(&[999]), [some("1")]);
    }

    #[test]
    fn targets_are_in_the_order_of_their_numbers() {
        let mut targets = ["participant 10", "coordinator 0", "participant 2", "everything"];
        targets.sort_by_key(|target| natural(target));
        assert_eq!(targets, ["coordinator 0", "everything", "participant 2", "participant 10"]);
    }
}
