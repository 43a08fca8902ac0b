//! A task with a directory of its own: nobody else touches it, so that the reference file system
//! says exactly what each operation answers, whatever happens to the server meanwhile.

use crate::history::{ME, name, whole};
use crate::reference::{Reference, agree};
use cfs_seam::{Instant, World};
use cfs_sim::Stream;
use cfs_types::{FsError, InodeId, Name, RANGE_BYTES};
use cfs_volume::{Creation, Handle, Lookup, OpenFlags, RenameMode, Volume, WriteFlags};
use cfs_wire::{Attr, AttrChange, FallocateMode, FileKind, Op, XattrMode};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Steps that a failure shows.
const TRAIL: usize = 30;
const HANDLES_MAX: usize = 4;
const BLOCK_BYTES: u64 = 4096;
/// A store is short of space with less than this part of it free.
const SHORT_SHARE: u64 = 8;
/// Ranges of large files near whose boundaries things happen.
const RANGES: u64 = 4;

/// An open file.
#[derive(Clone, Copy)]
struct Open {
    handle: Handle,
    ino: InodeId,
    flags: OpenFlags,
}

/// The task.
pub struct Private {
    volume: Rc<Volume>,
    rng: Stream,
    /// Says what is written over.
    again: Stream,
    /// What the directory must look like.
    pub reference: Reference,
    open: Vec<Open>,
    /// What was written to ranges beyond the first: file, offset, bytes.
    far: Vec<(InodeId, u64, u64)>,
    trail: VecDeque<String>,
    label: String,
    world: World,
    since: Instant,
    /// Says each step: with CFS_SIM_VERBOSE.
    loud: bool,
}

impl Private {
    /// Makes the directory.
    pub async fn new(world: World, since: Instant, volume: Rc<Volume>, seed: u64, label: &str) -> Self {
        let made = volume.mkdir(&ME, InodeId::ROOT, &name(label), 0o755).await;
        let root = made.expect("nobody else uses the name").attr.ino;
        let (reference, rng, again) = (Reference::new(root, 0o755), Stream::new(seed), Stream::new(!seed));
        let (open, far, trail) = (Vec::new(), Vec::new(), VecDeque::new());
        let (label, loud) = (label.into(), std::env::var_os("CFS_SIM_VERBOSE").is_some());
        Private { world, since, volume, rng, again, reference, open, far, trail, label, loud }
    }

    /// Does one thing and checks its answer.
    pub async fn step(&mut self) {
        match self.rng.below(100) {
            0..10 => self.create().await,
            10..17 => self.mkdir().await,
            17..20 => self.symlink().await,
            20..25 => self.link().await,
            25..31 => self.unlink().await,
            31..34 => self.rmdir().await,
            34..44 => self.rename().await,
            44..60 => self.write().await,
            60..66 => self.read().await,
            66..70 => self.truncate().await,
            70..73 => self.fallocate().await,
            73..76 => self.chmod().await,
            76..79 => self.xattr().await,
            79..83 => self.list().await,
            83..87 => self.look().await,
            87..91 => self.sync().await,
            91..95 => self.open().await,
            _ => self.close(),
        }
    }

    /// Closes everything.
    pub fn end(&mut self) {
        while !self.open.is_empty() {
            self.close();
        }
    }

    fn note(&mut self, what: String) {
        let what = format!("{:?} {what}", self.world.clock.now().since(self.since));
        if self.loud {
            eprintln!("{} {what}", self.label);
        }
        if self.trail.len() == TRAIL {
            self.trail.pop_front();
        }
        self.trail.push_back(what);
    }

    fn wrong(&self, got: impl std::fmt::Debug, want: impl std::fmt::Debug) -> ! {
        let trail: Vec<&str> = self.trail.iter().map(String::as_str).collect();
        panic!("{}: answered {got:?}, should be {want:?}, after:\n  {}", self.label, trail.join("\n  "));
    }

