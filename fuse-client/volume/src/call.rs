//! One operation, from routing to its final answer: numbered once, sent until it is answered.

use crate::core::Core;
use crate::link::{Answered, Link, Lost, Origin};
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
    pub origin: Origin,
}

/// An error that is final, and where the answer comes from that told it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub error: FsError,
    pub origin: Option<Origin>,
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Failure { error, origin: None }
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

/// One operation on its way to an answer.
struct Attempts<'a> {
    volume: &'a Rc<Core>,
    op: &'a Op,
    number: Option<Numbered>,
    /// An attempt may have been executed.
    unknown: bool,
    backoff: Backoff,
    end: Option<Instant>,
}

impl<'a> Attempts<'a> {
    fn new(volume: &'a Rc<Core>, op: &'a Op) -> Self {
        let end = match volume.options.patience {
            Patience::Hard => None,
            Patience::Soft(time) => Some(volume.now().after(time)),
        };
        let number = op.is_mutation().then(|| volume.session.number());
        Attempts { volume, op, number, unknown: false, backoff: Backoff::new(), end }
    }

    /// Whether to try at all, and until when.
    fn begin(&mut self) -> Result<Instant, FsError> {
        let volume = self.volume;
        volume.check()?;
        if self.end.is_some_and(|end| volume.now() >= end) {
            return Err(FsError::TimedOut);
        }
        if self.is_of_old_session() {
            if self.unknown {
                return Err(FsError::SessionExpired);
            }
            self.number = Some(volume.session.number());
        }
        let limit = volume.now().after(ATTEMPT_TIME_MAX);
        Ok(self.end.map_or(limit, |end| end.min(limit)))
    }

    fn is_of_old_session(&self) -> bool {
        self.number.as_ref().is_some_and(|n| n.generation != self.volume.session.generation())
    }

    fn running_number(&self) -> RequestNumber {
        self.number.as_ref().map(|n| n.number).unwrap_or_default()
    }

    /// Prepares the next attempt after `error`; false where that is final.
    async fn recover(&mut self, error: FsError, link: &Link, generation: u64) -> bool {
        match judge(self.op, error) {
            Verdict::Final => return false,
            Verdict::Again => self.unknown |= error == FsError::TimedOut,
            Verdict::Anew => {
                self.number = self.op.is_mutation().then(|| self.volume.session.number());
                self.unknown = false;
            }
            Verdict::Elsewhere => link.close(),
            Verdict::SessionGone => self.volume.session_lost(generation),
        }
        self.backoff.wait(&self.volume.world).await;
        true
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
        let mut attempts = Attempts::new(self, op);
        loop {
            let limit = attempts.begin()?;
            // Before the first welcome there is no map: core 0 is asked for it.
            let core = self.links.core_of(shard).unwrap_or(0);
            let Some(link) = self.link(core, limit).await else { continue };
            if self.links.core_of(shard).unwrap_or(0) != core {
                continue;
            }
            let generation = self.session.generation();
            if attempts.is_of_old_session() {
                continue;
            }
            let request = self.build(shard, attempts.running_number(), who, op, limit);
            match link.request(self, &request, payload.map(IoBuf::copy_of), limit).await {
                Ok(Answered { response, payload, origin }) => match response.result {
                    Ok(reply) => return Ok(Answer { reply, payload, origin }),
                    Err(error) => {
                        if !attempts.recover(error, &link, generation).await {
                            return Err(Failure { error, origin: Some(origin) });
                        }
                    }
                },
                Err(Lost::TooLong) => return Err(FsError::TooLarge.into()),
                Err(Lost::Gone | Lost::TimedOut) => attempts.unknown = true,
            }
        }
    }

    /// A request as it goes out now.
    pub fn build(&self, shard: ShardId, number: RequestNumber, identity: &Identity, op: &Op, end: Instant) -> Request {
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
