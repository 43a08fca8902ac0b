//! Devices on real files.

use cfs_runtime::{CoreConfig, OpenMode, RuntimeError, open_disk, run};
use cfs_seam::{DiskError, Durability, IoBuf, Lifetime};
use cfs_types::CoreId;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;

fn config() -> CoreConfig {
    CoreConfig::new(CoreId::new(0))
}

struct TempFile(PathBuf);

impl TempFile {
    /// Under the target directory, because /tmp may be a tmpfs.
    fn new(name: &str) -> Self {
        TempFile(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id())))
    }
}
impl Drop for TempFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn block(fill: u8, bytes: usize) -> IoBuf {
    let mut buf = IoBuf::zeroed(bytes);
    buf.fill(fill);
    buf
}

#[test]
fn what_is_written_is_read_again_after_reopening() {
    let file = TempFile::new("write");
    let disk = open_disk(&file.0, OpenMode::Create { bytes: 8 * MIB }).expect("creates");
    assert_eq!((disk.geometry().bytes, disk.geometry().block_bytes), (8 * MIB, 4096));
    run(config(), {
        let disk = disk.clone();
        |_, reactor| async move {
            let disk = disk.attach(&reactor);
            disk.write(0, block(1, 4096), Durability::Through, Lifetime::Hot).await.result.expect("writes through");
            let writes: Vec<_> = (1..=64u8)
                .map(|at| disk.write(u64::from(at) * 65536, block(at, 65536), Durability::Flush, Lifetime::Hot))
                .collect();
            for write in writes {
                let done = write.await;
                done.result.expect("writes");
                assert_eq!(done.buf.len(), 65536, "the buffer comes back");
            }
            disk.flush().await.expect("flushes");
        }
    })
    .expect("runs");
    drop(disk);
    let disk = open_disk(&file.0, OpenMode::ReadOnly).expect("opens");
    run(config(), |_, reactor| async move {
        let disk = disk.attach(&reactor);
        let reads: Vec<_> = (1..=64u8).map(|at| disk.read(u64::from(at) * 65536, IoBuf::zeroed(65536))).collect();
        for (at, read) in (1..=64u8).zip(reads) {
            let done = read.await;
            done.result.expect("reads");
            assert!(done.buf.iter().all(|byte| *byte == at), "block {at}");
        }
        assert!(disk.read(0, IoBuf::zeroed(4096)).await.buf.iter().all(|byte| *byte == 1));
    })
    .expect("runs");
}

#[test]
fn ranges_beyond_the_end_are_refused_and_reach_nothing() {
    let file = TempFile::new("range");
    let disk = open_disk(&file.0, OpenMode::Create { bytes: MIB }).expect("creates");
    run(config(), |_, reactor| async move {
        let disk = disk.attach(&reactor);
        let out = Err(DiskError::OutOfRange);
        assert_eq!(disk.write(MIB, block(1, 4096), Durability::Flush, Lifetime::Hot).await.result, out);
        assert_eq!(disk.read(MIB - 4096, IoBuf::zeroed(8192)).await.result, out);
        assert_eq!(disk.read(u64::MAX, IoBuf::zeroed(4096)).await.result, out);
        assert_eq!(disk.discard(MIB, 4096).await, out);
        assert_eq!(disk.read(0, IoBuf::zeroed(0)).await.result, Ok(()));
    })
    .expect("runs");
    assert_eq!(std::fs::metadata(&file.0).expect("the file").len(), MIB);
}

#[test]
fn a_read_only_device_refuses_writes() {
    let file = TempFile::new("readonly");
    drop(open_disk(&file.0, OpenMode::Create { bytes: MIB }).expect("creates"));
    let disk = open_disk(&file.0, OpenMode::ReadOnly).expect("opens");
    run(config(), |_, reactor| async move {
        let disk = disk.attach(&reactor);
        let refused = disk.write(0, block(1, 4096), Durability::Flush, Lifetime::Hot).await.result;
        assert_eq!(refused, Err(DiskError::Device(libc::EBADF)));
    })
    .expect("runs");
}

