//! The namespace as a driver sees it: commands, queries and coordinators on shards in memory.

mod cluster;
mod exactly_once;
mod formats;
mod history;
mod late;
mod names;
