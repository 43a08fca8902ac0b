//! The driver around the Raft library: many groups on one log.
