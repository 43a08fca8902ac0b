//! What a leader knows of its followers' promises.
//!
//! A follower that takes a heartbeat promises not to vote for one election timeout. The leader
//! counts from the moment it *sent* that heartbeat, so that no delay can make it believe in a
//! promise that is over. The times are its own clock's; how long they hold is the driver's affair.

use std::collections::BTreeMap;

/// Send times of acknowledged heartbeats of one term.
#[derive(Default)]
pub(crate) struct Lease {
    term: u64,
    acknowledged: BTreeMap<u64, u64>,
}

impl Lease {
    /// `from` has taken the heartbeat of `term` that was sent at `sent`.
    pub fn acknowledge(&mut self, term: u64, from: u64, sent: u64) {
        if term != self.term {
            *self = Lease { term, acknowledged: BTreeMap::new() };
        }
        let newest = self.acknowledged.entry(from).or_default();
        *newest = sent.max(*newest);
    }

    /// The latest time such that `others` followers have taken heartbeats sent then or later.
    pub fn acknowledged_by(&self, term: u64, others: usize) -> Option<u64> {
        let mut times: Vec<u64> = self.acknowledged.values().copied().filter(|_| term == self.term).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(others.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_majority_decides_and_terms_do_not_mix() {
        let mut lease = Lease::default();
        lease.acknowledge(3, 2, 100);
        assert_eq!(lease.acknowledged_by(3, 2), None);
        lease.acknowledge(3, 4, 70);
        lease.acknowledge(3, 4, 60);
        lease.acknowledge(3, 5, 10);
        assert_eq!(lease.acknowledged_by(3, 2), Some(70));
        assert_eq!(lease.acknowledged_by(3, 1), Some(100));
        assert_eq!(lease.acknowledged_by(4, 1), None);
        lease.acknowledge(4, 2, 200);
        assert_eq!(lease.acknowledged_by(4, 2), None);
    }
}
