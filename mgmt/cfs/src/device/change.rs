//! What is done with a device of a store that is served. The first half asks, the second is the server's.

use super::{Adder, believed, failed, now, prove};
use crate::args::DeviceRetireOptions;
use crate::place::Target;
use crate::registry::{self, Entry};
use crate::status::size;
use crate::{Failure, http};
use cfs_api::{Change, DeviceChange, DeviceChanged, DeviceRefused, DeviceReport};
use cfs_server::{CoreReply, CoreRequest, Envelope};
use cfs_types::CoreId;
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;

/// Between two looks whether a device is empty.
const LOOK: Duration = Duration::from_millis(200);

/// `cfs device retire`.
pub fn retire(options: &DeviceRetireOptions) -> Result<(), Failure> {
    let entry = registry::serving(&options.store)?;
    let retiring = ask(&entry, &options.device, Change::Retire)
        .map_err(|why| Failure::new(format!("retiring {}", options.device), why))?;
    say!(
        "device {} ({}) retires: {} are moved to the others; cfs device list shows what is left",
        retiring.number,
        retiring.path,
        size(retiring.live_bytes)
    );
    if !options.wait {
        return Ok(());
    }
    while is_there(&entry, &retiring.device).map_err(|why| Failure::new("asking how far it is", why))? {
        std::thread::sleep(LOOK);
    }
    say!("device {} ({}) is no part of the store any more", retiring.number, retiring.path);
    Ok(())
}

fn is_there(entry: &Entry, device: &str) -> Result<bool, String> {
    let devices: Vec<DeviceReport> = http::get(&entry.http, "/v1/devices")?;
    Ok(devices.iter().any(|report| report.facts.device == device))
}

/// Has a server do something else with a device, which is meant by its number, UUID or path.
fn ask(entry: &Entry, device: &str, change: Change) -> Result<DeviceChanged, String> {
    let is_path = device.contains('/') || Path::new(device).exists();
    let device = match is_path.then(|| Target::of(Path::new(device))) {
        Some(target) => target.map_err(|e| e.to_string())?.path.display().to_string(),
        None => device.to_owned(),
    };
    let request = DeviceChange { at_seconds: now(), device, change };
    let body = serde_json::to_string(&request).map_err(|e| e.to_string())?;
    let proof = prove(entry, &body).map_err(|e| e.to_string())?;
    http::post_text(&entry.http, "/v1/devices/change", &body, &proof)
}

impl Adder {
    /// Looks at who asks and has the cores do something else with a device.
    pub async fn change(self, request: String, proof: Option<String>) -> Result<DeviceChanged, DeviceRefused> {
        self.check(&request, proof)?;
        let wanted: DeviceChange = serde_json::from_str(&request).map_err(failed)?;
        believed(wanted.at_seconds)?;
        let Change::Retire = wanted.change;
        let (promise, answer) = oneshot::channel();
        let deliver = move |reply: CoreReply| {
            let retiring = match reply {
                CoreReply::Retiring(retiring) => retiring.map(|retiring| *retiring),
                _ => Err("the server does not serve yet".into()),
            };
            // Who asked may have lost patience.
            let _gone = promise.send(retiring);
        };
        let ask = Envelope::Outside(CoreRequest::RetireDevice(wanted.device), Box::new(deliver));
        // A core that takes nothing drops the promise.
        let _sent = self.remote.send(CoreId::new(0), Box::new(ask));
        let retiring = answer.await.unwrap_or_else(|_| Err("the server stops".into())).map_err(failed)?;
        Ok(DeviceChanged {
            number: retiring.member.number,
            device: retiring.member.device.to_string(),
            path: cfs_device::path_of(&retiring.member),
            live_bytes: retiring.live_bytes,
        })
    }
}
