//! One operation, from the decoded request to the reply's body.

use crate::abi::{GetxattrOut, LseekOut, WriteOut};
use crate::capability::TRANSFER_BYTES_MAX;
use crate::file_system::FileSystem;
use crate::listing::{Packer, cookie_of};
use crate::reply::{self, Answer, Body};
use crate::request::FileOperation;
use cfs_types::{FsError, InodeId};
use cfs_wire::Identity;
use zerocopy::IntoBytes;

/// Attributes of root.
const TRUSTED: &[u8] = b"trusted.";

/// Asks the file system; every failure becomes an errno.
pub async fn dispatch<F: FileSystem>(fs: &F, who: &Identity, operation: FileOperation) -> Answer<F::Data> {
    let outcome = match operation {
        FileOperation::Create { .. } | FileOperation::Open { .. } => open(fs, who, operation).await,
        FileOperation::Symlink { .. }
        | FileOperation::Mknod { .. }
        | FileOperation::Mkdir { .. }
        | FileOperation::Unlink { .. }
        | FileOperation::Rmdir { .. }
        | FileOperation::Rename { .. }
        | FileOperation::Link { .. } => change_names(fs, who, operation).await.map(Answer::from),
        FileOperation::Setxattr { .. }
        | FileOperation::Getxattr { .. }
        | FileOperation::Listxattr { .. }
        | FileOperation::Removexattr { .. } => xattr(fs, who, operation).await.map(Answer::from),
        FileOperation::Read { .. }
        | FileOperation::Write { .. }
        | FileOperation::Flush { .. }
        | FileOperation::Release { .. }
        | FileOperation::Fsync { .. }
        | FileOperation::Fallocate { .. }
        | FileOperation::Lseek { .. } => data(fs, who, operation).await.map(Answer::from),
        FileOperation::Lookup { .. }
        | FileOperation::Getattr { .. }
        | FileOperation::Statx { .. }
        | FileOperation::Setattr { .. }
        | FileOperation::Readlink { .. }
        | FileOperation::Opendir
        | FileOperation::Readdir { .. }
        | FileOperation::Releasedir
        | FileOperation::Fsyncdir { .. }
        | FileOperation::Statfs
        | FileOperation::Syncfs
        | FileOperation::Access => inspect(fs, who, operation).await.map(Answer::from),
    };
    outcome.unwrap_or_else(Answer::failed)
}

type Outcome<F> = Result<Body<<F as FileSystem>::Data>, FsError>;

async fn open<F: FileSystem>(fs: &F, who: &Identity, operation: FileOperation) -> Result<Answer<F::Data>, FsError> {
    let (mut bytes, opened) = match operation {
        FileOperation::Create { dir, name, how } => {
            let (entry, opened) = fs.create(who, dir, &name, &how).await?;
            (reply::entry_out(&entry).as_bytes().to_vec(), opened)
        }
        FileOperation::Open { ino, flags } => (Vec::new(), fs.open(who, ino, flags).await?),
        _ => return Err(FsError::UnknownOperation),
    };
    bytes.extend_from_slice(reply::open_out(&opened).as_bytes());
    Ok(Answer { result: Ok(Body::Bytes(bytes)), opened: Some(opened.handle) })
}

async fn change_names<F: FileSystem>(fs: &F, who: &Identity, operation: FileOperation) -> Outcome<F> {
    let entry = match operation {
        FileOperation::Symlink { dir, name, target } => fs.symlink(who, dir, &name, &target).await?,
        FileOperation::Mknod { dir, name, kind, mode, rdev } => fs.mknod(who, dir, &name, kind, mode, rdev).await?,
        FileOperation::Mkdir { dir, name, mode } => fs.mkdir(who, dir, &name, mode).await?,
        FileOperation::Link { ino, dir, name } => fs.link(who, ino, dir, &name).await?,
        FileOperation::Unlink { dir, name } => {
            fs.unlink(who, dir, &name).await?;
            return Ok(Body::Empty);
        }
        FileOperation::Rmdir { dir, name } => {
            fs.rmdir(who, dir, &name).await?;
            return Ok(Body::Empty);
        }
        FileOperation::Rename { from_dir, from, to_dir, to, mode } => {
            fs.rename(who, (from_dir, &from), (to_dir, &to), mode).await?;
            return Ok(Body::Empty);
        }
        _ => return Err(FsError::UnknownOperation),
    };
    Ok(Body::of(&reply::entry_out(&entry)))
}

