//! One core as the management plane sees it.

use crate::core::{Core, FORWARDS_MAX};
use crate::leases::{OBJECT_BYTES, PIN_BYTES};
use cfs_observe::{Bounded, ClassUsage, CoreStatus, DeviceUse, Number, ScrubStatus, Unit};
use cfs_seam::{Disk, DiskUsage};
use cfs_segment::Lifetime;
use cfs_types::UNIT_BYTES;
use std::rc::Rc;

/// A picture of the core now.
pub async fn of(core: &Rc<Core>) -> CoreStatus {
    let (log, space, device) = (core.log.usage(), core.space.usage(), core.pool.usage());
    let mut inodes = 0;
    for shard in core.groups.values().filter(|s| s.group().shard().is_some()) {
        inodes += shard.read(|view, _| cfs_namespace::pending::inode_count(view)).await.unwrap_or(0);
    }
    let scrub = core.scrub.status(core);
    let failed = core.groups.values().filter(|s| s.replica.failure().is_some());
    CoreStatus {
        core: core.me().get(),
        groups: core.groups.len() as u64,
        failed_groups: failed.map(|s| s.group().get()).collect(),
        log_failure: core.log.failed().map(|error| error.to_string()),
        damaged_reads: damaged_reads(core),
        refused_reads: refused_reads(core),
        numbers: numbers(core, &log, &scrub),
        requests: core.metrics.requests(),
        log_writes: log.writes,
        log_flushes: log.flushes,
        devices: devices(core),
        memory: memory(core, &log),
        queues: queues(core),
        space_units: [space.total_units, space.live_units, space.garbage_units, space.free_units],
        classes: classes(&space, &device),
        floor_units: core.floor_units.get(),
        inodes,
        sessions: core.links.len() as u64,
        scrub,
    }
}

/// What the core did with each device and has on it.
fn devices(core: &Core) -> Vec<DeviceUse> {
    let live = core.space.live_by_member();
    let of = |(number, usage): (u16, DiskUsage)| DeviceUse {
        number,
        operations: vec![("read", usage.reads), ("write", usage.writes), ("flush", usage.flushes)],
        read_bytes: usage.read_bytes,
        written_bytes: usage.written_bytes.iter().sum(),
        discarded_bytes: usage.discarded_bytes,
        zone_resets: usage.zone_resets,
        in_flight: usage.in_flight,
        errors: usage.errors,
        live_units: live.get(&number).copied().unwrap_or(0),
        is_retiring: core.regions.is_closed(number),
    };
    core.pool.usages().into_iter().map(of).collect()
}

/// Every class, in the order of [`Lifetime::ALL`].
fn classes(space: &cfs_segment::Usage, device: &DiskUsage) -> Vec<ClassUsage> {
    let class = |class: Lifetime| ClassUsage {
        name: class.name(),
        live_units: space.live_units_by_class[class.index()],
        written_units: space.written_units_by_class[class.index()],
        device_bytes: device.written_bytes[class.index()],
        placement: device.placements[class.index()],
    };
    Lifetime::ALL.map(class).to_vec()
}

fn numbers(core: &Core, log: &cfs_log::Usage, scrub: &ScrubStatus) -> Vec<Number> {
    let (m, bytes, of) = (&core.metrics, Unit::Bytes, Unit::Of);
    let objects = core.leases.borrow().objects() as u64;
    let mut all = vec![
        Number::counter(
            "refused",
            of("connections"),
            "Connections refused: no secret, or no handshake",
            m.refused.get(),
        ),
        Number::counter(
            "stuck",
            of("connections"),
            "Connections closed because their answers did not leave",
            m.stuck.get(),
        ),
        Number::gauge("in_service", of("requests"), "Requests being served", m.in_service.get()),
        Number::counter(
            "forwarded",
            of("requests"),
            "Requests that crossed the mesh to their shard's core",
            m.forwarded.get(),
        ),
        Number::counter("mesh_sent", of("messages"), "Messages sent to other cores", core.peers.sent.get()),
        Number::counter("read", bytes, "File data read by clients", m.read_bytes.get()),
        Number::counter("written", bytes, "File data written by clients", m.written_bytes.get()),
        Number::counter("ranges", of("overwrites"), "Writes committed in a range of another shard", m.overwrites.get()),
        Number::counter("lease", of("revocations"), "Leases revoked for another session", m.revocations.get()),
        Number::counter("lease", of("broken"), "Exclusive leases whose holder did not give way", m.leases_broken.get()),
        Number::gauge("leased", of("objects"), "Inodes with a lease, pin or request", objects),
        Number::counter("store", of("flushes"), "Memtables flushed to sorted tables", m.flushes.get()),
        Number::counter("store", of("compactions"), "Steps of compaction", m.compactions.get()),
        Number::counter("packed", bytes, "Small writes packed into chunks", m.packed_bytes.get()),
        Number::counter("cleaned", bytes, "Live data moved by the cleaner", m.cleaned_bytes.get()),
        Number::counter("swept", of("chunks"), "Chunks that nothing named, given back after the start", m.swept.get()),
        Number::counter("evacuated", bytes, "Small writes moved from a full log into tables", m.evacuated_bytes.get()),
        Number::counter(
            "upkeep_failures",
            of("tasks"),
            "Checkpoints and other upkeep that failed",
            m.upkeep_failures.get(),
        ),
        Number::counter("damaged", of("reads"), "Reads whose bytes failed their checksum", damaged_reads(core)),
        Number::counter("refused", of("reads"), "Reads that the device answered with an error", refused_reads(core)),
        Number::counter("log", of("batches"), "Log batches made durable", log.batches),
        Number::counter("log", of("records"), "Log records made durable", log.records),
        Number::counter("log_written", bytes, "Bytes of log batches on the device", log.bytes_written),
        Number::gauge("log_flush_max", Unit::Seconds, "The slowest flush of the log since start", log.flushes.max_ns),
        Number::gauge("log", of("slots"), "Log slots of the core", log.slots_total as u64),
        Number::gauge("log_free", of("slots"), "Log slots that entries can still take", log.slots_free as u64),
        Number::gauge("log_live", of("slots"), "Log slots that hold records", log.slots_live as u64),
        Number::counter("log_lost", of("entries"), "Log entries whose small writes were lost to damage", lost(core)),
        Number::gauge("log_torn", of("streams"), "Earlier log streams that the start found torn", log.torn_streams),
    ];
    all.extend(cache_numbers(core));
    all.extend(scrub_numbers(core, scrub));
    all
}