#[test]
fn discard_keeps_an_allocated_file_and_empties_a_sparse_one() {
    let (allocated, sparse) = (TempFile::new("allocated"), TempFile::new("sparse"));
    let full = open_disk(&allocated.0, OpenMode::Create { bytes: MIB }).expect("creates");
    std::fs::File::create(&sparse.0).and_then(|file| file.set_len(MIB)).expect("makes a sparse file");
    let thin = open_disk(&sparse.0, OpenMode::ReadWrite).expect("opens");
    run(config(), |_, reactor| async move {
        for (disk, left) in [(full.attach(&reactor), 7), (thin.attach(&reactor), 0)] {
            disk.write(0, block(7, 65536), Durability::Flush, Lifetime::Hot).await.result.expect("writes");
            disk.discard(0, 65536).await.expect("discards");
            let read = disk.read(0, IoBuf::zeroed(65536)).await;
            read.result.expect("reads");
            assert!(read.buf.iter().all(|byte| *byte == left));
        }
    })
    .expect("runs");
}

#[test]
fn a_file_is_cut_or_allocated_to_the_size_it_is_made_with() {
    let file = TempFile::new("resized");
    std::fs::File::create(&file.0).and_then(|file| file.set_len(4 * MIB)).expect("makes a sparse file");
    assert!(open_disk(&file.0, OpenMode::ReadWrite).expect("opens").is_sparse());
    for bytes in [4 * MIB, MIB, 2 * MIB] {
        let disk = open_disk(&file.0, OpenMode::Create { bytes }).expect("resizes");
        assert_eq!((disk.geometry().bytes, disk.is_sparse()), (bytes, false));
    }
}

#[test]
fn a_future_dropped_with_its_read_in_flight_frees_nothing_too_early() {
    let file = TempFile::new("dropped");
    let disk = open_disk(&file.0, OpenMode::Create { bytes: 16 * MIB }).expect("creates");
    for _ in 0..20 {
        let disk = disk.clone();
        run(config(), |world, reactor| async move {
            let disk = disk.attach(&reactor);
            for at in 0..16 {
                drop(disk.read(at * MIB, IoBuf::zeroed(1 << 20)));
                drop(disk.write(at * MIB, block(9, 1 << 20), Durability::Flush, Lifetime::Hot));
            }
            world.tasks.yield_now().await;
            // The core stops here with all of them in flight.
        })
        .expect("runs");
    }
}

/// The other process of the test below: holds the device named by the environment until its
/// input ends. Does nothing in an ordinary run.
#[test]
fn hold_the_device_named_by_the_environment() {
    let Some(path) = std::env::var_os("CFS_RUNTIME_TEST_HOLD") else { return };
    let _held = open_disk(&PathBuf::from(path), OpenMode::ReadWrite).expect("opens");
    println!("\nholding");
    std::io::stdout().flush().expect("flushes");
    drop(std::io::stdin().lines().next());
}

#[test]
fn a_second_process_is_refused_and_told_who_holds_the_device() {
    let file = TempFile::new("locked");
    drop(open_disk(&file.0, OpenMode::Create { bytes: MIB }).expect("creates"));
    let mut holder = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "hold_the_device_named_by_the_environment", "--nocapture"])
        .env("CFS_RUNTIME_TEST_HOLD", &file.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    // Stays open: the other process writes a last word when it ends.
    let mut lines = BufReader::new(holder.stdout.take().expect("its output")).lines();
    let holding = lines.by_ref().map_while(Result::ok).any(|line| line == "holding");
    assert!(holding, "the other process opened it");
    for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly, OpenMode::Create { bytes: 2 * MIB }] {
        let Err(error) = open_disk(&file.0, mode) else { panic!("opened twice as {mode:?}") };
        let text = error.to_string();
        match error {
            RuntimeError::Locked { holder: Some(found), .. } => assert_eq!(found.pid, holder.id()),
            other => panic!("{other:?}"),
        }
        assert!(text.contains(&holder.id().to_string()), "{text}");
    }
    assert_eq!(std::fs::metadata(&file.0).expect("the file").len(), MIB, "a refused open changes nothing");
    drop(holder.stdin.take());
    assert_eq!(lines.filter(Result::is_err).count(), 0, "its output ends");
    assert!(holder.wait().expect("ends").success());
    open_disk(&file.0, OpenMode::ReadWrite).expect("the lock ends with its holder");
}

