//! `escrow_journal`: opening and reading a directory that something has happened to.
//!
//! The directory is a real one: live segments, a packed and a kept archive, `journal.meta`. An input is a list of damages of
//! [`DAMAGE_BYTES`] each: what is done, to which file, where, with which number. So every input gets past the first check,
//! and a few changed bytes reach far.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use escrow_journal::storage::{Disk as _, SimDisk, durable_replace, read_all};
use escrow_journal::{
    Archive, Entry, FRAME_HEADER_BYTES, Group, Index, JournalError, Log, Options, SEGMENT_HEADER_BYTES,
};

use crate::memory;

/// u8 what, u8 file, u16 place, u64 number.
const DAMAGE_BYTES: usize = 12;
const DAMAGES_MAX: usize = 16;
const ENTRIES: u64 = 22;
/// What opening and reading may hold: buffers, and twice what the directory could have.
const BYTES_MAX: usize = 24 << 20;

type Files = BTreeMap<String, Vec<u8>>;

/// Whether a file is of a kind, by its ending.
fn is(name: &str, kind: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| ending == kind)
}

/// A directory as it was left, and what was appended to it.
struct Sound {
    files: Files,
    entries: Vec<Entry>,
    journal_id: u128,
}

static SOUND: LazyLock<Sound> = LazyLock::new(sound);

fn options(archive: Archive) -> Options {
    Options { archive, segment_bytes: escrow_journal::SEGMENT_BYTES_MIN, ..Options::new("j") }
}

fn sound() -> Sound {
    let disk = SimDisk::new(1);
    let mut entries = Vec::new();
    let mut journal_id = 0;
    for (archive, up_to, last) in [(Archive::Keep, 8, 8), (Archive::Compress, 14, ENTRIES)] {
        let (mut log, opened) =
            Log::open(disk.shared(), options(archive), Index::FIRST).expect("it is sound");
        journal_id = opened.journal_id;
        for index in opened.last.get() + 1..=last {
            let payload: Vec<u8> = (0..200 + index % 7 * 150).map(|at| (at * index / 7) as u8).collect();
            let group = Group(index as u16 % 3);
            log.append(group, &payload).expect("it fits");
            log.commit().expect("the disk works");
            entries.push(Entry { index: Index(index), group, payload });
        }
        log.trim(Index(up_to)).expect("the disk works");
    }
    let names = disk.list(Path::new("j")).expect("it is there");
    let files: Files = names
        .into_iter()
        .map(|name| {
            let bytes = read_all(&disk, &Path::new("j").join(&name)).expect("readable").unwrap_or_default();
            (name, bytes)
        })
        .collect();
    for ending in ["meta", "kept", "lz4", "seg"] {
        assert!(files.keys().any(|name| name.ends_with(ending)), "there is a .{ending}");
    }
    let sound = Sound { files, entries, journal_id };
    let last = sound.files.iter().rfind(|(name, _)| is(name, "seg")).expect("there is a live segment");
    assert!(frames(last.1).count() > 2, "some frames of the last segment are proven, the last one is not");
    sound
}

/// Where the frames of a segment begin and end, as their headers say.
fn frames(bytes: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut at = SEGMENT_HEADER_BYTES as usize;
    std::iter::from_fn(move || {
        let header = bytes.get(at..at + FRAME_HEADER_BYTES).filter(|header| header.starts_with(b"ESJF"))?;
        let length = u32::from_le_bytes([header[24], header[25], header[26], header[27]]) as usize;
        let begin = at;
        at = (at + FRAME_HEADER_BYTES).saturating_add(length.next_multiple_of(8));
        (at <= bytes.len()).then_some(begin..at)
    })
}

/// What one damage did, for the rules that can be told from one alone.
enum Done {
    /// Bits of this file were flipped at this place.
    Flipped(String, usize),
    Other,
}

