//! `pass-through SOURCE MOUNTPOINT`: a FUSE file system that hands every call to a directory, with
//! the kernel's caches for a second: what FUSE adds to ext4 when nothing else is done.
//!
//! Only what the bench calls; inodes are kept until they are unlinked.

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TTL: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    paths: HashMap<u64, PathBuf>,
    files: HashMap<u64, File>,
    /// Listings as they were when the directory was opened.
    listings: HashMap<u64, Vec<(u64, std::ffi::OsString)>>,
    next_handle: u64,
}

struct PassThrough {
    source: PathBuf,
    state: Mutex<State>,
}

fn time(seconds: i64, nanos: i64) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds as u64, nanos as u32)
}

fn attributes(m: &Metadata, ino: INodeNo) -> FileAttr {
    FileAttr {
        ino,
        size: m.len(),
        blocks: m.blocks(),
        atime: time(m.atime(), m.atime_nsec()),
        mtime: time(m.mtime(), m.mtime_nsec()),
        ctime: time(m.ctime(), m.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: if m.is_dir() { FileType::Directory } else { FileType::RegularFile },
        perm: (m.mode() & 0o7777) as u16,
        nlink: m.nlink() as u32,
        uid: m.uid(),
        gid: m.gid(),
        rdev: 0,
        flags: 0,
        blksize: 4096,
    }
}

impl PassThrough {
    fn path(&self, ino: INodeNo) -> Option<PathBuf> {
        match ino == INodeNo::ROOT {
            true => Some(self.source.clone()),
            false => self.state.lock().expect("no panics").paths.get(&u64::from(ino)).cloned(),
        }
    }
    fn child(&self, parent: INodeNo, name: &OsStr) -> std::io::Result<PathBuf> {
        Ok(self.path(parent).ok_or(std::io::ErrorKind::NotFound)?.join(name))
    }
    /// Attributes of a path, remembered under its inode's number.
    fn entry(&self, path: PathBuf, m: &Metadata) -> FileAttr {
        let attr = attributes(m, INodeNo(m.ino()));
        self.state.lock().expect("no panics").paths.insert(m.ino(), path);
        attr
    }
    fn forget(&self, path: &PathBuf) {
        if let Ok(m) = std::fs::symlink_metadata(path) {
            self.state.lock().expect("no panics").paths.remove(&m.ino());
        }
    }
    fn make(&self, path: PathBuf, mode: u32) -> std::io::Result<(u64, FileAttr)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(mode).open(&path)?;
        let attr = self.entry(path, &file.metadata()?);
        let mut state = self.state.lock().expect("no panics");
        state.next_handle += 1;
        let handle = state.next_handle;
        state.files.insert(handle, file);
        Ok((handle, attr))
    }
}

impl Filesystem for PassThrough {
    fn init(&mut self, _: &Request, _: &mut KernelConfig) -> std::io::Result<()> {
        println!("ready");
        Ok(())
    }
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.child(parent, name).and_then(|path| Ok((std::fs::symlink_metadata(&path)?, path)));
        match found {
            Ok((m, path)) => reply.entry(&TTL, &self.entry(path, &m), Generation(0)),
            Err(error) => reply.error(Errno::from(error)),
        }
    }
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.path(ino).and_then(|path| std::fs::symlink_metadata(path).ok()) {
            Some(m) => reply.attr(&TTL, &attributes(&m, ino)),
            None => reply.error(Errno::ENOENT),
        }
    }
    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let made = self.child(parent, name).and_then(|path| {
            std::fs::DirBuilder::new().mode(mode).create(&path)?;
            Ok((std::fs::symlink_metadata(&path)?, path))
        });
        match made {
            Ok((m, path)) => reply.entry(&TTL, &self.entry(path, &m), Generation(0)),
            Err(error) => reply.error(Errno::from(error)),
        }
    }
    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let path = self.child(parent, name);
        let done = path.and_then(|path| {
            self.forget(&path);
            std::fs::remove_file(path)
        });
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(Errno::from(error)),
        }
    }
    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.child(parent, name).and_then(std::fs::remove_dir) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(Errno::from(error)),
        }
    }
    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.child(parent, name).and_then(|path| self.make(path, mode)) {
            Ok((handle, attr)) => reply.created(&TTL, &attr, Generation(0), FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(Errno::from(error)),
        }
    }
    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let state = self.state.lock().expect("no panics");
        match state.files.get(&u64::from(fh)).map(|file| file.write_all_at(data, offset)) {
            Some(Ok(())) => reply.written(data.len() as u32),
            Some(Err(error)) => reply.error(Errno::from(error)),
            None => reply.error(Errno::EBADF),
        }
    }
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state.lock().expect("no panics").files.remove(&u64::from(fh));
        reply.ok();
    }
    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let Some(Ok(entries)) = self.path(ino).map(std::fs::read_dir) else { return reply.error(Errno::ENOENT) };
        let entries = entries.filter_map(Result::ok).map(|e| (e.ino(), e.file_name())).collect();
        let mut state = self.state.lock().expect("no panics");
        state.next_handle += 1;
        let handle = state.next_handle;
        state.listings.insert(handle, entries);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }
    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.state.lock().expect("no panics");
        let entries = state.listings.get(&u64::from(fh)).map(Vec::as_slice).unwrap_or_default();
        for (index, (ino, name)) in entries.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*ino), index as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.state.lock().expect("no panics").listings.remove(&u64::from(fh));
        reply.ok();
    }
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(source), Some(mountpoint)) = (arguments.next(), arguments.next()) else {
        panic!("usage: pass-through SOURCE MOUNTPOINT");
    };
    let fs = PassThrough { source: source.into(), state: Mutex::default() };
    fuser::mount(fs, mountpoint, &Config::default())
}
