//! Who listens in this process, by address.

use super::{LooseEnd, pair};
use cfs_seam::Address;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;

/// Streams that wait to be accepted; a further one goes through the kernel.
const BACKLOG: usize = 1024;

/// Given to the cores of one process (`CoreConfig::local`): a core that connects to an address at
/// which another of them listens reaches it without the kernel. The lock is held for moments when a
/// stream or a listener is made, never when bytes move.
#[derive(Clone, Default)]
pub struct LocalNet(Arc<Mutex<BTreeMap<Address, Weak<Backlog>>>>);

impl std::fmt::Debug for LocalNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalNet({} addresses)", self.with(|listening| listening.len()))
    }
}

#[derive(Default)]
struct Backlog(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    ends: VecDeque<LooseEnd>,
    acceptor: Option<Waker>,
}

impl Backlog {
    fn with<R>(&self, work: impl FnOnce(&mut Waiting) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A listener's place in the hub; dropping it takes the place away.
pub(in crate::net) struct Registration {
    hub: LocalNet,
    address: Address,
    backlog: Arc<Backlog>,
}

impl LocalNet {
    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<Address, Weak<Backlog>>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has streams to `address` come here.
    pub(in crate::net) fn register(&self, address: Address) -> Registration {
        let backlog = Arc::<Backlog>::default();
        self.with(|listening| listening.insert(address.clone(), Arc::downgrade(&backlog)));
        Registration { hub: self.clone(), address, backlog }
    }

    /// The near end of a new stream to `address`; None where nobody here listens there.
    pub(in crate::net) fn connect(&self, address: &Address) -> Option<LooseEnd> {
        let backlog = self.with(|listening| listening.get(address).and_then(Weak::upgrade))?;
        let [near, far] = pair();
        let (queued, acceptor) = backlog.with(|waiting| {
            let queued = waiting.ends.len() < BACKLOG;
            if queued {
                waiting.ends.push_back(far);
            }
            (queued, waiting.acceptor.take())
        });
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
        queued.then_some(near)
    }
}

impl Registration {
    /// The next stream wakes `acceptor`.
    pub(in crate::net) fn wake_me(&self, acceptor: &Waker) {
        self.backlog.with(|waiting| waiting.acceptor = Some(acceptor.clone()));
    }
    /// The far end of a stream that waits to be accepted.
    pub(in crate::net) fn accept(&self) -> Option<LooseEnd> {
        self.backlog.with(|waiting| waiting.ends.pop_front())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.with(|listening| {
            let own = listening.get(&self.address).is_some_and(|held| held.ptr_eq(&Arc::downgrade(&self.backlog)));
            if own {
                listening.remove(&self.address);
            }
        });
        self.backlog.with(|waiting| {
            for end in waiting.ends.drain(..) {
                end.refuse();
            }
        });
    }
}
