//! A file's bytes: sparse, in blocks of 4 KiB.

use std::collections::BTreeMap;

const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;

/// Bytes of a file; blocks never written read as zeros.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Content {
    size: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

fn within(offset: u64) -> usize {
    usize::try_from(offset % BLOCK).expect("below a block")
}

impl Content {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// At most `len` bytes from `offset`, fewer at the end.
    pub fn read(&self, offset: u64, len: u32) -> Vec<u8> {
        let end = offset.saturating_add(u64::from(len)).min(self.size);
        let mut out = Vec::new();
        let mut at = offset;
        while at < end {
            let take = (BLOCK - at % BLOCK).min(end - at);
            let from = within(at);
            let to = from + usize::try_from(take).expect("at most a block");
            match self.blocks.get(&(at / BLOCK)) {
                Some(block) => out.extend_from_slice(&block[from..to]),
                None => out.resize(out.len() + (to - from), 0),
            }
            at += take;
        }
        out
    }

    /// Writes bytes; grows the file. `offset + bytes` does not overflow.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let from = within(at);
            let (now, later) = rest.split_at(rest.len().min(BLOCK_LEN - from));
            let block = self.blocks.entry(at / BLOCK).or_insert_with(|| vec![0; BLOCK_LEN]);
            block[from..from + now.len()].copy_from_slice(now);
            at += u64::try_from(now.len()).expect("at most a block");
            rest = later;
        }
        if !bytes.is_empty() {
            self.size = self.size.max(at);
        }
    }

    /// Zeros from `from` to `to`; whole blocks become holes. The size stays.
    pub fn zero(&mut self, from: u64, to: u64) {
        let numbers: Vec<u64> = self.blocks.range(from / BLOCK..to.div_ceil(BLOCK)).map(|(n, _)| *n).collect();
        for number in numbers {
            let start = number * BLOCK;
            if from <= start && to >= start + BLOCK {
                self.blocks.remove(&number);
            } else if let Some(block) = self.blocks.get_mut(&number) {
                let first = usize::try_from(from.max(start) - start).expect("within the block");
                let last = usize::try_from(to.min(start + BLOCK) - start).expect("within the block");
                block[first..last].fill(0);
            }
        }
    }

    /// Truncates or extends with zeros.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, self.size);
            self.blocks.split_off(&size.div_ceil(BLOCK));
        }
        self.size = size;
    }

    /// First offset at or after `offset` that is in a written block; None where there is none.
    pub fn seek_data(&self, offset: u64) -> Option<u64> {
        let (number, _) = self.blocks.range(offset / BLOCK..).next()?;
        Some(offset.max(number * BLOCK)).filter(|found| *found < self.size)
    }

    /// First offset at or after `offset` that is in a hole, or the end; None beyond the end.
    pub fn seek_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut number = offset / BLOCK;
        while self.blocks.contains_key(&number) {
            number += 1;
        }
        Some(offset.max(number * BLOCK).min(self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_what_was_cut_off_read_as_zeros() {
        let mut content = Content::default();
        content.write(10_000, b"abcdef");
        assert_eq!((content.size(), content.read(9_998, 4)), (10_006, vec![0, 0, b'a', b'b']));
        content.resize(10_002);
        content.resize(20_000);
        assert_eq!(content.read(10_000, 4), [b'a', b'b', 0, 0]);
        assert_eq!((content.seek_data(0), content.seek_hole(9_000)), (Some(8_192), Some(12_288)));
        assert_eq!((content.seek_data(12_288), content.seek_hole(20_000)), (None, None));
        content.zero(8_192, 12_288);
        assert_eq!(content.seek_data(0), None);
        assert_eq!(content.read(19_999, 9), [0]);
    }
}
