//! Beginning and end: mounts that come and go, clean stops, crashes.

use crate::stage::{CORES, Running, Stage, free_ports, is_mounted, said, signal};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn write_durably(path: &Path, text: &str) {
    let mut file = File::create(path).expect("a new file");
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).expect("durable");
}

#[test]
fn dev_mounts_and_a_sigterm_leaves_it_unmounted_and_clean() {
    let stage = Stage::new();
    let dev = stage.dev();
    assert!(is_mounted(&stage.path("mnt")));
    assert!(dev.said.last().is_some_and(|line| line.starts_with("ready") && line.ends_with("mnt")), "{:?}", dev.said);
    fs::write(stage.path("mnt/file"), "text").expect("written");
    assert_eq!(fs::read_to_string(stage.path("mnt/file")).expect("read"), "text");
    dev.signal("TERM");
    assert_eq!(dev.wait().code(), Some(0));
    assert!(!is_mounted(&stage.path("mnt")));
    let checked = stage.run(&["fsck", "store"]);
    assert!(checked.status.success() && said(&checked).contains("no damage"), "{}", said(&checked));
    let again = stage.dev();
    assert_eq!(fs::read_to_string(stage.path("mnt/file")).expect("read"), "text");
    again.signal("INT");
    assert_eq!(again.wait().code(), Some(0));
}

/// How often others may take the ports that a server was to have.
const PORTS_TRIES_MAX: usize = 10;

/// Starts `cfs` on free ports; returns once it has opened its store.
fn opened_store(stage: &Stage, arguments: &[&str]) -> Child {
    for _ in 0..PORTS_TRIES_MAX {
        let listen = free_ports(CORES);
        let cores = CORES.to_string();
        let serving = ["--cores", &cores, "--listen", &listen, "--http", "127.0.0.1:0"];
        let mut command = stage.cfs(&[arguments, &serving].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let (folder, store) = (format!("/proc/{}/fd", child.id()), stage.path("store/store"));
        let is_store = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|file| file == store);
        loop {
            if fs::read_dir(&folder).into_iter().flatten().flatten().any(is_store) {
                return child;
            }
            if child.try_wait().expect("our own child").is_some() {
                break;
            }
            std::thread::yield_now();
        }
        let output = child.wait_with_output().expect("our own child");
        assert!(said(&output).contains("in use"), "it ended by itself: {}", said(&output));
    }
    panic!("no free ports");
}

/// Stops `cfs dev` some time after it has opened its store.
fn stopped_early(stage: &Stage, later: Duration) {
    for _ in 0..PORTS_TRIES_MAX {
        let dev = opened_store(stage, &["dev", "store", "mnt"]);
        std::thread::sleep(later);
        signal(dev.id(), "TERM");
        let output = dev.wait_with_output().expect("our own child");
        assert!(!is_mounted(&stage.path("mnt")), "{later:?} after it opened the store");
        if output.status.code() == Some(0) {
            return;
        }
        // It looks at its ports after the store is open: somebody may have them by then.
        assert!(said(&output).contains("in use"), "{later:?} after it opened the store: {}", said(&output));
    }
    panic!("no free ports");
}

#[test]
fn a_stop_at_any_moment_of_the_start_leaves_nothing_mounted() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    for round in 0..12 {
        stopped_early(&stage, Duration::from_millis(10 * round));
    }
    let checked = stage.run(&["fsck", "store"]);
    assert!(checked.status.success(), "{}", said(&checked));
    for _ in 0..8 {
        let dev = stage.dev();
        dev.signal("TERM");
        assert_eq!(dev.wait().code(), Some(0), "right after it was ready");
        assert!(!is_mounted(&stage.path("mnt")));
    }
}

#[test]
fn a_terminal_that_goes_away_ends_dev_and_mount_as_a_stop_does() {
    let stage = Stage::new();
    let dev = stage.dev();
    let other = stage.mount(&dev.listen, "other");
    fs::write(stage.path("other/file"), "written back at the end").expect("written");
    for (process, place) in [(other, "other"), (dev, "mnt")] {
        process.signal("HUP");
        assert_eq!(process.wait().code(), Some(0), "{place}");
        assert!(!is_mounted(&stage.path(place)), "{place}");
    }
    let dev = stage.dev();
    assert_eq!(fs::read_to_string(stage.path("mnt/file")).expect("read"), "written back at the end");
    drop(dev);
}