    /// A store that says itself that it is short of space may refuse, and has then done nothing.
    async fn is_refused<T>(&self, got: &Result<T, FsError>) -> bool {
        if got.as_ref().err() != Some(&FsError::NoSpace) {
            return false;
        }
        let short = self.volume.statfs().await.is_ok_and(|store| store.bytes_free < store.bytes / SHORT_SHARE);
        if !short {
            self.wrong(FsError::NoSpace, self.volume.statfs().await);
        }
        short
    }

    /// Both say yes, or both say no for the same reason.
    fn agree<T: std::fmt::Debug, U: std::fmt::Debug>(&self, got: &Result<T, FsError>, want: &Result<U, FsError>) {
        let same = match (got, want) {
            (Ok(_), Ok(_)) => true,
            (Err(got), Err(want)) => got == want,
            _ => false,
        };
        if !same {
            self.wrong(got, want);
        }
    }

    fn check_attr(&self, got: &Attr) {
        let want = self.reference.attr(got.ino);
        if !want.as_ref().is_some_and(|want| agree(got, want)) {
            self.wrong(got, want);
        }
    }

    fn any_name(&self) -> Name {
        name(["a", "b", "c", "d", "e", "a-longer-name"][self.rng.index(6)])
    }

    fn any(&self, fits: impl Fn(FileKind) -> bool) -> Option<InodeId> {
        let all: Vec<InodeId> = self.reference.linked().filter(|attr| fits(attr.kind)).map(|attr| attr.ino).collect();
        (!all.is_empty()).then(|| all[self.rng.index(all.len())])
    }

    fn any_dir(&self) -> InodeId {
        self.any(|kind| kind == FileKind::Directory).expect("the top is one")
    }

    fn any_file(&self) -> Option<InodeId> {
        self.any(|kind| kind == FileKind::File)
    }

    fn any_open(&self, write: bool) -> Option<Open> {
        let fit: Vec<Open> = self.open.iter().filter(|open| open.flags.write || !write).copied().collect();
        (!fit.is_empty()).then(|| fit[self.rng.index(fit.len())])
    }

    fn any_flags(&self) -> OpenFlags {
        let one_in = |n| self.rng.below(n) == 0;
        OpenFlags { write: !one_in(5), append: one_in(5), direct: one_in(4), sync: one_in(8) }
    }

    fn any_offset(&self) -> u64 {
        match self.rng.below(20) {
            0 => (1 + self.rng.below(RANGES)) * RANGE_BYTES - self.rng.below(10_000),
            1 => (1 + self.rng.below(RANGES)) * RANGE_BYTES + self.rng.below(100_000),
            2..6 => self.rng.below(64) * BLOCK_BYTES,
            _ => self.rng.below(50_000),
        }
    }

    fn any_length(&self) -> u64 {
        match self.rng.below(20) {
            0 => 65_537 + self.rng.below(300_000),
            1..4 => self.rng.below(65_536),
            _ => 1 + self.rng.below(5_000),
        }
    }

    /// Sometimes a part of what was written to a range beyond the first.
    fn any_rewrite(&self, ino: InodeId) -> Option<(u64, u64)> {
        let mine: Vec<(u64, u64)> =
            self.far.iter().filter(|(of, ..)| *of == ino).map(|(_, offset, len)| (*offset, *len)).collect();
        if mine.is_empty() || self.again.below(2) == 0 {
            return None;
        }
        let (offset, len) = mine[self.again.index(mine.len())];
        let skip = self.again.below(3) * (len / 4);
        Some((offset + skip, 1 + self.again.below(len - skip)))
    }

