//! How much of small writes only the log holds: it must find room in chunks one day.
//!
//! Counted where entries are executed, also again after a restart, so it is never too low; what
//! was overwritten meanwhile counts until the group is packed.

use std::cell::Cell;
use std::rc::Rc;

/// One group's count, and the core's.
#[derive(Default)]
pub struct Unpacked {
    core: Rc<Cell<u64>>,
    mine: Cell<u64>,
}

impl Unpacked {
    /// A group's count, part of the core's.
    pub fn new(core: &Rc<Cell<u64>>) -> Self {
        Unpacked { core: core.clone(), mine: Cell::new(0) }
    }

    /// An entry with so many bytes of data was executed.
    pub fn add(&self, bytes: u64) {
        self.mine.set(self.mine.get() + bytes);
        self.core.set(self.core.get() + bytes);
    }

    /// The group's bytes.
    pub fn get(&self) -> u64 {
        self.mine.get()
    }

    /// `bytes` of what was counted before packing began are not in the log any more.
    pub fn packed(&self, bytes: u64) {
        self.mine.set(self.mine.get() - bytes);
        self.core.set(self.core.get() - bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_count_for_their_core() {
        let core = Rc::default();
        let (one, two) = (Unpacked::new(&core), Unpacked::new(&core));
        one.add(5);
        two.add(7);
        one.packed(4);
        assert_eq!((one.get(), two.get(), core.get()), (1, 7, 8));
    }
}
