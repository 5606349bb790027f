//! Little-endian bytes: the one format of commands in logs and of states in checkpoints.
//!
//! Columns are a `u32` count and the raw values, so that encoding and decoding a batch of thousands of rows is a copy.
//!
//! A column of 64-bit values in which each is at most 255 above the one before it, as sequences and deadlines mostly are, is said
//! *closely*: the highest bit of the count is set, then come the first value and a byte for each other one, its distance. Such a
//! column has this form and no other. It takes an eighth of the bytes, and for that much less there is to write, to sum, to sync and
//! to archive; and a few bytes can still not stand for much of memory.
//!
//! The bytes come from disk: decoding checks every length and never panics.

/// The bytes are not what they should be. Carries what was being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes: {0}")]
pub struct Malformed(pub &'static str);

/// The longest column that is believed, in rows.
pub const COLUMN_ROWS_MAX: usize = 1 << 24;

/// In the count of a column: it is said closely.
const CLOSE: u32 = 1 << 31;
const _: () = assert!(COLUMN_ROWS_MAX < CLOSE as usize);

/// Whether each value is at most 255 above the one before it, and there is more than one.
fn is_close(values: &[u64]) -> bool {
    /// Without a branch within a chunk, so that the compiler compares many at once.
    const CHUNK: usize = 64;
    let is_far = |(before, value): (&u64, &u64)| value.wrapping_sub(*before) > 0xFF || value < before;
    let Some(others) = values.get(1..).filter(|others| !others.is_empty()) else { return false };
    let mut chunks = values.chunks(CHUNK).zip(others.chunks(CHUNK));
    chunks.all(|(before, values)| !before.iter().zip(values).map(is_far).fold(false, |any, far| any | far))
}

/// Appends values to a byte vector.
pub trait Put {
    /// One byte.
    fn put_u8(&mut self, value: u8);
    /// Two bytes, little endian.
    fn put_u16(&mut self, value: u16);
    /// Four bytes, little endian.
    fn put_u32(&mut self, value: u32);
    /// Eight bytes, little endian.
    fn put_u64(&mut self, value: u64);
    /// Sixteen bytes, little endian.
    fn put_u128(&mut self, value: u128);
    /// A `u32` length and the bytes.
    fn put_bytes(&mut self, value: &[u8]);
    /// A column: a `u32` count and the values, or said closely.
    fn put_column_u64(&mut self, values: &[u64]);
    /// A column of 128-bit keys.
    fn put_column_u128(&mut self, values: &[u128]);
    /// A column of 32-bit values.
    fn put_column_u32(&mut self, values: &[u32]);
    /// A column of 16-bit values.
    fn put_column_u16(&mut self, values: &[u16]);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u128(&mut self, value: u128) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_bytes(&mut self, value: &[u8]) {
        self.put_u32(u32::try_from(value.len()).expect("bounded by the frame size"));
        self.extend_from_slice(value);
    }
    fn put_column_u64(&mut self, values: &[u64]) {
        if !is_close(values) {
            put_column(self, values, u64::to_le_bytes);
            return;
        }
        assert!(values.len() <= COLUMN_ROWS_MAX, "a column is bounded");
        self.put_u32(values.len() as u32 | CLOSE);
        self.put_u64(values[0]);
        self.extend(values.iter().zip(&values[1..]).map(|(before, value)| (value - before) as u8));
    }
    fn put_column_u128(&mut self, values: &[u128]) {
        put_column(self, values, u128::to_le_bytes);
    }
    fn put_column_u32(&mut self, values: &[u32]) {
        put_column(self, values, u32::to_le_bytes);
    }
    fn put_column_u16(&mut self, values: &[u16]) {
        put_column(self, values, u16::to_le_bytes);
    }
}

fn put_column<T: Copy, const N: usize>(out: &mut Vec<u8>, values: &[T], bytes: impl Fn(T) -> [u8; N]) {
    assert!(values.len() <= COLUMN_ROWS_MAX, "a column is bounded");
    out.put_u32(values.len() as u32);
    let start = out.len();
    // Sized once, then filled in place: the compiler turns this into a copy.
    out.resize(start + values.len() * N, 0);
    for (slot, &value) in out[start..].as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *slot = bytes(value);
    }
}

/// Reads values off the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Take<'a> {
    bytes: &'a [u8],
}

