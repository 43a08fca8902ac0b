//! The simulator: one thread, virtual time, seeded faults.
