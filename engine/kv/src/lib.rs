//! Ordered store of one shard: memtable, sorted tables, compaction.
