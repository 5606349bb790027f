//! What the loss of a leader costs: for how long its group was unavailable, and what availability follows from that.

use serde::Serialize;

use super::html::{Html, Text};
use super::units;
use crate::record::{LOSSES_A_DAY, Record, Unavailability};

const DEFINITION: &str = "A group is unavailable from the moment at which its leader is struck until the first transfer is confirmed to \
                          its caller that needs the group and was due after the leader was gone.";
const FORMULA: &str = "availability = 1 - losses a day * mean unavailability / 86,400 s";
/// Kinds of groups, by how their names begin.
const KINDS: [(&str, &str); 3] = [("all", ""), ("shards", "shard-"), ("coordinators", "coordinator-")];

/// The same for programs.
#[derive(Debug, Serialize)]
pub(super) struct Availability {
    definition: &'static str,
    formula: &'static str,
    losses_a_day: f64,
    /// Losses after which the group was not seen to serve again.
    unmeasured: usize,
    #[serde(flatten)]
    all: Unavailability,
    shards: Option<Unavailability>,
    coordinators: Option<Unavailability>,
}

/// `None` if no group was seen to serve again after the loss of its leader.
pub(super) fn availability(record: &Record) -> Option<Availability> {
    let [all, shards, coordinators] = KINDS.map(|(_, groups)| record.unavailability(groups));
    let all = all?;
    let unmeasured = record.leader_losses().count() - all.losses;
    let (definition, formula, losses_a_day) = (DEFINITION, FORMULA, LOSSES_A_DAY);
    Some(Availability { definition, formula, losses_a_day, unmeasured, all, shards, coordinators })
}

/// The section of the page; nothing if no leader was lost.
pub(super) fn losses(record: &Record) -> String {
    let Some(Availability { all, unmeasured, .. }) = availability(record) else { return String::new() };
    let mut html = Html::default();
    html.add(format_args!(
        "<section>\n<h2>Lost leaders</h2>\n<div class=\"scroll\" tabindex=\"0\"><table class=\"faults\">\n<thead><tr><th>Groups</th>\
         <th class=\"n\">Losses</th><th class=\"n\">Shortest</th><th class=\"n\">p50</th><th class=\"n\">Mean</th>\
         <th class=\"n\">p99</th><th class=\"n\">Longest</th></tr></thead>\n<tbody>\n"
    ));
    for (name, groups) in KINDS {
        if let Some(of_kind) = record.unavailability(groups) {
            row(&mut html, name, &of_kind);
        }
    }
    html.add(format_args!("</tbody></table></div>\n"));
    let never = match unmeasured {
        0 => String::new(),
        unmeasured => format!(" {unmeasured} more: not seen to serve again."),
    };
    let computed = format!(
        "{FORMULA}. For {LOSSES_A_DAY} loss of a leader a day of each group: 1 - {LOSSES_A_DAY} * {:.3} s / 86,400 s = {:.5} %.",
        all.mean_ms / 1e3,
        all.availability * 100.0
    );
    html.add(format_args!(
        "<p class=\"note\">{} Each loss is measured to the distance of two transfers.{}</p>\n<p class=\"note\">{}</p>\n</section>\n",
        Text(DEFINITION),
        Text(&never),
        Text(&computed)
    ));
    html.into_string()
}

fn row(html: &mut Html, name: &str, of_kind: &Unavailability) {
    let Unavailability { losses, min_ms, mean_ms, p50_ms, p99_ms, max_ms, .. } = *of_kind;
    html.add(format_args!("<tr><td>{name}</td><td class=\"n\">{losses}</td>"));
    for value in [min_ms, p50_ms, mean_ms, p99_ms, max_ms] {
        html.add(format_args!("<td class=\"n\">{}</td>", units::millis(value)));
    }
    html.add(format_args!("</tr>\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Fault;

    fn record() -> Record {
        let loss = |group: &str, unavailable_ms| Fault {
            leader_of: Some(group.to_owned()),
            unavailable_ms,
            ..Fault::default()
        };
        let faults =
            vec![loss("shard-0", Some(600.0)), loss("coordinator-0", Some(1_000.0)), loss("shard-1", None)];
        Record { faults, ..Record::default() }
    }

    #[test]
    fn the_figures_come_with_their_definition_and_formula() {
        let page = losses(&record()).replace('\u{a0}', " ");
        for text in [
            "shards",
            "coordinators",
            "86,400 s",
            "1 - 1 * 0.800 s / 86,400 s = 99.99907 %",
            "1 more: not seen",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
        let json = serde_json::to_value(availability(&record())).unwrap();
        assert_eq!((json["losses"].as_u64(), json["unmeasured"].as_u64()), (Some(2), Some(1)));
        assert_eq!(
            (json["p99_ms"].as_f64(), json["shards"]["max_ms"].as_f64()),
            (Some(1_000.0), Some(600.0))
        );
        assert!(json["formula"].as_str().is_some_and(|formula| formula.contains("losses a day")));
    }

    #[test]
    fn nothing_is_said_where_no_leader_was_lost() {
        assert_eq!(losses(&Record::default()), "");
        assert!(availability(&Record::default()).is_none());
    }
}
