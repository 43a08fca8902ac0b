//! Lifetime classes.

/// How long what is written is expected to live. A device that can keep what dies together apart from the rest
/// (FDP placement handles, zones) does; segments hold one class each everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lifetime {
    /// Sorted tables.
    Metadata,
    /// Fresh file data.
    Hot,
    /// File data written in bulk.
    Cold,
    /// What the cleaner moved.
    Relocated,
    /// Parity of erasure codes.
    Parity,
    /// The core logs, anchors and superblocks: written again in place, soonest of all.
    Log,
}

impl Lifetime {
    /// All classes, in the order of their number on disk.
    pub const ALL: [Lifetime; 6] =
        [Lifetime::Metadata, Lifetime::Hot, Lifetime::Cold, Lifetime::Relocated, Lifetime::Parity, Lifetime::Log];
    /// Its name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Lifetime::Metadata => "metadata",
            Lifetime::Hot => "hot",
            Lifetime::Cold => "cold",
            Lifetime::Relocated => "relocated",
            Lifetime::Parity => "parity",
            Lifetime::Log => "log",
        }
    }
    /// Its number on disk, and its place in [`Lifetime::ALL`].
    pub fn index(self) -> usize {
        match self {
            Lifetime::Metadata => 0,
            Lifetime::Hot => 1,
            Lifetime::Cold => 2,
            Lifetime::Relocated => 3,
            Lifetime::Parity => 4,
            Lifetime::Log => 5,
        }
    }
}
