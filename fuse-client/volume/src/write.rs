//! Opening, writing, and what ends a handle.

use crate::core::Core;
use crate::files::{Handle, OpenFile, OpenFlags};
use crate::volume::{Volume, WriteFlags};
use cfs_seam::Class;
use cfs_types::{FILE_BYTES_MAX, FsError, InodeId, RANGE_BYTES};
use cfs_wire::{Attr, FallocateMode, HeldBack, Identity, Op, OpenMode, Reply};
use std::rc::Rc;

/// Longest write sent at once, bytes.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// A file with so much held back is written back at once.
const WRITE_BACK_BYTES: usize = 4 << 20;
/// Setuid and setgid, which a write by others clears.
pub const PRIVILEGE_BITS: u16 = 0o6000;

/// How a write reaches the server.
#[derive(Clone, Copy)]
pub(crate) enum Sending {
    /// While its caller waits.
    Through { append: bool, kill_privileges: bool },
    /// After its caller was told that it is done.
    HeldBack(HeldBack),
}

/// An open under way: counted, so that no close overtakes it. While it asks the server, others wait for
/// its answer: the file may be gone.
struct Opening {
    volume: Rc<Core>,
    ino: InodeId,
    write: bool,
    asks: bool,
    done: bool,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.asks {
            self.volume.asked(self.ino);
        }
        if !self.done {
            self.volume.unpin(self.ino, self.write);
        }
    }
}

impl Core {
    pub async fn open(self: &Rc<Self>, who: &Identity, ino: InodeId, flags: OpenFlags) -> Result<Handle, FsError> {
        while self.inodes.find(ino, |inode| inode.asking) == Some(true) {
            self.check()?;
            self.inodes.changed.changed().await;
        }
        let pinned = self.pin(ino, flags.write);
        let mut opening = Opening { volume: self.clone(), ino, write: flags.write, asks: !pinned, done: false };
        if !pinned {
            self.inodes.with(ino, |inode| inode.asking = true);
            let mode = if flags.write { OpenMode::Write } else { OpenMode::Read };
            let answer = self.call(ino.shard(), who, &Op::Open { ino, mode }, None).await?;
            match answer.reply {
                Reply::Attr(attr) if attr.ino == ino => self.keep(&attr, &answer.origin),
                _ => return Err(FsError::Malformed),
            };
        }
        opening.done = true;
        let errors = self.inodes.with(ino, |inode| inode.errors);
        Ok(self.files.insert(ino, flags, errors))
    }

    /// A create has pinned its file at the server.
    pub async fn opened_by_create(self: &Rc<Self>, ino: InodeId, flags: OpenFlags) -> Result<Handle, FsError> {
        if self.inodes.find(ino, |inode| inode.asking) == Some(true) {
            // The close of an earlier handle may arrive after the create, and an open may fail.
            return self.open(&Identity::default(), ino, flags).await;
        }
        self.pin(ino, flags.write);
        let errors = self.inodes.with(ino, |inode| inode.errors);
        Ok(self.files.insert(ino, flags, errors))
    }

    /// Counts an open; true where the server knows of one that is as good.
    fn pin(&self, ino: InodeId, write: bool) -> bool {
        self.inodes.with(ino, |inode| {
            let pinned = inode.opens > 0 && (inode.writers > 0 || !write);
            inode.opens += 1;
            inode.writers += u32::from(write);
            pinned
        })
    }

    /// The last use of a handle.
    pub fn release(self: &Rc<Self>, handle: Handle) {
        if let Some(file) = self.files.remove(handle) {
            self.unpin(file.ino, file.flags.write);
        }
    }

    /// Counts a close; the last one writes back, then tells the server.
    fn unpin(self: &Rc<Self>, ino: InodeId, write: bool) {
        let last = self.inodes.with(ino, |inode| {
            inode.opens -= 1;
            inode.writers -= u32::from(write);
            inode.opens == 0
        });
        if !last {
            return;
        }
        let volume = self.clone();
        self.spawn(Class::Foreground, async move {
            volume.write_back(ino).await;
            let unused = volume.inodes.with(ino, |inode| {
                let unused = inode.opens == 0 && !inode.asking;
                inode.asking |= unused;
                unused
            });
            if unused {
                // A failure leaves a pin that ends with the session.
                let close = Op::Close { ino };
                let _ = volume.call(ino.shard(), &Identity::default(), &close, None).await;
                volume.asked(ino);
            }
        });
    }

    /// The server has answered an open or a close, or never will.
    fn asked(&self, ino: InodeId) {
        self.inodes.with(ino, |inode| inode.asking = false);
        self.inodes.changed.notify();
    }

