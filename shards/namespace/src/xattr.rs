//! Extended attributes: set and remove.

use crate::keys;
use crate::outcome::{Step, Stop};
use crate::record::Inode;
use crate::state::State;
use crate::view::View;
use cfs_types::{FsError, InodeId, check_attribute_name};
use cfs_wire::{Reply, XattrMode};

/// Longest value, bytes (XATTR_SIZE_MAX of Linux).
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of all names of one inode, each with its NUL (XATTR_LIST_MAX of Linux).
pub const LIST_BYTES_MAX: usize = 64 << 10;

/// Capabilities of an executable file.
const CAPABILITY: &[u8] = b"security.capability";

fn check_name(name: &[u8]) -> Step<()> {
    check_attribute_name(name).map_err(Stop::Fail)
}

/// A file's content or owner changes: it loses its capabilities, whoever does it (Linux:
/// `cap_inode_killpriv`). The caller writes the inode.
pub fn drop_capability(state: &mut State<'_>, ino: InodeId, inode: &mut Inode) -> Step<()> {
    if has_capability(state, ino, inode)? {
        inode.xattr_name_bytes = inode.xattr_name_bytes.saturating_sub(listed_bytes(CAPABILITY));
        state.delete(keys::xattr(ino, CAPABILITY));
    }
    Ok(())
}

/// Whether [`drop_capability`] would take something from the file.
pub fn has_capability(view: &dyn View, ino: InodeId, inode: &Inode) -> Step<bool> {
    Ok(inode.xattr_name_bytes > 0 && view.get(&keys::xattr(ino, CAPABILITY))?.is_some())
}

fn listed_bytes(name: &[u8]) -> u32 {
    u32::try_from(name.len() + 1).expect("a name is short")
}

/// Sets an attribute.
pub fn set(state: &mut State<'_>, ino: InodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Step<Reply> {
    check_name(name)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Stop::Fail(FsError::TooLarge));
    }
    let mut inode = state.inode(ino)?;
    let key = keys::xattr(ino, name);
    match (state.get(&key)?.is_some(), mode) {
        (true, XattrMode::Create) => return Err(Stop::Fail(FsError::Exists)),
        (false, XattrMode::Replace) => return Err(Stop::Fail(FsError::NoAttribute)),
        (true, _) => {}
        (false, _) => {
            inode.xattr_name_bytes = inode.xattr_name_bytes.saturating_add(listed_bytes(name));
            if usize::try_from(inode.xattr_name_bytes).is_ok_and(|bytes| bytes > LIST_BYTES_MAX) {
                return Err(Stop::Fail(FsError::NoSpace));
            }
        }
    }
    inode.touch(state.ctx.now);
    state.put_inode(ino, &inode);
    state.put(key, value.into());
    Ok(Reply::Done)
}

/// Removes an attribute.
pub fn remove(state: &mut State<'_>, ino: InodeId, name: &[u8]) -> Step<Reply> {
    check_name(name)?;
    let mut inode = state.inode(ino)?;
    let key = keys::xattr(ino, name);
    if state.get(&key)?.is_none() {
        return Err(Stop::Fail(FsError::NoAttribute));
    }
    inode.xattr_name_bytes = inode.xattr_name_bytes.saturating_sub(listed_bytes(name));
    inode.touch(state.ctx.now);
    state.put_inode(ino, &inode);
    state.delete(key);
    Ok(Reply::Done)
}
