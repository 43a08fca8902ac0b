//! A cluster of shards in memory: states, logs, chunks, and messages on their way.

use crate::data::{self, DataCommand, DataEffect, Layout, Piece};
use crate::memory::Memory;
use crate::outcome::Begun;
use crate::record::Inode;
use crate::state::State;
use crate::view::{Key, NeedMore, Rows, Value, View};
use crate::{Command, CommandBody, Effect, EntryContext, Message, Step, Stop};
use cfs_types::{ChunkId, FsError, InodeId, LogIndex, Nanos, RangeIndex, ShardId, Term, Timestamp, VolumeId};
use cfs_wire::{FileKind, Reply};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of a range in these tests.
pub const RANGE: u64 = 10_000;

/// Stands for CRC32C: the state machine only carries it.
pub fn checksums(bytes: &[u8]) -> Vec<u32> {
    let mix = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    bytes.chunks(4096).map(|block| block.iter().fold(0x811c_9dc5, mix)).collect()
}

/// A view that says `NeedMore` the first time it is asked for anything.
struct Shy<'a> {
    inner: &'a Memory,
    fetched: RefCell<BTreeSet<(Key, Key)>>,
}

impl Shy<'_> {
    fn admit(&self, from: &[u8], to: &[u8]) -> bool {
        !self.fetched.borrow_mut().insert((from.into(), to.into()))
    }
}

impl View for Shy<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>, NeedMore> {
        let known = self.admit(key, &[]);
        if known { self.inner.get(key) } else { Err(NeedMore::Key(key.into())) }
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Rows, NeedMore> {
        let known = self.admit(from, to);
        let need = NeedMore::Range { from: from.into(), to: to.into(), limit };
        if known { self.inner.scan(from, to, limit) } else { Err(need) }
    }
}

/// Shards, logs, chunks.
#[derive(Default)]
pub struct World {
    pub shards: BTreeMap<ShardId, Memory>,
    pub log: BTreeMap<(ShardId, LogIndex), Vec<u8>>,
    pub chunks: BTreeMap<ChunkId, Vec<u8>>,
    pub on_the_way: BTreeMap<(ShardId, ShardId), VecDeque<u64>>,
    pub to_trim: BTreeSet<(InodeId, RangeIndex)>,
    indexes: BTreeMap<ShardId, LogIndex>,
    pub freed: usize,
}

impl World {
    pub fn layout() -> Layout {
        Layout::with_range_bytes(RANGE).expect("valid")
    }

    pub fn view(&mut self, shard: ShardId) -> &Memory {
        self.shards.entry(shard).or_default()
    }

    pub fn context(shard: ShardId, index: LogIndex) -> EntryContext {
        EntryContext {
            shard,
            term: Term::new(1),
            index,
            timestamp: Timestamp::new(index.get()),
            now: Nanos::new(i64::try_from(index.get()).expect("small")),
            name_key: [0; 32],
            volume: VolumeId::new(0),
            layout: World::layout(),
        }
    }

