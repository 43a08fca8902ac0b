//! What /v1/devices takes and says.

use cfs_observe::{DeviceUse, Snapshot};
use cfs_types::UNIT_BYTES;
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

/// Changes what is done with a device of the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceChange {
    /// When this was asked for, seconds since 1970: it is believed for a minute.
    pub at_seconds: u64,
    /// Which: its number, UUID or path.
    pub device: String,
    /// What is to be done.
    pub change: Change,
}

/// What is to be done with a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Move what lies there, then it leaves.
    Retire,
}

/// A device with which something else is done from now on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceChanged {
    /// Its number.
    pub number: u16,
    /// Its UUID.
    pub device: String,
    /// Where it is.
    pub path: String,
    /// Bytes that lie there.
    pub live_bytes: u64,
}

/// Why a device did not become one, or is not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceRefused {
    /// Who asks has not shown that they may.
    Unproven,
    /// In words.
    Failed(String),
}

/// What whoever opened a device knows of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Its number in the store.
    pub number: u16,
    /// Its UUID.
    pub device: String,
    /// Where it is.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Model, serial number and placement handles, where NVMe commands go to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvme: Option<String>,
    /// What it has counted of its wear, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wear: Option<DeviceWear>,
}

/// A device's own count of its wear (NVMe: SMART / Health Information, FDP Statistics).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceWear {
    /// A bit for each reason to worry; 0 is well.
    pub critical_warning: u8,
    /// Spare capacity left, percent.
    pub spare_percent: u8,
    /// Endurance used up, percent.
    pub used_percent: u8,
    /// Times that it found data which it could not correct.
    pub media_errors: u64,
    /// Bytes that hosts wrote, where it counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_written_bytes: Option<u64>,
    /// Bytes that its media took for them: with the former its own write amplification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_written_bytes: Option<u64>,
}

/// How a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceHealth {
    /// Nothing speaks against it.
    Healthy,
    /// Something does: see the evidence.
    Suspect,
}

/// What is done with a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// Segments are written there.
    Active,
    /// Nothing new is written there, and what lies there is moved.
    Retiring,
}

/// A device of the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceReport {
    /// What it is.
    #[serde(flatten)]
    pub facts: DeviceFacts,
    /// What is done with it.
    pub state: DeviceState,
    /// How it is.
    pub health: DeviceHealth,
    /// What speaks against it.
    pub evidence: Vec<String>,
    /// Bytes in segments there that are live.
    pub live_bytes: u64,
    /// Bytes read since start.
    pub read_bytes: u64,
    /// Bytes written since start.
    pub written_bytes: u64,
    /// Operations that ended in an error since start.
    pub errors: u64,
}

impl DeviceReport {
    /// What is known of a device, and what the cores of a snapshot did with it.
    pub fn of(facts: DeviceFacts, snapshot: &Snapshot) -> Self {
        let uses = snapshot.answered().flat_map(|status| &status.devices).filter(|used| used.number == facts.number);
        let uses: Vec<&DeviceUse> = uses.collect();
        let sum = |of: fn(&DeviceUse) -> u64| uses.iter().map(|used| of(used)).sum();
        let errors: u64 = sum(|used| used.errors);
        let evidence = evidence(errors, facts.wear);
        let is_retiring = uses.iter().any(|used| used.is_retiring);
        DeviceReport {
            facts,
            state: if is_retiring { DeviceState::Retiring } else { DeviceState::Active },
            health: if evidence.is_empty() { DeviceHealth::Healthy } else { DeviceHealth::Suspect },
            evidence,
            live_bytes: sum(|used| used.live_units * u64::from(UNIT_BYTES)),
            read_bytes: sum(|used| used.read_bytes),
            written_bytes: sum(|used| used.written_bytes),
            errors,
        }
    }
}

/// What speaks against a device.
fn evidence(errors: u64, wear: Option<DeviceWear>) -> Vec<String> {
    let mut evidence = Vec::new();
    if errors > 0 {
        evidence.push(format!("{errors} operations ended in an error since the server started"));
    }
    let Some(wear) = wear else { return evidence };
    if wear.critical_warning != 0 {
        evidence.push(format!("it warns of itself: critical warning {:#04x}", wear.critical_warning));
    }
    if wear.media_errors > 0 {
        evidence.push(format!("{} times it found data that it could not correct", wear.media_errors));
    }
    if wear.used_percent >= 100 {
        evidence.push(format!("{} % of its endurance are used up", wear.used_percent));
    }
    evidence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_suspect_by_what_speaks_against_it() {
        let wear = DeviceWear {
            critical_warning: 0,
            spare_percent: 100,
            used_percent: 3,
            media_errors: 0,
            host_written_bytes: None,
            media_written_bytes: None,
        };
        assert!(evidence(0, Some(wear)).is_empty());
        assert_eq!(evidence(2, None).len(), 1);
        let worn = DeviceWear { critical_warning: 4, used_percent: 101, media_errors: 9, ..wear };
        assert_eq!(evidence(1, Some(worn)).len(), 4);
    }
}
