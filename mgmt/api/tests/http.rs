//! The API over real sockets, in front of cores that are made up.

use cfs_api::{
    About, Added, Answer, ApiError, Changed, Cores, DeviceAdded, DeviceChanged, DeviceFacts, DeviceHealth,
    DeviceRefused, DeviceReport, Facts, ScrubReport, ServerStatus, Told, bind,
};
use cfs_observe::{CoreStatus, DeviceUse};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Cores with this much in use of 100 units; one more that never answers, if asked for.
struct Fake {
    live: u64,
    silent: bool,
}

impl Cores for Fake {
    fn count(&self) -> u16 {
        if self.silent { 3 } else { 2 }
    }
    fn store_gone(&self) -> bool {
        false
    }

    fn ask(&self, core: u16) -> Answer {
        if core == 2 {
            return Box::pin(std::future::pending());
        }
        let space_units = [100, self.live, 0, 100 - self.live];
        let devices = vec![DeviceUse { number: 1, errors: 2, live_units: 8, ..DeviceUse::default() }];
        Box::pin(async move { Some(CoreStatus { core, groups: 128, space_units, devices, ..CoreStatus::default() }) })
    }

    fn scrub(&self, core: u16, unpaced: bool) -> Told {
        Box::pin(async move { core < 2 && unpaced })
    }

    fn devices(&self) -> Facts {
        Box::pin(async { vec![DeviceFacts { number: 1, path: "/dev/one".into(), ..DeviceFacts::default() }] })
    }
    fn add_device(&self, request: String, proof: Option<String>) -> Added {
        Box::pin(async move {
            match proof.as_deref() {
                Some("right") if request == "{}" => {
                    Ok(DeviceAdded { number: 1, device: "a device".into(), regions: 3 })
                }
                Some("right") => Err(DeviceRefused::Failed("it is not empty".into())),
                _ => Err(DeviceRefused::Unproven),
            }
        })
    }
    fn change_device(&self, request: String, proof: Option<String>) -> Changed {
        let changed = DeviceChanged { number: 1, device: request, path: "/dev/one".into(), live_bytes: 7 };
        Box::pin(async move { proof.map(|_| changed).ok_or(DeviceRefused::Unproven) })
    }
}

/// Serves on a free port; ends with the test's executor.
fn serve(live: u64, silent: bool) -> SocketAddr {
    let about = About { version: "1.2.3".into(), pid: 7, target: "/srv/x".into(), listen: "[::1]:7400".into() };
    let api = bind(SocketAddr::from(([127, 0, 0, 1], 0)), about).expect("a free port");
    let address = api.address().expect("bound");
    tokio::spawn(api.serve(Arc::new(Fake { live, silent })));
    address
}

async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // The server may answer and close before it has read an oversized request.
    let _refused = stream.write_all(request).await;
    let mut reply = Vec::new();
    let _reset = stream.read_to_end(&mut reply).await;
    String::from_utf8(reply).expect("text")
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let reply = exchange(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a code");
    (code, head.to_lowercase(), body.to_string())
}

#[tokio::test]
async fn metrics_come_as_openmetrics_text_and_as_json() {
    let address = serve(10, false);
    let (code, head, body) = get(address, "/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.contains("cfs_served_groups{core=\"1\"} 128") && body.ends_with("# EOF\n"), "{body}");
    let (code, head, body) = get(address, "/metrics/json").await;
    let families: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert!(code == 200 && head.contains("application/json"));
    assert!(families.as_array().is_some_and(|all| all.iter().any(|f| f["name"] == "cfs_served_groups")), "{body}");
}

#[tokio::test]
async fn health_has_a_code_for_each_level_and_says_why() {
    assert_eq!(get(serve(10, false), "/health").await.0, 200);
    let (code, _, body) = get(serve(90, false), "/health").await;
    assert!(code == 202 && body.contains("90 %"), "{code} {body}");
    let (code, _, body) = get(serve(10, true), "/health").await;
    assert!(code == 503 && body.contains("core 2 does not answer"), "{code} {body}");
}

