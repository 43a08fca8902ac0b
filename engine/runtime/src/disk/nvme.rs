//! A namespace by NVMe commands, past the block layer: `/dev/ngXnY` (drivers/nvme/host/ioctl.c).
//!
//! Each core's ring passes its commands through as IORING_OP_URING_CMD and so has a queue pair of its own. A write
//! carries the placement handle of its lifetime class where the namespace has Flexible Data Placement on.
//! `docs/decisions/0016-nvme-passthrough.md` has the reasons, the sections of the specifications, and which class goes where.

mod command;
mod namespace;
mod placement;
mod ring;
mod zones;

pub(super) use namespace::Namespace;
pub use namespace::{NvmeIdentity, NvmeWear};
pub(super) use ring::attach;
