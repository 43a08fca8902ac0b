//! The slots that hold tasks.

use crate::remote::RemoteFlag;
use crate::waker::{Shared, SlotWaker};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;

/// A task's future.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    /// None while it is polled, and in a free slot.
    task: Option<Task>,
    occupied: bool,
    cancelled: bool,
    /// Tells the slot's tasks apart, for handles.
    generation: u64,
    wake: Arc<SlotWaker>,
    /// Lent to the poll, so that polling touches no reference count.
    waker: Option<Waker>,
}

/// What to do with a slot that was taken from the ready queue.
pub enum Next {
    /// Nobody lives there any more, or it is being polled further up the stack.
    Nothing,
    /// Poll it, then [`Tasks::put_back`] or [`Tasks::finish`].
    Poll(Task, Waker),
    /// Drop it: it was cancelled. The slot is free.
    Drop(Task),
}

/// All tasks of one executor.
#[derive(Default)]
pub struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
    generations: u64,
    /// No new tasks: the executor is going.
    pub closed: bool,
}

fn at(slot: u32) -> usize {
    usize::try_from(slot).expect("32 bits fit")
}

impl Tasks {
    /// Finds room for a task: its slot and generation.
    pub fn insert(&mut self, shared: &Arc<Shared>, task: Task) -> (u32, u64) {
        self.generations += 1;
        let generation = self.generations;
        if let Some(slot) = self.free.pop() {
            let s = &mut self.slots[at(slot)];
            (s.task, s.occupied, s.cancelled, s.generation) = (Some(task), true, false, generation);
            return (slot, generation);
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 tasks");
        let wake = Arc::new(SlotWaker { shared: shared.clone(), slot, remote: RemoteFlag::new() });
        let waker = Some(Waker::from(wake.clone()));
        self.slots.push(Slot { task: Some(task), occupied: true, cancelled: false, generation, wake, waker });
        (slot, generation)
    }

    /// Takes out what is to be done with a slot that is ready.
    pub fn take(&mut self, slot: u32) -> Next {
        let s = &mut self.slots[at(slot)];
        match s.task.take() {
            None => Next::Nothing,
            Some(task) if s.cancelled => {
                self.release(slot);
                Next::Drop(task)
            }
            Some(task) => {
                let waker = s.waker.take().expect("a task that is not being polled has its waker");
                Next::Poll(task, waker)
            }
        }
    }

    /// After a poll that was pending. A task cancelled meanwhile is queued, to be dropped.
    pub fn put_back(&mut self, slot: u32, task: Task, waker: Waker) {
        let s = &mut self.slots[at(slot)];
        (s.task, s.waker) = (Some(task), Some(waker));
    }

    /// After the last poll of a task.
    pub fn finish(&mut self, slot: u32, waker: Waker) {
        self.slots[at(slot)].waker = Some(waker);
        self.release(slot);
    }

    /// Frees a slot.
    fn release(&mut self, slot: u32) {
        self.slots[at(slot)].occupied = false;
        self.free.push(slot);
    }

    /// Marks a task for dropping; false where it is gone already.
    pub fn cancel(&mut self, slot: u32, generation: u64) -> bool {
        let s = &mut self.slots[at(slot)];
        let alive = s.occupied && s.generation == generation;
        s.cancelled |= alive;
        alive
    }

    /// Before a remote wake is served.
    pub fn clear_remote(&self, slot: u32) {
        self.slots[at(slot)].wake.remote.clear();
    }

    /// Refuses new tasks and takes out all that wait.
    pub fn close(&mut self) -> Vec<Task> {
        self.closed = true;
        let waiting: Vec<u32> = (0..).zip(&self.slots).filter(|(_, s)| s.task.is_some()).map(|(i, _)| i).collect();
        waiting
            .into_iter()
            .filter_map(|slot| {
                let task = self.slots[at(slot)].task.take();
                self.release(slot);
                task
            })
            .collect()
    }

    /// Tasks alive.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
