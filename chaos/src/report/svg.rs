//! Shapes over time, as SVG paths in a field of [`WIDTH`] × [`HEIGHT`] that the page stretches to the room there is.
//!
//! Values of one column are one step; where there is no value there is no line.

use std::fmt::Write;

use super::columns::Column;
use super::scale::Scale;

/// Units from left to right.
pub(super) const WIDTH: f64 = 1_000.0;
/// Units from top to bottom.
pub(super) const HEIGHT: f64 = 100.0;

/// Where columns and values are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) columns: &'a [Column],
    pub(super) time: &'a Scale,
    pub(super) values: &'a Scale,
}

/// One column as a shape has it: left, right, upper edge, lower edge.
type Step = (f64, f64, f64, f64);

impl Field<'_> {
    /// A line in steps.
    pub(super) fn line(&self, class: &str, value: impl Fn(&Column) -> Option<f64>) -> String {
        let mut d = String::new();
        for run in self.runs(|column| value(column).map(|value| (value, value))) {
            let mut pen = Pen::put_down(&mut d, run[0].0, run[0].2);
            pen.edge(run.iter().map(|step| (step.1, step.2)));
        }
        path(class, &d)
    }

    /// The area between two lines in steps.
    pub(super) fn area(&self, class: &str, values: impl Fn(&Column) -> Option<(f64, f64)>) -> String {
        let mut d = String::new();
        for run in self.runs(values) {
            let mut pen = Pen::put_down(&mut d, run[0].0, run[0].2);
            pen.edge(run.iter().map(|step| (step.1, step.2)));
            pen.edge(run.iter().rev().map(|step| (step.0, step.3)));
            d.push('Z');
        }
        path(class, &d)
    }

    /// Columns with values, as long as one follows the other without a gap.
    fn runs(&self, values: impl Fn(&Column) -> Option<(f64, f64)>) -> Vec<Vec<Step>> {
        let mut runs: Vec<Vec<Step>> = Vec::new();
        let mut last_end_ms = None;
        for column in self.columns {
            let Some((lower, upper)) = values(column) else {
                last_end_ms = None;
                continue;
            };
            let x = |ms: u64| self.time.at(ms as f64) * WIDTH;
            let y = |value| (1.0 - self.values.at(value)) * HEIGHT;
            let step = (x(column.begin_ms), x(column.end_ms), y(upper), y(lower));
            match runs.last_mut().filter(|_| last_end_ms == Some(column.begin_ms)) {
                Some(run) => run.push(step),
                None => runs.push(vec![step]),
            }
            last_end_ms = Some(column.end_ms);
        }
        runs
    }
}

fn path(class: &str, d: &str) -> String {
    if d.is_empty() { String::new() } else { format!(r#"<path class="{class}" d="{d}"/>"#) }
}

/// Draws along steps. What does not change is not written.
struct Pen<'a> {
    d: &'a mut String,
    y: String,
}

impl<'a> Pen<'a> {
    fn put_down(d: &'a mut String, x: f64, y: f64) -> Self {
        let y = number(y);
        write!(d, "M{} {y}", number(x)).expect("a string takes everything");
        Self { d, y }
    }

    /// Each step: first to its height, then to its far side.
    fn edge(&mut self, steps: impl Iterator<Item = (f64, f64)>) {
        let mut far_side = None;
        for (far, y) in steps {
            let y = number(y);
            if self.y != y {
                self.across(far_side);
                write!(self.d, "V{y}").expect("a string takes everything");
                self.y = y;
            }
            far_side = Some(far);
        }
        self.across(far_side);
    }

    fn across(&mut self, far_side: Option<f64>) {
        if let Some(x) = far_side {
            write!(self.d, "H{}", number(x)).expect("a string takes everything");
        }
    }
}

/// A hundredth of a unit is finer than any screen.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// A place along an axis as CSS wants it.
pub(super) fn percent(at: f64) -> String {
    format!("{}%", number(at * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, Sample, WINDOW_MS};
    use crate::report::{columns, units};

    fn columns_of(in_doubt: &[Option<u64>]) -> Vec<Column> {
        let sample = |(at, in_doubt): (usize, &Option<u64>)| Sample {
            at_ms: at as u64 * WINDOW_MS,
            in_doubt: *in_doubt,
            ..Sample::default()
        };
        let samples = in_doubt.iter().enumerate().map(sample).collect();
        columns::columns(&Record { samples, ..Record::default() })
    }

    fn check(in_doubt: &[Option<u64>], line: &str, area: &str) {
        let columns = columns_of(in_doubt);
        let time = Scale::time(in_doubt.len() as u64 * WINDOW_MS);
        let values = Scale::linear(10.0, units::short);
        let field = Field { columns: &columns, time: &time, values: &values };
        let value = |column: &Column| column.in_doubt.map(|value| value as f64);
        let expect =
            |d: &str| if d.is_empty() { String::new() } else { format!(r#"<path class="c" d="{d}"/>"#) };
        assert_eq!(field.line("c", value), expect(line));
        assert_eq!(field.area("c", |column| value(column).map(|value| (0.0, value))), expect(area));
    }

    #[test]
    fn values_are_steps() {
        check(
            &[Some(5), Some(5), Some(10), Some(0)],
            "M0 50H500V0H750V100H1000",
            "M0 50H500V0H750V100H1000H0Z",
        );
    }

    #[test]
    fn where_there_is_no_value_there_is_no_line() {
        check(&[None, None], "", "");
        check(
            &[Some(12), None, None, Some(12)],
            "M0 0H250M750 0H1000",
            "M0 0H250V100H0ZM750 0H1000V100H750Z",
        );
    }
}
