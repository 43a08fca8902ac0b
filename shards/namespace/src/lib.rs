//! The POSIX state machine: pure and deterministic.
