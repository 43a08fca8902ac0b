//! Messages between the cores of one process.

use crate::Io;
use cfs_types::CoreId;
use std::any::Any;

/// An owned message; the receiver downcasts it.
pub type MeshMessage = Box<dyn Any + Send>;

/// The ring to that core is full: the message comes back, try again after yielding.
pub struct MeshFull(pub MeshMessage);

/// Lock-free single-producer single-consumer rings to and from every core.
pub trait Mesh {
    /// Cores of this process.
    fn cores(&self) -> u16;
    /// This core.
    fn me(&self) -> CoreId;
    /// Queues a message and wakes the other core if it sleeps. In order per pair of cores.
    fn send(&self, to: CoreId, message: MeshMessage) -> Result<(), MeshFull>;
    /// The next message to this core. One task receives.
    fn recv(&self) -> Io<(CoreId, MeshMessage)>;
}
