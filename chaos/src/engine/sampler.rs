//! Looks at everything once a window: what the load counted, and what the servers say.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::Event;
use super::testbed::Testbed;
use crate::load::Meter;
use crate::record::{Sample, WINDOW_MS};

/// Between two rounds of questions to the servers.
const PAUSE: Duration = Duration::from_millis(100);

/// A sampler that runs.
pub(super) struct Sampler {
    stop: watch::Sender<bool>,
    /// `None` once it is stopped.
    sampling: Option<JoinHandle<Vec<Sample>>>,
    asking: JoinHandle<()>,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.asking.abort();
    }
}

/// What the servers said last, and when each was asked.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    unfinished: Option<u64>,
    in_doubt: Option<u64>,
    reservations: Option<u64>,
}

impl Sampler {
    pub(super) fn start(
        begun: Instant,
        testbed: &Arc<Testbed>,
        meter: &Arc<Meter>,
        tell: UnboundedSender<Event>,
    ) -> Self {
        let said = Arc::new(Mutex::new(Said::default()));
        let asking = tokio::spawn(ask(Arc::clone(testbed), Arc::clone(&said)));
        let (stop, stopped) = watch::channel(false);
        let sampling = tokio::spawn(sample(begun, Arc::clone(meter), said, tell, stopped));
        Self { stop, sampling: Some(sampling), asking }
    }

    /// Ends with the window that is open; gives all of them.
    pub(super) async fn stop(mut self) -> Vec<Sample> {
        self.stop.send_replace(true);
        match self.sampling.take() {
            Some(sampling) => sampling.await.unwrap_or_default(),
            None => Vec::new(),
        }
    }
}

async fn ask(testbed: Arc<Testbed>, said: Arc<Mutex<Said>>) {
    let operator = &testbed.operator;
    loop {
        let (unfinished, in_doubt, reservations) =
            tokio::join!(operator.unfinished(), operator.in_doubt(""), operator.reservations());
        *said.lock().expect("nothing panics while it is held") = Said { unfinished, in_doubt, reservations };
        sleep(PAUSE).await;
    }
}

async fn sample(
    begun: Instant,
    meter: Arc<Meter>,
    said: Arc<Mutex<Said>>,
    tell: UnboundedSender<Event>,
    stopped: watch::Receiver<bool>,
) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut window = 0;
    while !*stopped.borrow() {
        sleep_until(begun + Duration::from_millis((window + 1) * WINDOW_MS)).await;
        // Taken once: what was said before is not said again when servers are silent.
        let Said { unfinished, in_doubt, reservations } =
            std::mem::take(&mut *said.lock().expect("nothing panics while it is held"));
        let at_ms = window * WINDOW_MS;
        let sample = Sample { at_ms, unfinished, in_doubt, reservations, ..meter.take_window() };
        let _ = tell.send(Event::Window(sample));
        samples.push(sample);
        window = (begun.elapsed().as_millis() as u64 / WINDOW_MS).max(window + 1);
    }
    samples
}
