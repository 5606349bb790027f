//! The page as a whole. It refers to nothing outside of itself, and is complete without its script.

use super::html::{Html, Text};
use super::{headline, replicas, tables, timeline};
use crate::record::Record;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("readout.js");

const GLOSSARY: [(&str, &str); 9] = [
    (
        "confirmed, canceled",
        "The caller was told the final outcome, and all branches of the transaction must have it: all posted, or all \
         released.",
    ),
    (
        "refused",
        "The caller was told that the call certainly had no effect, such as while the coordinator was down.",
    ),
    (
        "unknown",
        "The caller gave up without a final answer. Whether the transaction was confirmed is found out in the end; it \
         must have happened completely or not at all.",
    ),
    (
        "latency",
        "Measured from the time at which a transaction was intended to be sent, not from when it was really sent. So the \
         time that it waits because everything is slow counts too, and a pause of the servers cannot hide.",
    ),
    (
        "p99",
        "99 % of what was acknowledged in that time took no longer. Likewise p50 (the median) and p99.9.",
    ),
    (
        "in doubt",
        "Begun, not finished, and older than a threshold, or left over by a crash, or with a failing branch.",
    ),
    (
        "first resolution",
        "From when the target of a fault was back until the first transaction in doubt was resolved.",
    ),
    (
        "drain",
        "From when the target of a fault was back until none of the transactions that it left in doubt was left.",
    ),
    (
        "outage",
        "A stretch of windows in which transactions were submitted and none was acknowledged. Windows have 250 ms, so \
         shorter ones are not seen.",
    ),
];

/// The report. The same record gives the same bytes.
pub(super) fn page(record: &Record) -> String {
    let mut html = Html::default();
    let title = format!("{} · {} · Escrow chaos report", headline::judgement(record), record.scenario);
    html.add(format_args!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<p class=\"kind\">Escrow chaos report</p>\n",
        Text(&title)
    ));
    html.add(format_args!("{}{}", headline::headline(record), headline::figures(record)));
    html.add(format_args!("{}", replicas::losses(record)));
    html.add(format_args!("{}", timeline::timeline(record)));
    html.add(format_args!("{}{}", tables::faults(record), tables::verdicts(record)));
    reproduce(&mut html, record);
    glossary(&mut html);
    html.add(format_args!("</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"));
    html.into_string()
}

fn reproduce(html: &mut Html, record: &Record) {
    html.add(format_args!(
        "<section>\n<h2>How to reproduce</h2>\n<pre><code>{}</code></pre>\n\
         <p class=\"note\">The seed {} decides every choice of load and of faults. Real processes run on a real clock, so \
         what meets at one instant differs from run to run, and the figures with it; the checks must hold every time. \
         Everything shown here is also in <code>summary.json</code>.</p>\n</section>\n",
        Text(&record.reproduce),
        record.seed,
    ));
}

fn glossary(html: &mut Html) {
    html.add(format_args!("<section>\n<h2>Words</h2>\n<dl class=\"glossary\">\n"));
    for (word, meaning) in GLOSSARY {
        html.add(format_args!("<div><dt>{word}</dt><dd>{}</dd></div>\n", Text(meaning)));
    }
    html.add(format_args!("</dl>\n</section>\n"));
}
