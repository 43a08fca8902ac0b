//! One core's part of the start: its log, its stores, what they own.

use super::{Claims, Regions, StartError};
use crate::cells;
use crate::core::Core;
use crate::effects;
use crate::hybrid_clock::HybridClock;
use crate::inline_cache::InlineCache;
use crate::leases::Leases;
use crate::machine::Machine;
use crate::manifest::GroupManifest;
use crate::regions::{Grants, RegionPool};
use crate::replica::{Mark, Parts, Replica, adopt_record, decode_local, decode_vote};
use crate::seat::Seat;
use crate::shard::Shard;
use crate::unpacked::Unpacked;
use crate::{connection, upkeep};
use cfs_consensus::{Group, GroupConfig, LogEntry, Restored};
use cfs_device::{AnchorId, Anchors};
use cfs_exec::Event;
use cfs_kv::{BlockCache, Pins, Scan, Store, StoreConfig};
use cfs_log::{CoreLog, CorePart, GroupLog};
use cfs_seam::{Class, spawn};
use cfs_segment::{CellOwner, Floors, SEGMENT_UNITS, SEGMENTS_PER_REGION, Space, SpaceConfig};
use cfs_types::{GroupId, LogIndex, MoveEpoch, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Rows of local records read at once.
const PAGE: usize = 512;
/// The only replica of a group on one node.
const SOLE_VOTER: u64 = 1;

/// A group between `Load` and `Start`.
struct Opened {
    id: GroupId,
    store: Store,
    restored: Restored,
    manifest_mark: Mark,
    mark: Mark,
    epoch: MoveEpoch,
}

impl Opened {
    fn last_index(&self) -> LogIndex {
        self.restored.entries.last().map_or(LogIndex::new(self.mark.applied.0), |entry| entry.index)
    }
}

/// A core between `Load` and `Start`.
pub struct Loaded {
    log: CoreLog,
    space: Space,
    regions: Rc<RegionPool>,
    anchors: Rc<Anchors>,
    clock: Rc<HybridClock>,
    cache: BlockCache,
    floor_units: u64,
    groups: Vec<Opened>,
}

/// Opens the log and every group of this core.
pub async fn load(seat: &Rc<Seat>, part: CorePart) -> Result<(Loaded, Claims), StartError> {
    let boot = seat.boot_of(&part);
    let (log, mut recovered) = CoreLog::open(&seat.world, seat.disk.clone(), &seat.superblock, part)
        .await
        .map_err(|e| StartError::new("opening the log", e))?;
    let regions = RegionPool::new(seat.world.clone(), seat.peers.clone(), seat.regions());
    let segments = seat.regions().regions() * SEGMENTS_PER_REGION / u32::from(seat.config.cores);
    let space_config = SpaceConfig {
        layout: seat.regions(),
        floors: Floors::of_share(segments),
        discard: seat.config.discard,
        start: boot,
    };
    let space = Space::new(seat.disk.clone(), Rc::new(Grants(regions.clone())), space_config);
    let anchors = Rc::new(Anchors::new(seat.disk.clone(), &seat.superblock));
    let clock = Rc::new(HybridClock::new(seat.world.clock.clone()));
    let cache = BlockCache::new(seat.config.memory.block_cache);
    let store_config = StoreConfig::new(seat.config.memory.memtables / 8, cache.clone(), boot);
    let mut groups = Vec::new();
    let mut claims = Claims::default();
    let me = seat.peers.me();
    for id in (0..).take(GroupId::COUNT).map(GroupId::new).filter(|g| seat.config.owner(*g) == me) {
        let group_log = recovered.remove(&id).unwrap_or_default();
        let bytes = anchors.recover(id_anchor(id)).await.map_err(|e| StartError::new("reading a manifest", e))?;
        let opened = open_group(id, bytes, group_log, &log, &space, &store_config, &clock, &mut claims).await?;
        groups.push(opened);
    }
    let records = groups.iter().map(|g| adopt_record(g.id, g.epoch, g.last_index())).collect();
    log.append(records).await.map_err(|e| StartError::new("adopting the groups", e))?;
    let floor_units = u64::from(space_config.floors.data_segments) * u64::from(SEGMENT_UNITS);
    Ok((Loaded { log, space, regions, anchors, clock, cache, floor_units, groups }, claims))
}

fn id_anchor(id: GroupId) -> AnchorId {
    AnchorId::group(id)
}

#[expect(clippy::too_many_arguments, reason = "one call site, everything a group is made of")]
async fn open_group(
    id: GroupId,
    manifest: Option<Vec<u8>>,
    log: GroupLog,
    core_log: &CoreLog,
    space: &Space,
    config: &StoreConfig,
    clock: &HybridClock,
    claims: &mut Claims,
) -> Result<Opened, StartError> {
    let damaged = |what: &str| StartError(format!("damage: {what} of group {id}"));
    let manifest = match manifest {
        Some(bytes) => Some(GroupManifest::decode(&bytes).ok_or_else(|| damaged("the manifest"))?),
        None => None,
    };
    let mut mark = manifest.as_ref().map_or(Mark { applied: (0, 0), locals: 0 }, |m| m.mark);
    let manifest_mark = mark;
    if let Some(manifest) = &manifest {
        clock.restore(manifest.timestamp);
        claims.cells.extend(manifest.tables.claims(id));
    }
    let vote = manifest.as_ref().map(|m| m.vote).unwrap_or_default();
    let epoch = manifest.as_ref().map_or(0, |m| m.epoch.get()).max(log.epoch.get()) + 1;
    let store = Store::open(id, manifest.map(|m| m.tables), space.clone(), config.clone());
    for record in log.locals.iter().filter(|r| r.index.get() > manifest_mark.locals) {
        let write = decode_local(&record.payload).ok_or_else(|| damaged("a local record"))?;
        if record.index.get() != mark.locals + 1 {
            return Err(damaged("the sequence of local records"));
        }
        mark.locals = record.index.get();
        store.apply(vec![write], clock.tick());
    }
    claim_chunks(&store, claims).await.map_err(|e| StartError::new("reading where chunks lie", e))?;
    let vote = match &log.hard_state {
        Some(record) => decode_vote(&record.payload).ok_or_else(|| damaged("the vote"))?,
        None => vote,
    };
    let mut entries = Vec::new();
    for at in log.entries.iter().filter(|e| e.index.get() > mark.applied.0) {
        let expected = mark.applied.0 + 1 + entries.len() as u64;
        if at.index.get() != expected {
            return Err(damaged("the log, where entries are missing,"));
        }
        let data = core_log.read_payload(id, at.index).await.map_err(|e| StartError::new("reading the log", e))?;
        entries.push(LogEntry { term: at.term, index: at.index, data });
    }
    let restored = Restored { vote, applied: mark.applied, entries };
    Ok(Opened { id, store, restored, manifest_mark, mark, epoch: MoveEpoch::new(epoch) })
}

/// Collects the cells of a store's chunks.
async fn claim_chunks(store: &Store, claims: &mut Claims) -> Result<(), String> {
    let (mut from, to) = (cells::places().0.to_vec(), cells::places().1);
    let mut pins = Pins::default();
    loop {
        match store.scan(&from, &to, Timestamp::MAX, PAGE) {
            Scan::Rows { rows, more } => {
                pins = Pins::default();
                for (key, value) in &rows {
                    let row = cells::decode_row(key, value).ok_or("damage: a chunk's place does not decode")?;
                    claims.cells.push((CellOwner::Chunk(row.0), row.1.cell));
                }
                let Some((last, _)) = rows.last().filter(|_| more) else { return Ok(()) };
                from = [last, &[0][..]].concat();
            }
            Scan::Miss(fetch) => pins.merge(store.fetch(&fetch).await.map_err(|e| e.to_string())?),
        }
    }
}

impl Loaded {
    /// Takes the regions, starts the groups, and serves.
    pub fn start(self, seat: &Rc<Seat>, regions: Regions) -> Result<Rc<Core>, StartError> {
        for (owner, cell) in regions.cells {
            self.space.claim(owner, cell).map_err(|e| StartError(format!("damage: {e}")))?;
        }
        self.space.start();
        self.regions.start(regions.pool, regions.holders);
        let inline = Rc::new(InlineCache::new(seat.config.memory.inline_cache));
        let mut groups = BTreeMap::new();
        let name_key = seat.config.name_key();
        let unpacked_bytes = Rc::default();
        for opened in self.groups {
            let unpacked = Unpacked::new(&unpacked_bytes);
            let shard = build(opened, &self.log, &self.clock, &inline, unpacked, name_key, &seat.world);
            groups.insert(shard.group(), shard);
        }
        let now = seat.world.clock.now();
        let core = Rc::new(Core {
            world: seat.world.clone(),
            config: seat.config.clone(),
            peers: seat.peers.clone(),
            links: Default::default(),
            metrics: Default::default(),
            clock: self.clock,
            log: self.log,
            space: self.space,
            floor_units: self.floor_units,
            block_cache: self.cache,
            anchors: self.anchors,
            inline,
            regions: self.regions,
            groups,
            leases: RefCell::new(Leases::new(seat.config.lease_term)),
            leases_moved: Event::new(),
            former: RefCell::new((BTreeSet::new(), now.after(seat.config.lease_term))),
            unpacked_bytes,
            admitted_bytes: Cell::new(0),
            upkeep: Event::new(),
            stopping: Cell::new(false),
            heard: RefCell::default(),
            last_seen: RefCell::default(),
            tasks: RefCell::default(),
        });
        run(&core, seat)?;
        Ok(core)
    }
}

fn build(opened: Opened, log: &CoreLog, clock: &Rc<HybridClock>, inline: &Rc<InlineCache>, unpacked: Unpacked, name_key: [u8; 32], world: &cfs_seam::World) -> Rc<Shard> {
    let id = opened.id;
    let machine = match id.shard() {
        Some(shard) => Machine::Shard { shard, name_key },
        None => Machine::Control,
    };
    let config = GroupConfig { me: SOLE_VOTER, voters: vec![SOLE_VOTER] };
    let group = Group::new(&config, opened.restored, world.rng.next_u64());
    let parts = Parts {
        id,
        machine,
        log: log.clone(),
        store: opened.store,
        clock: clock.clone(),
        inline: inline.clone(),
        unpacked,
        group,
        mark: opened.mark,
        epoch: opened.epoch,
    };
    Shard::new(Replica::new(parts), name_key, opened.manifest_mark)
}

/// Spawns the core's tasks.
fn run(core: &Rc<Core>, seat: &Rc<Seat>) -> Result<(), StartError> {
    let tasks = &core.world.tasks;
    let mut handles = Vec::new();
    for shard in core.groups.values() {
        handles.push(spawn(tasks, Class::Foreground, shard.replica.clone().run()));
        if shard.group().shard().is_some() {
            handles.push(spawn(tasks, Class::Background, effects::run(core.clone(), shard.clone())));
        }
    }
    handles.push(spawn(tasks, Class::Background, upkeep::run(core.clone())));
    let me = usize::from(core.me().get());
    for address in core.config.listen.get(me).into_iter().flatten() {
        let listener = seat.world.net.listen(address);
        let listener = listener.map_err(|e| StartError(format!("listening on {address}: {e}")))?;
        handles.push(spawn(tasks, Class::Foreground, connection::accept(core.clone(), listener)));
    }
    *core.tasks.borrow_mut() = handles;
    Ok(())
}

