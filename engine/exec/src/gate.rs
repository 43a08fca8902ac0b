//! Closing a service: nobody new comes in, whoever is inside finishes.

use crate::event::Event;
use std::cell::Cell;
use std::rc::Rc;

#[derive(Default)]
struct Inner {
    inside: Cell<usize>,
    closed: Cell<bool>,
    empty: Event,
}

/// Counts who is inside. Clones are the same gate.
#[derive(Clone, Default)]
pub struct Gate(Rc<Inner>);

impl Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self::default()
    }
    /// A pass to hold while inside; None once the gate was closed.
    pub fn enter(&self) -> Option<Pass> {
        if self.0.closed.get() {
            return None;
        }
        self.0.inside.set(self.0.inside.get() + 1);
        Some(Pass(self.0.clone()))
    }
    /// Refuses newcomers from the call on (also if the future is dropped), and resolves once the
    /// last pass is dropped. May be called again. A holder of a pass that awaits it waits for ever.
    pub fn close(&self) -> impl Future<Output = ()> + use<> {
        self.0.closed.set(true);
        let inner = self.0.clone();
        async move {
            while inner.inside.get() > 0 {
                inner.empty.wait().await;
            }
        }
    }
    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.0.closed.get()
    }
    /// Passes alive.
    pub fn inside(&self) -> usize {
        self.0.inside.get()
    }
}

/// Proof of being inside a [`Gate`].
#[must_use = "dropping the pass leaves the gate"]
pub struct Pass(Rc<Inner>);

impl Drop for Pass {
    fn drop(&mut self) {
        let left = self.0.inside.get() - 1;
        self.0.inside.set(left);
        if left == 0 {
            self.0.empty.notify_all();
        }
    }
}
