//! `cfs device`: the devices of a store that is served. The first half asks, the second is the server's.

mod change;

pub use change::retire;

use crate::args::{DeviceAddOptions, DeviceListOptions};
use crate::format::Draft;
use crate::place::{Target, read_secret};
use crate::registry::Entry;
use crate::status::size;
use crate::store_watch::StoreWatch;
use crate::{Failure, http, registry};
use cfs_api::{DeviceAdd, DeviceAdded, DeviceHealth, DeviceRefused, DeviceReport, DeviceState, PROOF_HEADER};
use cfs_device::Member;
use cfs_runtime::{DiskFile, Reactor, Remote};
use cfs_server::{Attach, CoreReply, CoreRequest, Envelope, NewDevice, NotAdded};
use cfs_types::CoreId;
use cfs_wire::Secret;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, oneshot};

/// How long a request is believed, seconds.
const BELIEVED_SECONDS: u64 = 60;

/// `cfs device add`.
pub fn add(options: &DeviceAddOptions) -> Result<(), Failure> {
    let entry = registry::serving(&options.store)?;
    let target = Target::of(&options.device)?;
    let path = target.path.to_str().ok_or_else(|| Failure::plain("the path of the device is no UTF-8"))?;
    let request = DeviceAdd { at_seconds: now(), path: path.to_owned(), size: options.size, force: options.force };
    let body = serde_json::to_string(&request).map_err(|e| Failure::new("writing JSON", e))?;
    let added: Result<DeviceAdded, String> = http::post_text(&entry.http, "/v1/devices", &body, &prove(&entry, &body)?);
    let added = added.map_err(|why| Failure::new(format!("adding {path}"), why))?;
    say!(
        "{path} is device {} of {} ({}): {} regions of 64 MiB",
        added.number,
        entry.target.display(),
        added.device,
        added.regions
    );
    Ok(())
}

/// The line of a request's head that proves who asks.
fn prove(entry: &Entry, body: &str) -> Result<String, Failure> {
    let proof = hex(&read_secret(&entry.secret)?.request_proof(body.as_bytes()));
    Ok(format!("{PROOF_HEADER}: {proof}\r\n"))
}

