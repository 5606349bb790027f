//! The three charts of the timeline: throughput, latency, and what is unfinished.

use super::columns::{Column, Latency};
use super::html::Html;
use super::scale::Scale;
use super::svg::{self, Field, HEIGHT, WIDTH};
use super::units;
use crate::record::Record;

/// A peak so many times as high as what is usual is cut off, or nothing else could be seen.
const PEAK_MAX: f64 = 3.0;

/// Faults whose beginnings are marked by lines across the charts.
const STRIKES_MAX: usize = 80;

/// Class of a layer, and its upper edge.
type Layer = (&'static str, fn(&Column) -> f64);

/// A chart, without its time axis.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// What the values are, and anything to know when reading them.
    pub(super) note: String,
    /// Class and name of each series.
    pub(super) legend: &'static [(&'static str, &'static str)],
    pub(super) values: Scale,
    pub(super) shapes: String,
}

/// What ended how, a second, with what was submitted.
pub(super) fn throughput(columns: &[Column], time: &Scale) -> Chart {
    let heights = columns.iter().map(|column| column.ended().max(column.submitted));
    let (top, cut) = top_of(heights.collect());
    let values = Scale::linear(top, units::short);
    let field = Field { columns, time, values: &values };
    let mut shapes = Html::default();
    // The sum up to each series, so that one lies upon the other.
    let layers: [Layer; 5] = [
        ("", |_| 0.0),
        ("confirmed", |column| column.confirmed),
        ("canceled", |column| column.confirmed + column.canceled),
        ("refused", |column| column.confirmed + column.canceled + column.refused),
        ("unknown", Column::ended),
    ];
    for pair in layers.windows(2) {
        let (below, (class, above)) = (pair[0].1, pair[1]);
        let area = |column: &Column| Some((below(column), above(column))).filter(|(low, high)| high > low);
        shapes.add(format_args!("{}", field.area(class, area)));
    }
    let submitted = |column: &Column| Some(column.submitted).filter(|rate| *rate > 0.0);
    shapes.add(format_args!("{}", field.line("submitted", submitted)));
    let note = match cut {
        None => "transactions a second, stacked".to_owned(),
        Some(highest) => {
            let over = |column: &Column| Some(top).filter(|top| column.ended().max(column.submitted) > *top);
            shapes.add(format_args!("{}", field.line("cut", over)));
            let highest = units::rate(highest);
            format!(
                "transactions a second, stacked; peaks are cut at the top (thick line), the highest is {highest}"
            )
        }
    };
    let legend = &[
        ("confirmed", "confirmed"),
        ("canceled", "canceled"),
        ("refused", "refused"),
        ("unknown", "unknown to the caller"),
        ("submitted", "submitted"),
    ];
    Chart { title: "Throughput", note, legend, values, shapes: shapes.into_string() }
}

/// The top of an axis for such values and, if it cuts some off, the highest of them.
fn top_of(mut values: Vec<f64>) -> (f64, Option<f64>) {
    values.sort_by(f64::total_cmp);
    let highest = values.last().copied().unwrap_or(0.0);
    let busy: Vec<f64> = values.into_iter().filter(|value| *value > 0.0).collect();
    let usual = busy.get(busy.len() * 3 / 4).copied().unwrap_or(0.0);
    if highest <= usual * PEAK_MAX {
        return (highest, None);
    }
    // The axis ends at a round value; nothing below that is cut.
    let values = Scale::linear(usual * PEAK_MAX / 1.5, units::short);
    (values.high(), Some(highest).filter(|highest| *highest > values.high()))
}

