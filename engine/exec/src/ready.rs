//! The queues of tasks that are ready to be polled, touched by the owner's thread only.

use crate::shares::{CLASSES, Stride};
use std::collections::VecDeque;

#[derive(Clone, Copy)]
struct Entry {
    queued: bool,
    row: usize,
}

/// Slots ready to run, one queue a class. A slot is queued at most once.
#[derive(Default)]
pub struct Ready {
    entries: Vec<Entry>,
    queues: [VecDeque<u32>; CLASSES],
    /// Slots that yielded: they join the queues at the start of the next turn.
    yielded: Vec<u32>,
    stride: Stride,
}

fn at(slot: u32) -> usize {
    usize::try_from(slot).expect("32 bits fit")
}

impl Ready {
    /// Declares that `slot` belongs to a task of class `row` from now on.
    pub fn assign(&mut self, slot: u32, row: usize) {
        if at(slot) >= self.entries.len() {
            self.entries.resize(at(slot) + 1, Entry { queued: false, row });
        }
        self.entries[at(slot)].row = row;
    }

    /// Queues a slot unless it is queued already.
    pub fn wake(&mut self, slot: u32) {
        let entry = &mut self.entries[at(slot)];
        if entry.queued {
            return;
        }
        entry.queued = true;
        let queue = &mut self.queues[entry.row];
        if queue.is_empty() {
            self.stride.resume(entry.row);
        }
        queue.push_back(slot);
    }

    /// Queues a slot for the next turn.
    pub fn wake_next_turn(&mut self, slot: u32) {
        let entry = &mut self.entries[at(slot)];
        if !entry.queued {
            entry.queued = true;
            self.yielded.push(slot);
        }
    }

    /// Starts a turn: who yielded in the last one is ready again.
    pub fn begin_turn(&mut self) {
        for slot in std::mem::take(&mut self.yielded) {
            self.entries[at(slot)].queued = false;
            self.wake(slot);
        }
    }

    /// The next slot to poll; a wake from now on queues it again.
    pub fn pop(&mut self) -> Option<u32> {
        let ready = [0, 1, 2].map(|row: usize| !self.queues[row].is_empty());
        let row = self.stride.choose(ready)?;
        let slot = self.queues[row].pop_front().expect("the class is ready");
        self.entries[at(slot)].queued = false;
        Some(slot)
    }

    /// Slots that are queued, for this turn or the next.
    pub fn len(&self) -> usize {
        self.yielded.len() + self.queues.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Whether another turn has something to poll.
    pub fn is_empty(&self) -> bool {
        self.yielded.is_empty() && self.queues.iter().all(VecDeque::is_empty)
    }
}
