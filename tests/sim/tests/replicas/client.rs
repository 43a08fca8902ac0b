//! A client of the group: it creates, writes, renames and appends, one operation after another,
//! at whichever node leads, and knows what it must find.

use crate::wire::Wire;
use cfs_namespace::data::{DataCommand, Layout, Piece, WriteAt, WriteData, plan_read};
use cfs_namespace::txn::{Action, Coordinator, Event, Request};
use cfs_namespace::{Answer, Command, CommandBody, Stop, TxId};
use cfs_seam::{World, sleep, timeout};
use cfs_server::group::{GroupAnswer, Shard};
use cfs_types::{FsError, InodeId, Name, RequestNumber, SessionId};
use cfs_wire::{Identity, Op, Reply};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const ROOT: InodeId = InodeId::ROOT;
/// Bytes of a record in the shared file.
const RECORD: usize = 16;

/// What all clients know of each other.
#[derive(Default)]
pub struct Common {
    /// The file all append to.
    pub log: Cell<Option<InodeId>>,
    /// Records whose append was acknowledged.
    pub appended: RefCell<BTreeSet<[u8; RECORD]>>,
    pub stop: Cell<bool>,
    pub operations: Cell<u64>,
    pub reads: Cell<u64>,
}

pub struct Client {
    world: World,
    wire: Rc<Wire>,
    voters: u64,
    me: u64,
    number: u64,
    guess: u64,
    common: Rc<Common>,
    /// Longest write.
    bytes_max: u64,
    files: BTreeMap<String, (InodeId, Vec<u8>)>,
    names: u64,
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

impl Client {
    pub fn new(world: World, wire: Rc<Wire>, voters: u64, me: u64, bytes_max: u64, common: Rc<Common>) -> Self {
        Client { world, wire, voters, me, number: 0, guess: 1, common, bytes_max, files: BTreeMap::new(), names: 0 }
    }

    fn below(&self, n: u64) -> u64 {
        self.world.rng.next_u64() % n
    }

    async fn pause(&self, ms: u64) {
        sleep(&self.world.clock, Duration::from_micros(1 + self.below(ms * 1000))).await;
    }

    /// A member that seems to lead.
    async fn member(&mut self) -> Rc<Shard> {
        loop {
            if let Some(member) = self.wire.member(self.guess) {
                match member.replica.leader() {
                    Some(leader) if leader != self.guess => self.guess = leader,
                    _ => return member,
                }
            } else {
                self.guess = 1 + self.below(self.voters);
            }
            self.pause(5).await;
        }
    }

    async fn look_elsewhere(&mut self) {
        self.guess = 1 + self.below(self.voters);
        self.pause(40).await;
    }

    /// Runs a command until it is answered: once, however often it is sent.
    async fn call(&mut self, body: CommandBody, data: &[u8]) -> Result<Reply, FsError> {
        self.number += 1;
        let command = Command {
            session: SessionId::new(100 + self.me),
            number: RequestNumber::new(self.number),
            oldest: RequestNumber::new(self.number),
            identity: Identity::default(),
            body,
        };
        loop {
            let shard = self.member().await;
            let end = self.world.clock.now().after(Duration::from_millis(200 + self.below(1500)));
            let sent = shard.execute(command.clone(), data.to_vec().into(), Vec::new());
            match timeout(&self.world.clock, end, sent).await {
                Some(Ok(executed)) if self.wire.runs(&shard) => match executed.result {
                    Ok(GroupAnswer::Shard(answer)) => return Ok(Answer::into_wire(answer)),
                    Ok(GroupAnswer::Control(_)) => panic!("the answer of another group"),
                    Err(error) => return Err(error),
                },
                _ => self.look_elsewhere().await,
            }
        }
    }

    async fn op(&mut self, op: Op) -> Result<Reply, FsError> {
        self.call(CommandBody::Op { op, asked: None, pinned_by: Vec::new() }, &[]).await
    }

    async fn create(&mut self, text: &str) -> InodeId {
        let op = Op::Create { dir: ROOT, name: name(text), mode: 0o644, exclusive: true, truncate: false };
        match self.op(op).await {
            Ok(Reply::Entry(entry)) => entry.ino,
            other => panic!("creating {text}: {other:?}"),
        }
    }

