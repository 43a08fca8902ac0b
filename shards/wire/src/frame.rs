//! The 24-byte frame header and its checks.
