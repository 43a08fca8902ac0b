//! Superblock, layout and anchors of a device.
