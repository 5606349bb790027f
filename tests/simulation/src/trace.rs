//! What happened, line by line, for people; and the same as one number, to tell that two runs were the same.

use std::fmt;

use crate::time::{MS, Time};

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps its lines, or one that costs nothing.
    pub fn new(keep: bool) -> Self {
        Self { lines: keep.then(Vec::new) }
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, now: Time, what: fmt::Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>6}.{:03} ms  {what}", now / MS, now % MS));
        }
    }

    /// The lines so far.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}

/// Adds a line to the trace of a world, if it keeps one.
macro_rules! trace {
    ($world:expr, $($what:tt)+) => {
        $world.trace.add($world.time.now(), format_args!($($what)+))
    };
}

pub(crate) use trace;
