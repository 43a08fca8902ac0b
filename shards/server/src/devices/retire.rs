//! Devices that leave while the server serves.
//!
//! Core 0 leads: it writes into the list that the device retires, then every core grants no region of it any more and
//! has its cleaner move what lies there. Once no core holds a region of it, it leaves the list, then the cores let go of
//! it, then its superblock says so. A start goes on where the last one was.

use super::{cores, settle_floors};
use crate::core::Core;
use crate::messages::{CoreReply, CoreRequest};
use crate::seat::Seat;
use cfs_device::{Member, MemberList, MemberState, mark_left, path_of, write_list};
use cfs_seam::{Class, sleep, spawn, timeout};
use cfs_segment::{Room, SEGMENT_UNITS};
use cfs_types::UNIT_BYTES;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks whether a device is empty.
const LOOK: Duration = Duration::from_millis(100);
/// Longest that a device is given to take the note that it has left.
const MARK_TIME_MAX: Duration = Duration::from_secs(5);
/// Of what the cleaner could give back elsewhere this part counts as room: it never gets all.
const GARBAGE_PART: u64 = 2;

/// A device that is being emptied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retiring {
    /// It.
    pub member: Member,
    /// What has to be moved, bytes.
    pub live_bytes: u64,
}

/// The member that somebody means: by number, UUID or path.
pub fn find(list: &MemberList, which: &str) -> Result<Member, String> {
    let is_meant = |member: &&Member| {
        member.number.to_string() == which || member.device.to_string() == which || member.seen_at == which.as_bytes()
    };
    list.members.iter().find(is_meant).cloned().ok_or_else(|| format!("the store has no device {which}"))
}

/// Begins to empty a device (core 0). What is refused has changed nothing.
pub async fn retire(seat: &Rc<Seat>, core: &Rc<Core>, which: &str) -> Result<Retiring, String> {
    let known = &seat.known;
    let _turn = known.changing.acquire(1).await;
    let list = known.list.borrow().clone();
    let member = find(&list, which)?;
    let number = member.number;
    if number == 0 {
        return Err("the device with the log cannot be retired".into());
    }
    let rooms = rooms(core, number).await;
    let live: u64 = rooms.iter().map(|(room, _)| room.live_units).sum();
    let retiring = Retiring { member, live_bytes: live * u64::from(UNIT_BYTES) };
    if retiring.member.state == MemberState::Retiring {
        return Ok(retiring);
    }
    let missing = missing_units(&rooms) * u64::from(UNIT_BYTES);
    if missing > 0 {
        return Err(format!(
            "the other devices lack {missing} bytes ({} MiB) for the {} MiB that lie there",
            missing.div_ceil(1 << 20),
            retiring.live_bytes.div_ceil(1 << 20)
        ));
    }
    if core.stopping.get() || core.log.failed().is_some() {
        return Err("the server stops".into());
    }
    let list = list.with_state(number, MemberState::Retiring);
    if let Err(error) = write_list(&seat.disk, &known.superblock.get(), &list).await {
        let why = format!("writing to the first device: {error}");
        core.log.fail(error).await;
        return Err(why);
    }
    *known.list.borrow_mut() = list;
    for to in cores(core) {
        core.peers.call(to, CoreRequest::CloseDevice(number)).await;
    }
    see_off(seat, core, number);
    Ok(retiring)
}

/// What each core has on a device and elsewhere, and the units that it needs there for itself.
async fn rooms(core: &Rc<Core>, number: u16) -> Vec<(Room, u64)> {
    let mut rooms = Vec::new();
    for to in cores(core) {
        if let CoreReply::Room(room, kept) = core.peers.call(to, CoreRequest::Room(number)).await {
            rooms.push((room, kept));
        }
    }
    rooms
}

/// Units that are missing elsewhere: regions go from core to core, so that the sum counts.
fn missing_units(rooms: &[(Room, u64)]) -> u64 {
    let needed = |(room, kept): &(Room, u64)| {
        // One segment is begun for what moves, and one is left unfinished.
        let moved = if room.live_units > 0 { room.live_units + 2 * u64::from(SEGMENT_UNITS) } else { 0 };
        moved + kept
    };
    let there: u64 = rooms.iter().map(|(room, _)| room.free_units + room.garbage_units / GARBAGE_PART).sum();
    rooms.iter().map(needed).sum::<u64>().saturating_sub(there)
}

/// Waits for a device to be empty, then has it leave (core 0).
pub fn see_off(seat: &Rc<Seat>, core: &Rc<Core>, number: u16) {
    let (seat, owner) = (Rc::downgrade(seat), core.clone());
    let work = async move {
        while !owner.stopping.get() {
            sleep(&owner.world.clock, LOOK).await;
            let Some(seat) = seat.upgrade() else { return };
            if is_empty(&owner, number).await {
                return let_go(&seat, &owner, number).await;
            }
        }
    };
    core.tasks.borrow_mut().push(spawn(&core.world.tasks, Class::Background, work));
}

/// No core holds a region of it.
async fn is_empty(core: &Rc<Core>, number: u16) -> bool {
    for to in cores(core) {
        if !matches!(core.peers.call(to, CoreRequest::HeldOn(number)).await, CoreReply::HeldOn(0)) {
            return false;
        }
    }
    true
}

/// An empty device leaves the list, and the cores let go of it.
async fn let_go(seat: &Rc<Seat>, core: &Rc<Core>, number: u16) {
    let known = &seat.known;
    let _turn = known.changing.acquire(1).await;
    let list = known.list.borrow().clone();
    let Some(member) = list.members.iter().find(|member| member.number == number) else { return };
    let list_without = list.without(number);
    if let Err(error) = write_list(&seat.disk, &known.superblock.get(), &list_without).await {
        return core.log.fail(error).await;
    }
    *known.list.borrow_mut() = list_without;
    let disk = seat.pool.member(number);
    for to in cores(core) {
        core.peers.call(to, CoreRequest::LetGo(number)).await;
    }
    let mut noted = "its superblock says so";
    if let Some(disk) = disk {
        let end = core.world.clock.now().after(MARK_TIME_MAX);
        if !matches!(timeout(&core.world.clock, end, mark_left(&*disk)).await, Some(Ok(()))) {
            noted = "but its superblock could not be written";
        }
    }
    (known.gone)(number);
    core.config.notices.say(format!("device {number} ({}) is retired, {noted}", path_of(member)));
}

/// A core's part in it.
pub async fn answer(seat: &Rc<Seat>, core: &Rc<Core>, request: CoreRequest) -> CoreReply {
    match request {
        CoreRequest::Room(number) => {
            let room = core.space.room(number, core.regions.pooled_beside(number));
            let floors = core.regions.floors(Some(number));
            let kept = u64::from(floors.data_segments) * u64::from(SEGMENT_UNITS);
            return CoreReply::Room(room, kept + crate::admission::units_promised(core));
        }
        CoreRequest::HeldOn(number) => return CoreReply::HeldOn(core.space.held_on(number)),
        CoreRequest::CloseDevice(number) => {
            core.regions.close(number);
            let sealed = core.space.close_member(number);
            settle_floors(core);
            // What fails there fails the space, which somebody watches.
            let _failed = sealed.await;
            core.upkeep.notify_all();
        }
        CoreRequest::LetGo(number) => {
            seat.pool.remove(number);
            seat.regions.remove(number);
        }
        _ => {}
    }
    CoreReply::Done
}