    async fn write(&mut self, ino: InodeId, at: WriteAt, data: &[u8]) {
        let checksums = data.chunks(4096).map(cfs_device::crc32c).collect();
        let len = u32::try_from(data.len()).expect("small");
        let data_command = DataCommand::Write {
            ino,
            at,
            data: WriteData::Inline { data_offset: 0, len, checksums },
            kill_privileges: false,
        };
        let written = self.call(CommandBody::Data(data_command), data).await;
        assert!(matches!(written, Ok(Reply::Written { .. })), "{written:?}");
    }

    /// Runs an operation that takes several commands, as a server's core does. A coordinator that
    /// loses its leader is given up, and the same request begins again at the next one.
    async fn coordinate(&mut self, op: Op) -> Result<Reply, FsError> {
        self.number += 1;
        let request = Request {
            session: SessionId::new(100 + self.me),
            number: RequestNumber::new(self.number),
            oldest: RequestNumber::new(self.number),
            identity: Identity::default(),
            op,
        };
        loop {
            let shard = self.member().await;
            let end = self.world.clock.now().after(Duration::from_millis(500 + self.below(1500)));
            match timeout(&self.world.clock, end, self.drive(&shard, request.clone())).await.flatten() {
                Some(result) if self.wire.runs(&shard) => return result,
                _ => self.look_elsewhere().await,
            }
        }
    }

    /// None where the coordinator cannot go on here.
    async fn drive(&self, shard: &Rc<Shard>, request: Request) -> Option<Result<Reply, FsError>> {
        shard.replica.ready().await.ok()?;
        let sequence = shard.replica.clock().tick().get();
        let tx = TxId { shard: ROOT.shard(), term: shard.replica.term(), sequence, attempt: 0 };
        let mut coordinator = Coordinator::new(tx, request, ROOT.shard());
        loop {
            let (token, action) = coordinator.poll_action()?;
            let event = match action {
                Action::Finish { result, .. } => return Some(result),
                Action::Query { op, .. } => Event::Answer(shard.query(&op).await),
                Action::Propose { command, .. } => {
                    let executed = shard.execute(command, Vec::new().into(), Vec::new()).await.ok()?;
                    let result = executed.result.and_then(|answer| match answer {
                        GroupAnswer::Shard(answer) => Ok(answer),
                        GroupAnswer::Control(_) => Err(FsError::Invalid),
                    });
                    Event::Executed { result, blocked_by: executed.blocked_by }
                }
                Action::Revoke { .. } => Event::Revoked(Ok(())),
                Action::Wait { .. } => {
                    sleep(&self.world.clock, Duration::from_millis(1)).await;
                    Event::Waited
                }
            };
            coordinator.handle_event(token, event);
        }
    }

    /// Makes the root and the shared file.
    pub async fn set_up(&mut self) {
        let made = self.call(CommandBody::MakeRoot { mode: 0o755, uid: 0, gid: 0 }, &[]).await;
        made.expect("the root is made once");
        let log = self.create("log").await;
        self.common.log.set(Some(log));
    }

    /// Works until told to stop.
    pub async fn work(&mut self) {
        while !self.common.stop.get() {
            match self.below(10) {
                0..=1 => self.make().await,
                2..=4 => self.overwrite().await,
                5 => self.rename().await,
                6..=7 => self.append().await,
                8 => self.check_one().await,
                _ => self.check_log().await,
            }
            self.common.operations.set(self.common.operations.get() + 1);
            self.pause(30).await;
        }
    }

    fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("c{}-{}", self.me, self.names)
    }

    fn some_file(&self) -> Option<String> {
        let at = usize::try_from(self.below(self.files.len().max(1) as u64)).expect("small");
        self.files.keys().nth(at).cloned()
    }

    async fn make(&mut self) {
        if self.files.len() < 12 {
            let text = self.fresh_name();
            let ino = self.create(&text).await;
            self.files.insert(text, (ino, Vec::new()));
        }
    }

    async fn overwrite(&mut self) {
        let Some(text) = self.some_file() else { return };
        let seed = self.world.rng.next_u64();
        let len = 1 + self.below(self.bytes_max);
        let data: Vec<u8> = (0..len).map(|i| (seed.wrapping_mul(i | 1) >> 32).to_le_bytes()[0]).collect();
        let ino = self.files[&text].0;
        self.write(ino, WriteAt::Offset(0), &data).await;
        let content = &mut self.files.get_mut(&text).expect("just found").1;
        let rest = content.split_off(data.len().min(content.len()));
        *content = [data, rest].concat();
    }

