//! Metrics of cores: what they are, and their exposition.
//!
//! A core describes itself in a [`CoreStatus`]; [`families()`] turns the pictures of all cores and of
//! the process into metrics, [`openmetrics`] into text that Prometheus reads.
//!
//! Invariants: every metric has a help text and ends in its unit; every metric of a core carries
//! its number in the label `core`; the number of series is bounded by cores and operations.

mod exposition;
mod families;
mod process;
mod scrub;
mod snapshot;
mod status;

pub use exposition::{CONTENT_TYPE, openmetrics};
pub use families::{Family, Kind, Sample, Value, families};
pub use process::{Process, ThreadTime};
pub use scrub::{FilePiece, Finding, ScrubStatus};
pub use snapshot::{CorePicture, Snapshot, Space};
pub use status::{Bounded, ClassUsage, CoreStatus, DeviceUse, Number, Unit};
