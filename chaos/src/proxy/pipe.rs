//! One way of one connection: read, wait as long as the conditions want, write.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::conditions::{Conditions, Flow, Timetable};
use crate::chance::Chance;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Chunks under way at most: a line has its end, and then the sender waits.
const UNDER_WAY_MAX: usize = 256;

/// Bytes under way, and when they arrive.
type Chunk = (Instant, Vec<u8>);

/// Carries bytes until their source ends, which is passed on, or something breaks.
pub(super) async fn carry(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    conditions: watch::Receiver<Conditions>,
    lost_bytes: &AtomicBool,
    chance: Chance,
) -> io::Result<()> {
    let (line, arriving) = mpsc::channel(UNDER_WAY_MAX);
    let reading = read(from, line, conditions.clone(), Timetable::new(chance));
    let writing = write(arriving, to, conditions, lost_bytes);
    tokio::try_join!(reading, writing).map(|_| ())
}

async fn read(
    mut from: ReadHalf<'_>,
    line: mpsc::Sender<Chunk>,
    conditions: watch::Receiver<Conditions>,
    mut timetable: Timetable,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let arrival = timetable.arrival(length, &conditions.borrow());
        if line.send((arrival, buffer[..length].to_vec())).await.is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

async fn write(
    mut arriving: mpsc::Receiver<Chunk>,
    mut to: WriteHalf<'_>,
    mut conditions: watch::Receiver<Conditions>,
    lost_bytes: &AtomicBool,
) -> io::Result<()> {
    while let Some((arrival, bytes)) = arriving.recv().await {
        if arrival > Instant::now() {
            sleep_until(arrival).await;
        }
        let flow = conditions
            .wait_for(|conditions| conditions.flow != Flow::Hold)
            .await
            .map_or(Flow::Swallow, |conditions| conditions.flow);
        if flow == Flow::Swallow {
            lost_bytes.store(true, Ordering::Relaxed);
            continue;
        }
        if lost_bytes.load(Ordering::Relaxed) {
            // A byte before this one is missing.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}