/// A server and its devices.
#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    entry: Entry,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Vec<DeviceReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `cfs device list`.
pub fn list(options: &DeviceListOptions) -> Result<ExitCode, Failure> {
    let servers = registry::serving_or_all(options.store.as_deref())?;
    let look = |entry: Entry| match http::get(&entry.http, "/v1/devices") {
        Ok(devices) => Seen { entry, devices: Some(devices), error: None },
        Err(error) => Seen { entry, devices: None, error: Some(error) },
    };
    let seen: Vec<Seen> = servers.into_iter().map(look).collect();
    if options.json {
        say!("{}", serde_json::to_string_pretty(&seen).map_err(|e| Failure::new("writing JSON", e))?);
    } else if seen.is_empty() {
        say!("no server of this user runs on this machine");
    } else {
        show(&seen);
    }
    let is_well = |device: &DeviceReport| device.health == DeviceHealth::Healthy;
    let well = seen.iter().all(|seen| seen.devices.as_ref().is_some_and(|devices| devices.iter().all(is_well)));
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn show(seen: &[Seen]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "STORE", "DEVICE", "PATH", "STATE", "HEALTH", "SIZE", "LIVE", "READ", "WRITTEN", "ERRORS", "USED UP", "NVME",
    ]);
    for (seen, device) in seen.iter().flat_map(|seen| seen.devices.iter().flatten().map(move |device| (seen, device))) {
        let facts = &device.facts;
        table.add_row([
            seen.entry.target.display().to_string(),
            facts.number.to_string(),
            facts.path.clone(),
            if device.state == DeviceState::Active { "active" } else { "retiring" }.to_owned(),
            if device.health == DeviceHealth::Healthy { "healthy" } else { "suspect" }.to_owned(),
            size(facts.bytes),
            size(device.live_bytes),
            size(device.read_bytes),
            size(device.written_bytes),
            device.errors.to_string(),
            facts.wear.map_or_else(|| "-".to_owned(), |wear| format!("{} %", wear.used_percent)),
            facts.nvme.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    say!("{}", table.trim_fmt());
    for seen in seen {
        let target = seen.entry.target.display();
        for device in seen.devices.iter().flatten() {
            device.evidence.iter().for_each(|what| say!("{target}: device {}: {what}", device.facts.number));
        }
        if let Some(error) = &seen.error {
            say!("{target}: http://{} does not answer: {error}", seen.entry.http);
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _fits = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Adds and changes devices of a server; its half of `cfs device add` and the like.
#[derive(Clone)]
pub struct Adder {
    remote: Remote,
    store: StoreWatch,
    secret: Arc<Secret>,
    /// One after the other.
    turn: Arc<Mutex<()>>,
}

impl Adder {
    /// For the server whose cores `remote` reaches.
    pub fn new(remote: Remote, store: StoreWatch, secret: Secret) -> Self {
        Adder { remote, store, secret: Arc::new(secret), turn: Arc::default() }
    }

    fn check(&self, request: &str, proof: Option<String>) -> Result<(), DeviceRefused> {
        let proof = proof.and_then(|proof| unhex(&proof)).ok_or(DeviceRefused::Unproven)?;
        if self.secret.verify_request(request.as_bytes(), &proof) { Ok(()) } else { Err(DeviceRefused::Unproven) }
    }

    /// Looks at who asks, opens the device and has the cores take it in.
    pub async fn add(self, request: String, proof: Option<String>) -> Result<DeviceAdded, DeviceRefused> {
        self.check(&request, proof)?;
        let wanted: DeviceAdd = serde_json::from_str(&request).map_err(failed)?;
        believed(wanted.at_seconds)?;
        let _turn = self.turn.lock().await;
        let opened = tokio::task::spawn_blocking(move || open(&wanted).map(|(target, draft)| (wanted, target, draft)));
        let (wanted, target, draft) = opened.await.map_err(failed)?.map_err(failed)?;
        let new = NewDevice {
            device: Arc::new(draft.file.clone()),
            seen_at: target.path.as_os_str().as_bytes().to_vec(),
            force: draft.is_ours || wanted.force,
        };
        let member = match self.tell(new).await {
            Ok(member) => member,
            Err(NotAdded { why, may_be_listed }) => {
                if may_be_listed {
                    draft.keep();
                }
                return Err(DeviceRefused::Failed(why));
            }
        };
        let bytes = u64::from(member.regions) * cfs_device::REGION_BYTES + member.regions_at;
        self.store.add(draft.file.clone(), (member.number, member.device), bytes);
        draft.keep();
        Ok(DeviceAdded { number: member.number, device: member.device.to_string(), regions: member.regions })
    }

    async fn tell(&self, new: NewDevice) -> Result<Member, NotAdded> {
        let (promise, answer) = oneshot::channel();
        let deliver = move |reply: CoreReply| {
            let added = match reply {
                CoreReply::Added(added) => added.map(|member| *member),
                _ => Err(NotAdded::left_out("the server does not serve yet")),
            };
            // Who asked may have lost patience.
            let _gone = promise.send(added);
        };
        let ask = Envelope::Outside(CoreRequest::AddDevice(Box::new(new)), Box::new(deliver));
        // A core that takes nothing drops the promise.
        let _sent = self.remote.send(CoreId::new(0), Box::new(ask));
        answer.await.unwrap_or_else(|_| Err(NotAdded::in_doubt("the server stops")))
    }
}

fn believed(at_seconds: u64) -> Result<(), DeviceRefused> {
    if at_seconds.abs_diff(now()) > BELIEVED_SECONDS { Err(DeviceRefused::Unproven) } else { Ok(()) }
}

fn failed(why: impl std::fmt::Display) -> DeviceRefused {
    DeviceRefused::Failed(why.to_string())
}

/// Opens and locks what is to be added; under its name, so that a start finds it once it is in the list.
fn open(wanted: &DeviceAdd) -> Result<(Target, Draft), Failure> {
    let path = Path::new(&wanted.path);
    if !path.is_absolute() {
        return Err(Failure::plain("the path of a device is absolute"));
    }
    let target = Target::of(path)?;
    let mut draft = Draft::open(&target, wanted.size, wanted.force)?;
    if draft.file.has_zones() {
        return Err(Failure::plain("a device of zones is the only device of its node"));
    }
    draft.name()?;
    Ok((target, draft))
}

/// How a core gets at a device that the server was told of.
pub fn attach(reactor: Rc<Reactor>) -> Attach {
    Rc::new(move |device| device.downcast_ref::<DiskFile>().map(|file| file.attach(&reactor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_survives_its_way() {
        assert_eq!(unhex(&hex(&[0, 1, 0xab, 0xff])), Some(vec![0, 1, 0xab, 0xff]));
        assert!(["abc", "zz", "+1", "é"].iter().all(|text| unhex(text).is_none()));
    }
}
