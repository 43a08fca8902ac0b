//! Histories of commands against plain bytes, with the accounting checked after every step.

mod behaviour;
mod history;
mod rules;
mod steps;
mod world;
