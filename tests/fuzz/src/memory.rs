//! How much a piece of code allocates: a length of 4 GiB in 20 bytes must not be believed.

/// Runs code and checks that it never held more than this many bytes, counted on this thread.
///
/// The bound is checked after the fact: memory that was asked for, zeroed and given back counts as well.
pub fn bounded<T>(bytes_max: usize, run: impl FnOnce() -> T) -> T {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(run()));
    assert!(
        info.bytes_max <= bytes_max as u64,
        "{} bytes were held, at most {bytes_max} may be",
        info.bytes_max
    );
    result.expect("it ran")
}

/// What a decoder may hold for an input: rows are wider in memory than on the wire, but not without bound.
pub const fn for_input(bytes: &[u8]) -> usize {
    (256 << 10) + bytes.len() * 256
}
