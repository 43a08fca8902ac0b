//! Little-endian fields of the data records (docs/formats/file-data.md).
//!
//! Invariant: decoding is total: bytes that are not exactly one record of a known version, or
//! whose reserved bytes are not zero, give `None`.

use crate::view::Value;

/// Takes fields off the front of a record.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Begins after a version byte that must equal `version`.
    pub fn of(bytes: &'a [u8], version: u8) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        (*first == version).then_some(Fields(rest))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|b| b[0])
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// `N` reserved bytes, which must be zero.
    pub fn reserved<const N: usize>(&mut self) -> Option<()> {
        (self.take::<N>()? == [0; N]).then_some(())
    }

    /// Nothing may be left.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Puts fields of a record one after another.
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins with the version byte.
    pub fn of(version: u8) -> Self {
        Writer(vec![version])
    }

    /// One byte.
    pub fn u8(mut self, field: u8) -> Self {
        self.0.push(field);
        self
    }

    /// Four bytes.
    pub fn u32(mut self, field: u32) -> Self {
        self.0.extend_from_slice(&field.to_le_bytes());
        self
    }

    /// Eight bytes.
    pub fn u64(mut self, field: u64) -> Self {
        self.0.extend_from_slice(&field.to_le_bytes());
        self
    }

    /// `N` zero bytes.
    pub fn reserved<const N: usize>(mut self) -> Self {
        self.0.extend_from_slice(&[0; N]);
        self
    }

    /// The record.
    pub fn done(self) -> Value {
        self.0.into()
    }
}
