//! One core's part of the start: its log, its stores, what they own.

use super::{Claims, Regions, StartError};
use crate::cells;
use crate::config::ScrubConfig;
use crate::core::{Core, FORWARDS_MAX};
use crate::effects;
use crate::fence::Fence;
use crate::former::Former;
use crate::hybrid_clock::HybridClock;
use crate::inline_cache::InlineCache;
use crate::leases::Leases;
use crate::log_room::LogRoom;
use crate::machine::Machine;
use crate::overwrite::Overwrites;
use crate::regions::{Grants, RegionPool};
use crate::replica::{DataNotes, Opened, Opener, Parts, Replica};
use crate::scrub::Scrub;
use crate::seat::Seat;
use crate::shard::Shard;
use crate::thin::Thin;
use crate::unlinking::Unlinking;
use crate::{connection, doors, scrub, sweep, upkeep};
use cfs_consensus::{Group, GroupConfig};
use cfs_device::{AnchorId, Anchors};
use cfs_exec::{Event, Semaphore};
use cfs_kv::{BlockCache, Pins, Scan, Store, StoreConfig};
use cfs_log::{CoreLog, CorePart};
use cfs_namespace::keys::stem;
use cfs_rpc::Pool;
use cfs_seam::{Class, World, spawn};
use cfs_segment::{CellOwner, SEGMENT_UNITS, Space, SpaceConfig};
use cfs_types::{GroupId, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Rows of local records read at once.
const PAGE: usize = 512;
/// The only replica of a group on one node.
const SOLE_VOTER: u64 = 1;

/// A core between `Load` and `Start`.
pub struct Loaded {
    opener: Opener,
    regions: Rc<RegionPool>,
    anchors: Rc<Anchors>,
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
    let regions = RegionPool::new(seat.world.clone(), seat.peers.clone(), seat.regions.clone());
    seat.known.retiring().into_iter().for_each(|member| regions.close(member));
    let space_config = SpaceConfig {
        layout: seat.regions.clone(),
        floors: regions.floors(None),
        discard: seat.config.discard,
        start: boot,
    };
    let floor_units = u64::from(space_config.floors.data_segments) * u64::from(SEGMENT_UNITS);
    let space = Space::new(seat.pool.clone(), Rc::new(Grants(regions.clone())), space_config);
    let anchors = Rc::new(Anchors::new(seat.disk.clone(), &seat.superblock));
    let clock = Rc::new(HybridClock::new(seat.world.clock.clone()));
    let cache = BlockCache::new(seat.config.memory.block_cache);
    let store_config = StoreConfig::new(seat.config.memory.memtables / 8, cache.clone(), boot, stem);
    let opener = Opener { log, space, config: store_config, clock };
    let mut groups = Vec::new();
    let mut claims = Claims::default();
    let me = seat.peers.me();
    for id in (0..).take(GroupId::COUNT).map(GroupId::new).filter(|g| seat.config.owner(*g) == me) {
        let group_log = recovered.remove(&id).unwrap_or_default();
        let manifest = anchors.recover(AnchorId::group(id)).await;
        let manifest = manifest.map_err(|e| StartError::new("reading a manifest", e))?;
        let opened = opener.open(id, manifest, group_log).await?;
        claims.cells.extend(opened.tables.claims(id));
        let chunks = claim_chunks(&opened.store, &mut claims).await;
        chunks.map_err(|e| StartError::new("reading where chunks lie", e))?;
        groups.push(opened);
    }
    let records = groups.iter().map(Opened::adopt_record).collect();
    opener.log.append_at_start(records).await.map_err(|e| StartError::new("adopting the groups", e))?;
    Ok((Loaded { opener, regions, anchors, cache, floor_units, groups }, claims))
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
            self.opener.space.claim(owner, cell).map_err(|e| StartError(format!("damage: {e}")))?;
        }
        for member in seat.known.retiring() {
            // Nothing is open there, so nothing is to be waited for.
            drop(self.opener.space.close_member(member));
        }
        self.opener.space.start();
        self.regions.start(regions.pool, regions.holders);
        let inline = Rc::new(InlineCache::new(seat.config.memory.inline_cache));
        let mut groups = BTreeMap::new();
        let name_key = seat.config.name_key();
        let (unpacked_bytes, thin) = (Rc::default(), Rc::<Thin>::default());
        let fence = Rc::new(Fence::default());
        for opened in self.groups {
            let data = DataNotes::new(inline.clone(), &unpacked_bytes, thin.clone());
            let replica = build(opened, &self.opener, &self.anchors, data, name_key, &seat.world);
            let shard = Shard::new(replica, name_key, fence.clone());
            groups.insert(shard.group(), shard);
        }
        let (now, memory) = (seat.world.clock.now(), seat.config.memory);
        let pins = memory.pins(seat.config.cores);
        let core = Rc::new(Core {
            world: seat.world.clone(),
            config: seat.config.clone(),
            peers: seat.peers.clone(),
            doors: Default::default(),
            links: Default::default(),
            metrics: Default::default(),
            clock: self.opener.clock,
            log: self.opener.log,
            pool: seat.pool.clone(),
            space: self.opener.space,
            floor_units: Cell::new(self.floor_units),
            memtable_bytes: self.opener.config.memory,
            units: self.cache.units(),
            block_cache: self.cache,
            inline,
            regions: self.regions,
            groups,
            leases: RefCell::new(Leases::new(seat.config.lease_term, memory.lease_objects(), pins)),
            leases_moved: Event::new(),
            former: Former::new(now.after(seat.config.lease_term)),
            unpacked_bytes,
            thin,
            admitted_bytes: Cell::new(0),
            full: Cell::new(None),
            changing: Semaphore::new(memory.change_units()),
            log_room: LogRoom::new(),
            cleaning: Default::default(),
            scrub: Scrub::new(seat.config.scrub.unwrap_or(ScrubConfig { period: None, bytes_per_second: 1 })),
            request_room: Pool::new(seat.config.memory.requests as u64),
            answer_room: Pool::new(seat.config.memory.answers as u64),
            forwards: Semaphore::new(FORWARDS_MAX),
            is_delivered: Cell::new(false),
            delivered: Event::new(),
            upkeep: Event::new(),
            stopping: Cell::new(false),
            heard: RefCell::default(),
            last_seen: RefCell::default(),
            lineage: RefCell::default(),
            beginning: Semaphore::new(1),
            fence,
            overwrites: Overwrites::default(),
            unlinking: Unlinking::default(),
            tasks: RefCell::default(),
        });
        run(&core, seat)?;
        Ok(core)
    }
}

