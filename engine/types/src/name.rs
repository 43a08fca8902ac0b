//! A directory entry's name.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name, bytes (NAME_MAX of Linux).
pub const NAME_BYTES_MAX: usize = 255;

/// 1 to 255 bytes, any but `/` and NUL, neither `.` nor `..` (POSIX 3.170 Filename).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Name(Box<[u8]>);

impl Name {
    /// None where the bytes are not a name.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let fits = !bytes.is_empty() && bytes.len() <= NAME_BYTES_MAX;
        let clean = !bytes.iter().any(|b| matches!(b, 0 | b'/'));
        (fits && clean && bytes != b"." && bytes != b"..").then(|| Name(bytes.into()))
    }
    /// The bytes as the user gave them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = &'static str;
    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        Name::new(&bytes).ok_or("not a file name")
    }
}
impl From<Name> for Vec<u8> {
    fn from(name: Name) -> Self {
        name.0.into_vec()
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_posix_forbids_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert_eq!(Name::new(bad), None, "{}", bad.escape_ascii());
        }
        assert!(Name::new(&[0xff; 255]).is_some());
    }
}
