//! One operation, from routing to its final answer: numbered once, sent until it is answered.

use crate::core::Core;
use crate::link::{Lost, Sent};
use crate::options::Patience;
use crate::session::Numbered;
use crate::wait::Backoff;
use cfs_seam::{Instant, IoBuf};
use cfs_types::{FsError, RequestNumber, ShardId, VolumeId};
use cfs_wire::{Identity, Op, Reply, Request, RequestContext};
use std::rc::Rc;
use std::time::Duration;

/// One attempt of a request, after which its connection counts as dead.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(30);
/// The server's own deadline ends this much earlier, so that its answer still arrives.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub reply: Reply,
    pub payload: Option<IoBuf>,
    pub sent: Sent,
}

/// An error that is final, and when the request left that found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub error: FsError,
    pub sent: Option<Sent>,
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Failure { error, sent: None }
    }
}
impl From<Failure> for FsError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

enum Verdict {
    Final,
    /// Try again under the same number.
    Again,
    /// It was not executed: try again under a new number.
    Anew,
    /// The link's core does not own the shard.
    Elsewhere,
    SessionGone,
}

fn judge(op: &Op, error: FsError) -> Verdict {
    match error {
        // The reader's epoch is too old: only the reader can learn a newer one.
        FsError::Conflict if matches!(op, Op::Read { .. }) => Verdict::Final,
        FsError::Busy | FsError::Blocked | FsError::TimedOut => Verdict::Again,
        FsError::Conflict => Verdict::Anew,
        FsError::WrongShard => Verdict::Elsewhere,
        FsError::SessionExpired => Verdict::SessionGone,
        _ => Verdict::Final,
    }
}

impl Core {
    /// Executes `op` at the core that owns `shard`, under the volume's patience. `payload` is
    /// copied for each attempt. A mutation whose outcome cannot be known any more, because the
    /// session has expired, fails with `SessionExpired`.
    pub async fn call(
        self: &Rc<Self>,
        shard: ShardId,
        who: &Identity,
        op: &Op,
        payload: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let end = match self.options.patience {
            Patience::Hard => None,
            Patience::Soft(time) => Some(self.now().after(time)),
        };
        let mut number = op.is_mutation().then(|| self.session.number());
        let mut unknown = false;
        let mut backoff = Backoff::new();
        loop {
            self.check()?;
            if end.is_some_and(|end| self.now() >= end) {
                return Err(FsError::TimedOut.into());
            }
            if number.as_ref().is_some_and(|n| n.generation != self.session.generation()) {
                if unknown {
                    return Err(FsError::SessionExpired.into());
                }
                number = Some(self.session.number());
            }
            let limit = self.now().after(ATTEMPT_TIME_MAX);
            let limit = end.map_or(limit, |end| end.min(limit));
            // Before the first welcome there is no map: core 0 is asked for it.
            let core = self.links.core_of(shard).unwrap_or(0);
            let Some(link) = self.link(core, limit).await else { continue };
            if number.as_ref().is_some_and(|n| n.generation != self.session.generation()) {
                continue;
            }
            let generation = self.session.generation();
            let running = number.as_ref().map(|n: &Numbered| n.number).unwrap_or_default();
            let request = self.build(shard, running, who, op, limit);
            match link.request(self, &request, payload.map(IoBuf::copy_of), limit).await {
                Ok(answered) => {
                    let error = match answered.response.result {
                        Ok(reply) => {
                            return Ok(Answer { reply, payload: answered.payload, sent: answered.sent });
                        }
                        Err(error) => error,
                    };
                    match judge(op, error) {
                        Verdict::Final => return Err(Failure { error, sent: Some(answered.sent) }),
                        Verdict::Again => unknown |= error == FsError::TimedOut,
                        Verdict::Anew => {
                            number = op.is_mutation().then(|| self.session.number());
                            unknown = false;
                        }
                        Verdict::Elsewhere => link.close(),
                        Verdict::SessionGone => self.session_lost(generation),
                    }
                    backoff.wait(&self.world).await;
                }
                Err(Lost::TooLong) => return Err(FsError::TooLarge.into()),
                Err(Lost::Gone) => unknown = true,
                Err(Lost::TimedOut) => {
                    unknown = true;
                    link.close();
                }
            }
        }
    }

    /// A request as it goes out now.
    pub fn build(
        &self,
        shard: ShardId,
        number: RequestNumber,
        identity: &Identity,
        op: &Op,
        end: Instant,
    ) -> Request {
        let time = end.since(self.now()).saturating_sub(ANSWER_MARGIN).max(Duration::from_millis(1));
        let context = RequestContext {
            shard,
            map_epoch: self.links.map_epoch(),
            session: self.session.id(),
            number,
            oldest: self.session.oldest(),
            deadline_ms: u32::try_from(time.as_millis()).unwrap_or(u32::MAX),
            timestamp: self.session.clock(),
            volume: VolumeId::default(),
            identity: identity.clone(),
            trace: None,
        };
        Request { context, op: op.clone() }
    }
}
