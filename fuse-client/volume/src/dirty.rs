//! Written bytes of one file that the server does not have yet. Pure.
//!
//! Extents lie in aligned windows of 1 MiB, so none crosses a range or outgrows a request.
//! Invariants: extents of one generation do not overlap; bytes in flight are not changed, newer
//! bytes of the same place wait until the flight has landed.

use std::collections::BTreeMap;
use std::rc::Rc;

/// Longest extent and its alignment, bytes.
pub(crate) const WINDOW_BYTES: u64 = 1 << 20;

type Extents = BTreeMap<u64, Rc<Vec<u8>>>;

#[derive(Default)]
pub(crate) struct Dirty {
    waiting: Extents,
    flying: Extents,
    waiting_bytes: usize,
    flying_bytes: usize,
}

impl Dirty {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }
    pub fn is_flying(&self) -> bool {
        !self.flying.is_empty()
    }
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
    /// Bytes held that are not in flight.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.waiting_bytes + self.flying_bytes
    }

    /// Takes written bytes; later ones win.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let room = usize::try_from(WINDOW_BYTES - at % WINDOW_BYTES).expect("a window fits");
            let (piece, later) = rest.split_at(room.min(rest.len()));
            self.write_in_window(at, piece);
            at += len(piece);
            rest = later;
        }
    }

    fn write_in_window(&mut self, at: u64, piece: &[u8]) {
        let before: usize = self.touched(at, piece.len()).map(|(_, bytes)| bytes.len()).sum();
        let starts: Vec<u64> = self.touched(at, piece.len()).map(|(start, _)| *start).collect();
        let Some(first) = starts.first().copied() else {
            self.waiting.insert(at, Rc::new(piece.to_vec()));
            self.waiting_bytes += piece.len();
            return;
        };
        // Growing the first extent in place makes a sequential writer cheap.
        let (start, mut bytes) = match first <= at {
            true => (first, self.take(first)),
            false => (at, Vec::with_capacity(piece.len())),
        };
        let from = usize::try_from(at - start).expect("within a window");
        let tail = bytes.split_off((from + piece.len()).min(bytes.len()));
        bytes.truncate(from);
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(&tail);
        for next in starts.into_iter().filter(|next| *next > at || (*next == at && first > at)) {
            let swallowed = self.take(next);
            let end = start + len(&bytes);
            let covered = usize::try_from(end.saturating_sub(next)).expect("within a window");
            bytes.extend_from_slice(swallowed.get(covered..).unwrap_or(&[]));
        }
        self.waiting_bytes = self.waiting_bytes - before + bytes.len();
        self.waiting.insert(start, Rc::new(bytes));
    }

    /// Waiting extents of the window that overlap or touch `at..at + length`.
    fn touched(&self, at: u64, length: usize) -> impl Iterator<Item = (&u64, &Rc<Vec<u8>>)> {
        let window = at - at % WINDOW_BYTES;
        let end = (at + u64::try_from(length).expect("64-bit")).min(window + WINDOW_BYTES - 1);
        self.waiting.range(window..=end).filter(move |(start, bytes)| **start + len(bytes) >= at)
    }

    fn take(&mut self, start: u64) -> Vec<u8> {
        let bytes = self.waiting.remove(&start).expect("found by its start");
        Rc::try_unwrap(bytes).unwrap_or_else(|shared| shared.to_vec())
    }

    /// Lays the held bytes over `out`, which begins at `offset`; true where they cover all of it.
    pub fn overlay(&self, offset: u64, out: &mut [u8]) -> bool {
        let mut covered = 0;
        for extents in [&self.flying, &self.waiting] {
            let alone = lay_over(extents, offset, out);
            covered = alone.max(covered);
        }
        covered == out.len()
    }

    /// Extents that overlap `bytes` from `offset`, older before newer.
    pub fn snapshot(&self, offset: u64, bytes: u64) -> Vec<(u64, Rc<Vec<u8>>)> {
        let (from, end) = (offset.saturating_sub(WINDOW_BYTES), offset + bytes);
        let near = [&self.flying, &self.waiting].into_iter().flat_map(|extents| extents.range(from..end));
        let overlapping = near.filter(|(start, bytes)| **start + len(bytes) > offset);
        overlapping.map(|(start, bytes)| (*start, bytes.clone())).collect()
    }

    /// First offset behind the held bytes.
    pub fn end(&self) -> Option<u64> {
        let ends = [&self.flying, &self.waiting];
        ends.iter().filter_map(|e| e.last_key_value()).map(|(start, bytes)| start + len(bytes)).max()
    }

    /// Everything that waits goes into flight. Nothing may be flying.
    pub fn launch(&mut self) -> Vec<(u64, Rc<Vec<u8>>)> {
        assert!(self.flying.is_empty(), "one flight at a time");
        self.flying = std::mem::take(&mut self.waiting);
        self.flying_bytes = std::mem::take(&mut self.waiting_bytes);
        self.flying.iter().map(|(start, bytes)| (*start, bytes.clone())).collect()
    }

    /// The flight is over; says how many bytes are no longer held.
    pub fn land(&mut self) -> usize {
        self.flying.clear();
        std::mem::take(&mut self.flying_bytes)
    }

    /// Forgets what waits; says how many bytes that was.
    pub fn drop_waiting(&mut self) -> usize {
        self.waiting.clear();
        std::mem::take(&mut self.waiting_bytes)
    }
}

