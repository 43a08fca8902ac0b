//! Questions to the HTTP API of a server of this user.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for a server, which ends a connection after that time. It waits a second for a silent core, two where
/// others asked before; a device that is added takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer, bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// What a server says under a path.
pub fn get<T: DeserializeOwned>(http: &str, path: &str) -> Result<T, String> {
    ask(http, &format!("GET {path} HTTP/1.0\r\nHost: {http}\r\n\r\n"))
}

/// What a server answers to what it is sent.
pub fn post<T: DeserializeOwned>(http: &str, path: &str, what: &impl Serialize) -> Result<T, String> {
    let body = serde_json::to_string(what).map_err(|e| e.to_string())?;
    post_text(http, path, &body, "")
}

/// The same with a body that is JSON already, and more header lines.
pub fn post_text<T: DeserializeOwned>(http: &str, path: &str, body: &str, headers: &str) -> Result<T, String> {
    let bytes = body.len();
    ask(
        http,
        &format!(
            "POST {path} HTTP/1.0\r\nHost: {http}\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n{headers}\r\n{body}"
        ),
    )
}

/// HTTP/1.0, so that the answer ends with the connection.
fn ask<T: DeserializeOwned>(http: &str, request: &str) -> Result<T, String> {
    let address: SocketAddr = http.parse().map_err(|_| format!("'{http}' is no address"))?;
    let mut stream = TcpStream::connect_timeout(&reachable(address), PATIENCE).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("it answers something that is not HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        let words = if body.is_empty() { head.lines().next().unwrap_or_default() } else { body.trim_end() };
        return Err(format!("it answers: {words}"));
    }
    serde_json::from_str(body).map_err(|e| format!("it answers something else than a CoreFS server: {e}"))
}

/// A server that listens everywhere is asked over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(a) if a.ip().is_unspecified() => ([127, 0, 0, 1], a.port()).into(),
        SocketAddr::V6(a) if a.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, a.port()).into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_over_loopback() {
        let any: SocketAddr = "0.0.0.0:7480".parse().expect("an address");
        assert_eq!(reachable(any).to_string(), "127.0.0.1:7480");
        assert_eq!(reachable("[::]:1".parse().expect("an address")).to_string(), "[::1]:1");
    }
}