async fn inspect<F: FileSystem>(fs: &F, who: &Identity, operation: FileOperation) -> Outcome<F> {
    Ok(match operation {
        FileOperation::Lookup { dir, name, again } => {
            Body::of(&reply::lookup_out(&fs.lookup(who, dir, &name, again).await?)?)
        }
        FileOperation::Getattr { ino } => {
            let (attr, ttl) = fs.getattr(ino).await?;
            Body::of(&reply::attr_out(&attr, ttl))
        }
        FileOperation::Statx { ino } => {
            let (attr, ttl) = fs.getattr(ino).await?;
            Body::of(&reply::statx_out(&attr, ttl))
        }
        FileOperation::Setattr { ino, change } => {
            let (attr, ttl) = fs.setattr(who, ino, change).await?;
            Body::of(&reply::attr_out(&attr, ttl))
        }
        FileOperation::Readlink { ino } => Body::Bytes(fs.readlink(ino).await?),
        FileOperation::Readdir { dir, offset, bytes_max, plus } => {
            Body::Bytes(read_dir(fs, who, dir, offset, bytes_max, plus).await?)
        }
        FileOperation::Fsyncdir { dir } => {
            fs.fsyncdir(dir).await?;
            Body::Empty
        }
        FileOperation::Statfs => Body::of(&reply::statfs_out(&fs.statfs().await?)),
        FileOperation::Syncfs => {
            fs.syncfs().await?;
            Body::Empty
        }
        // Directories have no state of their own (their handle is 0), and the kernel itself checks
        // permissions (default_permissions).
        FileOperation::Opendir => Body::of(&crate::abi::OpenOut::default()),
        FileOperation::Releasedir | FileOperation::Access => Body::Empty,
        _ => return Err(FsError::UnknownOperation),
    })
}

async fn read_dir<F: FileSystem>(
    fs: &F,
    who: &Identity,
    dir: InodeId,
    offset: u64,
    bytes_max: u32,
    plus: bool,
) -> Result<Vec<u8>, FsError> {
    let bytes_max = bytes_max.min(TRANSFER_BYTES_MAX);
    let mut packer = Packer::new(usize::try_from(bytes_max).expect("at most a transfer"), plus);
    let room = u32::try_from(packer.room_after_dots(offset)).expect("at most a transfer");
    let listing = fs.readdir(who, dir, cookie_of(offset), room, plus).await?;
    packer.add_dots(dir, listing.parent, offset);
    packer.add_listing(&listing);
    Ok(packer.finish())
}

async fn data<F: FileSystem>(fs: &F, who: &Identity, operation: FileOperation) -> Outcome<F> {
    match operation {
        FileOperation::Read { handle, offset, len } => {
            let len = len.min(TRANSFER_BYTES_MAX);
            let data = fs.read(handle, offset, len).await?;
            return Ok(Body::Data(data, usize::try_from(len).expect("at most a transfer")));
        }
        FileOperation::Write { handle, offset, flags, data } => {
            let written = fs.write(handle, offset, &data, flags).await?.min(data.len());
            let size = u32::try_from(written).expect("at most a transfer");
            return Ok(Body::of(&WriteOut { size, padding: 0 }));
        }
        FileOperation::Lseek { handle, offset, whence } => {
            return Ok(Body::of(&LseekOut { offset: fs.seek(handle, offset, whence).await? }));
        }
        FileOperation::Flush { handle } => fs.flush(handle).await?,
        FileOperation::Release { handle } => fs.release(handle),
        FileOperation::Fsync { handle } => fs.fsync(handle).await?,
        FileOperation::Fallocate { handle, offset, len, mode, keep_size } => {
            fs.fallocate(who, handle, offset, len, mode, keep_size).await?;
        }
        _ => return Err(FsError::UnknownOperation),
    }
    Ok(Body::Empty)
}

async fn xattr<F: FileSystem>(fs: &F, who: &Identity, operation: FileOperation) -> Outcome<F> {
    match operation {
        FileOperation::Setxattr { ino, name, value, mode } => {
            fs.setxattr(who, ino, &name, &value, mode).await?;
            Ok(Body::Empty)
        }
        FileOperation::Removexattr { ino, name } => {
            fs.removexattr(who, ino, &name).await?;
            Ok(Body::Empty)
        }
        FileOperation::Getxattr { ino, name, bytes_max } => sized_bytes(fs.getxattr(ino, &name).await?, bytes_max),
        FileOperation::Listxattr { ino, bytes_max } => sized_bytes(visible(who, fs.listxattr(ino).await?), bytes_max),
        _ => Err(FsError::UnknownOperation),
    }
}

/// Names that a user may see: those of `trusted.` are for root alone (xattr(7)). The kernel tells nobody who
/// has the capability, so a user who has it and is not root does not see them listed.
fn visible(who: &Identity, mut names: Vec<u8>) -> Vec<u8> {
    if who.uid != 0 && names.windows(TRUSTED.len()).any(|part| part == TRUSTED) {
        names = names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !name.starts_with(TRUSTED))
            .flatten()
            .copied()
            .collect();
    }
    names
}

/// A buffer of 0 bytes asks for the size; one that is too small is an error.
fn sized_bytes<D>(value: Vec<u8>, bytes_max: u32) -> Result<Body<D>, FsError> {
    let size = u32::try_from(value.len()).map_err(|_| FsError::TooLarge)?;
    if bytes_max == 0 {
        return Ok(Body::Bytes(GetxattrOut { size, padding: 0 }.as_bytes().to_vec()));
    }
    if size > bytes_max { Err(FsError::Range) } else { Ok(Body::Bytes(value)) }
}