#[test]
fn a_reader_of_the_output_that_goes_away_ends_nothing() {
    let stage = Stage::new();
    let listen = free_ports(CORES);
    let cores = CORES.to_string();
    let serving = ["--size", "512MiB", "--cores", &cores, "--listen", &listen, "--http", "127.0.0.1:0"];
    let mut command = stage.cfs(&[&["dev", "store", "mnt"], &serving[..]].concat());
    let mut dev = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    drop((dev.stdout.take(), dev.stderr.take()));
    while !is_mounted(&stage.path("mnt")) {
        assert!(dev.try_wait().expect("our own child").is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    fs::write(stage.path("mnt/file"), "text").expect("written");
    signal(dev.id(), "TERM");
    assert_eq!(dev.wait().expect("our own child").code(), Some(0));
    assert!(!is_mounted(&stage.path("mnt")));
}

#[test]
fn a_mount_that_waits_for_its_server_can_be_stopped() {
    let stage = Stage::new();
    let server = stage.server();
    fs::create_dir(stage.path("mnt")).expect("a directory");
    server.signal("STOP");
    let mount = stage.cfs(&["mount", &server.listen, "mnt", "--foreground"]).spawn();
    let mut mount = mount.expect("the binary runs");
    let threads = format!("/proc/{}/task", mount.id());
    while fs::read_dir(&threads).map_or(0, Iterator::count) < 2 {
        assert!(mount.try_wait().expect("our own child").is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    signal(mount.id(), "INT");
    let code = mount.wait().expect("our own child").code();
    server.signal("CONT");
    assert_eq!(code, Some(0));
    assert!(!is_mounted(&stage.path("mnt")));
}

/// Stops the server, and has its mount hold "behind" back where a durable file says "before".
fn hold_back(server: &Running, file: &Path) {
    write_durably(file, "before");
    let opened = OpenOptions::new().write(true).open(file).expect("it is there");
    server.signal("STOP");
    opened.write_all_at(b"behind", 0).expect("held back");
}

#[test]
fn a_mount_that_holds_bytes_waits_for_its_server_and_says_so() {
    let stage = Stage::new();
    let server = stage.server();
    let mut first = stage.mount(&server.listen, "mnt");
    assert_eq!(first.said, ["ready mnt"]);
    let file = stage.path("mnt/file");
    hold_back(&server, &file);
    first.signal("TERM");
    let said = first.hear().to_string();
    server.signal("CONT");
    assert!(said.contains("waits for its server") && said.contains("another signal"), "{said}");
    assert_eq!(first.wait().code(), Some(0));
    let second = stage.mount(&server.listen, "mnt");
    assert_eq!(second.said, ["ready mnt"]);
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "behind");
    second.signal("TERM");
    assert_eq!(second.wait().code(), Some(0));
}

#[test]
fn an_unmount_says_that_the_server_does_not_take_what_is_held_back() {
    let stage = Stage::new();
    let server = stage.server();
    let mount = stage.mount(&server.listen, "mnt");
    hold_back(&server, &stage.path("mnt/file"));
    let refused = stage.run(&["umount", "mnt"]);
    server.signal("CONT");
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("its server does not take it"), "{}", said(&refused));
    assert!(stage.run(&["umount", "mnt"]).status.success());
    assert_eq!(mount.wait().code(), Some(0));
}

#[test]
fn a_mount_ends_where_its_store_is_put_back_to_an_older_copy_and_says_so() {
    let stage = Stage::new();
    let copied = |from: &str, to: &str| {
        let done = Command::new("cp").args(["-r", "--sparse=always", from, to]).current_dir(&stage.dir).status();
        assert!(done.is_ok_and(|status| status.success()), "{from} to {to}");
    };
    let stopped = |server: Running| {
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
    };
    stopped(stage.server());
    copied("store", "copy");
    let server = stage.start(&["server", "store"], CORES);
    let listen = server.listen.clone();
    let mount = stage.mount(&listen, "mnt");
    let path = stage.path("mnt/newer");
    write_durably(&path, "not in the copy");
    let opened = OpenOptions::new().read(true).write(true).open(&path).expect("it is there");
    stopped(server);
    fs::remove_dir_all(stage.path("store")).expect("removed");
    copied("copy", "store");
    let again = ["server", "store", "--cores", "2", "--listen", &listen, "--http", "127.0.0.1:0"];
    let server = Running::start(stage.cfs(&again), listen.clone()).expect("it serves the copy");
    let stale = |result: std::io::Result<()>| assert_eq!(result.map_err(|e| e.raw_os_error()), Err(Some(116)));
    stale(opened.write_all_at(b"lost", 0).and_then(|()| opened.sync_all()));
    stale(opened.metadata().map(|_| ()));
    stale(fs::metadata(&path).map(|_| ()));
    stale(File::create(stage.path("mnt/other")).map(|_| ()));
    drop(opened);
    mount.signal("TERM");
    let (_, said) = mount.wait_and_hear();
    assert!(said.iter().any(|line| line.contains("older copy") && line.contains("cfs umount")), "{said:?}");
    assert!(!is_mounted(&stage.path("mnt")));
    let mount = stage.mount(&listen, "mnt");
    write_durably(&path, "of the copy");
    drop((mount, server));
}

#[test]
fn after_kill_9_the_same_command_mends_the_mount_and_finds_the_file() {
    let stage = Stage::new();
    let mut dev = stage.dev();
    for round in 0..3 {
        write_durably(&stage.path(&format!("mnt/file{round}")), "durable");
        dev.signal("KILL");
        assert!(dev.wait().code().is_none());
        dev = stage.dev();
        assert!(dev.said.iter().any(|line| line.starts_with("mended")), "{:?}", dev.said);
        for earlier in 0..=round {
            let path = stage.path(&format!("mnt/file{earlier}"));
            assert_eq!(fs::read_to_string(path).expect("it is there"), "durable");
        }
    }
    dev.signal("TERM");
    assert_eq!(dev.wait().code(), Some(0));
}

#[test]
fn a_start_right_after_kill_9_waits_for_the_lock_of_the_dead() {
    let stage = Stage::new();
    let first = stage.server();
    let (listen, cores) = (first.listen.clone(), CORES.to_string());
    let serving = ["server", "store", "--cores", &cores, "--listen", &listen, "--http", "127.0.0.1:0"];
    let mut server = first;
    for round in 0..20 {
        server.signal("KILL");
        // Nobody has waited for the one before: it is still there, as a zombie at least.
        let next = Running::start(stage.cfs(&serving), listen.clone());
        server = next.unwrap_or_else(|said| panic!("round {round}: {said}"));
    }
}

#[test]
fn a_mountpoint_behind_a_symlink_is_mended_and_unmounted() {
    let stage = Stage::new();
    fs::create_dir(stage.path("mnt")).expect("a directory");
    std::os::unix::fs::symlink("mnt", stage.path("link")).expect("a symlink");
    let dev = || stage.start(&["dev", "store", "link", "--size", "512MiB"], CORES);
    let first = dev();
    assert!(is_mounted(&stage.path("mnt")));
    first.signal("KILL");
    first.wait();
    let second = dev();
    assert!(second.said.iter().any(|line| line.starts_with("mended")), "{:?}", second.said);
    let unmounted = stage.run(&["umount", "link"]);
    assert!(unmounted.status.success(), "{}", said(&unmounted));
    assert_eq!(second.wait().code(), Some(0));
    assert!(!is_mounted(&stage.path("mnt")));
}

#[test]
fn a_start_that_takes_long_says_what_it_does() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    let opened = opened_store(&stage, &["server", "store"]);
    signal(opened.id(), "STOP");
    std::thread::sleep(Duration::from_millis(1500));
    signal(opened.id(), "CONT");
    std::thread::sleep(Duration::from_millis(500));
    signal(opened.id(), "TERM");
    let output = opened.wait_with_output().expect("our own child");
    assert!(said(&output).contains("recovering"), "{}", said(&output));
}

#[test]
fn a_mount_in_the_background_keeps_no_directory_busy_and_says_where_its_log_is() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::create_dir(stage.path("other")).expect("a directory");
    let mounted = stage.run(&["mount", &dev.listen, "other"]);
    let text = said(&mounted);
    assert!(mounted.status.success() && text.contains("log"), "{text}");
    let log = text.lines().find_map(|line| line.trim().strip_prefix("log")).expect("a line of its own").trim();
    assert!(Path::new(log).is_file(), "{log}");
    let is_ours = |pid: &Path| {
        let line = fs::read(pid.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains(&dev.listen) && line.contains("--detached")
    };
    let mut processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let background = processes.find(|path| is_ours(path)).expect("it runs");
    assert_eq!(fs::read_link(background.join("cwd")).expect("it has one"), Path::new("/"));
    assert!(stage.run(&["umount", "other"]).status.success());
}

#[test]
fn a_server_is_found_by_the_address_of_any_core_and_by_name() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    let listen = free_ports(CORES).replace("127.0.0.1", "localhost");
    let cores = CORES.to_string();
    let serving = ["server", "store", "--cores", &cores, "--listen", &listen, "--http", "localhost:0"];
    let server = Running::start(stage.cfs(&serving), listen.clone()).expect("it serves");
    fs::create_dir(stage.path("mnt")).expect("a directory");
    let (host, port) = listen.split_once(':').expect("a port");
    let second = format!("{host}:{}", port.parse::<u16>().expect("a number") + 1);
    for address in [&listen, &second] {
        let mounted = stage.run(&["mount", address, "mnt"]);
        assert!(mounted.status.success(), "{address}: {}", said(&mounted));
        assert!(stage.run(&["umount", "mnt"]).status.success());
    }
    let third = format!("{host}:{}", port.parse::<u16>().expect("a number") + CORES);
    let refused = stage.run(&["mount", &third, "mnt"]);
    assert!(!refused.status.success() && said(&refused).contains(&port.to_string()), "{}", said(&refused));
    drop(server);
}