    async fn create(&mut self) {
        let (dir, at) = (self.any_dir(), self.any_name());
        let there = self.reference.lookup(dir, &at).and_then(|ino| self.reference.attr(ino));
        let exclusive = self.rng.below(2) == 0 || there.is_some_and(|attr| attr.kind != FileKind::File);
        let truncate = !exclusive && self.rng.below(3) == 0;
        let flags = OpenFlags { write: true, ..self.any_flags() };
        let how = Creation { mode: 0o640, exclusive, truncate, flags };
        self.note(format!("create {dir:?} {at:?} {how:?}"));
        let got = self.volume.create(&ME, dir, &at, &how).await;
        if self.is_refused(&got).await {
            return;
        }
        let ino = got.as_ref().ok().map(|(entry, _)| entry.attr.ino);
        let want = self.reference.make(Op::Create { dir, name: at, mode: 0o640, exclusive, truncate }, ino);
        self.agree(&got, &want);
        if let Ok((entry, handle)) = got {
            self.check_made(&entry.attr, want);
            self.keep(handle, entry.attr.ino, flags);
        }
    }

    fn check_made(&self, attr: &Attr, known: Result<bool, FsError>) {
        if known != Ok(true) {
            self.wrong(attr.ino, "the inode of that name");
        }
        self.check_attr(attr);
    }

    fn keep(&mut self, handle: Handle, ino: InodeId, flags: OpenFlags) {
        self.reference.open(ino);
        self.open.push(Open { handle, ino, flags });
        if self.open.len() > HANDLES_MAX {
            self.close();
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            let open = self.open.swap_remove(self.rng.index(self.open.len()));
            self.note(format!("close {:?}", open.ino));
            self.reference.close(open.ino);
            self.volume.release(open.handle);
        }
    }

    async fn open(&mut self) {
        let (Some(ino), flags) = (self.any_file(), self.any_flags()) else { return };
        self.note(format!("open {ino:?} {flags:?}"));
        match self.volume.open(&ME, ino, flags).await {
            Ok(handle) => self.keep(handle, ino, flags),
            Err(error) => self.wrong(error, "an open file"),
        }
    }

    async fn mkdir(&mut self) {
        let (dir, at) = (self.any_dir(), self.any_name());
        self.note(format!("mkdir {dir:?} {at:?}"));
        let got = self.volume.mkdir(&ME, dir, &at, 0o750).await;
        if self.is_refused(&got).await {
            return;
        }
        let ino = got.as_ref().ok().map(|entry| entry.attr.ino);
        let want = self.reference.make(Op::Mkdir { dir, name: at, mode: 0o750 }, ino);
        self.agree(&got, &want);
        got.iter().for_each(|entry| self.check_made(&entry.attr, want));
    }

    async fn symlink(&mut self) {
        let (dir, at) = (self.any_dir(), self.any_name());
        self.note(format!("symlink {dir:?} {at:?}"));
        let target = b"some/where".to_vec();
        let got = self.volume.symlink(&ME, dir, &at, &target).await;
        if self.is_refused(&got).await {
            return;
        }
        let ino = got.as_ref().ok().map(|entry| entry.attr.ino);
        let want = self.reference.make(Op::Symlink { dir, name: at, target: target.clone() }, ino);
        self.agree(&got, &want);
        if let Ok(entry) = got {
            self.check_made(&entry.attr, want);
            assert_eq!(self.volume.readlink(entry.attr.ino).await, Ok(target));
        }
    }

    async fn link(&mut self) {
        let Some(ino) = self.any(|_| true) else { return };
        let (dir, at) = (self.any_dir(), self.any_name());
        self.note(format!("link {ino:?} to {dir:?} {at:?}"));
        let got = self.volume.link(&ME, ino, dir, &at).await;
        if self.is_refused(&got).await {
            return;
        }
        let want = self.reference.perform(Op::Link { ino, dir, name: at }, &[]);
        self.agree(&got, &want);
        got.iter().for_each(|entry| self.check_attr(&entry.attr));
    }

    async fn unlink(&mut self) {
        let (dir, at) = (self.any_dir(), self.any_name());
        self.note(format!("unlink {dir:?} {at:?}"));
        let got = self.volume.unlink(&ME, dir, &at).await;
        let want = self.reference.perform(Op::Unlink { dir, name: at }, &[]);
        self.agree(&got, &want);
    }

