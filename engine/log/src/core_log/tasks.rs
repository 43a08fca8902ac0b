//! The two tasks of an open log: the writer and the reclaimer.

use super::Shared;
use super::queue::{Item, Queued};
use super::state::{Phase, PlannedDone, Step};
use crate::LogError;
use crate::slots::Urgency;
use cfs_device::{DeviceError, flush, mark_failed};
use cfs_seam::{Durability, IoBuf, Lifetime, io, timeout};
use std::rc::Rc;
use std::time::Duration;

/// Longest that a failed device is given to take the note that it failed.
const MARK_TIME_MAX: Duration = Duration::from_secs(5);

/// Writes batch after batch; what arrives meanwhile goes into the next one. So does what those hand in who
/// waited for the last one: they come before the next one begins.
pub(super) async fn write_batches(shared: Rc<Shared>) {
    loop {
        let step = shared.state.borrow_mut().plan();
        match step {
            Step::Write(planned) => {
                let (at, buf, planned) = planned.launch();
                shared.write_batch(at, buf, planned).await;
                shared.tasks.yield_now().await;
            }
            Step::Refuse(items) => {
                for waiter in items.into_iter().filter_map(|item| item.done) {
                    waiter.complete(Err(LogError::Full));
                }
            }
            Step::Wait => shared.work.wait().await,
            Step::Stop => break,
        }
    }
    shared.note_stopped();
}

/// Frees slots as groups release them; then, since it alone writes the anchor, notes there that the stream
/// has ended.
pub(super) async fn reclaim_slots(shared: Rc<Shared>) {
    loop {
        let plan = shared.state.borrow().plan_reclaim();
        let Some(plan) = plan else {
            if shared.is_stopped() {
                break;
            }
            shared.reclaim.wait().await;
            continue;
        };
        if shared.append_copies(plan.copies, Urgency::Reclaim).await.is_err() {
            break;
        }
        if let Err(error) = shared.anchors.write(shared.anchor, &plan.head.encode()).await {
            shared.fail(error).await;
            return;
        }
        shared.state.borrow_mut().slots.reclaim(&plan.head);
        shared.work.notify();
    }
    shared.note_end().await;
}

impl Shared {
    async fn write_batch(&self, at: u64, buf: IoBuf, planned: PlannedDone) {
        let bytes = buf.len();
        let begun = self.clock.now();
        let through = self.geometry.volatile_cache && self.geometry.fua;
        let durability = if through { Durability::Through } else { Durability::Flush };
        let done = self.disk.write(at, buf, durability, Lifetime::Log).await;
        let written = self.clock.now();
        let result = match done.result {
            Err(source) => Err(DeviceError::Write { offset: at, bytes, source }),
            Ok(()) if through => Ok(()),
            Ok(()) => flush(&*self.disk).await,
        };
        if let Err(error) = result {
            let is_first = self.end_with(&error);
            for waiter in planned.waiters() {
                waiter.complete(Err(LogError::Failed(error.clone())));
            }
            if is_first {
                self.mark().await;
            }
            return;
        }
        let flushed = self.clock.now();
        let (waiters, room) = {
            let mut state = self.state.borrow_mut();
            let usage = &mut state.usage;
            usage.batches += 1;
            usage.bytes_written += u64::try_from(bytes).expect("a usize fits 64 bits");
            usage.writes.record(written.since(begun));
            if !through {
                usage.flushes.record(flushed.since(written));
            }
            let waiters = state.note_durable(planned);
            let has_room = state.queue.bytes() < self.limits.queue_bytes;
            (waiters, if has_room { std::mem::take(&mut state.room) } else { Vec::new() })
        };
        for waiter in waiters {
            waiter.complete(Ok(()));
        }
        for waiter in room {
            waiter.complete(());
        }
        self.reclaim.notify();
    }

    /// Writes copies of records; resolves when they are durable.
    pub(super) async fn append_copies(&self, copies: Vec<Queued>, urgency: Urgency) -> Result<(), LogError> {
        let mut waits = Vec::new();
        for mut item in super::divide(copies, self.limits.item_bytes) {
            let (promise, done) = io();
            item.urgency = urgency;
            item.done = Some(promise);
            self.enqueue_copies(item)?;
            waits.push(done);
        }
        self.work.notify();
        for wait in waits {
            wait.await?;
        }
        Ok(())
    }

