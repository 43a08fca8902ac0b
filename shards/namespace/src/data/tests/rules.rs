//! What must hold in every shard after every command.

use super::world::World;
use crate::data::extent::Extent;
use crate::data::place::{Place, Source};
use crate::data::record::{BackRef, ChunkRecord, RangeRecord, Summary};
use crate::data::{keys, range_shard};
use crate::memory::Memory;
use crate::view::View;
use cfs_types::{ChunkId, InodeId, LogIndex, RangeIndex, ShardId};
use std::collections::BTreeMap;

/// Extents of every file in a shard, in order.
pub fn extents(memory: &Memory) -> Vec<(InodeId, Extent)> {
    let decode = |(key, value): (&[u8], &[u8])| {
        let number = u64::from_be_bytes(key[1..9].try_into().expect("8 bytes"));
        let end = keys::extent_end(key).expect("an extent's key");
        let extent = Extent::decode(end, value).expect("an extent");
        (InodeId::from_raw(number).expect("an inode"), extent)
    };
    memory.rows().filter(|(key, _)| key[0] == 0x20).map(decode).collect()
}

fn back_refs(memory: &Memory) -> BTreeMap<Source, BackRef> {
    let decode = |(key, value): (&[u8], &[u8])| {
        let source = keys::back_ref_source(key).expect("a source");
        (source, BackRef::decode(value).expect("a back reference"))
    };
    memory.rows().filter(|(key, _)| key[0] == 0x22).map(decode).collect()
}

fn check_shard(world: &World, shard: ShardId, memory: &Memory) {
    let mut live: BTreeMap<ChunkId, u32> = BTreeMap::new();
    let mut named = BTreeMap::new();
    let mut before: Option<(InodeId, u64)> = None;
    for (ino, extent) in extents(memory) {
        let layout = World::layout();
        let range = layout.range_of(extent.start);
        assert_eq!(range, layout.range_of(extent.end() - 1), "{extent:?} spans ranges");
        assert_eq!(range_shard(ino, range), shard, "{extent:?} is elsewhere");
        assert!(before.is_none_or(|(last, end)| last != ino || end <= extent.start), "{extent:?} overlaps");
        before = Some((ino, extent.end()));
        if let Place::Chunk { id, .. } = extent.place {
            *live.entry(id).or_insert(0) += extent.len;
        }
        if let Some(source) = extent.place.source() {
            let twice = named.insert(source, BackRef::Extent { ino, end: extent.end() });
            assert_eq!(twice, None, "{source:?} named twice");
        }
    }
    let mut stored = back_refs(memory);
    let oldest = stored.keys().find_map(|source| match source {
        Source::Log { index, .. } => Some(*index),
        Source::Chunk { .. } => None,
    });
    assert_eq!(crate::data::log_ref_from(memory, LogIndex::new(0)), Ok(oldest));
    stored.retain(|_, back| matches!(back, BackRef::Extent { .. }));
    assert_eq!(stored, named);
    let counted = crate::data::chunks(memory, None, usize::MAX).expect("in memory");
    let counted: BTreeMap<ChunkId, u32> = counted.into_iter().map(|(id, r)| (id, r.live)).collect();
    assert_eq!(counted, live);
    let trims = crate::data::pending_trims(memory, usize::MAX).expect("in memory");
    for (ino, range) in &trims {
        assert!(world.to_trim.contains(&(*ino, *range)), "nobody was told to trim {ino:?}");
    }
    let here = |(ino, range): &&(InodeId, RangeIndex)| range_shard(*ino, *range) == shard;
    assert!(world.to_trim.iter().filter(here).count() >= trims.len());
    for id in counted.keys() {
        assert!(world.chunks.contains_key(id), "{id:?} was freed but is named");
    }
}

/// Messages on their way hold the entries their bytes are in.
fn check_held(world: &World, from: ShardId, to: ShardId, sequence: u64) {
    let memory = &world.shards[&from];
    let stored = memory.get(&crate::keys::outbox(to, sequence)).expect("in memory");
    let message = crate::record::decode(&stored.expect("in the outbox"));
    let Ok(crate::Message::Data(message)) = message else { panic!("data") };
    if let Some(slice) = message.carries() {
        let oldest = crate::data::log_ref_from(memory, LogIndex::new(0)).expect("in memory");
        assert!(oldest.is_some_and(|oldest: LogIndex| oldest <= slice.index));
    }
}

/// Checks every shard, and that the inode's account covers its extents.
pub fn check(world: &mut World, files: &[InodeId]) {
    let shards = std::mem::take(&mut world.shards);
    for (shard, memory) in &shards {
        check_shard(world, *shard, memory);
    }
    world.shards = shards;
    for ((from, to), queue) in &world.on_the_way {
        queue.iter().for_each(|sequence| check_held(world, *from, *to, *sequence));
    }
    for ino in files {
        check_account(world, *ino);
    }
    if world.pairs().is_empty() {
        let named = world.shards.values().flat_map(|m| crate::data::chunks(m, None, usize::MAX).expect("in memory"));
        assert_eq!(named.count(), world.chunks.len(), "a chunk leaked");
    }
}

fn check_account(world: &World, ino: InodeId) {
    let home = &world.shards[&ino.shard()];
    let inode = crate::state::read_inode(home, ino).expect("exists");
    let layout = World::layout();
    let first = RangeIndex::new(0);
    let bytes_of = |memory: &Memory, range: RangeIndex| -> u64 {
        let mine = extents(memory).into_iter();
        let mine = mine.filter(|(of, e)| *of == ino && layout.range_of(e.start) == range);
        mine.map(|(_, e)| u64::from(e.len)).sum()
    };
    let mut allocated = bytes_of(home, first);
    let listed = |memory: &Memory, range| {
        crate::data::pending_trims(memory, usize::MAX).expect("in memory").contains(&(ino, range))
    };
    assert_eq!(inode.trim_from.is_some(), listed(home, first));
    for (key, value) in home.rows().filter(|(key, _)| key[0] == 0x24) {
        if key[1..9] != ino.get().to_be_bytes() {
            continue;
        }
        let range = keys::summary_range(key).expect("a range");
        let summary = Summary::decode(value).expect("a summary");
        allocated += summary.bytes;
        let Some(memory) = world.shards.get(&range_shard(ino, range)) else { continue };
        let record = memory.get(&keys::range(ino, range)).expect("in memory");
        let record = record.map(|v| RangeRecord::decode(&v).expect("a range"));
        let Some(record) = record else { continue };
        assert_eq!(record.shape.allocated, bytes_of(memory, range));
        assert_eq!(record.shape.trim_from.is_some(), listed(memory, range));
        if record.sequence == summary.sequence && record.shape.trim_from.is_none() {
            assert!(summary.bytes >= record.shape.allocated, "{summary:?} is too low");
        }
    }
    assert_eq!(inode.allocated, allocated);
}

/// Nothing is left of any file.
pub fn check_empty(world: &World) {
    for memory in world.shards.values() {
        let left: Vec<_> = memory.rows().filter(|(k, _)| (0x20..0x30).contains(&k[0]) && k[0] != 0x25).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(world.chunks.is_empty());
}

/// A chunk's record, if there is one.
pub fn chunk(memory: &Memory, id: ChunkId) -> Option<ChunkRecord> {
    let value = memory.get(&keys::chunk(id)).expect("in memory")?;
    Some(ChunkRecord::decode(&value).expect("a chunk"))
}