fn cache_numbers(core: &Core) -> [Number; 4] {
    let (hits, misses) = (Unit::Of("hits"), Unit::Of("misses"));
    let (blocks, units) = (core.block_cache.hits_and_misses(), core.block_cache.unit_hits_and_misses());
    [
        Number::counter("block_cache", hits, "Table blocks found in memory", blocks.0),
        Number::counter("block_cache", misses, "Table blocks read from the device", blocks.1),
        Number::counter("data_cache", hits, "Reads of file data found in memory, up to 64 KiB", units.0),
        Number::counter("data_cache", misses, "Reads of file data up to 64 KiB that went to the device", units.1),
    ]
}

fn scrub_numbers(core: &Core, scrub: &ScrubStatus) -> [Number; 5] {
    let of = Unit::Of;
    [
        Number::counter("scrubbed", Unit::Bytes, "Stored bytes read and verified by the scrub", core.scrub.bytes.get()),
        Number::counter("scrub", of("findings"), "Places that the scrub has found damaged", core.scrub.found.get()),
        Number::gauge(
            "scrub_open",
            of("findings"),
            "Places known to be damaged now, that is until they are overwritten or deleted",
            scrub.open_findings(),
        ),
        Number::gauge("scrub_due", of("groups"), "Raft groups that the scrub has yet to verify", scrub.due_groups),
        Number::gauge(
            "scrub_verified_since",
            Unit::Seconds,
            "Everything stored was verified after this time, since 1970; 0 where some of it never was",
            scrub.verified_since_seconds * 1_000_000_000,
        ),
    ]
}

fn damaged_reads(core: &Core) -> u64 {
    core.metrics.damage.get() + core.groups.values().map(|shard| shard.replica.damaged_reads()).sum::<u64>()
}

fn refused_reads(core: &Core) -> u64 {
    core.space.refused_reads() + core.groups.values().map(|shard| shard.replica.refused_reads()).sum::<u64>()
}

fn lost(core: &Core) -> u64 {
    core.groups.values().map(|shard| shard.replica.lost()).sum()
}

fn queues(core: &Core) -> Vec<Bounded> {
    let mesh = Bounded { name: "mesh", used: FORWARDS_MAX - core.forwards.free(), limit: FORWARDS_MAX };
    let mut queues = vec![mesh, opens(core, 1)];
    queues.extend(core.doors.counts());
    queues
}

fn opens(core: &Core, each: usize) -> Bounded {
    let (used, limit) = core.leases.borrow().opens();
    Bounded { name: "opens", used: (used * each) as u64, limit: (limit * each) as u64 }
}

fn memory(core: &Core, log: &cfs_log::Usage) -> Vec<Bounded> {
    let limits = core.config.memory;
    let changing = limits.change_units() - core.changing.free();
    let bounded = |name, used: usize, limit: usize| Bounded { name, used: used as u64, limit: limit as u64 };
    vec![
        bounded("memtables", core.memtable_bytes.get(), limits.memtables),
        bounded("block_cache", core.block_cache.memory_bytes(), limits.block_cache),
        bounded("inline_cache", core.inline.bytes(), limits.inline_cache),
        bounded("log_queue", log.queued_bytes, log.queued_bytes_limit),
        Bounded { name: "unpacked_writes", used: core.unpacked_bytes.get(), limit: limits.unpacked() },
        bounded("leases", core.leases.borrow().objects() * OBJECT_BYTES, limits.leases),
        opens(core, PIN_BYTES),
        Bounded { name: "requests", used: core.request_room.used(), limit: limits.requests as u64 },
        Bounded { name: "answers", used: core.answer_room.used(), limit: limits.answers as u64 },
        bounded("spare_buffers", cfs_seam::spare_bytes(), cfs_seam::SPARE_BYTES_MAX),
        Bounded { name: "changes", used: changing * u64::from(UNIT_BYTES), limit: limits.changes as u64 },
    ]
}
