//! Names of extended attributes.

use crate::FsError;

/// Longest name, bytes (XATTR_NAME_MAX of Linux).
const ATTRIBUTE_NAME_BYTES_MAX: usize = 255;

/// Namespaces of names. Others have a meaning that nobody here would give them, POSIX ACLs
/// (`system.posix_acl_access`) above all: to store such a thing and not enforce it is worse than to refuse it.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// What a file without an access control list says of it. `ls -l` asks each file.
const ACCESS_LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// An error where nothing can have this name, as of ext4: `Range` for its length, `Invalid` for a namespace without
/// a name in it, `NotSupported` for any other namespace or none.
pub fn check_attribute_name(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > ATTRIBUTE_NAME_BYTES_MAX {
        return Err(FsError::Range);
    }
    if name.contains(&0) {
        return Err(FsError::Invalid);
    }
    match NAMESPACES.iter().find_map(|space| name.strip_prefix(*space)) {
        None => Err(FsError::NotSupported),
        Some(b"") => Err(FsError::Invalid),
        Some(_) => Ok(()),
    }
}

/// As [`check_attribute_name`], for a question: of an access control list the answer is that there is none.
pub fn check_attribute_asked(name: &[u8]) -> Result<(), FsError> {
    if ACCESS_LISTS.contains(&name) { Err(FsError::NoAttribute) } else { check_attribute_name(name) }
}
