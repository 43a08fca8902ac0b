//! Looking at what the names lead to, and looking a second time before a failure is final: what
//! two looks show alike was so at every moment between them.

use super::{Coordinator, Glance, Look, Sent, Target, Verified};
use crate::command::CommandBody;
use crate::record::Dentry;
use crate::session::is_final;
use crate::txn::Action;
use cfs_types::FsError;
use cfs_wire::Reply;

impl Coordinator {
    pub(super) fn looked(&mut self, result: Result<Reply, FsError>) {
        let look = self.looks.get(self.next_look).cloned();
        let glance: Glance = match (&look, result) {
            (Some(Look::Name(..)), Ok(Reply::Entry(entry))) => Ok(Some(Dentry { ino: entry.ino, kind: entry.kind })),
            (Some(Look::Name(..)), Err(FsError::NotFound)) => Ok(None),
            (Some(Look::Attr(_)), Ok(Reply::Attr(attr))) => {
                self.seen.attr = Some(Ok(attr));
                Ok(None)
            }
            // The plan tells whether another failure goes before this one.
            (Some(Look::Attr(_)), Err(error)) if is_final(error) => {
                self.seen.attr = Some(Err(error));
                Ok(None)
            }
            (_, Err(error)) => Err(error),
            (_, Ok(_)) => Err(FsError::Malformed),
        };
        self.next_look += 1;
        if let Some((verified, second)) = &mut self.second_look {
            second.push(glance);
            if second.len() < self.trail.len() {
                return self.send(Target::Look);
            }
            let (verified, same) = (*verified, *second == self.trail);
            self.second_look = None;
            return self.verified(verified, same);
        }
        self.trail.push(glance);
        match glance {
            Err(error) => return self.fail(error),
            Ok(name) if matches!(look, Some(Look::Name(..))) => self.seen.names.push(name),
            Ok(_) => {}
        }
        self.send(Target::Look);
    }

    /// Looks again at all that was looked at.
    pub(super) fn verify(&mut self, verified: Verified) {
        self.second_look = Some((verified, Vec::new()));
        self.next_look = 0;
        self.send(Target::Look);
    }

    fn verified(&mut self, verified: Verified, same: bool) {
        match verified {
            _ if !same => self.fail(FsError::Conflict),
            Verified::Decide => self.send(Target::Decide),
            Verified::Conclude(error) if self.request.number.get() > 0 => {
                let command = self.command(CommandBody::Conclude { error });
                let shard = self.tx.shard;
                self.act(Some(Sent::Conclude), Action::Propose { shard, command });
            }
            Verified::Conclude(error) => self.close(Err(error), Vec::new()),
        }
    }
}