#[test]
fn two_readers_share_a_device() {
    let file = TempFile::new("shared");
    drop(open_disk(&file.0, OpenMode::Create { bytes: MIB }).expect("creates"));
    let _one = open_disk(&file.0, OpenMode::ReadOnly).expect("opens");
    open_disk(&file.0, OpenMode::ReadOnly).expect("opens again");
    assert!(matches!(open_disk(&file.0, OpenMode::ReadWrite), Err(RuntimeError::Locked { .. })));
}

#[test]
fn what_is_no_disk_is_refused() {
    assert!(matches!(open_disk(&std::env::temp_dir(), OpenMode::ReadOnly), Err(RuntimeError::NotADisk { .. })));
    let missing = PathBuf::from("/nonexistent/disk");
    assert!(matches!(open_disk(&missing, OpenMode::ReadWrite), Err(RuntimeError::Open { .. })));
}

#[test]
fn a_file_system_without_direct_io_is_used_buffered_and_says_so() {
    let path = PathBuf::from(format!("/dev/shm/cfs-runtime-{}", std::process::id()));
    let Ok(disk) = open_disk(&path, OpenMode::Create { bytes: MIB }) else { return };
    let file = TempFile(path);
    let direct = disk.is_direct();
    run(config(), |_, reactor| async move {
        let disk = disk.attach(&reactor);
        disk.write(4096, block(3, 4096), Durability::Through, Lifetime::Hot).await.result.expect("writes");
        let read = disk.read(4096, IoBuf::zeroed(4096)).await;
        assert!(read.result.is_ok() && read.buf.iter().all(|byte| *byte == 3));
        assert!(direct || disk.geometry().volatile_cache);
    })
    .expect("runs");
    drop(file);
}

#[test]
fn registered_buffers_and_others_mix() {
    let file = TempFile::new("registered");
    let disk = open_disk(&file.0, OpenMode::Create { bytes: 8 * MIB }).expect("creates");
    for bytes in [0, 256 << 10, 1 << 20] {
        let disk = disk.clone();
        let config = CoreConfig { registered_buffer_bytes: bytes, ..config() };
        // Made on no core: never registered.
        let foreign = block(77, 65536);
        run(config, move |_, reactor| async move {
            let registered = reactor.registered_buffer_bytes();
            assert!(registered <= bytes, "{registered}");
            let disk = disk.attach(&reactor);
            let mut writes = vec![disk.write(0, foreign, Durability::Through, Lifetime::Hot)];
            for at in 1..100u8 {
                let size = if at % 2 == 0 { 4096 } else { 65536 };
                writes.push(disk.write(u64::from(at) * 65536, block(at, size), Durability::Through, Lifetime::Hot));
            }
            for write in writes {
                write.await.result.expect("writes");
            }
            assert!(disk.read(0, IoBuf::zeroed(65536)).await.buf.iter().all(|byte| *byte == 77));
            for at in 1..100u8 {
                let size = if at % 2 == 0 { 4096 } else { 65536 };
                let done = disk.read(u64::from(at) * 65536, IoBuf::zeroed(size)).await;
                done.result.expect("reads");
                assert!(done.buf.iter().all(|byte| *byte == at), "block {at}");
            }
        })
        .expect("runs");
    }
}
