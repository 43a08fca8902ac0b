//! Histories of commands against plain bytes, with the accounting checked after every step.

mod behaviour;
mod history;
mod overwrites;
mod rules;
mod steps;
mod world;
