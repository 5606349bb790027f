//! A run as a page of HTML: throughput and latency over time, the curve of latencies, and the CPU of each process.
//!
//! The page is whole in itself (nothing is fetched, no script), readable on light and dark screens, and of bounded size
//! however long the run was.

mod chart;
mod scale;

use std::fmt::Write as _;

use chart::{Bar, Chart, Line, Tick};
use scale::{Scale, short, span, trimmed};

use super::processes::Used;
use super::stages::{Breakdown, Stage};
use super::{Point, Summary};

const STYLE: &str = include_str!("style.css");
/// Points over time at most: intervals of longer runs are put together.
const COLUMNS_MAX: usize = 600;

/// What a page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// What was run, in a line.
    pub title: String,
    /// Settings and figures by their names.
    pub facts: Vec<(String, String)>,
    /// The run.
    pub summary: &'a Summary,
    /// What each process used.
    pub used: &'a [Used],
    /// Where the time of transfers went.
    pub breakdown: &'a Breakdown,
}

impl Page<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let mut facts = String::new();
        for (name, value) in &self.facts {
            write!(facts, "<div><dt>{}</dt><dd>{}</dd></div>", text(name), text(value))
                .expect("a string takes everything");
        }
        let (columns, merged) = columns(&self.summary.series);
        let note = match merged {
            1 => String::new(),
            several => format!(
                "; each point is {several} intervals: their mean rate, and the highest of their latencies"
            ),
        };
        let charts = [
            throughput(self.summary, &columns, &note).figure(),
            latency(self.summary, &columns, &note).figure(),
            curve(self.summary).figure(),
            stages(self.breakdown),
            cpu(self.used),
        ];
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>\n{STYLE}</style></head>\n\
             <body><h1>{title}</h1>\n<dl>{facts}</dl>\n{}</body></html>\n",
            charts.concat(),
            title = text(&self.title),
        )
    }
}

/// Adjacent intervals put together so that there are not too many, and how many each is of.
fn columns(points: &[Point]) -> (Vec<Point>, usize) {
    let merged = points.len().div_ceil(COLUMNS_MAX).max(1);
    let merge = |points: &[Point]| {
        let (seconds, answered) = (
            points.iter().map(|point| point.seconds).sum::<f64>(),
            points.iter().map(|point| point.answered).sum::<u64>(),
        );
        let highest = |of: fn(&Point) -> u64| points.iter().map(of).max().unwrap_or(0);
        Point {
            from_s: points[0].from_s,
            seconds,
            answered,
            per_second: if seconds > 0.0 { answered as f64 / seconds } else { 0.0 },
            p50_us: highest(|point| point.p50_us),
            p99_us: highest(|point| point.p99_us),
            max_us: highest(|point| point.max_us),
        }
    };
    (points.chunks(merged).map(merge).collect(), merged)
}

/// Points over time: the middle of each interval.
fn over_time(columns: &[Point], value: impl Fn(&Point) -> f64) -> Vec<(f64, f64)> {
    columns.iter().map(|point| (point.from_s + point.seconds / 2.0, value(point))).collect()
}

fn labelled(scale: &Scale, label: impl Fn(f64) -> String) -> Vec<Tick> {
    scale.ticks().into_iter().map(|tick| (tick, label(tick))).collect()
}

fn seconds(tick: f64) -> String {
    format!("{} s", trimmed(tick))
}

fn throughput(summary: &Summary, columns: &[Point], note: &str) -> Chart {
    // The last interval may be so short that its rate says nothing.
    let usual = columns.first().map_or(0.0, |point| point.seconds);
    let whole: Vec<Point> = columns.iter().filter(|point| point.seconds >= usual * 0.2).cloned().collect();
    let (x, y) = (
        Scale::exact(summary.seconds),
        Scale::linear(whole.iter().map(|point| point.per_second).fold(0.0, f64::max)),
    );
    let steady = match &summary.steady {
        Some(steady) => format!("shaded: the steady part, {} a second", short(steady.per_second)),
        None => "no steady part was found".to_owned(),
    };
    let hover = |point: &Point| {
        let range = (point.from_s, point.from_s + point.seconds);
        (range, format!("second {}: {} transfers/s", trimmed(point.from_s), short(point.per_second)))
    };
    Chart {
        title: "Throughput",
        note: format!("transfers answered a second; {steady}{note}"),
        x,
        y,
        x_ticks: labelled(&x, seconds),
        y_ticks: labelled(&y, short),
        lines: vec![Line {
            class: "first",
            name: "transfers/s",
            points: over_time(&whole, |point| point.per_second),
            is_area: true,
        }],
        band: summary.steady.as_ref().map(|steady| (steady.from_s, steady.from_s + steady.seconds)),
        hovers: whole.iter().map(hover).collect(),
    }
}