fn build(
    opened: Opened,
    opener: &Opener,
    anchors: &Rc<Anchors>,
    data: DataNotes,
    name_key: [u8; 32],
    world: &World,
) -> Rc<Replica> {
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
        log: opener.log.clone(),
        store: opened.store,
        clock: opener.clock.clone(),
        tasks: world.tasks.clone(),
        data,
        group,
        mark: opened.mark,
        epoch: opened.epoch,
        flushed: opened.flushed,
        anchors: anchors.clone(),
        peers: None,
    };
    Replica::new(parts)
}

/// Spawns the core's tasks.
fn run(core: &Rc<Core>, seat: &Rc<Seat>) -> Result<(), StartError> {
    let tasks = &core.world.tasks;
    let mut handles = Vec::new();
    for shard in core.groups.values() {
        handles.push(spawn(tasks, Class::Foreground, shard.clone().run()));
        if shard.group().shard().is_some() {
            handles.push(spawn(tasks, Class::Background, effects::run(core.clone(), shard.clone())));
        }
    }
    handles.push(spawn(tasks, Class::Background, sweep::run(core.clone())));
    handles.push(spawn(tasks, Class::Foreground, doors::watch(core.clone())));
    handles.push(spawn(tasks, Class::Background, upkeep::keep_room(core.clone())));
    handles.push(spawn(tasks, Class::Background, upkeep::keep_sorted(core.clone())));
    handles.push(spawn(tasks, Class::Background, upkeep::keep_clean(core.clone())));
    if core.config.scrub.is_some() {
        handles.push(spawn(tasks, Class::Background, scrub::run(core.clone())));
    }
    let me = usize::from(core.me().get());
    for address in core.config.listen.get(me).into_iter().flatten() {
        let listener = seat.world.net.listen(address);
        let listener = listener.map_err(|e| StartError(format!("listening on {address}: {e}")))?;
        core.doors.listen(spawn(tasks, Class::Foreground, connection::accept(core.clone(), listener)));
    }
    *core.tasks.borrow_mut() = handles;
    Ok(())
}
