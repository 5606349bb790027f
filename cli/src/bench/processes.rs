//! What processes cost: their CPU time over a run and their memory, from Linux's /proc. Elsewhere there is nothing, and that
//! is said.
//!
//! It must never blame a process for what another did: one that ended or was started again meanwhile is left away.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

/// A process to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Such as `participant 0`.
    pub name: String,
    /// Its number.
    pub pid: u32,
}

/// What a process used over a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Used {
    /// Such as `participant 0`.
    pub name: String,
    /// Its number.
    pub pid: u32,
    /// CPU time in its own code over the run, in seconds.
    pub user_s: f64,
    /// CPU time in the kernel.
    pub system_s: f64,
    /// `user_s` for each transfer that was answered, in microseconds.
    pub user_us_per_transfer: f64,
    /// `system_s` for each.
    pub system_us_per_transfer: f64,
    /// Memory at the end of the run.
    pub resident_bytes: u64,
    /// The most memory since the process began, which may be longer ago than the run.
    pub peak_bytes: u64,
}

/// What a process had used at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    user_ticks: u64,
    system_ticks: u64,
    /// When it began: tells it from another of the same number.
    started_ticks: u64,
    resident_bytes: u64,
    peak_bytes: u64,
}

/// Processes as they were before a run.
#[derive(Debug)]
pub struct Watch {
    targets: Vec<(Target, Option<Sample>)>,
    ticks_per_second: Option<u64>,
}

impl Watch {
    /// Notes what they have used so far.
    pub fn begin(targets: Vec<Target>) -> Self {
        let targets = targets.into_iter().map(|target| (sample(target.pid).ok(), target));
        Self {
            targets: targets.map(|(sample, target)| (target, sample)).collect(),
            ticks_per_second: ticks_per_second(),
        }
    }

    /// What each has used since, for so many transfers; and a sentence for each that cannot be told.
    pub fn end(self, transfers: u64) -> (Vec<Used>, Vec<String>) {
        let Some(ticks) = self.ticks_per_second else {
            return (
                Vec::new(),
                vec!["CPU and memory are not known here: they come from Linux's /proc".to_owned()],
            );
        };
        let (mut used, mut missing) = (Vec::new(), Vec::new());
        for (target, before) in self.targets {
            match (before, sample(target.pid)) {
                (Some(before), Ok(after)) if before.started_ticks == after.started_ticks => {
                    used.push(between(target, &before, &after, ticks, transfers));
                }
                _ => missing.push(format!("{} (pid {}) ended or was started again", target.name, target.pid)),
            }
        }
        (used, missing)
    }
}

fn between(target: Target, before: &Sample, after: &Sample, ticks: u64, transfers: u64) -> Used {
    let seconds = |before: u64, after: u64| after.saturating_sub(before) as f64 / ticks as f64;
    let (user_s, system_s) =
        (seconds(before.user_ticks, after.user_ticks), seconds(before.system_ticks, after.system_ticks));
    let each = |seconds: f64| if transfers > 0 { seconds * 1e6 / transfers as f64 } else { 0.0 };
    Used {
        name: target.name,
        pid: target.pid,
        user_s,
        system_s,
        user_us_per_transfer: each(user_s),
        system_us_per_transfer: each(system_s),
        resident_bytes: after.resident_bytes,
        peak_bytes: after.peak_bytes,
    }
}

fn sample(pid: u32) -> io::Result<Sample> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    parse(&read("stat")?, &read("status")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not as proc(5) says"))
}

/// The texts of `stat` and `status`.
fn parse(stat: &str, status: &str) -> Option<Sample> {
    // The name, in parentheses, may hold anything: fields are counted after it. The first there is number 3 of proc(5).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse().ok();
    let bytes = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
    };
    Some(Sample {
        user_ticks: number(14)?,
        system_ticks: number(15)?,
        started_ticks: number(22)?,
        resident_bytes: bytes("VmRSS:")?,
        peak_bytes: bytes("VmHWM:")?,
    })
}

