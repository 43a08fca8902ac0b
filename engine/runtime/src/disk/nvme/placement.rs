//! Which placement handle a lifetime class is written to.

use cfs_seam::Lifetime;

/// Placement identifiers of a namespace, in the order in which the device lists them; none where FDP is off.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Placement(Vec<u16>);

impl Placement {
    pub fn new(identifiers: Vec<u16>) -> Self {
        Placement(identifiers)
    }
    pub fn identifiers(&self) -> &[u16] {
        &self.0
    }

    /// The identifier for what core `core` writes of a class. With six handles or more each class has its own, and as
    /// many cores as there are sixes have their own six; with fewer, classes fold: those that die soonest stay apart longest.
    pub fn of(&self, class: Lifetime, core: usize) -> Option<u16> {
        let classes = Lifetime::ALL.len();
        let sets = self.0.len() / classes;
        let handle =
            if sets > 0 { (core % sets) * classes + folded(class, classes) } else { folded(class, self.0.len()) };
        self.0.get(handle).copied()
    }
}

/// The handle of a class among `handles`, from 0.
fn folded(class: Lifetime, handles: usize) -> usize {
    let [log, metadata, hot, relocated, cold, parity] = match handles {
        0 | 1 => [0; 6],
        2 => [0, 0, 0, 1, 1, 1],
        3 => [0, 1, 1, 2, 2, 2],
        4 => [0, 1, 2, 3, 3, 3],
        5 => [0, 1, 2, 3, 4, 4],
        _ => [0, 1, 2, 3, 4, 5],
    };
    match class {
        Lifetime::Log => log,
        Lifetime::Metadata => metadata,
        Lifetime::Hot => hot,
        Lifetime::Relocated => relocated,
        Lifetime::Cold => cold,
        Lifetime::Parity => parity,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_handle_is_used_and_none_that_is_not_there() {
        for handles in 0..=6u16 {
            let placement = Placement::new((0..handles).map(|at| 100 + at).collect());
            let used: BTreeSet<_> = Lifetime::ALL.iter().filter_map(|class| placement.of(*class, 3)).collect();
            assert_eq!(used, placement.identifiers().iter().copied().collect(), "{handles} handles");
        }
    }

    #[test]
    fn cores_have_handles_of_their_own_where_there_are_enough() {
        let placement = Placement::new((0..13).collect());
        let of = |core| Lifetime::ALL.map(|class| placement.of(class, core));
        assert!(of(0).iter().all(|handle| !of(1).contains(handle)));
        assert_eq!(of(0), of(2));
    }
}