fn latency(summary: &Summary, columns: &[Point], note: &str) -> Chart {
    let answered: Vec<Point> = columns.iter().filter(|point| point.answered > 0).cloned().collect();
    let lowest = answered.iter().map(|point| point.p50_us).min().unwrap_or(1);
    let (x, y) = (
        Scale::exact(summary.seconds),
        Scale::log(lowest as f64, answered.iter().map(|point| point.max_us).max().unwrap_or(1) as f64),
    );
    let line = |class, name, value: fn(&Point) -> u64| Line {
        class,
        name,
        points: over_time(&answered, |point| value(point) as f64),
        is_area: false,
    };
    let hover = |point: &Point| {
        let [p50, p99, max] = [point.p50_us, point.p99_us, point.max_us].map(|micros| span(micros as f64));
        let range = (point.from_s, point.from_s + point.seconds);
        (range, format!("second {}: p50 {p50}, p99 {p99}, max {max}", trimmed(point.from_s)))
    };
    let since =
        if summary.open_loop.is_some() { "from the moment that a transfer was due" } else { "from sending" };
    Chart {
        title: "Latency",
        note: format!(
            "{since} to the answer, logarithmic; longest time without an answer {:.1} ms{note}",
            summary.stall_ms
        ),
        x,
        y,
        x_ticks: labelled(&x, seconds),
        y_ticks: labelled(&y, span),
        lines: vec![
            line("third", "max", |point| point.max_us),
            line("second", "p99", |point| point.p99_us),
            line("first", "p50", |point| point.p50_us),
        ],
        band: None,
        hovers: answered.iter().map(hover).collect(),
    }
}

/// Latency by percentile: each step to the right is ten times as rare.
fn curve(summary: &Summary) -> Chart {
    let rarity = |quantile: f64| 1.0 / (1.0 - quantile);
    // The very last point is the slowest of all, which has no rarity: it is as rare as one of all.
    let all = summary.completed.max(1) as f64;
    let points: Vec<(f64, f64)> = summary
        .latency_curve
        .iter()
        .map(|point| (rarity(point.quantile).min(all).max(1.0), point.us as f64))
        .collect();
    let lowest = points.first().map_or(1.0, |point| point.1);
    let (x, y) = (Scale::log(1.0, all), Scale::log(lowest, summary.latency_us.max as f64));
    let percent = |rarity: f64| {
        let text = format!("{:.7}", (1.0 - 1.0 / rarity) * 100.0);
        format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
    };
    let hovers = points.windows(2).map(|pair| {
        let told = format!("{}: {}", percent(pair[1].0), span(pair[1].1));
        ((pair[0].0, pair[1].0), told)
    });
    Chart {
        title: "Latency by percentile",
        note: "so many transfers were at least as fast; both axes logarithmic".to_owned(),
        x,
        y,
        x_ticks: labelled(&x, percent),
        y_ticks: labelled(&y, span),
        hovers: hovers.collect(),
        lines: vec![Line { class: "first", name: "latency", points, is_area: false }],
        band: None,
    }
}

/// Each point of a transfer's way, behind the one before it: Begin and Trys run beside each other.
fn stages(breakdown: &Breakdown) -> String {
    let time = |stage: &Stage| Some((stage.name, stage.after_us?));
    let mut points: Vec<(&str, f64)> = breakdown.stages.iter().filter_map(time).collect();
    if points.is_empty() {
        return String::new();
    }
    points.sort_by(|a, b| a.1.total_cmp(&b.1));
    let before = std::iter::once(0.0).chain(points.iter().map(|point| point.1));
    let bar = |(&(name, after), before): (&(&str, f64), f64)| Bar {
        name: name.to_owned(),
        parts: [before, after - before],
        label: format!("{} (+{})", span(after), span(after - before)),
    };
    let bars: Vec<Bar> = points.iter().zip(before).map(bar).collect();
    let turn = breakdown
        .transfers_per_turn
        .map_or_else(String::new, |transfers| format!("; {} transfers a turn", trimmed(transfers)));
    chart::bars(
        "Stages",
        &format!("mean time since the coordinator took a transfer from its mailbox{turn}"),
        [("first", "up to the point before"), ("second", "since then")],
        &bars,
    )
}

fn cpu(used: &[Used]) -> String {
    if used.is_empty() {
        return String::new();
    }
    let mib = |bytes: u64| bytes >> 20;
    let bar = |used: &Used| Bar {
        name: used.name.clone(),
        parts: [used.user_us_per_transfer, used.system_us_per_transfer],
        label: format!(
            "{} µs, {} MiB (peak {})",
            trimmed(used.user_us_per_transfer + used.system_us_per_transfer),
            mib(used.resident_bytes),
            mib(used.peak_bytes)
        ),
    };
    let bars: Vec<Bar> = used.iter().map(bar).collect();
    chart::bars(
        "CPU by process",
        "microseconds of CPU time for each transfer that was answered; memory at the end",
        [("first", "user"), ("second", "system")],
        &bars,
    )
}

/// Text as HTML has it.
fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: usize) -> Vec<Point> {
        let point = |number: usize| Point {
            from_s: number as f64,
            seconds: 1.0,
            answered: 10,
            per_second: 10.0,
            p50_us: number as u64,
            p99_us: number as u64 + 1,
            max_us: number as u64 + 2,
        };
        (0..count).map(point).collect()
    }

    #[test]
    fn long_runs_are_put_together_without_losing_an_answer() {
        let (columns, merged) = columns(&points(10_000));
        assert!(columns.len() <= COLUMNS_MAX && merged == 17, "{}", columns.len());
        assert_eq!(columns.iter().map(|point| point.answered).sum::<u64>(), 100_000);
        assert_eq!((columns[0].max_us, columns[0].p50_us), (18, 16), "the highest of each");
        assert_eq!(super::columns(&points(3)).1, 1);
    }

    #[test]
    fn what_others_named_does_not_become_html() {
        assert_eq!(text("<b> & \"c\""), "&lt;b&gt; &amp; &quot;c&quot;");
    }
}
