//! One node of the group: a core with a log, a space and the group's replica, as a server's core
//! has them for its many groups.

use crate::wire::{Port, Wire};
use cfs_consensus::{Group, GroupConfig};
use cfs_device::{AnchorId, Anchors, MemberList};
use cfs_kv::{BlockCache, StoreConfig};
use cfs_log::CoreLog;
use cfs_namespace::{Stop, data};
use cfs_seam::{Class, Disk, World, sleep, spawn};
use cfs_segment::{Floors, LocalRegions, Space, SpaceConfig};
use cfs_server::group::region_layout;
use cfs_server::group::{
    DataNotes, HybridClock, InlineCache, Machine, Opener, Parts, PeerParts, Replica, Shard, StoreView,
};
use cfs_types::{CoreId, GroupId, InodeId};
use std::rc::Rc;
use std::time::Duration;

pub const NAME_KEY: [u8; 32] = [7; 32];

pub fn group() -> GroupId {
    InodeId::ROOT.shard().into()
}

/// Who takes part.
#[derive(Clone)]
pub struct Seat {
    pub me: u64,
    pub voters: Vec<u64>,
    pub wire: Rc<Wire>,
    /// Longest between two checkpoints, milliseconds.
    pub checkpoint_ms: u64,
}

/// Opens the device, joins the group and serves until the node goes down.
pub async fn run(world: World, disk: Rc<dyn Disk>, seat: Seat) {
    let superblock = cfs_device::open(&*disk).await.expect("a formatted device");
    let recovered = cfs_log::recover(&disk, &superblock).await.expect("a sound log");
    let (mut old, mut parts) = recovered.split(1, |_| CoreId::new(0)).expect("one core");
    let part = parts.remove(0);
    let boot = u32::try_from(part.boot()).expect("few starts");
    let (log, mut groups) = CoreLog::open(&world, disk.clone(), &superblock, part).await.expect("room in the log");
    let layout = region_layout(&MemberList::alone(&superblock).expect("few regions")).expect("a known layout");
    let grants = Rc::new(LocalRegions::new(layout.regions(), &Default::default()));
    let floors = Floors { data_segments: 4, metadata_segments: 2 };
    let space = Space::new(disk.clone(), grants.clone(), SpaceConfig { layout, floors, discard: false, start: boot });
    let anchors = Rc::new(Anchors::new(disk.clone(), &superblock));
    let clock = Rc::new(HybridClock::new(world.clock.clone()));
    let config = StoreConfig::new(64 << 10, BlockCache::new(256 << 10), boot, cfs_namespace::keys::stem);
    let opener = Opener { log: log.clone(), space: space.clone(), config, clock: clock.clone() };
    let manifest = anchors.recover(AnchorId::group(group())).await.expect("a sound anchor");
    let opened =
        opener.open(group(), manifest, groups.remove(&group()).unwrap_or_default()).await.expect("a sound group");
    log.append(vec![opened.adopt_record()]).await.expect("a healthy device");
    for (owner, cell) in opened.tables.claims(group()) {
        space.claim(owner, cell).expect("sound tables");
    }
    space.held_regions().into_iter().for_each(|region| grants.take(region));
    space.start();
    log.take_freed(&old.settle().await.expect("a healthy device"));
    let group_config = GroupConfig { me: seat.me, voters: seat.voters.clone() };
    let link = Rc::new(Port { wire: seat.wire.clone(), me: seat.me });
    let parts = Parts {
        id: group(),
        machine: Machine::Shard { shard: InodeId::ROOT.shard(), name_key: NAME_KEY },
        log: log.clone(),
        store: opened.store,
        clock,
        tasks: world.tasks.clone(),
        data: DataNotes::new(Rc::new(InlineCache::new(64 << 10)), &Rc::default(), Rc::default()),
        group: Group::new(&group_config, opened.restored, world.rng.next_u64()),
        mark: opened.mark,
        epoch: opened.epoch,
        flushed: opened.flushed,
        anchors,
        peers: Some(PeerParts { link, clock: world.clock.clone() }),
    };
    let replica = Replica::new(parts);
    let _runs = spawn(&world.tasks, Class::Foreground, replica.clone().run());
    let _moves = spawn(&world.tasks, Class::Background, replica.clone().run_peers());
    seat.wire.join(seat.me, Shard::new(replica.clone(), NAME_KEY, Rc::default()));
    loop {
        sleep(&world.clock, Duration::from_millis(world.rng.next_u64() % seat.checkpoint_ms)).await;
        assert_eq!(replica.failure(), None, "replica {} has failed", seat.me);
        if replica.checkpoint().await.expect("a healthy device") {
            log.take_freed(&old.release(group()).await.expect("a healthy device"));
        }
        while replica.store().should_compact() && replica.compact().await.expect("a healthy device") {}
    }
}

/// Reads every small write that the replica's rows name and checks its bytes, leader or not.
/// Returns how many there were.
pub async fn check_small_writes(replica: &Rc<Replica>) -> usize {
    let (mut after, mut count) = (None, 0);
    let mut pins = cfs_kv::Pins::default();
    loop {
        let step = data::log_extents(&StoreView::new(replica.store()), after, 128);
        let (found, next) = match step {
            Ok(page) => page,
            Err(Stop::Need(need)) => {
                pins.merge(replica.load(need).await.expect("sound tables"));
                continue;
            }
            Err(stop) => panic!("back references are damaged: {stop:?}"),
        };
        for one in found {
            let data::Place::Log(slice) = &one.extent.place else { panic!("not in the log") };
            let bytes = replica.read_data(slice.index, slice.data_offset, slice.data_len).await;
            let bytes = bytes.unwrap_or_else(|e| panic!("entry {} of a small write: {e}", slice.index));
            let sums: Vec<u32> = bytes.chunks(4096).map(cfs_device::crc32c).collect();
            assert_eq!(sums, slice.checksums, "entry {} holds other bytes", slice.index);
            count += 1;
        }
        match next {
            Some(next) => after = Some(next),
            None => return count,
        }
    }
}