#[test]
fn somebody_who_stays_in_the_mount_does_not_hold_up_the_stop() {
    let stage = Stage::new();
    let dev = stage.dev();
    let mut inside = Command::new("cat").current_dir(stage.path("mnt")).stdin(Stdio::piped()).spawn().expect("cat");
    dev.signal("TERM");
    let code = dev.wait().code();
    drop(inside.stdin.take());
    inside.wait().expect("our own child");
    assert_eq!(code, Some(0));
    assert!(!is_mounted(&stage.path("mnt")));
}

/// Lets a new mount namespace have no mount of ours but `$1`: mounts of other tests would live as long as it does.
const LEAVE_OTHERS: &str = r#"
    leave_others() {
        awk -v own="$1" '$3 == "fuse.cfs" && $2 != own { print $2 }' /proc/self/mounts |
            xargs --no-run-if-empty umount --lazy --no-canonicalize
    }
"#;

/// A process in a mount namespace of its own that does not hear of ours, as a container's or a service's: it has
/// `mnt` until it ends.
fn elsewhere(stage: &Stage) -> Child {
    let script = format!("{LEAVE_OTHERS} leave_others \"$PWD/mnt\" && ls mnt >/dev/null && echo there && exec cat");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).current_dir(&stage.dir);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "there\n");
    child
}

