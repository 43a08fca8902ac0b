//! The offline check against stores that a server made, whole and damaged.

mod clean;
mod damage;
mod stage;
mod workload;