impl<'a> Take<'a> {
    /// Starts at the front.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What is left.
    pub const fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Succeeds only when everything was read.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }

    fn raw(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.bytes.split_at_checked(count).ok_or(Malformed("ends too early"))?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(Malformed("ends too early"))?;
        self.bytes = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    /// One byte that is 0 or 1, so that a flag has one form.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }
    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }
    /// Sixteen bytes.
    pub fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_le_bytes)
    }

    /// A `u32` length and the bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.u32()? as usize;
        self.raw(count)
    }

    /// A `u32` length and UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("not UTF-8"))
    }

    fn column<T, const N: usize>(&mut self, value: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Malformed> {
        let rows = self.u32()? as usize;
        if rows > COLUMN_ROWS_MAX {
            return Err(Malformed("a column with too many rows"));
        }
        let (chunks, rest) = self.raw(rows * N)?.as_chunks::<N>();
        debug_assert!(rest.is_empty());
        Ok(chunks.iter().map(|chunk| value(*chunk)).collect())
    }

    /// A column of 64-bit values.
    pub fn column_u64(&mut self) -> Result<Vec<u64>, Malformed> {
        let mut count = self.clone();
        let count = count.u32()?;
        if count & CLOSE == 0 {
            let values = self.column(u64::from_le_bytes)?;
            return if is_close(&values) {
                Err(Malformed("a close column said at length"))
            } else {
                Ok(values)
            };
        }
        self.u32()?;
        let rows = (count & !CLOSE) as usize;
        if !(2..=COLUMN_ROWS_MAX).contains(&rows) {
            return Err(Malformed("a close column of no such length"));
        }
        let mut value = self.u64()?;
        let distances = self.raw(rows - 1)?;
        let total: u64 = distances.iter().map(|&distance| u64::from(distance)).sum();
        value.checked_add(total).ok_or(Malformed("a column beyond the last number"))?;
        let mut values = Vec::with_capacity(rows);
        values.push(value);
        values.extend(distances.iter().map(|&distance| {
            value += u64::from(distance);
            value
        }));
        Ok(values)
    }
    /// A column of 128-bit keys.
    pub fn column_u128(&mut self) -> Result<Vec<u128>, Malformed> {
        self.column(u128::from_le_bytes)
    }
    /// A column of 32-bit values.
    pub fn column_u32(&mut self) -> Result<Vec<u32>, Malformed> {
        self.column(u32::from_le_bytes)
    }
    /// A column of 16-bit values.
    pub fn column_u16(&mut self) -> Result<Vec<u16>, Malformed> {
        self.column(u16::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        let mut out = Vec::new();
        out.put_u8(1);
        out.put_u16(2);
        out.put_u32(3);
        out.put_u64(4);
        out.put_u128(5);
        out.put_bytes("six".as_bytes());
        out.put_column_u64(&[7, 8]);
        out.put_column_u128(&[9]);
        out.put_column_u16(&[]);
        let mut take = Take::new(&out);
        assert_eq!(
            (take.u8(), take.u16(), take.u32(), take.u64(), take.u128()),
            (Ok(1), Ok(2), Ok(3), Ok(4), Ok(5))
        );
        assert_eq!(take.text(), Ok("six"));
        assert_eq!(take.column_u64(), Ok(vec![7, 8]));
        assert_eq!(take.column_u128(), Ok(vec![9]));
        assert_eq!(take.column_u16(), Ok(vec![]));
        assert_eq!(take.finish(), Ok(()));
    }

    #[test]
    fn close_columns_take_a_byte_a_row_and_every_column_comes_back() {
        let dense: Vec<u64> = (1_000..1_200).collect();
        let steps: Vec<u64> = (0..300).map(|row| u64::MAX - (300 - row) * 255).collect();
        let close = [vec![7, 7, 7], vec![0, 255], vec![u64::MAX - 1, u64::MAX], dense.clone(), steps];
        // A gap at each place, also where the chunks meet that are compared at once.
        let gaps = (1..dense.len())
            .map(|at| dense.iter().zip(0..).map(move |(v, row)| v + u64::from(row >= at) * 255));
        let far = [vec![], vec![5], vec![0, 256], vec![2, 1], vec![u64::MAX, 0], vec![1, 2, 258]];
        let far = far.into_iter().chain(gaps.map(Iterator::collect));
        let table = close.into_iter().map(|values| (values, true)).chain(far.map(|values| (values, false)));
        for (values, is_close) in table {
            let mut out = Vec::new();
            out.put_column_u64(&values);
            let bytes = if is_close { 12 + values.len() - 1 } else { 4 + 8 * values.len() };
            assert_eq!(out.len(), bytes, "{values:?}");
            let mut take = Take::new(&out);
            assert_eq!(take.column_u64(), Ok(values));
            assert_eq!(take.finish(), Ok(()));
            for length in 0..out.len() {
                assert!(Take::new(&out[..length]).column_u64().is_err(), "cut at {length}");
            }
        }
    }

    #[test]
    fn a_column_has_one_form() {
        let read = |count: u32, rest: &[u8]| Take::new(&[&count.to_le_bytes(), rest].concat()).column_u64();
        let raw = |values: [u64; 2]| values.map(u64::to_le_bytes).concat();
        assert_eq!(read(2, &raw([9, 1])), Ok(vec![9, 1]));
        assert!(read(2, &raw([1, 9])).is_err(), "close, and said at length");
        assert_eq!(read(CLOSE | 2, &[&1u64.to_le_bytes()[..], &[8]].concat()), Ok(vec![1, 9]));
        for rows in [0, 1, COLUMN_ROWS_MAX as u32 + 1, u32::MAX >> 1] {
            assert!(read(CLOSE | rows, &[0; 64]).is_err(), "{rows}");
        }
        assert!(read(CLOSE | 3, &[&u64::MAX.to_le_bytes()[..], &[0, 1]].concat()).is_err());
    }

    #[test]
    fn a_flag_has_one_form() {
        let read = |byte| Take::new(&[byte]).flag();
        assert_eq!((read(0), read(1)), (Ok(false), Ok(true)));
        assert!(read(2).is_err() && read(255).is_err());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let mut out = Vec::new();
        out.put_bytes(b"abc");
        out.put_column_u64(&[7, 8]);
        for length in 0..out.len() {
            let mut take = Take::new(&out[..length]);
            let read = take.bytes().and_then(|_| take.column_u64());
            assert!(read.is_err(), "cut at {length}");
        }
    }

    #[test]
    fn an_absurd_length_does_not_allocate() {
        assert!(Take::new(&u32::MAX.to_le_bytes()).column_u64().is_err());
        assert!(Take::new(&u32::MAX.to_le_bytes()).bytes().is_err());
    }
}