#[test]
fn a_mount_that_lives_on_in_another_namespace_does_not_hold_up_the_stop() {
    if fs::metadata("/proc/self").expect("/proc").uid() != 0 {
        eprintln!("not tested: an ordinary user makes no mount namespaces");
        return;
    }
    let stage = Stage::new();
    let dev = stage.dev();
    let mut other = elsewhere(&stage);
    write_durably(&stage.path("mnt/file"), "text");
    dev.signal("TERM");
    let (status, said) = dev.wait_and_hear();
    drop(other.stdin.take());
    other.wait().expect("our own child");
    assert_eq!(status.code(), Some(0), "{said:?}");
    assert!(said.iter().any(|line| line.contains("another mount namespace")), "{said:?}");
    assert!(!is_mounted(&stage.path("mnt")));
}

#[test]
fn a_stop_ends_a_detached_mount_and_leaves_alone_what_is_mounted_there_since() {
    let stage = Stage::new();
    let server = stage.server();
    let mount = || stage.mount(&server.listen, "mnt");
    for replaced in [false, true] {
        let first = mount();
        let file = File::create(stage.path("mnt/file")).expect("created");
        assert!(stage.run(&["umount", "mnt", "--lazy"]).status.success());
        file.write_all_at(b"written back", 0).expect("still served");
        let second = replaced.then(&mount);
        first.signal("TERM");
        let (status, said) = first.wait_and_hear();
        assert_eq!(status.code(), Some(0), "{said:?}");
        assert_eq!(is_mounted(&stage.path("mnt")), replaced);
        let second = second.unwrap_or_else(&mount);
        assert_eq!(fs::read_to_string(stage.path("mnt/file")).expect("read"), "written back");
        second.signal("TERM");
        assert_eq!(second.wait().code(), Some(0));
        drop(file);
    }
}

