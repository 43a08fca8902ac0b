//! Why the API does not serve.

use std::io;
use std::net::SocketAddr;

/// Why the API does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody else listens there.
    #[error("the HTTP address {0} is in use, perhaps by another server: choose another one with --http")]
    InUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("listening for HTTP on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        error: io::Error,
    },
}
