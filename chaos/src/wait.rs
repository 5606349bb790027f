//! Waiting: look, and look again, until it is so or the time is over.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` gives something, and gives that. Panics with the last refusal when `within` is over.
pub async fn until<T, E: Debug>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) if Instant::now() >= deadline => {
                panic!("{what}: not within {within:?}; last seen: {last:?}")
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// `Ok` if it holds, else what was seen: for [`until`].
pub fn holds<S>(it: bool, seen: S) -> Result<(), S> {
    if it { Ok(()) } else { Err(seen) }
}
