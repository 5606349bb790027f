//! Little-endian bytes: the one format of commands in logs and of states in checkpoints.
//!
//! Columns are a `u32` count and the raw values, so that encoding and decoding a batch of thousands of rows is a copy.
//! The bytes come from disk: decoding checks every length and never panics.

/// The bytes are not what they should be. Carries what was being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes: {0}")]
pub struct Malformed(pub &'static str);

/// The longest column that is believed, in rows.
pub const COLUMN_ROWS_MAX: usize = 1 << 24;

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
    /// A column: a `u32` count and the values.
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
        put_column(self, values, u64::to_le_bytes);
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
        self.column(u64::from_le_bytes)
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
