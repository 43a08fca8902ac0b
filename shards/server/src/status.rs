//! One core as the management plane sees it.

use crate::core::Core;
use crate::metrics::CoreStatus;
use std::rc::Rc;

/// A picture of the core now.
pub async fn of(core: &Rc<Core>) -> CoreStatus {
    let (log, space, m) = (core.log.usage(), core.space.usage(), &core.metrics);
    let memtables: usize = core.groups.values().map(|s| s.replica.store().memory_bytes()).sum();
    let (cache_hits, cache_misses) = core.block_cache.hits_and_misses();
    let mut inodes = 0;
    for shard in core.groups.values().filter(|s| s.group().shard().is_some()) {
        inodes += shard.read(|view, _| cfs_namespace::pending::inode_count(view)).await.unwrap_or(0);
    }
    let limits = core.config.memory;
    let numbers = vec![
        ("connections", "Client connections open", m.connections.get(), false),
        ("refused_total", "Connections refused: no secret, or no handshake", m.refused.get(), true),
        ("requests_in_service", "Requests being served", m.in_service.get(), false),
        ("forwarded_total", "Requests that crossed the mesh", m.forwarded.get(), true),
        ("mesh_messages_total", "Messages sent to other cores", core.peers.sent.get(), true),
        ("read_bytes_total", "File data read by clients, bytes", m.read_bytes.get(), true),
        ("written_bytes_total", "File data written by clients, bytes", m.written_bytes.get(), true),
        ("revocations_total", "Leases revoked for another session", m.revocations.get(), true),
        ("leased_objects", "Inodes with a lease, pin or request", core.leases.borrow().objects() as u64, false),
        ("flushes_total", "Stores flushed to tables", m.flushes.get(), true),
        ("compactions_total", "Compaction steps", m.compactions.get(), true),
        ("packed_bytes_total", "Small writes packed into chunks, bytes", m.packed_bytes.get(), true),
        ("unpacked_bytes", "Small writes that only the log holds, bytes", core.unpacked_bytes.get(), false),
        ("cleaned_bytes_total", "Bytes moved by the cleaner", m.cleaned_bytes.get(), true),
        ("damage_total", "Reads that failed their checksum", m.damage.get(), true),
        ("log_batches_total", "Log batches made durable", log.batches, true),
        ("log_records_total", "Log records made durable", log.records, true),
        ("log_bytes_total", "Log bytes written", log.bytes_written, true),
        ("log_write_ns_total", "Time of log writes, nanoseconds", log.write_ns_total, true),
        ("log_flush_ns_total", "Time of log flushes, nanoseconds", log.flush_ns_total, true),
        ("log_flush_ns_max", "Slowest log flush, nanoseconds", log.flush_ns_max, false),
        ("log_slots", "Log slots of this core", log.slots_total as u64, false),
        ("log_slots_free", "Log slots free", log.slots_free as u64, false),
        ("log_queued_bytes", "Log records waiting for the device, bytes", log.queued_bytes as u64, false),
        ("memtable_bytes", "Metadata not in tables yet, bytes", memtables as u64, false),
        ("memtable_bytes_limit", "Limit of memtables, bytes", limits.memtables as u64, false),
        ("block_cache_bytes", "Cached table blocks, bytes", core.block_cache.memory_bytes() as u64, false),
        ("block_cache_bytes_limit", "Limit of the block cache, bytes", limits.block_cache as u64, false),
        ("block_cache_hits_total", "Block cache hits", cache_hits, true),
        ("block_cache_misses_total", "Block cache misses", cache_misses, true),
        ("inline_cache_bytes", "Cached small writes, bytes", core.inline.bytes() as u64, false),
        ("inline_cache_bytes_limit", "Limit of cached small writes, bytes", limits.inline_cache as u64, false),
    ];
    let failed = core.groups.values().filter(|s| s.replica.failure().is_some());
    CoreStatus {
        core: core.me().get(),
        groups: core.groups.len() as u64,
        failed_groups: failed.map(|s| s.group().get()).collect(),
        numbers,
        requests: m.requests(),
        space_units: [space.total_units, space.live_units, space.garbage_units, space.free_units],
        floor_units: core.floor_units,
        inodes,
        sessions: core.links.len() as u64,
    }
}
