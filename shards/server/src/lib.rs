//! One core put together: connections, mesh, shards, batches.
