//! The real kernel over a file system in memory: mount, work, errors, kills, unmount, mending.
//! Runs as root by mount(2) and as an ordinary user by fusermount3.
#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "real programs use the mount beside it, in real time")]

mod stage;

use cfs_fuse::{Device, Mount, MountError, MountOptions, Notifier, Session, Unmounted, mend_dead_mount, mount};
use cfs_seam::{Class, spawn};
use stage::memory::Memory;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A place to mount on, removed at the end; never removes what is below.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cfs-fuse-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a new directory");
        Place(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mounts").expect("/proc");
    table.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// Kernel time-outs of most tests: short, so that everything passes through here.
const BRIEFLY: Duration = Duration::from_millis(10);

fn serve(device: Device, ttl: Duration) -> JoinHandle<()> {
    std::thread::spawn(move || {
        stage::core::run(|host| async move {
            let memory = Rc::new(Memory::new(ttl));
            let session = Session::new(host.clone(), device.clone(), memory.clone());
            let started = session.clone();
            let notify = spawn(&host.tasks, Class::Foreground, async move {
                let negotiated = started.started().await;
                *memory.notifier.borrow_mut() = Some(Notifier::start(device, negotiated).expect("a thread"));
                memory.notifies.notify_all();
            });
            session.serve().await.expect("the session ends with the mount");
            drop(notify);
        });
    })
}

/// Mounts, lets `work` use it, unmounts, and sees that nothing is left.
fn with_mount(name: &str, work: impl FnOnce(&Path)) {
    let place = Place::new(name);
    let (device, mounted) = mount(&place.0, &MountOptions::default()).expect("mounted");
    let server = serve(device, BRIEFLY);
    work(&place.0);
    assert_eq!(mounted.unmount().expect("unmounted"), Unmounted::Clean);
    server.join().expect("served to the end");
    assert!(!is_mounted(&place.0));
}

#[test]
fn files_directories_and_links_work() {
    with_mount("work", |root| {
        let (dir, file) = (root.join("dir"), root.join("dir/file"));
        fs::create_dir(&dir).expect("mkdir");
        let data: Vec<u8> = (0..=250u8).cycle().take(3 << 20 | 7).collect();
        fs::write(&file, &data).expect("written");
        assert!(fs::read(&file).expect("read") == data);
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("chmod");
        let meta = fs::metadata(&file).expect("stat");
        assert_eq!((meta.len(), meta.mode() & 0o7777), (3 << 20 | 7, 0o640));
        assert_eq!(meta.created().expect("statx").elapsed().ok().map(|age| age.as_secs() > 1_000_000), Some(true));
        fs::rename(&file, root.join("moved")).expect("rename");
        fs::hard_link(root.join("moved"), root.join("second")).expect("link");
        symlink("second", root.join("link")).expect("symlink");
        assert_eq!(fs::read_link(root.join("link")).expect("readlink"), Path::new("second"));
        assert_eq!(fs::metadata(root.join("link")).expect("stat").nlink(), 2);
        fs::remove_dir(&dir).expect("rmdir");
        fs::remove_file(root.join("moved")).expect("unlink");
        assert_eq!(fs::metadata(&file).expect_err("gone").kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn a_sequential_reader_is_read_ahead_by_whole_transfers() {
    with_mount("ahead", |root| {
        let device = fs::metadata(root).expect("stat").dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let window = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).expect("a window");
        assert_eq!(window.trim(), "1024");
    });
}

#[test]
fn appends_truncation_and_holes_work() {
    with_mount("append", |root| {
        let path = root.join("log");
        let mut one = fs::File::options().append(true).create(true).open(&path).expect("opened");
        let mut two = fs::File::options().append(true).open(&path).expect("opened");
        one.write_all(b"one").expect("appended");
        two.write_all(b"two").expect("appended");
        one.write_all(b"three").expect("appended");
        assert_eq!(fs::read(&path).expect("read"), b"onetwothree");
        let file = fs::File::options().read(true).write(true).open(&path).expect("opened");
        file.set_len(4).expect("truncated");
        file.write_all_at(b"X", 8).expect("written");
        file.sync_all().expect("synced");
        assert_eq!(fs::read(&path).expect("read"), b"onet\0\0\0\0X");
        // SAFETY: takes no pointers.
        let hole = unsafe { libc::lseek(file.as_raw_fd(), 2, libc::SEEK_HOLE) };
        assert_eq!(hole, 9);
        let mut tail = String::new();
        (&file).seek(SeekFrom::Start(8)).expect("seek");
        (&file).read_to_string(&mut tail).expect("read");
        assert_eq!(tail, "X");
    });
}

#[test]
fn a_shared_mapping_is_written_back() {
    with_mount("mmap", |root| {
        let path = root.join("mapped");
        fs::write(&path, [b'a'; 4096]).expect("written");
        let file = fs::File::options().read(true).write(true).open(&path).expect("opened");
        let (prot, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new mapping of one page of an open file.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_SHARED, fd, 0) };
        assert_ne!(page, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        // SAFETY: the page is mapped writable and nobody else has a reference to it.
        unsafe { page.cast::<u8>().add(10).write(b'Z') };
        // SAFETY: the mapping made above, unmapped once.
        assert_eq!(unsafe { libc::msync(page, 4096, libc::MS_SYNC) | libc::munmap(page, 4096) }, 0);
        let direct = fs::File::options().append(true).read(true).open(&path).expect("opened directly");
        let mut byte = [0];
        direct.read_exact_at(&mut byte, 10).expect("read");
        assert_eq!(byte, *b"Z");
    });
}

#[test]
fn a_long_directory_is_listed_whole_and_resumed_anywhere() {
    with_mount("list", |root| {
        let expected: BTreeSet<String> = (0..3000).map(|i| format!("file-{i:0>100}")).collect();
        for name in &expected {
            fs::write(root.join(name), b"").expect("created");
        }
        for _ in 0..2 {
            let listed = fs::read_dir(root).expect("listed").map(|e| e.expect("an entry").file_name());
            let names: Vec<String> = listed.map(|n| n.into_string().expect("ascii")).collect();
            assert_eq!(names.len(), 3000);
            assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), expected);
        }
        let told = Command::new("find").arg(root).args(["-mindepth", "1", "-printf", "%s%y "]).output();
        assert_eq!(told.expect("find").stdout, "0f ".repeat(3000).as_bytes());
    });
}

#[test]
fn failures_reach_programs_as_their_errno() {
    with_mount("errors", |root| {
        let errno = |result: io::Result<()>| result.expect_err("it fails").raw_os_error();
        assert_eq!(errno(fs::write(root.join("fail-space"), b"x")), Some(libc::ENOSPC));
        assert_eq!(errno(fs::metadata(root.join("fail-corrupt")).map(drop)), Some(libc::EIO));
        assert_eq!(errno(fs::create_dir(root.join("fail-unknown"))), Some(libc::EOPNOTSUPP));
        assert_eq!(errno(fs::create_dir(root.join("fail-space"))), Some(libc::ENOSPC));
        assert_eq!(errno(fs::write(root.join("n".repeat(256)), b"x")), Some(libc::ENAMETOOLONG));
        let told = Command::new("df").args(["--output=size,ipcent", "-B1"]).arg(root).output().expect("df");
        assert!(String::from_utf8_lossy(&told.stdout).contains("1073741824"), "{told:?}");
    });
}

#[test]
fn a_process_that_waits_for_ever_can_be_killed() {
    with_mount("stuck", |root| {
        fs::write(root.join("stuck"), b"never read").expect("written");
        let mut reader = Command::new("cat").arg(root.join("stuck")).spawn().expect("cat");
        let wchan = format!("/proc/{}/wchan", reader.id());
        while !fs::read_to_string(&wchan).unwrap_or_default().contains("request_wait") {
            assert!(reader.try_wait().expect("a child").is_none(), "it reads");
            std::thread::yield_now();
        }
        reader.kill().expect("killed");
        assert_eq!(reader.wait().expect("reaped").signal(), Some(libc::SIGKILL));
        assert!(fs::metadata(root.join("stuck")).is_ok(), "others go on");
    });
}

#[test]
fn a_mount_is_exclusive_and_goes_with_its_guard() {
    let place = Place::new("guard");
    let (device, mounted) = mount(&place.0, &MountOptions::default()).expect("mounted");
    let server = serve(device, BRIEFLY);
    let again = mount(&place.0, &MountOptions::default());
    assert!(matches!(again, Err(MountError::AlreadyMounted(_))));
    drop(mounted);
    server.join().expect("served to the end");
    assert!(!is_mounted(&place.0));
}

#[test]
fn a_busy_mount_is_taken_off_lazily() {
    let place = Place::new("busy");
    let (device, mounted) = mount(&place.0, &MountOptions::default()).expect("mounted");
    let server = serve(device, BRIEFLY);
    let file = fs::File::create(place.0.join("open")).expect("created");
    assert_eq!(mounted.unmount().expect("unmounted"), Unmounted::Lazy);
    assert!(!is_mounted(&place.0));
    file.write_all_at(b"still served", 0).expect("written");
    drop(file);
    server.join().expect("served until the last user left");
}

#[test]
fn a_dead_mount_is_mended_by_the_next() {
    let place = Place::new("dead");
    let (device, mounted) = mount(&place.0, &MountOptions::default()).expect("mounted");
    drop(device);
    std::mem::forget(mounted);
    let error = fs::metadata(&place.0).expect_err("nobody serves it");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let (device, mounted) = mount(&place.0, &MountOptions::default()).expect("mended and mounted");
    let server = serve(device, BRIEFLY);
    fs::write(place.0.join("alive"), b"x").expect("written");
    mounted.unmount().expect("unmounted");
    server.join().expect("served to the end");
    assert!(!mend_dead_mount(&place.0).expect("nothing to mend"));
}

/// Names the place to the process that is to end.
const DOOMED: &str = "CFS_FUSE_TEST_DOOMED";

/// Serves until the input ends.
fn serve_at(path: &Path) {
    let (device, mounted) = mount(path, &MountOptions::default()).expect("mounted");
    let server = serve(device, Duration::from_secs(3600));
    assert_eq!(io::stdin().read(&mut [0]).expect("an input"), 0);
    drop(mounted);
    server.join().expect("served to the end");
}

/// Whether a thread of the process waits in that function of the kernel.
fn waits_in(pid: u32, function: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| fs::read_to_string(task.path().join("wchan"))).any(|at| at.is_ok_and(|at| at.contains(function)))
}

fn await_true(what: &str, condition: impl FnMut() -> bool) {
    let mut condition = condition;
    let patience = std::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts the test of that name in a process of its own, which serves, and calls `end` while its notifier waits in
/// the kernel for a lock whose holder waits for an answer: it ends, and so does the holder. How it ended.
fn end_while_it_notifies(test: &str, end: impl FnOnce(&mut Child)) -> ExitStatus {
    let place = Place::new(test);
    let own = std::env::current_exe().expect("the test's binary");
    let mut command = Command::new(own);
    command.args(["--exact", test]).env(DOOMED, &place.0).stdin(Stdio::piped());
    let mut server = command.spawn().expect("started");
    await_true("it mounts", || is_mounted(&place.0));
    fs::write(place.0.join("stuck"), b"x").expect("written");
    let mut remover = Command::new("rm").arg("-f").arg(place.0.join("stuck")).spawn().expect("rm");
    await_true("the notifier waits for the directory's lock", || waits_in(server.id(), "fuse_reverse_inval"));
    end(&mut server);
    await_true("the server ends", || server.try_wait().expect("a child").is_some());
    await_true("who waited for it ends", || remover.try_wait().expect("a child").is_some());
    mend_dead_mount(&place.0).expect("mended");
    server.wait().expect("it has ended")
}

#[test]
fn a_process_killed_while_it_notifies_ends() {
    if let Some(path) = std::env::var_os(DOOMED) {
        return serve_at(Path::new(&path));
    }
    let ended = end_while_it_notifies("a_process_killed_while_it_notifies_ends", |server| {
        server.kill().expect("killed");
    });
    assert_eq!(ended.signal(), Some(libc::SIGKILL));
}

#[test]
fn a_mount_dropped_while_it_notifies_ends() {
    if let Some(path) = std::env::var_os(DOOMED) {
        return serve_at(Path::new(&path));
    }
    let ended = end_while_it_notifies("a_mount_dropped_while_it_notifies_ends", |server| drop(server.stdin.take()));
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_read_only_mount_takes_no_changes() {
    let place = Place::new("read-only");
    let options = MountOptions { read_only: true, ..MountOptions::default() };
    let (device, mounted) = mount(&place.0, &options).expect("mounted");
    let server = serve(device, BRIEFLY);
    let error = fs::write(place.0.join("x"), b"x").expect_err("read-only");
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    mounted.unmount().expect("unmounted");
    server.join().expect("served to the end");
}

fn set_xattr(path: &Path, name: &str, value: &str) -> io::Result<()> {
    let text = |bytes: &[u8]| CString::new(bytes).expect("no NUL");
    let (path, name) = (text(path.as_os_str().as_bytes()), text(name.as_bytes()));
    // SAFETY: two NUL-terminated strings and a slice, all alive through the call.
    match unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
fn what_changes_behind_the_kernel_is_seen_once_it_was_told() {
    let place = Place::new("notify");
    let root = &place.0;
    let (device, mounted) = mount(root, &MountOptions::default()).expect("mounted");
    let server = serve(device, Duration::from_secs(3600));
    for name in ["file", "old", "trigger"] {
        fs::write(root.join(name), name).expect("written");
    }
    assert_eq!(fs::read(root.join("file")).expect("read"), b"file");
    assert!(fs::metadata(root.join("new")).is_err(), "its absence is cached");
    set_xattr(&root.join("trigger"), "user.behind", "file").expect("changed behind");
    assert_eq!(fs::metadata(root.join("file")).expect("stat").len(), 14);
    assert_eq!(fs::read(root.join("file")).expect("read"), b"changed behind");
    assert_eq!(fs::read(root.join("new")).expect("read"), b"old");
    assert!(fs::metadata(root.join("old")).is_err());
    mounted.unmount().expect("unmounted");
    server.join().expect("served to the end");
}

/// Gives the calling thread its own view of mounts, in which everybody may open /dev/fuse (as on any
/// desktop; bare servers and containers often reserve it for root).
fn open_the_device_to_all() {
    // SAFETY: takes no pointers; the calling thread leaves the mount namespace of the others.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "{}", io::Error::last_os_error());
    let script = "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && \
        mknod -m 666 /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse";
    assert!(Command::new("sh").args(["-c", script]).status().expect("sh").success());
}

/// Makes the calling thread, and only it, act as user and group `id`.
fn become_user(id: libc::c_long) {
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // SAFETY: takes no pointers; the raw call changes this thread only.
        assert_eq!(unsafe { libc::syscall(call, id, id, id) }, 0, "{}", io::Error::last_os_error());
    }
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    const USER: u32 = 65_534;
    let place = Place::new("user");
    let path = place.0.clone();
    std::os::unix::fs::chown(&path, Some(USER), Some(USER)).expect("chown");
    let user = std::thread::spawn(move || {
        open_the_device_to_all();
        become_user(i64::from(USER));
        let refused = mount(&path, &MountOptions { allow_other: Some(true), ..MountOptions::default() });
        assert!(matches!(refused, Err(MountError::AllowOtherRefused)), "{refused:?}");
        let (device, mounted): (Device, Mount) = mount(&path, &MountOptions::default()).expect("mounted");
        let server = serve(device, BRIEFLY);
        fs::write(path.join("mine"), b"x").expect("written");
        assert_eq!(fs::metadata(path.join("mine")).expect("stat").uid(), USER);
        assert_eq!(mounted.unmount().expect("unmounted"), Unmounted::Clean);
        server.join().expect("served to the end");
        assert!(!is_mounted(&path));
    });
    user.join().expect("the user's work");
}