    async fn write_at(
        self: &Rc<Self>,
        file: &OpenFile,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<usize, FsError> {
        let sync = flags.sync || file.flags.sync;
        while self.may_hold(file, flags).await? {
            if self.has_room(data.len()) {
                if !self.hold_back(file, offset, data)? {
                    break;
                }
                if sync {
                    self.settle(file.ino).await?;
                }
                return Ok(data.len());
            }
            let drained = self.drained.changed();
            for ino in self.inodes.dirty_before(None) {
                self.begin_write_back(ino);
            }
            drained.await;
        }
        self.write_back(file.ino).await;
        let privileged = flags.kill_privileges && self.is_privileged(file.ino);
        let written = self.write_through(file, offset, data, flags).await;
        if privileged {
            self.distrust(file.ino);
        }
        written
    }

    /// Whether the kernel may believe that the file is setuid or setgid: a change of content then ends
    /// that without its knowing.
    fn is_privileged(&self, ino: InodeId) -> bool {
        let now = self.now();
        let cached = self.inodes.find(ino, |inode| inode.cached_attr(now)).flatten();
        cached.is_some_and(|(attr, _)| attr.mode & PRIVILEGE_BITS != 0)
    }

    /// Whether this write may be held back now.
    async fn may_hold(self: &Rc<Self>, file: &OpenFile, flags: WriteFlags) -> Result<bool, FsError> {
        self.check()?;
        let exclusive = |volume: &Core| {
            let now = volume.now();
            volume.inodes.find(file.ino, |inode| inode.is_exclusive(now) && !inode.refused) == Some(true)
        };
        if file.flags.direct || !self.may_hold_back() || !exclusive(self) {
            return Ok(false);
        }
        let placed = self.inodes.find(file.ino, |inode| inode.position.is_some()) == Some(true);
        if flags.kill_privileges || file.flags.append || !placed {
            // Mode, size and epoch must be known; the answer is kept under the lease.
            let (attr, _) = self.attr(file.ino).await?;
            if flags.kill_privileges && attr.mode & PRIVILEGE_BITS != 0 {
                return Ok(false);
            }
        }
        Ok(exclusive(self))
    }

    fn has_room(&self, bytes: usize) -> bool {
        let held = self.dirty_bytes.get();
        held == 0 || held + bytes <= self.options.dirty_bytes_max
    }

    /// False where the end of the file, to append to, is not known after all.
    fn hold_back(self: &Rc<Self>, file: &OpenFile, offset: u64, data: &[u8]) -> Result<bool, FsError> {
        let (now, wall) = (self.now(), self.world.clock.wall());
        let full = self.inodes.with(file.ino, |inode| {
            let offset = match (file.flags.append, inode.cached_attr(now)) {
                (true, Some((attr, _))) => attr.size,
                (true, None) => return Ok(None),
                (false, _) => offset,
            };
            if end_of(offset, data)? > FILE_BYTES_MAX {
                return Err(FsError::FileTooLarge);
            }
            let before = inode.dirty.bytes();
            inode.dirty.write(offset, data);
            self.dirty_bytes.set(self.dirty_bytes.get() + inode.dirty.bytes() - before);
            inode.held_epoch = inode.held_epoch.or(inode.position.map(|(epoch, _)| epoch));
            inode.written_at = wall;
            inode.dirty_since.get_or_insert(now);
            Ok(Some(inode.dirty.waiting_bytes() >= WRITE_BACK_BYTES))
        })?;
        let Some(full) = full else { return Ok(false) };
        if full {
            self.begin_write_back(file.ino);
        }
        self.wake_keeper.notify();
        Ok(true)
    }

    async fn write_through(
        self: &Rc<Self>,
        file: &OpenFile,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<usize, FsError> {
        if end_of(offset, data)? > FILE_BYTES_MAX {
            return Err(FsError::FileTooLarge);
        }
        let mut done = 0;
        while done < data.len() {
            let at = offset + u64::try_from(done).expect("64-bit");
            // An append stays whole: where it goes is for the server to say.
            let in_range = if file.flags.append { RANGE_BYTES } else { RANGE_BYTES - at % RANGE_BYTES };
            let room = PIECE_BYTES_MAX.min(in_range);
            let piece = &data[done..data.len().min(done + usize::try_from(room).expect("1 MiB fits"))];
            let how = Sending::Through { append: file.flags.append, kill_privileges: flags.kill_privileges };
            let sent = self.send_write(file.ino, at, piece, how).await;
            match sent {
                Ok(_) => {
                    done += piece.len();
                    self.inodes.find(file.ino, |inode| inode.refused = false);
                }
                // What was written was written: the next write tells the error.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// One write at the server; what is known of the file follows.
    pub async fn send_write(
        self: &Rc<Self>,
        ino: InodeId,
        offset: u64,
        piece: &[u8],
        how: Sending,
    ) -> Result<Attr, FsError> {
        let len = u32::try_from(piece.len()).map_err(|_| FsError::TooLarge)?;
        let (append, kill_privileges, held) = match how {
            Sending::Through { append, kill_privileges } => (append, kill_privileges, None),
            Sending::HeldBack(held) => (false, false, Some(held)),
        };
        let op = Op::Write { ino, offset, len, append, kill_privileges, held };
        let answer = self.call(ino.shard(), &Identity::default(), &op, Some(piece)).await;
        let (place, result) = match answer {
            Ok(answer) => match answer.reply {
                Reply::Written { offset, attr, .. } if attr.ino == ino => {
                    (offset, Ok(self.keep(&attr, &answer.origin).0))
                }
                _ => (offset, Err(FsError::Malformed)),
            },
            Err(failure) => (offset, Err(failure.error)),
        };
        self.inodes.changed_data(ino);
        self.data.forget_range(ino, place, u64::from(len));
        if result.is_err() {
            self.inodes.changed_attr(ino);
        }
        result
    }
}

fn end_of(offset: u64, data: &[u8]) -> Result<u64, FsError> {
    let bytes = u64::try_from(data.len()).expect("64-bit");
    offset.checked_add(bytes).ok_or(FsError::FileTooLarge)
}

impl Volume {
    /// Opens a file and pins it: it outlives its last name until `release`.
    pub async fn open(&self, who: &Identity, ino: InodeId, flags: OpenFlags) -> Result<Handle, FsError> {
        self.core.open(who, ino, flags).await
    }

    /// Writes; fewer bytes than given only where an error follows. With O_APPEND the offset is
    /// the file's end.
    pub async fn write(&self, handle: Handle, offset: u64, data: &[u8], flags: WriteFlags) -> Result<usize, FsError> {
        let mut file = self.core.files.get(handle)?;
        file.flags.append = flags.append.unwrap_or(file.flags.append);
        let core = &self.core;
        let (era, begun) = (core.inodes.data_era(file.ino, core.now()), core.inodes.tick());
        let written = core.write_at(&file, offset, data, flags).await;
        let pages = (offset, u64::try_from(data.len()).expect("64-bit"));
        core.keep_uncovered_pages_out(file.ino, era, begun, pages);
        written
    }

    /// Close of a descriptor: begins to write back, and waits for that where the store may be short of
    /// space; tells an error that is known by then.
    pub async fn flush(&self, handle: Handle) -> Result<(), FsError> {
        let file = self.core.files.get(handle)?;
        self.core.begin_write_back(file.ino);
        let holds = self.core.inodes.find(file.ino, |inode| !inode.dirty.is_empty()) == Some(true);
        if holds && self.core.may_lack_space() {
            self.core.write_back(file.ino).await;
        }
        self.report(handle, &file)
    }

    /// Waits until everything written so far is durable. A lost write is told once to each
    /// handle.
    pub async fn fsync(&self, handle: Handle) -> Result<(), FsError> {
        let file = self.core.files.get(handle)?;
        self.core.write_back(file.ino).await;
        self.core.check()?;
        self.report(handle, &file)
    }

    fn report(&self, handle: Handle, file: &OpenFile) -> Result<(), FsError> {
        let failed = self.core.inodes.find(file.ino, |inode| (inode.errors, inode.error));
        let Some((errors, Some(error))) = failed else { return Ok(()) };
        if self.core.files.get(handle)?.errors_seen >= errors {
            return Ok(());
        }
        self.core.files.change(handle, |file| file.errors_seen = errors);
        Err(error)
    }

    /// The last use of a handle; what is held back is written without waiting for it.
    pub fn release(&self, handle: Handle) {
        self.core.release(handle);
    }

    /// Allocates, punches or zeroes. Setuid and setgid go unless root asks.
    pub async fn fallocate(
        &self,
        who: &Identity,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: FallocateMode,
        keep_size: bool,
    ) -> Result<(), FsError> {
        let core = &self.core;
        let ino = core.files.get(handle)?.ino;
        core.write_back(ino).await;
        let privileged = core.is_privileged(ino);
        let op = Op::Fallocate { ino, offset, len, mode, keep_size };
        let answer = core.call(ino.shard(), who, &op, None).await;
        if privileged {
            core.distrust(ino);
        }
        core.inodes.changed_data(ino);
        core.data.forget_range(ino, offset, len);
        if answer.is_err() {
            core.inodes.changed_attr(ino);
        }
        let answer = answer?;
        match answer.reply {
            Reply::Attr(attr) if attr.ino == ino => {
                core.keep(&attr, &answer.origin);
                Ok(())
            }
            _ => Err(FsError::Malformed),
        }
    }
}