/// Percentiles, the slow ones fading out above the median.
pub(super) fn latency(columns: &[Column], time: &Scale) -> Chart {
    let all = || columns.iter().filter_map(|column| column.latency);
    let lowest = all().map(|latency| latency.p50).min().unwrap_or(1_000).max(1);
    let highest = all().map(|latency| latency.max).max().unwrap_or(1_000).max(1);
    let values = Scale::log(lowest as f64, highest as f64, units::micros_tick);
    let field = Field { columns, time, values: &values };
    let of = |value: fn(&Latency) -> u64| {
        move |column: &Column| column.latency.as_ref().map(|latency| value(latency) as f64)
    };
    let between = |low: fn(&Latency) -> u64, high: fn(&Latency) -> u64| {
        move |column: &Column| column.latency.as_ref().map(|at| (low(at) as f64, high(at) as f64))
    };
    let shapes = [
        field.area("fan3", between(|at| at.p999, |at| at.max)),
        field.area("fan2", between(|at| at.p99, |at| at.p999)),
        field.area("fan1", between(|at| at.p50, |at| at.p99)),
        field.line("max", of(|at| at.max)),
        field.line("p999", of(|at| at.p999)),
        field.line("p99", of(|at| at.p99)),
        field.line("p50", of(|at| at.p50)),
    ];
    let note = "of acknowledged transactions, from the intended time of sending; logarithmic".to_owned();
    let legend = &[("max", "max"), ("p999", "p99.9"), ("p99", "p99"), ("p50", "p50 (median)")];
    Chart { title: "Latency", note, legend, values, shapes: shapes.concat() }
}

/// What has begun and not ended.
pub(super) fn unfinished(columns: &[Column], time: &Scale) -> Chart {
    let gauges = |column: &Column| [column.unfinished, column.in_doubt, column.reservations];
    let highest = columns.iter().flat_map(gauges).flatten().max().unwrap_or(0);
    let values = Scale::log_of_one_more(highest as f64 * 1.2, units::short);
    let field = Field { columns, time, values: &values };
    let of = |gauge: fn(&Column) -> Option<u64>| move |column: &Column| gauge(column).map(|at| at as f64);
    let above_0 = |gauge: fn(&Column) -> Option<u64>| {
        move |column: &Column| gauge(column).filter(|at| *at > 0).map(|at| (0.0, at as f64))
    };
    let shapes = [
        field.area("unfinished-area", above_0(|column| column.unfinished)),
        field.line("reservations", of(|column| column.reservations)),
        field.line("unfinished", of(|column| column.unfinished)),
        field.area("in-doubt", above_0(|column| column.in_doubt)),
    ];
    let mut note = "at the end of each window; logarithmic, and 0 is at the bottom".to_owned();
    if columns.iter().all(|column| column.in_doubt.is_none_or(|in_doubt| in_doubt == 0)) {
        note += "; nothing was ever seen in doubt";
    }
    if columns.iter().any(|column| gauges(column).contains(&None)) {
        note += "; no line where nobody could be asked";
    }
    let legend = &[
        ("unfinished", "unfinished transactions"),
        ("in-doubt", "of them in doubt"),
        ("reservations", "reservations held"),
    ];
    Chart { title: "Unfinished and in doubt", note, legend, values, shapes: shapes.concat() }
}

/// Shades across a chart: the faults, and the recovery after them.
pub(super) fn bands(record: &Record, time: &Scale) -> String {
    let mut svg = Html::default();
    let mut band = |class: &str, begin: f64, end: f64| {
        let (left, right) = (time.at(begin) * WIDTH, time.at(end) * WIDTH);
        let (x, width) = (svg::number(left), svg::number(right - left));
        svg.add(format_args!(r#"<rect class="{class}" x="{x}" width="{width}" height="{HEIGHT}"/>"#));
    };
    for fault in &record.faults {
        let ended = fault.ended_ms.map_or_else(|| record.end_ms() as f64, |ended| ended as f64);
        let drained = fault.drained_ms.filter(|_| fault.is_recovery_measured).unwrap_or(0.0);
        band("struck", fault.begun_ms as f64, ended);
        band("recovering", ended, ended + drained);
    }
    // So many lines would be a curtain; the shades are enough.
    let is_crowded = record.faults.len() > STRIKES_MAX;
    for fault in record.faults.iter().filter(|_| !is_crowded) {
        let x = svg::number(time.at(fault.begun_ms as f64) * WIDTH);
        svg.add(format_args!(r#"<path class="strike" d="M{x} 0V{HEIGHT}"/>"#));
    }
    svg.into_string()
}

#[cfg(test)]
mod tests {
    use super::top_of;

    #[test]
    fn only_a_peak_that_hides_everything_else_is_cut() {
        assert_eq!(top_of(vec![]), (0.0, None));
        assert_eq!(top_of(vec![100.0, 250.0, 120.0, 110.0]), (250.0, None));
        let peak = top_of(vec![0.0, 100.0, 2_500.0, 100.0, 100.0, 100.0, 100.0]);
        assert_eq!(peak, (200.0, Some(2_500.0)));
    }
}
