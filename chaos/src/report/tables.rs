//! The table of faults with the recovery after each, and the table of verdicts.

use escrow_invariants::Invariant;

use super::html::{Html, Text};
use super::{lanes, units};
use crate::record::{Fault, Record, Verdict};

/// Faults with bars, that share one scale a column.
pub(super) fn faults(record: &Record) -> String {
    let mut html = Html::default();
    html.add(format_args!("<section>\n<h2>Faults and recovery</h2>\n"));
    if record.faults.is_empty() {
        html.add(format_args!("<p class=\"note\">No faults in this run.</p>\n</section>\n"));
        return html.into_string();
    }
    let worst_resolution = record.first_resolutions_ms().last().copied().unwrap_or(0.0);
    let worst_drain = record.drains_ms().last().copied().unwrap_or(0.0);
    html.add(format_args!(
        "<div class=\"scroll\" tabindex=\"0\"><table class=\"faults\">\n<thead><tr><th class=\"n\">#</th><th>What</th><th>Target</th>\
         <th>When</th><th class=\"n\">In doubt at return</th><th class=\"n\">First resolution</th>\
         <th class=\"n\">Drain</th></tr></thead>\n<tbody>\n"
    ));
    for (at, fault) in record.faults.iter().enumerate() {
        let number = at + 1;
        html.add(format_args!("<tr id=\"fault-{number}\"><td class=\"n\">{number}</td>"));
        html.add(format_args!("<td>{}</td><td>{}</td>", Text(&fault.what), Text(&fault.target)));
        html.add(format_args!("<td class=\"when\">{}</td>", Text(&lanes::when(fault))));
        recovery(&mut html, fault, worst_resolution, worst_drain);
        html.add(format_args!("</tr>\n"));
    }
    html.add(format_args!("</tbody></table></div>\n"));
    html.add(format_args!(
        "<p class=\"note\">Both are counted from when the target was back. Bars: full width is the worst of the run, {} \
         and {}.</p>\n</section>\n",
        units::millis(worst_resolution),
        units::millis(worst_drain),
    ));
    html.into_string()
}

fn recovery(html: &mut Html, fault: &Fault, worst_resolution: f64, worst_drain: f64) {
    if !fault.is_recovery_measured {
        html.add(format_args!("<td class=\"none\" colspan=\"3\">recovery not measured</td>"));
        return;
    }
    match fault.in_doubt_at_return {
        Some(in_doubt) => html.add(format_args!("<td class=\"n\">{}</td>", units::count(in_doubt))),
        None => html.add(format_args!("<td class=\"n none\">not asked</td>")),
    }
    let is_missed = fault.in_doubt_at_return.is_some_and(|in_doubt| in_doubt > 0);
    for (value, worst) in [(fault.first_resolution_ms, worst_resolution), (fault.drained_ms, worst_drain)] {
        match value {
            Some(value) => {
                let width = if worst > 0.0 { value / worst * 100.0 } else { 0.0 };
                let value = units::millis(value);
                html.add(format_args!(
                    "<td class=\"n\"><div class=\"bars\"><i><b style=\"width:{width:.1}%\"></b></i><span>{value}</span></div></td>"
                ));
            }
            None if is_missed => html.add(format_args!("<td class=\"n missed\">✕ never</td>")),
            None => html.add(format_args!("<td class=\"n none\">none needed</td>")),
        }
    }
}

/// Every check with what it checks; those that failed first.
pub(super) fn verdicts(record: &Record) -> String {
    let mut html = Html::default();
    html.add(format_args!("<section>\n<h2>Checks</h2>\n"));
    if record.verdicts.is_empty() {
        html.add(format_args!("<p class=\"note\">Nothing was checked in this run.</p>\n</section>\n"));
        return html.into_string();
    }
    html.add(format_args!(
        "<table class=\"verdicts\">\n<thead><tr><th>Result</th><th>Check</th><th>Invariants</th></tr></thead>\n<tbody>\n"
    ));
    let mut verdicts: Vec<&Verdict> = record.verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| verdict.ok);
    for verdict in verdicts {
        let (class, result) = if verdict.ok { ("ok", "✓ holds") } else { ("failed", "✕ FAILED") };
        html.add(format_args!("<tr class=\"{class}\"><td class=\"result\">{result}</td>"));
        html.add(format_args!("<td><b>{}</b>", Text(&verdict.check)));
        if !verdict.detail.is_empty() {
            html.add(format_args!("<p class=\"detail\">{}</p>", Text(&verdict.detail)));
        }
        html.add(format_args!("</td><td><ul class=\"invariants\">"));
        for id in &verdict.invariants {
            html.add(format_args!("<li><b>{id}</b> {}</li>", Text(text(*id))));
        }
        html.add(format_args!("</ul></td></tr>\n"));
    }
    html.add(format_args!("</tbody></table>\n{}</section>\n", unchecked(record)));
    html.into_string()
}

fn text(id: u8) -> &'static str {
    let invariant = Invariant::ALL.iter().find(|invariant| invariant.id() == id);
    invariant.map_or("(no invariant has this id)", |invariant| invariant.text())
}

/// What this run says nothing of.
fn unchecked(record: &Record) -> String {
    let is_checked = |id| record.verdicts.iter().any(|verdict| verdict.invariants.contains(&id));
    let ids: Vec<String> = Invariant::ALL
        .iter()
        .map(|invariant| invariant.id())
        .filter(|id| !is_checked(*id))
        .map(|id| id.to_string())
        .collect();
    match ids.len() {
        0 => "<p class=\"note\">Together these are all invariants.</p>\n".to_owned(),
        1 => format!("<p class=\"note\">Not checked by this run: invariant {}.</p>\n", ids[0]),
        _ => format!("<p class=\"note\">Not checked by this run: invariants {}.</p>\n", ids.join(", ")),
    }
}
