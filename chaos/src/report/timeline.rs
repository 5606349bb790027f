//! What happened when: the faults and three charts, all on one time axis.

use super::charts::{self, Chart};
use super::columns::{self, Column};
use super::html::{Html, Text};
use super::scale::Scale;
use super::{lanes, svg, units};
use crate::record::{Record, WINDOW_MS};

/// The whole figure.
pub(super) fn timeline(record: &Record) -> String {
    let time = Scale::time(record.end_ms());
    let columns = columns::columns(record);
    let mut html = Html::default();
    html.add(format_args!("<section id=\"timeline\">\n<h2>Timeline</h2>\n"));
    if columns.is_empty() {
        html.add(format_args!("<p class=\"note\">No samples were taken in this run.</p>\n</section>\n"));
        return html.into_string();
    }
    html.add(format_args!("<p class=\"note\">{}</p>\n<div class=\"timeline\">\n", how_to_read(record)));
    fault_lanes(&mut html, record, &time);
    let bands = charts::bands(record, &time);
    let charts = [
        charts::throughput(&columns, &time),
        charts::latency(&columns, &time),
        charts::unfinished(&columns, &time),
    ];
    for chart in &charts {
        draw(&mut html, chart, &time, &bands);
    }
    axis(&mut html, &time);
    html.add(format_args!("<div id=\"readout\" hidden></div>\n</div>\n"));
    html.add(format_args!("{}", data(record, &columns)));
    html.add(format_args!("</section>\n"));
    html.into_string()
}

fn how_to_read(record: &Record) -> String {
    let step_ms = columns::windows_a_column(record) * WINDOW_MS;
    let step = units::length(step_ms);
    let of_many = if step_ms > WINDOW_MS {
        let window = units::length(WINDOW_MS);
        format!(": rates are averages of it, everything else is the highest of its windows of {window}")
    } else {
        String::new()
    };
    format!("Time counts from the start of the run. Every step is {step}{of_many}.")
}

fn fault_lanes(html: &mut Html, record: &Record, time: &Scale) {
    let (lanes, is_complete) = lanes::lanes(record, time);
    let note = match (record.faults.len(), is_complete) {
        (0, _) => "none in this run",
        (_, true) => "numbered as in the table below",
        (_, false) => "numbered as in the table below; numbers that would overlap are left out",
    };
    html.add(format_args!(
        "<figure class=\"chart\"><figcaption><b>Faults</b> <span>{note}</span>{}</figcaption>\n{lanes}</figure>\n",
        if record.faults.is_empty() {
            ""
        } else {
            "<ul class=\"legend\"><li><i class=\"struck\"></i>fault</li><li><i class=\"recovering\"></i>drain after it</li></ul>"
        }
    ));
    if !record.faults.is_empty() {
        axis(html, time);
    }
}

fn draw(html: &mut Html, chart: &Chart, time: &Scale, bands: &str) {
    let Chart { title, note, legend, values, shapes } = chart;
    html.add(format_args!("<figure class=\"chart\"><figcaption><b>{title}</b> <span>{}</span>", Text(note)));
    html.add(format_args!("<ul class=\"legend\">"));
    for (class, name) in *legend {
        html.add(format_args!("<li><i class=\"{class}\"></i>{}</li>", Text(name)));
    }
    html.add(format_args!("</ul></figcaption>\n<div class=\"plot\">"));
    for tick in &values.ticks {
        let top = svg::percent(1.0 - tick.at);
        html.add(format_args!("<span class=\"y\" style=\"top:{top}\">{}</span>", Text(&tick.label)));
    }
    let (width, height) = (svg::WIDTH, svg::HEIGHT);
    html.add(format_args!(
        "<svg viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} over time: {}\">",
        Text(title),
        Text(note),
    ));
    for tick in &time.ticks {
        let x = svg::number(tick.at * width);
        html.add(format_args!("<path class=\"grid\" d=\"M{x} 0V{height}\"/>"));
    }
    for tick in &values.ticks {
        let y = svg::number((1.0 - tick.at) * height);
        html.add(format_args!("<path class=\"grid\" d=\"M0 {y}H{width}\"/>"));
    }
    html.add(format_args!("{bands}{shapes}</svg><i class=\"cursor\" hidden></i></div></figure>\n"));
}

fn axis(html: &mut Html, time: &Scale) {
    html.add(format_args!("<div class=\"axis\" aria-hidden=\"true\">"));
    for tick in &time.ticks {
        let left = svg::percent(tick.at);
        html.add(format_args!("<span style=\"left:{left}\">{}</span>", Text(&tick.label)));
    }
    html.add(format_args!("</div>\n"));
}

/// What the read-out under the pointer shows; without scripts nothing but the read-out is missing.
fn data(record: &Record, columns: &[Column]) -> String {
    let row = |column: &Column| {
        let latency = column.latency;
        let rates = [column.submitted, column.confirmed, column.canceled, column.refused, column.unknown];
        let rates = rates.map(units::whole);
        let percentiles = latency.map(|at| [at.p50, at.p99, at.p999, at.max]);
        let gauges = [column.unfinished, column.in_doubt, column.reservations];
        serde_json::json!([column.begin_ms, column.end_ms, rates, percentiles, gauges])
    };
    let rows: Vec<_> = columns.iter().map(row).collect();
    let faults: Vec<_> = record
        .faults
        .iter()
        .map(|fault| {
            let ended = fault.ended_ms.unwrap_or_else(|| record.end_ms());
            serde_json::json!([fault.begun_ms, ended, fault.over_ms().max(ended), fault.what, fault.target])
        })
        .collect();
    let data = serde_json::json!({ "end": record.end_ms(), "rows": rows, "faults": faults }).to_string();
    // Nothing in it may end the element that it is in.
    let data = data.replace('<', "\\u003c");
    format!("<script type=\"application/json\" id=\"data\">{data}</script>\n")
}