    async fn rmdir(&mut self) {
        let (dir, at) = (self.any_dir(), self.any_name());
        self.note(format!("rmdir {dir:?} {at:?}"));
        let got = self.volume.rmdir(&ME, dir, &at).await;
        let want = self.reference.perform(Op::Rmdir { dir, name: at }, &[]);
        self.agree(&got, &want);
    }

    async fn rename(&mut self) {
        let (from_dir, from, to_dir, to) = (self.any_dir(), self.any_name(), self.any_dir(), self.any_name());
        let modes = [RenameMode::NoReplace, RenameMode::Exchange, RenameMode::Replace, RenameMode::Replace];
        let mode = modes[self.rng.index(4)];
        self.note(format!("rename {from_dir:?} {from:?} to {to_dir:?} {to:?} {mode:?}"));
        let got = self.volume.rename(&ME, (from_dir, &from), (to_dir, &to), mode).await;
        if self.is_refused(&got).await {
            return;
        }
        let (no_replace, exchange) = (mode == RenameMode::NoReplace, mode == RenameMode::Exchange);
        let want = self.reference.perform(Op::Rename { from_dir, from, to_dir, to, no_replace, exchange }, &[]);
        self.agree(&got, &want);
    }

    async fn write(&mut self) {
        let Some(Open { handle, ino, flags }) = self.any_open(true) else { return self.open().await };
        let (offset, len) = self.any_rewrite(ino).unwrap_or_else(|| (self.any_offset(), self.any_length()));
        let data: Vec<u8> = {
            let first = self.rng.next().to_le_bytes()[0];
            (0..len).map(|n| first.wrapping_add((n / 512).to_le_bytes()[0]) | 1).collect()
        };
        self.note(format!("write {ino:?} {} at {offset} {flags:?}", data.len()));
        let got = self.volume.write(handle, offset, &data, WriteFlags::default()).await;
        if self.is_refused(&got).await {
            return;
        }
        if got != Ok(data.len()) {
            self.wrong(got, data.len());
        }
        self.reference.write(ino, offset, flags.append, &data).expect("a file");
        if offset >= RANGE_BYTES && !flags.append {
            self.far.push((ino, offset, len));
        }
    }

    async fn read(&mut self) {
        let Some(Open { handle, ino, .. }) = self.any_open(false) else { return };
        let (offset, len) = (self.any_offset(), self.any_length());
        self.note(format!("read {ino:?} {len} at {offset}"));
        let len = u32::try_from(len).expect("short");
        let got = self.volume.read(handle, offset, len).await;
        let want = self.reference.content(ino).read(offset, len);
        match got {
            Ok(bytes) if *bytes == *want => {}
            Ok(bytes) => {
                let differs = bytes.iter().zip(&want).position(|(a, b)| a != b);
                self.wrong((bytes.len(), differs.map(|at| (at, bytes[at]))), (want.len(), differs.map(|at| want[at])));
            }
            Err(error) => self.wrong(error, want.len()),
        }
    }

    async fn truncate(&mut self) {
        let Some(ino) = self.any_file() else { return };
        let size = self.any_offset();
        self.note(format!("truncate {ino:?} to {size}"));
        let change = AttrChange { size: Some(size), ..AttrChange::default() };
        let got = self.volume.setattr(&ME, ino, change.clone()).await;
        self.reference.set(ino, change).expect("a file");
        match got {
            Ok((attr, _)) => self.check_attr(&attr),
            Err(error) => self.wrong(error, size),
        }
    }

