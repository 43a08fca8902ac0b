//! How a file is cut into ranges, and which shard holds each.

use cfs_types::{InodeId, RANGE_BYTES, RangeIndex, ShardId};

/// Size of ranges. All of a cluster agree on it; tests use tiny ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    range_bytes: u64,
}

impl Default for Layout {
    fn default() -> Self {
        Layout { range_bytes: RANGE_BYTES }
    }
}

impl Layout {
    /// Ranges of `range_bytes`; None for 0 and for more than 64 MiB.
    #[cfg(test)]
    pub fn with_range_bytes(range_bytes: u64) -> Option<Self> {
        (1..=RANGE_BYTES).contains(&range_bytes).then_some(Layout { range_bytes })
    }

    /// Longest file: its last range still has a 32-bit index. `FILE_BYTES_MAX` where ranges are
    /// as long as in production.
    pub fn file_bytes_max(self) -> u64 {
        self.range_bytes << 32
    }

    /// The range of byte `offset`. The caller keeps it below [`Layout::file_bytes_max`]; offsets
    /// above are all in the last range.
    pub fn range_of(self, offset: u64) -> RangeIndex {
        RangeIndex::new(u32::try_from(offset / self.range_bytes).unwrap_or(u32::MAX))
    }

    /// First byte of a range.
    pub fn start_of(self, range: RangeIndex) -> u64 {
        u64::from(range.get()) * self.range_bytes
    }

    /// First byte after a range.
    pub fn end_of(self, range: RangeIndex) -> u64 {
        self.start_of(range) + self.range_bytes
    }

    /// Cuts `from..to` at range borders; what lies beyond the longest file is left out.
    pub fn cut(self, from: u64, to: u64) -> impl Iterator<Item = (RangeIndex, u64, u64)> {
        let (mut at, to) = (from, to.min(self.file_bytes_max()));
        std::iter::from_fn(move || {
            (at < to).then(|| {
                let range = self.range_of(at);
                let end = self.end_of(range).min(to);
                let piece = (range, at, end);
                at = end;
                piece
            })
        })
    }
}

/// The shard that holds a range's extents.
pub fn range_shard(ino: InodeId, range: RangeIndex) -> ShardId {
    range.shard(ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_spread_over_all_shards_and_range_zero_stays_home() {
        let ino = InodeId::new(12, ShardId::new(34)).expect("valid");
        assert_eq!(range_shard(ino, RangeIndex::new(0)), ino.shard());
        let mut counts = [0_u32; 256];
        for r in 1..=25_600 {
            counts[usize::from(range_shard(ino, RangeIndex::new(r)).get())] += 1;
        }
        assert!(counts.iter().all(|n| (50..200).contains(n)), "{counts:?}");
    }

    #[test]
    fn golden_range_shards() {
        let ino = InodeId::from_raw(0x0102_0304).expect("valid");
        let shards: Vec<u8> = (1..6).map(|r| range_shard(ino, RangeIndex::new(r)).get()).collect();
        assert_eq!(shards, [177, 186, 46, 232, 80]);
    }

    #[test]
    fn a_span_is_cut_at_range_borders() {
        let layout = Layout::with_range_bytes(10).expect("valid");
        let cut: Vec<_> = layout.cut(5, 25).map(|(r, a, b)| (r.get(), a, b)).collect();
        assert_eq!(cut, [(0, 5, 10), (1, 10, 20), (2, 20, 25)]);
        assert_eq!(layout.cut(5, 5).count(), 0);
    }

    #[test]
    fn the_longest_file_ends_in_the_last_range() {
        let layout = Layout::default();
        assert_eq!(layout.file_bytes_max(), 1 << 58);
        assert_eq!(layout.file_bytes_max(), cfs_types::FILE_BYTES_MAX);
        assert_eq!(layout.range_of(layout.file_bytes_max() - 1).get(), u32::MAX);
    }

    #[test]
    fn nothing_is_cut_beyond_the_longest_file() {
        let layout = Layout::default();
        let max = layout.file_bytes_max();
        let cut: Vec<_> = layout.cut(max - 1, max + 2).take(3).map(|(r, a, b)| (r.get(), a, b)).collect();
        assert_eq!(cut, [(u32::MAX, max - 1, max)]);
        for from in [max, max + 1, 1 << 60, u64::MAX - 1] {
            assert_eq!(layout.cut(from, u64::MAX).take(3).count(), 0, "{from}");
        }
    }
}