/// The unit of times in `stat`, which the kernel tells every process.
fn ticks_per_second() -> Option<u64> {
    parse_auxiliary(&fs::read("/proc/self/auxv").ok()?)
}

/// Pairs of words: `AT_CLKTCK` and its value among them.
fn parse_auxiliary(vector: &[u8]) -> Option<u64> {
    const AT_CLKTCK: usize = 17;
    const WORD: usize = size_of::<usize>();
    let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).ok();
    vector
        .chunks_exact(2 * WORD)
        .find(|pair| word(&pair[..WORD]) == Some(AT_CLKTCK))
        .and_then(|pair| word(&pair[WORD..]))
        .filter(|&ticks| ticks > 0)
        .map(|ticks| ticks as u64)
}

/// The process that listens on a TCP port of this machine, if it is one that we may look at (of the same user). Reads the open files
/// of every such process once.
pub fn listener(port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if sockets.is_empty() {
        return None;
    }
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| holds(pid, &sockets)).min()
}

/// The inodes of the sockets that listen on a port, of a table such as `/proc/net/tcp`.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == LISTEN;
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn holds(pid: u32, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else { return false };
    files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        sockets.iter().any(|socket| *socket == target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tescrow\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n";

    fn stat(name: &str, user: u64, system: u64, started: u64) -> String {
        format!("42 ({name}) S 1 42 42 0 -1 4194560 9 0 0 0 {user} {system} 0 0 20 0 3 0 {started} 1000 250")
    }

    #[test]
    fn times_and_memory_are_found_behind_any_name() {
        let sample = parse(&stat("a) S 9 (b", 150, 50, 777), STATUS).unwrap();
        assert_eq!((sample.user_ticks, sample.system_ticks, sample.started_ticks), (150, 50, 777));
        assert_eq!((sample.resident_bytes, sample.peak_bytes), (1 << 20, 2 << 20));
        assert_eq!(parse("42 (short) S 1", STATUS), None);
        assert_eq!(parse(&stat("kernel", 1, 1, 1), "Name:\tkthreadd\n"), None, "it has no memory of its own");
    }

    #[test]
    fn what_a_transfer_cost_is_the_difference_over_their_number() {
        let before = parse(&stat("escrow", 100, 20, 7), STATUS).unwrap();
        let after = parse(&stat("escrow", 400, 80, 7), STATUS).unwrap();
        let target = Target { name: "participant 0".to_owned(), pid: 42 };
        let used = between(target.clone(), &before, &after, 100, 1_000_000);
        assert!(
            (used.user_s - 3.0).abs() < 1e-9 && (used.system_us_per_transfer - 0.6).abs() < 1e-9,
            "{used:?}"
        );
        assert!(between(target, &before, &after, 100, 0).user_us_per_transfer.abs() < 1e-9);
    }

    #[test]
    fn the_unit_of_time_is_among_the_words() {
        let words = |words: &[usize]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        assert_eq!(parse_auxiliary(&words(&[33, 1, 17, 100, 0, 0])), Some(100));
        assert_eq!(parse_auxiliary(&words(&[33, 17, 0, 0])), None);
        assert_eq!(parse_auxiliary(&[]), None);
    }

    #[test]
    fn only_sockets_that_listen_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1\n\
            1: 0100007F:1CE8 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 222 1\n\
            2: 0100007F:1CE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 333 1\n";
        assert_eq!(listening(table, 7_400), ["111"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_watched_and_found_by_its_port() {
        let listener_of_test = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = std::process::id();
        assert_eq!(listener(listener_of_test.local_addr().unwrap().port()), Some(pid));
        let gone = Target { name: "nobody".to_owned(), pid: u32::MAX };
        let watch = Watch::begin(vec![Target { name: "bench".to_owned(), pid }, gone]);
        let (used, missing) = watch.end(1);
        assert_eq!((used.len(), missing.len()), (1, 1));
        assert!(used[0].resident_bytes > 0 && used[0].peak_bytes >= used[0].resident_bytes, "{used:?}");
        assert!(missing[0].contains("nobody"));
    }
}
