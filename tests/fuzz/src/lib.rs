//! Mutants for every decoder of bytes from disk, network, kernel and users; `tests/decoders` has the decoders.
//!
//! Invariants of a decoder, whatever its input: it does not panic; what it holds in memory is bounded by
//! the length of the input; what it accepts is encoded and decoded to the same again. One seed is one
//! series of mutants.

mod allocation;
mod mutation;
mod target;

pub use target::{Target, unhex};