fn damage(files: &mut Files, damage: &[u8; DAMAGE_BYTES], journal_id: u128) -> Done {
    let [what, file, low, high, number @ ..] = *damage;
    let (place, number) = (usize::from(u16::from_le_bytes([low, high])), u64::from_le_bytes(number));
    let Some(name) = files.keys().nth(usize::from(file) % files.len().max(1)).cloned() else {
        return Done::Other;
    };
    let Some(bytes) = files.get_mut(&name) else { return Done::Other };
    let at = place % bytes.len().max(1);
    let width = bytes.len().saturating_sub(at).min(8);
    match what % 10 {
        0 if width > 0 && number as u8 != 0 => {
            bytes[at] ^= number as u8;
            return Done::Flipped(name, at);
        }
        1 => bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]),
        2 => {
            let width = width.min(4);
            bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
        3 => {
            let end = bytes.len().min(at + number as usize % 4_096);
            bytes[at..end].fill(0);
        }
        4 => bytes.truncate(at),
        5 => bytes.resize((place + number as usize % 16_384).min(1 << 16), number as u8),
        6 => drop(files.remove(&name)),
        7 => {
            let bytes = bytes.clone();
            let ends = ["seg", "kept", "lz4", "tmp", "meta", "of"];
            let (end, first) = (ends[place % ends.len()], number);
            let last = if place & 0x100 == 0 { first.wrapping_add(3) } else { u64::MAX };
            let name = match end {
                "seg" => format!("{first:020}.seg"),
                "kept" | "lz4" => format!("{first:020}-{last:020}.{end}"),
                "meta" => "journal.meta".to_owned(),
                _ => format!("{first}.{end}"),
            };
            files.insert(name, bytes);
        }
        8 => {
            let (from, length) = (number as usize % bytes.len().max(1), (number >> 32) as usize % 4_096);
            let piece = bytes[from..bytes.len().min(from + length)].to_vec();
            let end = bytes.len().min(at + piece.len());
            let length = end.saturating_sub(at);
            bytes[at..end].copy_from_slice(&piece[..length]);
        }
        9 => seal(&name, bytes, journal_id),
        // Nothing to flip.
        _ => {}
    }
    Done::Other
}

/// Makes all checksums of a file right again, as somebody who forges would.
fn seal(name: &str, bytes: &mut [u8], journal_id: u128) {
    if bytes.len() >= 52 {
        let crc = crc32c::crc32c(&bytes[..48]);
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
    }
    if name == "journal.meta" {
        return;
    }
    let seed = crc32c::crc32c(&journal_id.to_le_bytes());
    let mut previous = bytes.get(12..16).map(<[u8]>::to_vec).unwrap_or_default();
    for frame in frames(bytes).collect::<Vec<_>>() {
        let frame = &mut bytes[frame];
        frame[28..32].copy_from_slice(&previous);
        let crc = crc32c::crc32c_append(seed, &frame[FRAME_HEADER_BYTES..]);
        let crc = crc32c::crc32c_append(crc, &frame[..36]);
        previous = crc.to_le_bytes().to_vec();
        frame[36..40].copy_from_slice(&previous);
    }
}

fn plant(files: &Files) -> SimDisk {
    let disk = SimDisk::new(7);
    disk.create_dir_all(Path::new("j")).expect("an empty disk");
    for (name, bytes) in files {
        let path: PathBuf = Path::new("j").join(name);
        durable_replace(&disk, &path, bytes).expect("the disk works");
    }
    disk
}

/// Opens and reads everything; goes on with one entry more.
fn open(files: &Files) -> Result<(Log, Vec<Entry>, Option<JournalError>), JournalError> {
    let disk = plant(files);
    memory::bounded(BYTES_MAX, || {
        let (mut log, opened) = Log::open(disk.shared(), options(Archive::Keep), Index(first(files)))?;
        let (mut read, mut failed) = (Vec::new(), None);
        for entry in log.read_from(opened.first)? {
            match entry {
                Ok(entry) => read.push(entry),
                Err(error) => failed = Some(error),
            }
        }
        if opened.last.get() < u64::MAX - 1 {
            log.append(Group(1), b"it goes on")?;
            assert_eq!(log.commit()?, Index(opened.last.get() + 1));
        }
        Ok((log, read, failed))
    })
}

/// The first index that the directory says to have: what a caller without a checkpoint asks for.
fn first(files: &Files) -> u64 {
    let kept = files.get("journal.meta").and_then(|bytes| bytes.get(40..48)?.try_into().ok());
    kept.map_or(1, u64::from_le_bytes).max(1)
}

fn damages(input: &[u8]) -> impl Iterator<Item = &[u8; DAMAGE_BYTES]> {
    input.as_chunks::<DAMAGE_BYTES>().0.iter().take(DAMAGES_MAX)
}