    /// Executes in an entry of its own with this data area. Checks that a view which has to fetch
    /// everything gives the same writes and effects.
    pub fn run<T: PartialEq + std::fmt::Debug>(
        &mut self,
        shard: ShardId,
        area: Vec<u8>,
        body: impl Fn(&mut State<'_>) -> Step<T>,
    ) -> Result<T, FsError> {
        let index = self.indexes.entry(shard).or_default().next();
        self.indexes.insert(shard, index);
        self.log.insert((shard, index), area);
        let ctx = World::context(shard, index);
        let memory = self.shards.entry(shard).or_default();
        let shy = Shy { inner: memory, fetched: RefCell::default() };
        let (retried, seconds) = loop {
            let mut state = State::new(&shy, &ctx);
            match body(&mut state) {
                Err(Stop::Need(_)) => {}
                result => break (result, state.finish()),
            }
        };
        let mut state = State::new(memory, &ctx);
        let result = body(&mut state);
        let (writes, effects) = state.finish();
        assert_eq!((&result, &(writes.clone(), effects.clone())), (&retried, &seconds));
        match result {
            Ok(value) => {
                self.shards.entry(shard).or_default().apply(writes);
                effects.into_iter().for_each(|effect| self.follow(shard, effect));
                Ok(value)
            }
            Err(Stop::Fail(error)) => Err(error),
            Err(stop) => panic!("{stop:?}"),
        }
    }

    fn follow(&mut self, shard: ShardId, effect: Effect) {
        match effect {
            Effect::Data(DataEffect::FreeChunk(id)) => {
                assert!(self.chunks.remove(&id).is_some(), "{id:?} freed twice");
                self.freed += 1;
            }
            Effect::Data(DataEffect::TrimPending { ino, range }) => {
                self.to_trim.insert((ino, range));
            }
            Effect::Sent { to, sequence } => {
                self.on_the_way.entry((shard, to)).or_default().push_back(sequence);
            }
            Effect::ReapPending(_) | Effect::Gone(_) | Effect::Data(DataEffect::Thinned(..)) => {}
            other => panic!("{other:?}"),
        }
    }

    pub fn command(&mut self, shard: ShardId, area: Vec<u8>, body: DataCommand) -> Result<Reply, FsError> {
        self.step(shard, area, None, body)
    }

    /// One step of a command that takes several.
    pub fn step(&mut self, shard: ShardId, area: Vec<u8>, begun: Begun, body: DataCommand) -> Result<Reply, FsError> {
        let command = Command::internal(CommandBody::Data(body.clone()));
        self.run(shard, area, |state| data::execute(state, &command, begun, &body))
    }

    /// Makes a chunk durable, as a server does before it proposes a command that names it.
    pub fn write_chunk(&mut self, shard: ShardId, bytes: Vec<u8>) -> ChunkId {
        let grant = DataCommand::GrantChunks { count: 1 };
        let first = match self.command(shard, vec![], grant).expect("granted") {
            Reply::Offset(first) => first,
            other => panic!("{other:?}"),
        };
        let id = ChunkId::new(first, shard).expect("valid");
        assert_eq!(self.chunks.insert(id, bytes), None, "{id:?} granted twice");
        id
    }

    /// Delivers the next message of one pair of shards.
    pub fn deliver(&mut self, from: ShardId, to: ShardId) {
        let sequence = self.on_the_way.get_mut(&(from, to)).and_then(VecDeque::pop_front);
        let key = crate::keys::outbox(to, sequence.expect("a message waits"));
        let stored = self.view(from).get(&key).expect("in memory").expect("in the outbox");
        let Ok(Message::Data(sent)) = crate::record::decode(&stored) else { panic!("data") };
        let mut message = sent.clone();
        // Some other command's bytes come first in the entry.
        let mut area = vec![0xEE; 77];
        if let Some(slice) = sent.carries() {
            let at = usize::try_from(slice.data_offset).expect("small");
            let len = usize::try_from(slice.data_len).expect("small");
            area.extend_from_slice(&self.log[&(from, slice.index)][at..at + len]);
            message.carried_at(77);
        }
        let sequence = sequence.expect("taken above");
        let message = Message::Data(message);
        self.run(to, area, |state| crate::outbox::deliver(state, from, sequence, &message, &[])).expect("never fails");
        self.run(from, vec![], |state| crate::outbox::acknowledge(state, to, sequence)).expect("never fails");
    }

    pub fn pairs(&self) -> Vec<(ShardId, ShardId)> {
        let waiting = self.on_the_way.iter().filter(|(_, queue)| !queue.is_empty());
        waiting.map(|(pair, _)| *pair).collect()
    }

    pub fn deliver_all(&mut self) {
        while let Some((from, to)) = self.pairs().first().copied() {
            self.deliver(from, to);
        }
    }

    /// One step of trimming somewhere.
    pub fn trim_one(&mut self) -> bool {
        let Some((ino, range)) = self.to_trim.pop_first() else { return false };
        let shard = data::range_shard(ino, range);
        self.command(shard, vec![], DataCommand::Trim { ino, range }).expect("never fails");
        true
    }

    pub fn make_file(&mut self, ino: InodeId) {
        let inode = Inode::new(FileKind::File, 0o6755, 1, 1, Nanos::new(0));
        self.run(ino.shard(), vec![], |state| {
            state.put_inode(ino, &inode);
            Ok(())
        })
        .expect("never fails");
    }

    pub fn inode(&mut self, ino: InodeId) -> Inode {
        crate::state::read_inode(self.view(ino.shard()), ino).expect("the file exists")
    }

    pub fn truncate(&mut self, ino: InodeId, size: u64) -> Result<(), FsError> {
        let mut begun = None;
        loop {
            begun = self.truncate_step(ino, size, begun)?;
            if begun.is_none() {
                return Ok(());
            }
        }
    }

    pub fn truncate_step(&mut self, ino: InodeId, size: u64, begun: Begun) -> Result<Begun, FsError> {
        self.run(ino.shard(), vec![], |state| {
            let mut inode = state.inode(ino)?;
            let left = data::truncate(state, ino, &mut inode, size, begun)?;
            state.put_inode(ino, &inode);
            let told = state.effects.iter().filter(|effect| matches!(effect, Effect::Sent { .. })).count();
            assert!(told <= usize::try_from(data::RANGES_MAX).expect("small"), "{told} ranges told at once");
            Ok(left)
        })
    }

    /// One step of reaping; the inode goes with the last.
    pub fn reap(&mut self, ino: InodeId) -> bool {
        let step = |state: &mut State<'_>| {
            let mut inode = state.inode(ino)?;
            let done = data::reap_step(state, ino, &mut inode)?;
            if done {
                assert_eq!(inode.allocated, 0);
                state.delete(crate::keys::inode(ino));
            } else {
                state.put_inode(ino, &inode);
            }
            Ok(done)
        };
        self.run(ino.shard(), vec![], step).expect("never fails")
    }