#[tokio::test]
async fn a_server_with_a_silent_core_is_not_ready_and_still_tells_of_the_others() {
    assert_eq!(get(serve(10, false), "/ready").await.0, 200);
    let address = serve(10, true);
    assert_eq!(get(address, "/ready").await.0, 503);
    let (code, _, body) = get(address, "/v1/status").await;
    let status: ServerStatus = serde_json::from_str(&body).expect("its own type");
    assert_eq!((code, status.about.pid, status.space.full_percent), (200, 7, 10));
    assert_eq!(status.cores.iter().map(|c| c.answering).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test]
async fn a_scrub_is_started_by_whoever_says_how_and_by_no_page_of_a_browser() {
    let address = serve(10, false);
    let post = |kind: &str, body: &str| {
        let bytes = body.len();
        format!("POST /v1/scrub HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\n\r\n{body}")
    };
    let started = exchange(address, post("application/json", "{\"unpaced\": true}").as_bytes()).await;
    let (head, body) = started.split_once("\r\n\r\n").expect("a head");
    let report: ScrubReport = serde_json::from_str(body).expect("its own type");
    assert!(head.starts_with("HTTP/1.1 200") && report.is_idle && report.cores.len() == 2, "{started}");
    for (kind, body, code) in [
        ("text/plain", "{\"unpaced\": true}", "415"),
        ("application/json", "{}", "400"),
        ("application/json", "{\"unpaced\": false}", "503"),
    ] {
        let refused = exchange(address, post(kind, body).as_bytes()).await;
        assert!(refused.starts_with(&format!("HTTP/1.1 {code}")), "{refused}");
    }
    assert_eq!(get(address, "/v1/scrub").await.0, 200);
}

#[tokio::test]
async fn a_device_is_added_for_who_proves_that_they_may() {
    let address = serve(10, false);
    let post = |proof: &str, body: &str| {
        let bytes = body.len();
        format!("POST /v1/devices HTTP/1.1\r\nHost: x\r\n{proof}Content-Length: {bytes}\r\n\r\n{body}")
    };
    let proof = "X-CoreFS-Proof: right\r\n";
    let added = exchange(address, post(proof, "{}").as_bytes()).await;
    let (head, body) = added.split_once("\r\n\r\n").expect("a head");
    let device: DeviceAdded = serde_json::from_str(body).expect("its own type");
    assert!(head.starts_with("HTTP/1.1 200") && device.number == 1, "{added}");
    let refused = exchange(address, post(proof, "{ }").as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 409") && refused.contains("it is not empty"), "{refused}");
    for proof in ["", "X-CoreFS-Proof: wrong\r\n"] {
        let refused = exchange(address, post(proof, "{}").as_bytes()).await;
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    }
}

#[tokio::test]
async fn a_device_is_changed_for_who_proves_that_they_may() {
    let address = serve(10, false);
    let post =
        |proof: &str| format!("POST /v1/devices/change HTTP/1.1\r\nHost: x\r\n{proof}Content-Length: 4\r\n\r\nthis");
    let changed = exchange(address, post("X-CoreFS-Proof: right\r\n").as_bytes()).await;
    let (head, body) = changed.split_once("\r\n\r\n").expect("a head");
    let device: DeviceChanged = serde_json::from_str(body).expect("its own type");
    assert!(head.starts_with("HTTP/1.1 200") && device.device == "this", "{changed}");
    let refused = exchange(address, post("").as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
}

#[tokio::test]
async fn devices_are_listed_with_what_cores_did_to_them() {
    let address = serve(10, false);
    let (code, _, body) = get(address, "/v1/devices").await;
    let listed: Vec<DeviceReport> = serde_json::from_str(&body).expect("its own type");
    let [one] = listed.as_slice() else { panic!("{body}") };
    assert_eq!((code, one.facts.path.as_str(), one.health), (200, "/dev/one", DeviceHealth::Suspect));
    // Two cores, each with two errors and eight units of it.
    assert_eq!((one.errors, one.live_bytes), (4, 16 * 4096));
    assert_eq!(one.evidence.len(), 1);
}

#[tokio::test]
async fn strangers_get_an_answer_or_a_closed_connection() {
    let address = serve(10, false);
    assert_eq!(get(address, "/nothing").await.0, 404);
    let posted = exchange(address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
    let rubbish = exchange(address, &[0xff; 64]).await;
    assert!(rubbish.is_empty() || rubbish.starts_with("HTTP/1.1 400"), "{rubbish}");
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let refused = exchange(address, long.as_bytes()).await;
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 4"), "{refused}");
    assert_eq!(get(address, "/ready").await.0, 200);
}

#[tokio::test]
async fn half_requests_keep_nobody_out_and_the_latest_stay() {
    let address = serve(10, false);
    let mut halves = Vec::new();
    for _ in 0..100 {
        let mut half = TcpStream::connect(address).await.expect("it listens");
        half.write_all(b"GET /rea").await.expect("sent");
        halves.push(half);
    }
    assert_eq!(get(address, "/ready").await.0, 200);
    // The 64th oldest was not in the way, and would be gone had its time run out first.
    let open = halves[63].try_read(&mut [0]);
    assert!(open.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "{open:?}");
    assert_eq!(halves[0].read(&mut [0]).await.unwrap_or(0), 0, "closed");
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_finish_a_request_is_closed() {
    let mut half = TcpStream::connect(serve(10, false)).await.expect("it listens");
    half.write_all(b"GET /rea").await.expect("sent");
    let mut reply = Vec::new();
    let _reset = half.read_to_end(&mut reply).await;
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 408"), "{reply:?}");
}

#[tokio::test]
async fn an_address_in_use_is_refused_with_advice() {
    let taken = serve(10, false);
    let error = bind(taken, About::default()).err().expect("in use");
    assert!(matches!(error, ApiError::InUse(address) if address == taken));
    assert!(error.to_string().contains("--http"), "{error}");
}
