//! The page as a whole, of records of every kind.

mod synthetic;

use synthetic::{CALM, CROWD, FLOOD, KILLS, failed, record};

use crate::record::{Fault, Record, Verdict};

/// Elements that have no end tag.
const VOID: [&str; 2] = ["meta", "!DOCTYPE"];

/// Every tag that begins ends, in the right order; styles and scripts are skipped.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        let name = tag.split([' ', '\n', '/']).find(|name| !name.is_empty()).expect("a tag has a name");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> ends what is open");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
            if ["style", "script"].contains(&name) {
                let end = rest.find(&format!("</{name}>")).expect("it ends");
                rest = &rest[end..];
            }
        }
    }
    assert!(open.is_empty(), "{open:?} never end");
}

fn page(record: &Record) -> String {
    let page = super::html(record);
    assert_well_formed(&page);
    for outside in ["http:", "https:", "src=", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "the page refers to {outside}");
    }
    for wrong in ["NaN", "inf%", "None", "Some("] {
        assert!(!page.contains(wrong), "the page says {wrong}");
    }
    page
}

fn assert_says(page: &str, texts: &[&str]) {
    let page = page.replace('\u{a0}', " ");
    for text in texts {
        assert!(page.contains(text), "the page does not say {text:?}");
    }
}

#[test]
fn an_empty_record_is_a_page_that_claims_nothing() {
    let page = page(&Record::default());
    let says = ["Nothing was checked", "No samples were taken", "No faults in this run"];
    assert_says(&page, &says);
    assert!(!page.contains("hold</h1>"));
}

#[test]
fn a_sound_run_says_so_first() {
    let page = page(&record(&CALM));
    let says = [
        "<h1>All 6 checks hold</h1>",
        "4,000 transactions a second",
        "1 coordinator, 3 participants",
        "--seed 42",
        "Not checked by this run: invariants 5, 7, 11.",
    ];
    assert_says(&page, &says);
    assert!(!page.contains("FAILED"));
}

#[test]
fn a_crowded_run_with_one_failed_check_says_what_failed_and_shows_every_fault() {
    let mut record = record(&CROWD);
    record.verdicts.push(failed());
    let page = page(&record);
    let says = [
        "VIOLATION: 1 of 7 checks failed",
        "✕ FAILED",
        "account &lt;b&gt;p2-0017&lt;/b&gt; has 98,200 &amp; should have 98,300",
        "id=\"fault-200\"",
        "numbers that would overlap are left out",
        "What was acknowledged survives kill -9",
    ];
    assert_says(&page, &says);
    assert!(!page.contains("checks hold"));
    assert_eq!(page.matches("class=\"bar\"").count(), 200);
}

#[test]
fn a_long_story_of_a_failure_is_cut_in_the_banner_only() {
    let mut record = record(&CALM);
    record.verdicts.push(Verdict { detail: "né ".repeat(500), ..failed() });
    let page = page(&record);
    assert_says(&page, &["… (all of it under “Checks”)", &"né ".repeat(500)]);
}

#[test]
fn what_never_drained_is_not_hidden_by_the_median() {
    let mut record = record(&KILLS);
    record.faults[3].drained_ms = None;
    let page = page(&record);
    assert_says(&page, &["1 never drained", "✕ never", "1 measured fault left transactions in doubt"]);
}

#[test]
fn totals_that_do_not_add_up_are_noticed() {
    let mut record = record(&CALM);
    record.totals.submitted += 1;
    record.totals.held_back = 5;
    assert_says(&page(&record), &["the totals do not add up", "5 submissions left out"]);
}

#[test]
fn a_fault_that_never_ends_and_one_of_no_length_are_drawn() {
    let mut record = record(&CALM);
    let fault = |begun_ms, ended_ms| Fault { begun_ms, ended_ms, what: "cut".into(), ..Fault::default() };
    record.faults = vec![fault(5_000, None), fault(9_000, Some(9_000))];
    assert_says(&page(&record), &["from 0:05.0 to the end", "at 0:09.0 for 0 ms", "recovery not measured"]);
}

#[test]
fn names_cannot_break_the_page() {
    let mut record = record(&FLOOD);
    record.scenario = "</title><script>alert(1)</script>".into();
    record.faults[0].target = "\"><script>alert(2)</script></script>".into();
    let page = page(&record);
    assert!(!page.contains("<script>alert"));
}

#[test]
fn the_same_record_gives_the_same_bytes() {
    let (first, second) = (record(&KILLS), record(&KILLS));
    assert_eq!(super::html(&first), super::html(&second));
    assert_eq!(super::json(&first).unwrap(), super::json(&second).unwrap());
}

#[test]
fn files_are_written_and_the_summary_is_the_record() {
    let dir = tempfile::tempdir().unwrap();
    for plan in [&KILLS, &FLOOD] {
        let record = record(plan);
        let files = super::write(&record, &dir.path().join("reports")).unwrap();
        let json = std::fs::read_to_string(files.json).unwrap();
        assert!(serde_json::from_str::<Record>(&json).unwrap() == record);
        assert_eq!(json.lines().filter(|line| line.contains("\"at_ms\"")).count(), record.samples.len());
        assert!(json.starts_with("{\n  \"is_sound\": true,"));
        assert_eq!(std::fs::read_to_string(files.html).unwrap(), super::html(&record));
    }
    let empty = super::json(&Record::default()).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&empty).unwrap(), Record::default());
}
