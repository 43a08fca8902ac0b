//! The kernel's FUSE protocol, raw: /dev/fuse, mount, errno.