    fn enqueue_copies(&self, item: Item) -> Result<(), LogError> {
        let mut state = self.state.borrow_mut();
        match &state.phase {
            Phase::Open | Phase::Closing => {
                state.queue.push_copies(item);
                Ok(())
            }
            Phase::Ending | Phase::Closed => Err(LogError::Closed),
            Phase::Failed(error) => Err(LogError::Failed(error.clone())),
        }
    }

    /// The device has failed: ends the log and takes the device out of service.
    pub(super) async fn fail(&self, error: DeviceError) {
        if self.end_with(&error) {
            self.mark().await;
        }
    }

    /// Ends the log, if that was not done already. Who watches it is told first: what follows must not get
    /// out.
    fn end_with(&self, error: &DeviceError) -> bool {
        let (watchers, items, room) = {
            let mut state = self.state.borrow_mut();
            if matches!(state.phase, Phase::Failed(_)) {
                return false;
            }
            state.phase = Phase::Failed(error.clone());
            (std::mem::take(&mut state.watchers), state.queue.drain(), std::mem::take(&mut state.room))
        };
        for watcher in watchers {
            watcher.complete(());
        }
        for waiter in items.into_iter().filter_map(|item| item.done) {
            waiter.complete(Err(LogError::Failed(error.clone())));
        }
        for waiter in room {
            waiter.complete(());
        }
        self.work.notify();
        self.reclaim.notify();
        true
    }

    /// Has the device note that it failed. Who stops the process is told last: the device must not be found
    /// in service again.
    async fn mark(&self) {
        // The device has just refused a write: whether it takes this one changes nothing here.
        let end = self.clock.now().after(MARK_TIME_MAX);
        let _ = timeout(&self.clock, end, mark_failed(&*self.disk, &self.superblock.get())).await;
        let watchers = {
            let mut state = self.state.borrow_mut();
            state.is_marked = true;
            std::mem::take(&mut state.mark_watchers)
        };
        for watcher in watchers {
            watcher.complete(());
        }
    }

    /// Nothing is written to the stream any more.
    fn is_stopped(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Ending | Phase::Closed | Phase::Failed(_))
    }

    /// The writer has stopped.
    fn note_stopped(&self) {
        let (room, ending) = {
            let mut state = self.state.borrow_mut();
            (std::mem::take(&mut state.room), state.phase == Phase::Ending)
        };
        for waiter in room {
            waiter.complete(());
        }
        if !ending {
            self.tell_closers();
        }
        self.reclaim.notify();
    }

    /// Waits until the stream has ended and has its anchor say where. A log that failed or was full has not
    /// ended.
    async fn note_end(&self) {
        while !self.is_stopped() {
            self.reclaim.wait().await;
        }
        let head = {
            let state = self.state.borrow();
            (state.phase == Phase::Ending).then(|| state.ended_head())
        };
        let Some(head) = head else { return };
        match self.anchors.write(self.anchor, &head.encode()).await {
            Err(error) => self.fail(error).await,
            Ok(()) => {
                let mut state = self.state.borrow_mut();
                if state.phase == Phase::Ending {
                    state.phase = Phase::Closed;
                }
            }
        }
        self.tell_closers();
    }

    fn tell_closers(&self) {
        let (closers, answer) = {
            let mut state = self.state.borrow_mut();
            let answer = close_answer(&state.phase, state.ended());
            (std::mem::take(&mut state.closers), answer)
        };
        for closer in closers {
            closer.complete(answer.clone());
        }
    }
}

/// What [`super::CoreLog::close`] answers once nothing more is written.
pub(super) fn close_answer(phase: &Phase, ended: bool) -> Result<(), LogError> {
    match phase {
        Phase::Failed(error) => Err(LogError::Failed(error.clone())),
        Phase::Open | Phase::Closing | Phase::Ending | Phase::Closed if ended => Ok(()),
        Phase::Open | Phase::Closing | Phase::Ending | Phase::Closed => Err(LogError::Full),
    }
}
