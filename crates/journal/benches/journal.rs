//! What the journal costs over the bare disk: the same payloads through the journal and through a plain loop of write and
//! fdatasync into a preallocated file, taking turns in one run, since disks have moods.
//!
//! `cargo bench -p escrow-journal` (about 10 s), `-- --quick` (about 2 s). Set `ESCROW_BENCH_DIR` to measure another disk.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use escrow_journal::storage::{Disk, DiskFile, OsDisk};
use escrow_journal::{Archive, Group, Index, Journal, Options};
use std::time::{Duration, Instant};

const SIZES: [usize; 4] = [200, 20_000, 200_000, 1_000_000];
const BARE_FILE_BYTES: u64 = 64 << 20;
const PIPELINED_BYTES_MAX: u64 = 8 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs this too, without `--bench`: a glance is enough there.
    let is_test = !arguments.iter().any(|argument| argument == "--bench");
    let is_quick = is_test || arguments.iter().any(|argument| argument == "--quick");
    let total = Duration::from_millis(if is_quick { 1_600 } else { 9_000 });
    let share = total / (SIZES.len() as u32);

    let base = std::env::var_os("ESCROW_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(base).unwrap();
    let bare = OsDisk.create_new(&dir.path().join("bare")).unwrap();
    bare.allocate(BARE_FILE_BYTES).unwrap();
    let options = Options { archive: Archive::Delete, ..Options::new(dir.path().join("journal")) };
    let (journal, _) = Journal::open(OsDisk::shared(), options, Index::FIRST).unwrap();
    journal.wait_trimmed().unwrap();

    println!("latency of one durable entry at a time; pipelined throughput (at most 8 MiB pending)");
    println!(
        "{:>9} {:>6} | {:>9} {:>9} | {:>9} {:>9} | {:>5} {:>5} | {:>9} {:>8} {:>8}",
        "bytes", "rounds", "bare p50", "p99", "jrnl p50", "p99", "p50", "p99", "entry/s", "MB/s", "per sync"
    );
    for bytes in SIZES {
        let (mut bare_times, mut journal_times) = (Vec::new(), Vec::new());
        let mut offset = 0;
        let mut payload = vec![0xa5; bytes];
        let until = Instant::now() + share * 2 / 3;
        while Instant::now() < until {
            bare_times.push(bare_write(&*bare, &payload, &mut offset));
            let mut buffer = journal.buffer();
            buffer.extend_from_slice(&payload);
            let started = Instant::now();
            let index = journal.append(Group(0), buffer).unwrap();
            journal.wait_durable(index).unwrap();
            journal_times.push(started.elapsed());
            payload[0] = payload[0].wrapping_add(1);
        }
        let (entries_per_second, per_sync) = pipelined(&journal, &payload, share / 3);
        journal.trim(journal.durable());
        report(bytes, &mut bare_times, &mut journal_times, entries_per_second, per_sync);
    }
    journal.wait_trimmed().unwrap();
    let stats = journal.stats();
    println!(
        "{} entries, {} syncs of {} us on average, {} us at most; {} segments",
        stats.entries,
        stats.syncs,
        stats.sync_total_ns / stats.syncs.max(1) / 1000,
        stats.sync_max_ns / 1000,
        stats.segments
    );
    journal.close().unwrap();
    encoding_speed(dir.path());
}

fn bare_write(file: &dyn DiskFile, payload: &[u8], offset: &mut u64) -> Duration {
    if *offset + payload.len() as u64 > BARE_FILE_BYTES {
        *offset = 0;
    }
    let started = Instant::now();
    file.write_all_at(payload, *offset).unwrap();
    file.sync_data().unwrap();
    *offset += payload.len() as u64;
    started.elapsed()
}

/// Appends as fast as the bound on pending bytes allows; returns entries per second and entries per sync.
fn pipelined(journal: &Journal, payload: &[u8], time: Duration) -> (f64, f64) {
    let before = journal.stats();
    let started = Instant::now();
    let mut last = Index::ZERO;
    while started.elapsed() < time {
        let mut buffer = journal.buffer();
        buffer.extend_from_slice(payload);
        last = journal.append(Group(0), buffer).unwrap();
        if journal.bytes_pending() > PIPELINED_BYTES_MAX {
            journal.wait_durable(journal.durable().next()).unwrap();
        }
    }
    journal.wait_durable(last).unwrap();
    let elapsed = started.elapsed().as_secs_f64();
    let after = journal.stats();
    let entries = (after.entries - before.entries) as f64;
    (entries / elapsed, entries / (after.syncs - before.syncs) as f64)
}

fn report(
    bytes: usize,
    bare: &mut [Duration],
    journal: &mut [Duration],
    entries_per_second: f64,
    per_sync: f64,
) {
    bare.sort_unstable();
    journal.sort_unstable();
    let micros =
        |times: &[Duration], percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    let (b50, b99, j50, j99) = (micros(bare, 50), micros(bare, 99), micros(journal, 50), micros(journal, 99));
    println!(
        "{bytes:>9} {:>6} | {b50:>6.0} us {b99:>6.0} us | {j50:>6.0} us {j99:>6.0} us | {:>5.2} {:>5.2} | {entries_per_second:>9.0} {:>8.0} {per_sync:>8.1}",
        journal.len(),
        j50 / b50,
        j99 / b99,
        entries_per_second * bytes as f64 / 1e6,
    );
}

/// CRC and copy alone, without a disk behind.
fn encoding_speed(dir: &std::path::Path) {
    let options = Options::new(dir.join("encode"));
    let (mut log, _) = escrow_journal::Log::open(OsDisk::shared(), options, Index::FIRST).unwrap();
    let payload = vec![0x5a; 20_000];
    // The first round warms the buffer; the second is measured.
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        let started = Instant::now();
        for _ in 0..700 {
            log.append(Group(0), &payload).unwrap();
        }
        took = started.elapsed();
        log.commit().unwrap();
    }
    println!("encode and CRC: {:.1} GB/s", 700.0 * 20_000.0 / took.as_secs_f64() / 1e9);
}