/// Copies what overlaps; says how many bytes.
fn lay_over(extents: &Extents, offset: u64, out: &mut [u8]) -> usize {
    let near = extents.range(offset.saturating_sub(WINDOW_BYTES)..offset + len(out));
    near.map(|(start, bytes)| lay(*start, bytes, offset, out)).sum()
}

/// Copies what `bytes` at `start` and `out` at `offset` have in common; says how many bytes.
pub(crate) fn lay(start: u64, bytes: &[u8], offset: u64, out: &mut [u8]) -> usize {
    let (low, high) = (offset.max(start), (offset + len(out)).min(start + len(bytes)));
    if low >= high {
        return 0;
    }
    let place = |at: u64, base: u64| usize::try_from(at - base).expect("within a buffer");
    out[place(low, offset)..place(high, offset)].copy_from_slice(&bytes[place(low, start)..place(high, start)]);
    place(high, low)
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("64-bit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sequential_writer_makes_one_extent_a_window() {
        let mut dirty = Dirty::default();
        for i in 0..512_u64 {
            dirty.write(i * 4096, &[1; 4096]);
        }
        let flight = dirty.launch();
        assert_eq!(flight.iter().map(|(at, b)| (*at, b.len())).collect::<Vec<_>>(), [(0, 1 << 20), (1 << 20, 1 << 20)]);
    }

    #[test]
    fn bytes_in_flight_stay_readable_and_newer_ones_win() {
        let mut dirty = Dirty::default();
        dirty.write(0, b"aaaa");
        let flight = dirty.launch();
        dirty.write(1, b"bb");
        assert_eq!(*flight[0].1, b"aaaa");
        let mut out = [0; 4];
        assert!(dirty.overlay(0, &mut out));
        assert_eq!(&out, b"abba");
        assert_eq!(dirty.land(), 4);
        assert_eq!(dirty.bytes(), 2);
        let mut out = [0; 4];
        assert!(!dirty.overlay(0, &mut out));
        assert_eq!(&out, b"\0bb\0");
    }

    proptest! {
        #[test]
        fn any_writes_read_back_as_from_an_array(
            writes in prop::collection::vec((0_usize..300, 1_usize..200, any::<u8>(), prop::bool::weighted(0.1)), 1..40)
        ) {
            // Around a window's border, so that splitting is exercised.
            let base = WINDOW_BYTES - 250;
            let (mut dirty, mut model, mut held) = (Dirty::default(), vec![0_u8; 600], vec![false; 600]);
            for (at, length, byte, launch) in writes {
                if launch && !dirty.is_flying() {
                    dirty.launch();
                }
                dirty.write(base + u64::try_from(at).expect("small"), &vec![byte; length]);
                model[at..at + length].fill(byte);
                held[at..at + length].fill(true);
                let mut out = vec![0; 600];
                let all = dirty.overlay(base, &mut out);
                prop_assert_eq!(&out, &model);
                prop_assert!(!all || held.iter().all(|h| *h));
                let bytes: usize = dirty.waiting.values().map(|b| b.len()).sum();
                prop_assert_eq!(bytes, dirty.waiting_bytes());
                let mut end = 0;
                for (start, bytes) in &dirty.waiting {
                    prop_assert!(*start >= end && !bytes.is_empty());
                    end = start + len(bytes);
                    prop_assert_eq!(start / WINDOW_BYTES, (end - 1) / WINDOW_BYTES);
                }
            }
            if !dirty.is_flying() {
                let total = held.iter().filter(|h| **h).count();
                prop_assert_eq!(dirty.waiting_bytes(), total);
            }
        }
    }
}
