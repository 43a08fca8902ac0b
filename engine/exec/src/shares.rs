//! Which class runs next: stride scheduling (Waldspurger and Weihl, 1995).
//!
//! Each class has a *pass*; the ready class with the lowest pass is polled and its pass grows by
//! its stride, the inverse of its share. A class that was idle starts again at the current pass,
//! so sleeping earns no credit. One poll is the unit: long CPU work has to yield.

use cfs_seam::Class;

/// Number of classes.
pub const CLASSES: usize = 3;

/// Polls out of 13 that a class gets while all three are busy.
pub const fn share_of(class: Class) -> u64 {
    match class {
        Class::Foreground => 8,
        Class::Replication => 4,
        Class::Background => 1,
    }
}

/// Row of a class in arrays; the lower one wins a tie.
pub const fn index_of(class: Class) -> usize {
    match class {
        Class::Foreground => 0,
        Class::Replication => 1,
        Class::Background => 2,
    }
}

/// A multiple of every share, so that strides are whole numbers.
const STRIDE_UNIT: u64 = 8;
const STRIDES: [u64; CLASSES] = [
    STRIDE_UNIT / share_of(Class::Foreground),
    STRIDE_UNIT / share_of(Class::Replication),
    STRIDE_UNIT / share_of(Class::Background),
];

/// The passes of all classes.
#[derive(Default)]
pub struct Stride {
    passes: [u64; CLASSES],
    /// Pass of the class that was chosen last.
    current: u64,
}

impl Stride {
    /// A class became ready after it had nothing to run.
    pub fn resume(&mut self, row: usize) {
        self.passes[row] = self.passes[row].max(self.current);
    }

    /// The class to poll among those that are `ready`, and charges it for one poll.
    pub fn choose(&mut self, ready: [bool; CLASSES]) -> Option<usize> {
        let row = (0..CLASSES).filter(|row| ready[*row]).min_by_key(|row| self.passes[*row])?;
        self.current = self.passes[row];
        self.passes[row] += STRIDES[row];
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_classes_get_their_shares() {
        let mut stride = Stride::default();
        let mut polls = [0; CLASSES];
        for _ in 0..1300 {
            polls[stride.choose([true; CLASSES]).expect("all are ready")] += 1;
        }
        assert_eq!(polls, [800, 400, 100]);
    }

    #[test]
    fn sleeping_earns_no_credit() {
        let mut stride = Stride::default();
        for _ in 0..1000 {
            stride.choose([true, false, false]);
        }
        stride.resume(2);
        let polls = (0..90).filter(|_| stride.choose([true, false, true]) == Some(2)).count();
        assert_eq!(polls, 10);
    }
}
