//! Regions, segments, cells and space.
