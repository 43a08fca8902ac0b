//! Requests of this thread, without connection and frames.

use crate::core::Core;
use crate::messages::{CoreReply, CoreRequest};
use cfs_seam::IoBuf;
use cfs_types::{CoreId, FsError, SessionId};
use cfs_wire::{Request, Response};
use std::rc::Rc;

/// A core that serves, for whoever shares its thread: what `cfs-bench` measures without sockets.
pub struct Door(Rc<Core>);

impl Door {
    pub(crate) fn new(core: Rc<Core>) -> Self {
        Door(core)
    }

    /// A new session, without a connection: nothing can be revoked from it, so it is granted no leases.
    pub async fn open_session(&self) -> Result<SessionId, FsError> {
        match self.0.peers.call(CoreId::new(0), CoreRequest::OpenSession(None)).await {
            CoreReply::Session(session) => session,
            _ => Err(FsError::Malformed),
        }
    }

    /// Serves a request here, or at the core that owns its shard.
    pub async fn serve(&self, request: Request, payload: Option<IoBuf>) -> (Response, Option<IoBuf>) {
        self.0.serve_or_forward(request, payload).await
    }
}
