//! The task scheduler of one core: classes with shares, timers, gates; no I/O.