    async fn rename(&mut self) {
        let Some(old) = self.some_file() else { return };
        let new = self.fresh_name();
        let (from, to) = (name(&old), name(&new));
        let op = Op::Rename { from_dir: ROOT, from, to_dir: ROOT, to, no_replace: true, exchange: false };
        let renamed = self.coordinate(op).await;
        assert!(renamed.is_ok(), "renaming {old} to {new}: {renamed:?}");
        let file = self.files.remove(&old).expect("just found");
        self.files.insert(new, file);
    }

    async fn append(&mut self) {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&self.me.to_le_bytes());
        record[8..].copy_from_slice(&(self.number + 1).to_le_bytes());
        let log = self.common.log.get().expect("set up");
        self.write(log, WriteAt::Append, &record).await;
        assert!(self.common.appended.borrow_mut().insert(record));
    }

    /// Reads a file at a member that answers.
    async fn content(&mut self, ino: InodeId) -> Vec<u8> {
        loop {
            let shard = self.member().await;
            let end = self.world.clock.now().after(Duration::from_millis(500));
            match timeout(&self.world.clock, end, read_file(&shard, ino)).await {
                Some(Ok(bytes)) if self.wire.runs(&shard) => {
                    self.common.reads.set(self.common.reads.get() + 1);
                    return bytes;
                }
                _ => self.look_elsewhere().await,
            }
        }
    }

    async fn find(&mut self, text: &str) -> Result<InodeId, FsError> {
        let op = Op::Lookup { dir: ROOT, name: name(text) };
        loop {
            let shard = self.member().await;
            let end = self.world.clock.now().after(Duration::from_millis(500));
            match timeout(&self.world.clock, end, shard.query(&op)).await {
                Some(Ok(Reply::Entry(entry))) if self.wire.runs(&shard) => return Ok(entry.ino),
                Some(Err(FsError::NotFound)) if self.wire.runs(&shard) => return Err(FsError::NotFound),
                _ => self.look_elsewhere().await,
            }
        }
    }

    async fn check_one(&mut self) {
        let Some(text) = self.some_file() else { return };
        let (ino, content) = self.files[&text].clone();
        assert_eq!(self.find(&text).await, Ok(ino), "{text}");
        assert!(self.content(ino).await == content, "{text} holds something else");
    }

    /// What was acknowledged before the read began is there, everything once.
    async fn check_log(&mut self) {
        let before = self.common.appended.borrow().clone();
        let log = self.common.log.get().expect("set up");
        let bytes = self.content(log).await;
        let (records, rest) = bytes.as_chunks::<RECORD>();
        let found: BTreeSet<[u8; RECORD]> = records.iter().copied().collect();
        assert!(rest.is_empty() && found.len() == records.len(), "a record was appended twice");
        let missing = before.difference(&found).count();
        assert_eq!(missing, 0, "acknowledged records are missing");
    }

    /// Everything this client was told of is there, and nothing else of its own.
    pub async fn check_all(&mut self) {
        for (text, (ino, content)) in self.files.clone() {
            assert_eq!(self.find(&text).await, Ok(ino), "{text}");
            assert!(self.content(ino).await == content, "{text} holds something else");
        }
        for number in 1..=self.names {
            let text = format!("c{}-{number}", self.me);
            assert_eq!(self.find(&text).await.is_ok(), self.files.contains_key(&text), "{text}");
        }
        self.check_log().await;
    }
}

async fn read_file(shard: &Rc<Shard>, ino: InodeId) -> Result<Vec<u8>, FsError> {
    let Reply::Attr(attr) = shard.query(&Op::Getattr { ino }).await? else { return Err(FsError::Corrupt) };
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < attr.size {
        let at = bytes.len() as u64;
        let step = |plan: Result<Vec<Piece>, Stop>| match plan {
            Ok(pieces) => Ok(Ok(pieces)),
            Err(Stop::Need(need)) => Err(need),
            Err(Stop::Fail(error)) => Ok(Err(error)),
            Err(Stop::Blocked(_)) => Ok(Err(FsError::Blocked)),
        };
        let plan = shard.read(|view, _| step(plan_read(view, Layout::default(), ino, at, attr.size - at))).await??;
        for piece in plan {
            match piece {
                Piece::Zero(len) => bytes.resize(bytes.len() + usize::try_from(len).expect("small"), 0),
                Piece::Log { slice, len } => {
                    let data = shard.replica.read_data(slice.index, slice.data_offset, slice.data_len).await?;
                    let skip = slice.skip as usize;
                    bytes.extend_from_slice(&data[skip..skip + len as usize]);
                }
                Piece::Chunk { .. } => panic!("nothing is packed here"),
            }
        }
    }
    Ok(bytes)
}
