//! The door in production: one io_uring ring a core under the scheduler.