/// Accidents: checksums are never made right again. Nothing is returned that was not appended; a flipped bit where the log
/// was durable is refused.
pub(super) fn damaged(input: &[u8]) {
    let mut files = SOUND.files.clone();
    let (mut count, mut done) = (0, Done::Other);
    for each in damages(input).filter(|each| each[0] % 10 != 9) {
        done = damage(&mut files, each, SOUND.journal_id);
        count += 1;
    }
    let opened = open(&files);
    if let Ok((_, read, _)) = &opened
        && read.len() > SOUND.entries.len()
    {
        panic!("{} entries were read", read.len());
    }
    match &opened {
        Ok((_, read, failed)) => {
            // A new journal may only be made of nothing.
            let from = read.first().map_or(1, |entry| entry.index.get());
            let appended = &SOUND.entries[from as usize - 1..];
            assert!(
                read.iter().zip(appended).all(|(read, appended)| read == appended),
                "what was read was appended"
            );
            if let (1, Done::Flipped(name, at)) = (count, &done)
                && is_durable(name, *at)
            {
                // A packed file may say the same in another way.
                let same = is(name, "lz4") && *read == SOUND.entries;
                assert!(failed.is_some() || same, "{name} at {at}: a flipped bit was not noticed");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Whether a place bears an entry that other bytes prove to have been durable, or says where it is.
fn is_durable(name: &str, at: usize) -> bool {
    let bytes = &SOUND.files[name];
    if is(name, "lz4") {
        return true;
    }
    if name == "journal.lock" || !is(name, "seg") && !is(name, "kept") {
        return name == "journal.meta" && !(12..16).contains(&at);
    }
    let last = frames(bytes).last().expect("a segment that is kept has entries");
    let is_last = SOUND.files.keys().rfind(|name| is(name, "seg")).is_some_and(|last| last == name);
    let end = if is_last { last.start } else { last.end };
    at < 52 || (SEGMENT_HEADER_BYTES as usize..end).contains(&at)
}

/// Forgeries: checksums may be made right again, so that what is behind them is reached. Refused or believed, but bounded.
pub(super) fn forged(input: &[u8]) {
    let mut files = SOUND.files.clone();
    for each in damages(input) {
        let _ = damage(&mut files, each, SOUND.journal_id);
    }
    for (name, bytes) in &mut files {
        if is(name, "seg") || is(name, "kept") || name == "journal.meta" {
            seal(name, bytes, SOUND.journal_id);
        }
    }
    if let Ok((log, read, failed)) = open(&files) {
        assert!(read.windows(2).all(|pair| pair[0].index.get() + 1 == pair[1].index.get()), "no gap");
        assert!(failed.is_some() || read.last().is_none_or(|last| last.index < log.cursors().durable));
    }
}

fn one(what: u8, file: u8, place: u16, number: u64) -> Vec<u8> {
    [&[what, file][..], &place.to_le_bytes(), &number.to_le_bytes()].concat()
}

/// The number of a file by its ending, counted from the first.
fn file(ending: &str, nth: usize) -> u8 {
    let mut names = SOUND.files.keys().enumerate().filter(|(_, name)| name.ends_with(ending));
    names.nth(nth).expect("there is one").0 as u8
}

pub(super) fn damage_seeds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("sound", vec![]),
        ("flipped-in-a-frame", one(0, file(".seg", 0), 4_200, 1)),
        ("flipped-in-the-last-segment", one(0, file(".seg", 1), 4_100, 0x80)),
        ("flipped-in-a-packed-archive", one(0, file(".lz4", 0), 300, 4)),
        ("flipped-in-a-kept-archive", one(0, file(".kept", 0), 4_500, 4)),
        ("flipped-in-meta", one(0, file(".meta", 0), 40, 4)),
        ("long-payload", one(2, file(".seg", 0), 4_096 + 24, u64::MAX)),
        ("cut", one(4, file(".seg", 0), 5_000, 0)),
        ("longer", one(5, file(".seg", 1), 9_000, 7)),
        ("gone", one(6, file(".seg", 0), 0, 0)),
        ("archive-of-everything", one(7, file(".kept", 0), 0x100 + 2, 1)),
        ("moved-frame", one(8, file(".seg", 0), 4_096, 4_096 + 40 + (500 << 32))),
    ]
}

pub(super) fn forged_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (meta, seg, kept) = (file(".meta", 0), file(".seg", 0), file(".kept", 0));
    vec![
        ("sound", vec![]),
        ("first-kept-at-the-end", one(1, meta, 40, u64::MAX)),
        ("synced-at-the-end", one(1, seg, 4_096 + 16, u64::MAX)),
        ("index-at-the-end", one(1, seg, 4_096 + 8, u64::MAX)),
        ("huge-segment", one(1, kept, 40, u64::MAX)),
        ("long-payload", one(2, kept, 4_096 + 24, u64::MAX)),
        (
            "long-payload-in-a-huge-segment",
            [one(1, kept, 40, u64::MAX), one(2, kept, 4_096 + 24, 1 << 30)].concat(),
        ),
        ("other-version", one(0, seg, 4_096 + 4, 3)),
        ("last-name", one(7, seg, 0, u64::MAX)),
        ("archive-without-end", one(7, kept, 0x100 + 1, 1)),
    ]
}
