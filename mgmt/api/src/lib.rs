//! The HTTP API: /metrics, /health, status, scrub, devices.
//!
//! Runs on the management executor, never on a core; it asks cores by message through [`Cores`].
//! Reading asks for no identity, so it belongs on loopback or a trusted network, nor does a scrub, which changes
//! nothing but the load. What changes more wants a proof that it comes from who knows the server's secret.
//!
//! Invariants: nothing waits without a limit (a core one second, a connection ten); connections
//! and request sizes are bounded; however many ask, cores are asked at most ten times a second.

#![allow(clippy::disallowed_methods, reason = "the management plane runs beside the cores")]

mod devices;
mod error;
mod gather;
mod health;
mod listen;
mod routes;
mod scrub;
mod status;

pub use devices::{
    Change, DeviceAdd, DeviceAdded, DeviceChange, DeviceChanged, DeviceFacts, DeviceHealth, DeviceRefused,
    DeviceReport, DeviceState, DeviceWear, PROOF_HEADER,
};
pub use error::ApiError;
pub use gather::{Added, Answer, Changed, Cores, Facts, Told};
pub use health::{Health, Level, Reason, health};
pub use listen::{Api, bind};
pub use scrub::{ScrubReport, ScrubStart};
pub use status::{About, CoreSummary, ServerStatus, SpaceStatus};
