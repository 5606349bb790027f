//! Charts as SVG: lines over an x axis, and bars. Colours and text come from the style sheet of the page.

use std::fmt::Write as _;

use super::scale::Scale;
use super::text;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
/// Half a label of the last tick fits in.
const RIGHT: f64 = 40.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;

/// A line of a chart: its class in the style sheet, its name, and its points.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) class: &'static str,
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
    /// Whether the space below it is filled.
    pub(super) is_area: bool,
}

/// A tick with its label.
pub(super) type Tick = (f64, String);

/// Lines over an axis.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) note: String,
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) x_ticks: Vec<Tick>,
    pub(super) y_ticks: Vec<Tick>,
    pub(super) lines: Vec<Line>,
    /// A part of the x axis that is shaded.
    pub(super) band: Option<(f64, f64)>,
    /// What is told where the pointer is: the range on the x axis, and the text.
    pub(super) hovers: Vec<((f64, f64), String)>,
}

impl Chart {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.at(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.at(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// With its title, as a part of the page.
    pub(super) fn figure(&self) -> String {
        let mut svg = String::new();
        if let Some((from, to)) = self.band {
            let (left, right) = (self.x(from), self.x(to));
            rectangle(&mut svg, "band", (left, TOP), (right - left, HEIGHT - TOP - BOTTOM));
        }
        self.axes(&mut svg);
        for line in &self.lines {
            self.line(&mut svg, line);
        }
        for ((from, to), told) in &self.hovers {
            let (left, right) = (self.x(*from), self.x(*to));
            let (width, height) = (right - left, HEIGHT - TOP - BOTTOM);
            put(
                &mut svg,
                format_args!(
                    "<rect class=\"hover\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"><title>{}</title></rect>",
                    text(told)
                ),
            );
        }
        let legend: String =
            if self.lines.len() > 1 { self.lines.iter().map(chip).collect() } else { String::new() };
        figure(self.title, &self.note, &legend, HEIGHT, &svg)
    }

    fn axes(&self, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (value, label) in &self.y_ticks {
            let y = self.y(*value);
            put(svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>"));
            put(
                svg,
                format_args!(
                    "<text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>",
                    LEFT - 8.0,
                    y + 4.0,
                    text(label)
                ),
            );
        }
        for (value, label) in &self.x_ticks {
            let x = self.x(*value);
            put(svg, format_args!("<path class=\"tick\" d=\"M{x:.1} {bottom}v5\"/>"));
            put(
                svg,
                format_args!("<text class=\"x\" x=\"{x:.1}\" y=\"{}\">{}</text>", bottom + 20.0, text(label)),
            );
        }
        put(svg, format_args!("<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>"));
    }

    fn line(&self, svg: &mut String, line: &Line) {
        let mut path = String::new();
        for (number, (x, y)) in line.points.iter().enumerate() {
            let command = if number == 0 { 'M' } else { 'L' };
            put(&mut path, format_args!("{command}{:.1} {:.1}", self.x(*x), self.y(*y)));
        }
        let (Some(first), Some(last)) = (line.points.first(), line.points.last()) else { return };
        if line.is_area {
            let bottom = HEIGHT - BOTTOM;
            let (from, to) = (self.x(first.0), self.x(last.0));
            put(
                svg,
                format_args!(
                    "<path class=\"area {}\" d=\"{path}L{to:.1} {bottom}L{from:.1} {bottom}Z\"/>",
                    line.class
                ),
            );
        }
        put(svg, format_args!("<path class=\"line {}\" d=\"{path}\"/>", line.class));
    }
}

/// A bar of two parts, one behind the other, and what is written after it.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) parts: [f64; 2],
    pub(super) label: String,
}

/// Bars one below the other; the names of their parts.
pub(super) fn bars(
    title: &str,
    note: &str,
    parts: [(&'static str, &'static str); 2],
    bars: &[Bar],
) -> String {
    const ROW: f64 = 30.0;
    const NAMES: f64 = 190.0;
    const LABELS: f64 = 210.0;
    const GAP: f64 = 2.0;
    let highest = bars.iter().map(|bar| bar.parts.iter().sum::<f64>()).fold(0.0, f64::max);
    let scale = Scale::exact(highest);
    let width = |value: f64| scale.at(value) * (WIDTH - NAMES - LABELS);
    let mut svg = String::new();
    for (number, bar) in (0u32..).zip(bars) {
        let top = f64::from(number) * ROW;
        put(
            &mut svg,
            format_args!(
                "<text class=\"y\" x=\"{}\" y=\"{}\">{}</text>",
                NAMES - 10.0,
                top + 19.0,
                text(&bar.name)
            ),
        );
        let mut left = NAMES;
        for ((class, name), value) in parts.iter().zip(bar.parts) {
            let width = width(value);
            if width > 0.0 {
                put(
                    &mut svg,
                    format_args!(
                        "<rect class=\"bar {class}\" x=\"{left:.1}\" y=\"{}\" width=\"{:.1}\" height=\"16\" rx=\"2\"><title>{}</title></rect>",
                        top + 6.0,
                        (width - GAP).max(0.5),
                        text(&format!("{}: {name} {value:.3}", bar.name))
                    ),
                );
            }
            left += width;
        }
        put(
            &mut svg,
            format_args!(
                "<text class=\"label\" x=\"{:.1}\" y=\"{}\">{}</text>",
                left + 8.0,
                top + 19.0,
                text(&bar.label)
            ),
        );
    }
    let legend: String = parts.iter().map(|&(class, name)| chip_of(class, name)).collect();
    figure(title, note, &legend, f64::from(bars.len() as u32) * ROW, &svg)
}

fn figure(title: &str, note: &str, legend: &str, height: f64, shapes: &str) -> String {
    format!(
        "<section><h2>{}</h2><p class=\"note\">{}</p><p class=\"legend\">{legend}</p>\
         <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">{shapes}</svg></section>\n",
        text(title),
        text(note),
        text(title)
    )
}

fn chip(line: &Line) -> String {
    chip_of(line.class, line.name)
}

fn chip_of(class: &str, name: &str) -> String {
    format!("<span><i class=\"{class}\"></i>{}</span>", text(name))
}

fn rectangle(svg: &mut String, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
    put(
        svg,
        format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        ),
    );
}

fn put(svg: &mut String, shape: std::fmt::Arguments<'_>) {
    svg.write_fmt(shape).expect("a string takes everything");
}
