//! The offline check against stores that a server made, whole and damaged.

mod clean;
mod damage;
mod stage;
mod workload;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
