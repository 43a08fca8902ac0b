//! The core log: group commit, recovery, reclaim.
