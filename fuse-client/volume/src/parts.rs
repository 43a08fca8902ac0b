//! What a read gave: parts of buffers, in the file's order, which caches may share.

use cfs_seam::IoBuf;
use std::ops::Range;
use std::rc::Rc;

/// Some bytes of a buffer.
#[derive(Clone, Debug)]
struct Part {
    buf: Rc<IoBuf>,
    bytes: Range<usize>,
}

/// Bytes that were read, none of them copied.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    parts: Vec<Part>,
    len: usize,
}

impl Parts {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The bytes of each part.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| &part.buf[part.bytes.clone()])
    }

    /// Adds bytes of a buffer, as far as it has them.
    pub(crate) fn push(&mut self, buf: Rc<IoBuf>, bytes: Range<usize>) {
        let end = bytes.end.min(buf.len());
        let bytes = bytes.start.min(end)..end;
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.parts.push(Part { buf, bytes });
        }
    }

    /// Adds zeros until there are `len` bytes.
    pub(crate) fn extend_to(&mut self, len: usize) {
        if let Some(missing) = len.checked_sub(self.len).filter(|missing| *missing > 0) {
            self.push(Rc::new(IoBuf::zeroed(missing)), 0..missing);
        }
    }

    /// Adds the parts of another.
    pub(crate) fn append(&mut self, other: Parts) {
        self.len += other.len;
        self.parts.extend(other.parts);
    }

    /// One buffer: the only part where that is a whole one that nobody shares, else a copy.
    pub fn into_buf(mut self) -> IoBuf {
        if let [part] = &mut self.parts[..]
            && part.bytes == (0..part.buf.len())
            && Rc::get_mut(&mut part.buf).is_some()
            && let Some(Ok(buf)) = self.parts.pop().map(|part| Rc::try_unwrap(part.buf))
        {
            return buf;
        }
        let (mut whole, mut at) = (IoBuf::stale(self.len), 0);
        for slice in self.slices() {
            whole[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        whole
    }
}

impl From<IoBuf> for Parts {
    fn from(buf: IoBuf) -> Self {
        let (mut parts, len) = (Parts::default(), buf.len());
        parts.push(Rc::new(buf), 0..len);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_in_order_and_zeros_follow() {
        let buf = Rc::new(IoBuf::copy_of(b"0123456789"));
        let mut parts = Parts::default();
        parts.push(buf.clone(), 2..4);
        parts.push(buf.clone(), 8..40);
        parts.push(buf.clone(), 20..30);
        parts.extend_to(6);
        parts.extend_to(3);
        assert_eq!(parts.slices().collect::<Vec<_>>(), [&b"23"[..], b"89", b"\0\0"]);
        assert_eq!((parts.len(), &parts.into_buf()[..]), (6, &b"2389\0\0"[..]));
    }

    #[test]
    fn a_whole_buffer_of_ones_own_is_not_copied() {
        let buf = IoBuf::copy_of(b"all");
        let address = buf.as_ptr();
        let parts = Parts::from(buf);
        let shared = parts.clone();
        let copy = shared.into_buf();
        assert_ne!(copy.as_ptr(), address);
        assert_eq!(parts.into_buf().as_ptr(), address);
        assert!(Parts::default().into_buf().is_empty());
    }
}
