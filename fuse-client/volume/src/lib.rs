//! The client library: sessions, routing, caches, leases, write-behind.