    /// Brings a range to where the inode's shard says it must be, as a driver does for a read.
    fn catch_up(&mut self, ino: InodeId, range: RangeIndex, inode: &Inode) {
        let to = data::range_shard(ino, range);
        let (sent, _) = data::range_sequence(self.view(ino.shard()), ino, range).expect("exists");
        loop {
            let here = self.view(to);
            let admission = data::admit(here, ino, range, inode.epoch, inode.sequence);
            match admission.expect("in memory") {
                data::Admission::Ready => break,
                data::Admission::Behind { sequence } if sequence >= sent => break,
                data::Admission::Behind { .. } => self.deliver(ino.shard(), to),
                data::Admission::Stale => panic!("the inode was just read"),
            }
        }
    }

    /// The whole file as a client reads it.
    pub fn read(&mut self, ino: InodeId) -> Vec<u8> {
        let inode = self.inode(ino);
        let mut bytes = Vec::new();
        for (range, from, to) in World::layout().cut(0, inode.size) {
            if range.get() > 0 {
                self.catch_up(ino, range, &inode);
            }
            let shard = data::range_shard(ino, range);
            let mut at = from;
            while at < to {
                let view = self.view(shard);
                let plan = data::plan_read(view, World::layout(), ino, at, to - at);
                let plan = plan.expect("in memory");
                assert!(!plan.is_empty(), "no progress at {at}");
                for piece in plan {
                    assert!(!piece.is_empty());
                    at += piece.len();
                    self.read_piece(shard, &piece, &mut bytes);
                }
            }
        }
        bytes
    }

    fn read_piece(&self, shard: ShardId, piece: &Piece, out: &mut Vec<u8>) {
        let size = |n: u32| usize::try_from(n).expect("fits");
        match piece {
            Piece::Zero(len) => out.resize(out.len() + usize::try_from(*len).expect("fits"), 0),
            Piece::Log { slice, len } => {
                let area = &self.log[&(shard, slice.index)];
                let block = &area[size(slice.data_offset)..][..size(slice.data_len)];
                assert_eq!(checksums(block), slice.checksums);
                out.extend_from_slice(&block[size(slice.skip)..][..size(*len)]);
            }
            Piece::Chunk { id, offset, len } => {
                out.extend_from_slice(&self.chunks[id][size(*offset)..][..size(*len)]);
            }
        }
    }
}