    async fn fallocate(&mut self) {
        let Some(Open { handle, ino, .. }) = self.any_open(true) else { return };
        let ranges = if self.rng.below(4) == 0 { self.rng.below(RANGES) } else { 0 };
        let (offset, len) = (self.any_offset(), ranges * RANGE_BYTES + self.any_length());
        let modes = [FallocateMode::Allocate, FallocateMode::PunchHole, FallocateMode::ZeroRange];
        let mode = modes[self.rng.index(3)];
        let keep_size = mode == FallocateMode::PunchHole || self.rng.below(2) == 0;
        self.note(format!("fallocate {ino:?} {mode:?} {len} at {offset}, keep size {keep_size}"));
        let got = self.volume.fallocate(&ME, handle, offset, len, mode, keep_size).await;
        if got == Err(FsError::NoSpace) && len > self.volume.statfs().await.map_or(u64::MAX, |volume| volume.bytes) {
            return;
        }
        if got != Ok(()) {
            self.wrong(got, ());
        }
        self.reference.fallocate(ino, offset, len, mode, keep_size).expect("a file");
    }

    async fn chmod(&mut self) {
        let Some(ino) = self.any(|kind| kind != FileKind::Symlink) else { return };
        let mode = 0o600 | u16::try_from(self.rng.below(64)).expect("small");
        self.note(format!("chmod {ino:?} {mode:o}"));
        let change = AttrChange { mode: Some(mode), ..AttrChange::default() };
        let got = self.volume.setattr(&ME, ino, change.clone()).await;
        self.reference.set(ino, change).expect("it is there");
        match got {
            Ok((attr, _)) => self.check_attr(&attr),
            Err(error) => self.wrong(error, mode),
        }
    }

    async fn xattr(&mut self) {
        let Some(ino) = self.any(|_| true) else { return };
        let key = [&b"user.a"[..], b"user.b"][self.rng.index(2)];
        let have = self.reference.xattrs(ino).get(key).cloned();
        self.note(format!("xattr {ino:?} {}", key.escape_ascii()));
        let got = self.volume.getxattr(ino, key).await;
        if got != have.ok_or(FsError::NoAttribute) {
            self.wrong(got, self.reference.xattrs(ino));
        }
        if self.rng.below(3) == 0 {
            let got = self.volume.removexattr(&ME, ino, key).await;
            let want = self.reference.set_xattr(ino, key, None);
            self.agree(&got, &want);
        } else {
            let value = vec![self.rng.next().to_le_bytes()[0]; self.rng.index(3000)];
            let got = self.volume.setxattr(&ME, ino, key, &value, XattrMode::Set).await;
            if self.is_refused(&got).await {
                return;
            }
            let want = self.reference.set_xattr(ino, key, Some(&value));
            self.agree(&got, &want);
        }
    }

    async fn list(&mut self) {
        let (dir, plus) = (self.any_dir(), self.rng.below(2) == 0);
        self.note(format!("list {dir:?} {plus}"));
        let bytes = 64 + u32::try_from(self.rng.below(2000)).expect("small");
        let listed = match whole(&self.volume, dir, bytes, plus).await {
            Ok(listed) => listed,
            Err(error) => self.wrong(error, "a listing"),
        };
        let got: BTreeMap<Name, InodeId> = listed.iter().map(|line| (line.name.clone(), line.ino)).collect();
        let want = self.reference.entries(dir);
        if got != want || got.len() != listed.len() {
            self.wrong(listed, want);
        }
        for line in &listed {
            line.entry.iter().for_each(|entry| self.check_attr(&entry.attr));
        }
    }

    async fn look(&mut self) {
        let (dir, at) = (self.any_dir(), self.any_name());
        self.note(format!("look {dir:?} {at:?}"));
        let got = self.volume.lookup(&ME, dir, &at).await;
        match (&got, self.reference.lookup(dir, &at)) {
            (Ok(Lookup::Found(entry)), Some(ino)) if entry.attr.ino == ino => self.check_attr(&entry.attr),
            (Ok(Lookup::Missing { .. }), None) => {}
            (_, want) => self.wrong(got, want),
        }
    }

    async fn sync(&mut self) {
        let Some(Open { handle, ino, .. }) = self.any_open(false) else { return };
        self.note(format!("fsync {ino:?}"));
        let got = self.volume.fsync(handle).await;
        if got != Ok(()) {
            self.wrong(got, ());
        }
    }
}
