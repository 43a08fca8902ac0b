//! New tasks on this core.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// Task class; the scheduler gives each its share of the core (`engine/exec`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Requests of users.
    Foreground,
    /// Raft messages and log writes of other nodes' groups.
    Replication,
    /// Flush, compaction, cleaning, scrub.
    Background,
}

/// Keeps a task alive: dropping it cancels the task at its next await.
#[must_use = "dropping the handle cancels the task"]
pub struct TaskHandle {
    cancel: Option<Box<dyn FnOnce()>>,
}

impl TaskHandle {
    /// Made by a scheduler; `cancel` runs on drop.
    pub fn new(cancel: Box<dyn FnOnce()>) -> Self {
        TaskHandle { cancel: Some(cancel) }
    }
    /// Lets the task run to its own end. Only for tasks that a gate or a closed stream ends.
    pub fn detach(mut self) {
        self.cancel = None;
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}

/// The core's scheduler.
pub trait Spawn {
    /// Starts a task; it first runs after the caller yields.
    fn spawn_boxed(&self, class: Class, task: Pin<Box<dyn Future<Output = ()>>>) -> TaskHandle;
    /// Resolves once the scheduler has run what else is ready: for long CPU work.
    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// Spawns a future that is not boxed yet.
pub fn spawn(tasks: &Rc<dyn Spawn>, class: Class, task: impl Future<Output = ()> + 'static) -> TaskHandle {
    tasks.spawn_boxed(class, Box::pin(task))
}
