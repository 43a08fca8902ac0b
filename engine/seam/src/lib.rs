//! The only door to the world: Clock, Rng, Disk, Net, Mesh, Spawn.
//!
//! Logic sees these traits and nothing else of the machine. There are exactly two
//! implementations: `engine/runtime` (one io_uring ring a core) and `tests/sim` (one thread,
//! virtual time, faults). Everything here is single-threaded: a `World` never leaves its core.
//!
//! Invariants: a buffer handed to an operation belongs to it until the operation completes, also
//! when the caller drops the future; dropping a future never corrupts memory or state.

mod buffer;
mod clock;
mod disk;
mod gather;
mod lifetime;
mod mesh;
mod net;
mod oneshot;
mod spawn;
mod zoned;

pub use buffer::{BLOCK_BYTES, BufferPool, InstalledPool, IoBuf, SPARE_BYTES_MAX, spare_bytes};
pub use clock::{Clock, Instant, Sleep, TimerId, sleep, sleep_until, timeout};
pub use disk::{Disk, DiskError, DiskUsage, Durability, Geometry, IoDone, Zoning};
pub use gather::gather;
pub use lifetime::Lifetime;
pub use mesh::{Mesh, MeshFull, MeshMessage};
pub use net::{Accepted, Address, Chunk, Listener, Net, NetError, Peer, SendDone, Stream};
pub use oneshot::{Io, Promise, io};
pub use spawn::{Class, Spawn, TaskHandle, spawn};
pub use zoned::{Zone, ZoneAction, ZoneState, ZonedDevice, Zones};

use std::rc::Rc;

/// A seeded or operating-system source of randomness.
pub trait Rng {
    /// 64 uniformly distributed bits.
    fn next_u64(&self) -> u64;
}

/// All one core may touch, cheap to clone.
#[derive(Clone)]
pub struct World {
    /// Time and timers.
    pub clock: Rc<dyn Clock>,
    /// Randomness.
    pub rng: Rc<dyn Rng>,
    /// Sockets.
    pub net: Rc<dyn Net>,
    /// Messages to the other cores of this process.
    pub mesh: Rc<dyn Mesh>,
    /// New tasks on this core.
    pub tasks: Rc<dyn Spawn>,
}
