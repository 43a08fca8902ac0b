//! The table of operations in flight.

use super::Operation;

/// Names an operation: index in the low half, generation in the high half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpKey(u64);

impl OpKey {
    fn new(index: u32, generation: u32) -> Self {
        OpKey(u64::from(generation) << 32 | u64::from(index))
    }
    pub(crate) fn raw(self) -> u64 {
        self.0
    }
    fn index(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).expect("32 bits fit")
    }
}

enum Slot {
    Free {
        generation: u32,
    },
    /// Out for the handling of a completion.
    Taken {
        key: OpKey,
    },
    InFlight {
        key: OpKey,
        operation: Box<dyn Operation>,
    },
}

#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// Generations stay below this, so that no key is the reserved `u64::MAX`.
const GENERATIONS: u32 = 1 << 31;

impl Slots {
    pub(super) fn insert(&mut self, operation: Box<dyn Operation>) -> OpKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free { generation: 0 });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations in flight")
        });
        let slot = &mut self.slots[usize::try_from(index).expect("32 bits fit")];
        let Slot::Free { generation } = *slot else { unreachable!("the free list names free slots") };
        let key = OpKey::new(index, generation);
        *slot = Slot::InFlight { key, operation };
        key
    }

    /// Takes the operation out to handle a completion; its slot stays reserved. None for a key
    /// that names no operation in flight.
    pub(super) fn take(&mut self, raw: u64) -> Option<(OpKey, Box<dyn Operation>)> {
        let slot = self.slots.get_mut(OpKey(raw).index())?;
        match slot {
            Slot::InFlight { key, .. } if key.0 == raw => {}
            _ => return None,
        }
        match std::mem::replace(slot, Slot::Taken { key: OpKey(raw) }) {
            Slot::InFlight { key, operation } => Some((key, operation)),
            Slot::Free { .. } | Slot::Taken { .. } => None,
        }
    }

    /// Puts a taken operation back.
    pub(super) fn put(&mut self, key: OpKey, operation: Box<dyn Operation>) {
        let slot = &mut self.slots[key.index()];
        debug_assert!(matches!(slot, Slot::Taken { key: taken } if *taken == key), "only what was taken is put back");
        *slot = Slot::InFlight { key, operation };
    }

    /// Frees a taken slot.
    pub(super) fn free(&mut self, key: OpKey) {
        let generation = u32::try_from(key.0 >> 32).expect("the high half");
        self.slots[key.index()] = Slot::Free { generation: (generation + 1) % GENERATIONS };
        self.free.push(u32::try_from(key.index()).expect("the low half"));
    }

    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Forgets everything without dropping it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(self));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Completion, Next, Reactor};
    use super::*;
    use std::rc::Rc;

    struct Nothing;
    impl Operation for Nothing {
        fn complete(self: Box<Self>, _: Completion, _: &Rc<Reactor>) -> Next {
            Next::Done
        }
    }

    #[test]
    fn a_reused_slot_has_another_key() {
        let mut slots = Slots::default();
        let first = slots.insert(Box::new(Nothing));
        let (key, _operation) = slots.take(first.raw()).expect("in flight");
        assert!(slots.take(first.raw()).is_none(), "taken once");
        slots.free(key);
        let second = slots.insert(Box::new(Nothing));
        assert_ne!(first, second);
        assert!(slots.take(first.raw()).is_none());
        assert!(slots.take(second.raw()).is_some());
    }

    #[test]
    fn keys_from_nowhere_name_nothing() {
        let mut slots = Slots::default();
        assert!(slots.take(7).is_none());
        assert_eq!(slots.in_use(), 0);
    }
}
