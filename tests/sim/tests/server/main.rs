//! The whole server in the simulator: real cores and real clients, simulated device and network.

mod act;
mod basics;
mod bulk;
mod doubt;
mod faulty;
mod full;
mod gone;
mod history;
mod images;
mod interrupted;
mod leaks;
mod limits;
mod linear;
mod long;
mod lost;
mod older;
mod open_limit;
mod opens;
mod pool;
mod pressure;
mod private;
mod proof;
mod put_back;
mod ranges;
mod raw;
mod reads;
mod reference;
mod refill;
mod replaced;
mod retire;
mod revoke;
mod room;
mod scrub;
mod seeds;
mod sessions;
mod shared;
mod slow;
mod stage;
mod stuck;
mod summary;
mod takeover;
mod walk;
mod zoned;

/// As in the product: a quarter of a history's time went to memory that is asked for and given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
