//! A cursor over a request's arguments.

use cfs_types::{FsError, NAME_BYTES_MAX, Name};
use zerocopy::FromBytes;

/// What is left of the arguments.
pub struct Args<'a>(&'a [u8]);

impl<'a> Args<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Args(bytes)
    }

    /// The next fixed structure.
    pub fn take<T: FromBytes>(&mut self) -> Result<T, FsError> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| FsError::Malformed)?;
        self.0 = rest;
        Ok(value)
    }

    /// Bytes up to the next NUL, which is skipped.
    pub fn text(&mut self) -> Result<&'a [u8], FsError> {
        let end = self.0.iter().position(|&b| b == 0).ok_or(FsError::Malformed)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(text)
    }

    /// The next name. The kernel lets names through that are longer than ours may be.
    pub fn name(&mut self) -> Result<Name, FsError> {
        let text = self.text()?;
        if text.len() > NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        Name::new(text).ok_or(FsError::Invalid)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: u32) -> Result<&'a [u8], FsError> {
        let len = usize::try_from(len).map_err(|_| FsError::Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(FsError::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}
