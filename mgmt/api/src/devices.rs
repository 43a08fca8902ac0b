//! What /v1/devices takes and says.

use serde::{Deserialize, Serialize};

/// The header that carries the proof that a request comes from who knows the server's secret: hexadecimal, over the
/// whole body (`cfs_wire::Secret::request_proof`).
pub const PROOF_HEADER: &str = "x-corefs-proof";

/// Makes a device one of the node's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceAdd {
    /// When this was asked for, seconds since 1970: it is believed for a minute.
    pub at_seconds: u64,
    /// Its path on the server's machine, absolute.
    pub path: String,
    /// Bytes of a data directory's store; a device is used whole.
    pub size: Option<u64>,
    /// Destroy what is there.
    pub force: bool,
}

/// A device that is one of the node's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceAdded {
    /// Its number.
    pub number: u16,
    /// Its UUID.
    pub device: String,
    /// Its regions of 64 MiB.
    pub regions: u32,
}

/// Why a device did not become one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceRefused {
    /// Who asks has not shown that they may.
    Unproven,
    /// In words.
    Failed(String),
}
