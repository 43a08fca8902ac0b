//! Reading what is stored little-endian.

/// Copies of integers out of a byte slice; None past its end.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }
    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(head)
    }
    /// The next `bytes` bytes.
    pub fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }
    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.bytes().map(|b| u16::from_le_bytes(*b))
    }
    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.bytes().map(|b| u32::from_le_bytes(*b))
    }
    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.bytes().map(|b| u64::from_le_bytes(*b))
    }
}