#[test]
fn a_second_mount_in_the_background_sees_the_same_files_and_gives_its_output_back() {
    let stage = Stage::new();
    let dev = stage.dev();
    fs::create_dir(stage.path("other")).expect("a directory");
    fs::write(stage.path("mnt/file"), "text").expect("written");
    // `output` waits for the end of stdout and stderr, which the background must not keep open.
    let mounted = stage.run(&["mount", &dev.listen, "other", "--show-capabilities"]);
    assert!(mounted.status.success() && said(&mounted).contains("agreed   DO_READDIRPLUS"), "{}", said(&mounted));
    assert_eq!(fs::read_to_string(stage.path("other/file")).expect("read"), "text");
    let unmounted = stage.run(&["umount", "other"]);
    assert!(unmounted.status.success(), "{}", said(&unmounted));
    assert!(!is_mounted(&stage.path("other")));
}

#[test]
fn a_mount_in_use_stays_unless_it_is_to_be_detached() {
    let stage = Stage::new();
    let dev = stage.dev();
    let file = fs::File::create(stage.path("mnt/file")).expect("created");
    let refused = stage.run(&["umount", "mnt"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("in use") && said(&refused).contains("--lazy"), "{}", said(&refused));
    assert!(is_mounted(&stage.path("mnt")));
    let detached = stage.run(&["umount", "mnt", "--lazy"]);
    assert!(detached.status.success() && said(&detached).contains("in use"), "{}", said(&detached));
    assert!(!is_mounted(&stage.path("mnt")));
    drop(file);
    assert_eq!(dev.wait().code(), Some(0));
}

#[test]
fn an_unmount_ends_dev() {
    let stage = Stage::new();
    let dev = stage.dev();
    assert!(stage.run(&["umount", "mnt"]).status.success());
    assert_eq!(dev.wait().code(), Some(0));
}

#[test]
fn more_cores_than_cpus_serve_unpinned() {
    let stage = Stage::new();
    assert!(stage.run(&["format", "store", "--size", "512MiB"]).status.success());
    let cpus = std::thread::available_parallelism().expect("known").get();
    let cores = u16::try_from(cpus + 1).expect("a machine for tests");
    let server = stage.start(&["server", "store"], cores);
    assert_eq!(server.get("/metrics").1.matches("cfs_answering_cores{").count(), cpus + 1);
}

/// Runs `$1` as nobody in a namespace of mounts where users may open /dev/fuse, and afterwards looks
/// there for what is still mounted.
const AS_NOBODY: &str = r#"
    mount --make-rprivate / && leave_others none && mkdir "$HOME/dev" && mount -t tmpfs none "$HOME/dev" &&
    mknod -m 0666 "$HOME/dev/fuse" c 10 229 && mount --bind "$HOME/dev/fuse" /dev/fuse || exit 8
    setpriv --reuid 65534 --regid 65534 --clear-groups "$@" &
    trap 'kill -TERM $!' TERM
    wait $!
    wait $!
    code=$?
    grep " $HOME/cfs fuse.cfs" /proc/self/mounts && exit 9
    exit $code
"#;

/// An ordinary user mounts through fusermount3, which needs a device that users may open.
#[test]
fn an_ordinary_user_runs_dev() {
    const NOBODY: u32 = 65534;
    if fs::metadata("/proc/self").expect("/proc").uid() != 0 {
        eprintln!("not tested: the tests run as an ordinary user already");
        return;
    }
    // The build directory may be closed to others.
    let dir = std::env::temp_dir().join(format!("cfs-user-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).expect("root may");
    let binary = dir.join("binary");
    fs::copy(env!("CARGO_BIN_EXE_cfs"), &binary).expect("copied");
    let stage = Stage { dir: dir.clone() };
    let listen = free_ports(2);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{LEAVE_OTHERS}{AS_NOBODY}"), "sh"]).arg(&binary);
    command.args(["dev", "--size", "512MiB", "--cores", "2", "--http", "127.0.0.1:0", "--listen", &listen]);
    command.env("HOME", &dir).env_remove("XDG_RUNTIME_DIR").env_remove("CFS_RUNTIME_DIR").current_dir(&dir);
    let dev = Running::start(command, listen).expect("it starts");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", dev.pid())).expect("its mounts");
    let place = dir.join("cfs").display().to_string();
    assert!(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&place)), "the default place: {mounts}");
    dev.signal("TERM");
    assert_eq!(dev.wait().code(), Some(0));
    drop(stage);
}
