//! Connections, one request each, all of them bounded.

use crate::error::ApiError;
use crate::gather::{Cores, Gatherer};
use crate::routes::{Shared, router};
use crate::status::About;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Connections at once. One more takes the place of the one that has longest not asked for anything;
/// where all have asked, it waits in the socket's queue.
const CONNECTIONS_MAX: usize = 64;
/// From accept to the end of the reply. Longer than a silent core is waited for, twice.
const CONNECTION_LIFE: Duration = Duration::from_secs(10);
/// Until the request's headers are here.
const HEADER_TIME: Duration = Duration::from_secs(2);
/// Request line and headers, bytes; hyper takes no less.
const HEADER_BYTES_MAX: usize = 8192;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Pause after a failed accept: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An API that is bound to its address and not yet served.
pub struct Api {
    listener: TcpListener,
    about: About,
}

/// Takes the address, so that a conflict is known before anything else begins.
pub fn bind(address: SocketAddr, about: About) -> Result<Api, ApiError> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ApiError::InUse(address),
        _ => ApiError::Listen { address, error },
    })?;
    Ok(Api { listener, about })
}

impl Api {
    /// The address, with the port that the system chose where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped; returns only where the listener cannot be used.
    pub async fn serve(self, cores: Arc<dyn Cores>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let router = router(Arc::new(Shared { about: self.about, gatherer: Gatherer::new(cores) }));
        let mut connections = Connections::default();
        loop {
            connections.make_room().await;
            match listener.accept().await {
                Ok((stream, _)) => connections.serve(stream, router.clone()),
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

/// The connections that are open.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Those that may not have asked yet, the oldest first.
    silent: VecDeque<Silent>,
}

/// A connection and whether it has asked since.
struct Silent {
    has_asked: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Silent {
    fn is_silent(&self) -> bool {
        !self.task.is_finished() && !self.has_asked.load(Ordering::Relaxed)
    }
}

impl Connections {
    /// Returns once there is a place. Whoever sends half a request keeps nobody else out.
    async fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.silent.retain(Silent::is_silent);
        while self.tasks.len() >= CONNECTIONS_MAX {
            if let Some(oldest) = self.silent.pop_front() {
                oldest.task.abort();
            }
            self.tasks.join_next().await;
        }
    }

    fn serve(&mut self, stream: TcpStream, router: Router) {
        let has_asked = Arc::new(AtomicBool::new(false));
        let asked = has_asked.clone();
        let task = self.tasks.spawn(async move {
            let _overdue = timeout(CONNECTION_LIFE, serve_one(stream, router, asked)).await;
        });
        self.silent.push_back(Silent { has_asked, task });
    }
}

/// One request and its reply. What the client does wrong is answered by hyper or ends the connection.
async fn serve_one(stream: TcpStream, router: Router, asked: Arc<AtomicBool>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
    http.keep_alive(false).max_buf_size(HEADER_BYTES_MAX).max_headers(HEADERS_MAX);
    let routes = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        routes.call(request)
    });
    let _closed = http.serve_connection(TokioIo::new(stream), service).await;
}
