//! How a chaos run goes, on stderr: a bar on a terminal, else a line now and then.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use escrow_chaos::engine::Event;
use escrow_chaos::record::{Sample, WINDOW_MS};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc::UnboundedReceiver;

/// Without a terminal, a line of figures every so many windows.
const LINE_EVERY: u64 = 5_000 / WINDOW_MS;

/// Shows events until there are no more.
pub(super) async fn show(mut events: UnboundedReceiver<Event>, duration: Duration) {
    let bar = if std::io::stderr().is_terminal() {
        let template = "{wide_bar} {msg}";
        ProgressBar::new(duration.as_millis() as u64)
            .with_style(ProgressStyle::with_template(template).expect("the template is a constant"))
    } else {
        ProgressBar::hidden()
    };
    let mut windows = 0;
    let mut since: Vec<Sample> = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Step(what) => say(&bar, &format!("        {what}")),
            Event::Fault(at_ms, what) => say(&bar, &format!("{} {what}", moment(at_ms))),
            Event::Verdict(verdict) if !verdict.ok => {
                say(&bar, &format!("      ✗ {}: {}", verdict.check, verdict.detail));
            }
            Event::Verdict(_) => {}
            Event::Window(sample) => {
                windows += 1;
                since.push(sample);
                bar.set_position(sample.at_ms);
                bar.set_message(figures(&[sample]));
                if windows % LINE_EVERY == 0 {
                    if bar.is_hidden() {
                        say(&bar, &format!("{} {}", moment(sample.at_ms + WINDOW_MS), figures(&since)));
                    }
                    since.clear();
                }
            }
        }
    }
    bar.finish_and_clear();
}

fn say(bar: &ProgressBar, text: &str) {
    if bar.is_hidden() {
        // Nobody may be reading; the run goes on.
        let _ = writeln!(std::io::stderr(), "{text}");
    } else {
        bar.println(text);
    }
}

fn moment(at_ms: u64) -> String {
    format!("{:>5}.{} s", at_ms / 1_000, at_ms % 1_000 / 100)
}

/// Some windows in a line.
fn figures(samples: &[Sample]) -> String {
    let seconds = samples.len() as f64 * WINDOW_MS as f64 / 1e3;
    let acknowledged: u64 = samples.iter().map(Sample::acknowledged).sum();
    let slowest = samples.iter().map(|sample| sample.p99_us).max().unwrap_or(0);
    let in_doubt = samples.iter().rev().find_map(|sample| sample.in_doubt);
    let in_doubt = in_doubt.map_or_else(|| "-".to_owned(), |count| count.to_string());
    format!(
        "{:.0} a second acknowledged, p99 {:.1} ms, {in_doubt} in doubt",
        acknowledged as f64 / seconds,
        slowest as f64 / 1e3
    )
}
