//! The program as it is driven: its file on a real mount, its commands, and the end of both.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const BYTES: u64 = 1 << 20;

struct Disk {
    dir: PathBuf,
    program: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Disk {
    fn new(name: &str) -> Disk {
        let dir = std::env::temp_dir().join(format!("cfs-disk-{}-{name}", std::process::id()));
        std::fs::create_dir_all(dir.join("mnt")).expect("made");
        let mut program = Command::new(env!("CARGO_BIN_EXE_cfs-volatile-disk"))
            .args([dir.join("mnt"), dir.join("backing"), BYTES.to_string().into(), "7".into()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let answers = BufReader::new(program.stdout.take().expect("piped"));
        let commands = program.stdin.take();
        let mut disk = Disk { dir, program, commands, answers };
        assert!(disk.answer().starts_with("ready "));
        disk
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line
    }

    fn say(&mut self, command: &str) -> String {
        writeln!(self.commands.as_mut().expect("open"), "{command}").expect("taken");
        self.answer()
    }

    fn file(&self) -> File {
        File::options().read(true).write(true).open(self.dir.join("mnt/disk")).expect("opens")
    }

    fn end(mut self) {
        self.commands = None;
        assert!(self.program.wait().expect("it ends").success());
        assert!(!is_mounted(&self.dir.join("mnt")));
        std::fs::remove_dir_all(&self.dir).expect("nothing is left on it");
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/mounts").expect("/proc");
    table.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

fn byte_at(file: &File, offset: u64) -> u8 {
    let mut block = [0; 512];
    file.read_exact_at(&mut block, offset).expect("read");
    block[0]
}

#[test]
fn what_was_synced_is_there_after_a_cut_and_nothing_of_it_before_the_power_is_back() {
    let mut disk = Disk::new("synced");
    let file = disk.file();
    assert_eq!(file.metadata().expect("asked").len(), BYTES);
    file.write_all_at(&[1; 65536], 0).expect("written");
    file.sync_all().expect("flushed");
    file.write_all_at(&[2; 65536], 0).expect("written");
    assert_eq!(byte_at(&file, 0), 2, "what is in the cache is read");
    let backing = File::open(disk.dir.join("backing")).expect("opens");
    assert_eq!(byte_at(&backing, 0), 1, "and is not yet where it lasts");
    assert!(disk.say("cut 5").starts_with("ok cut: "));
    for failed in [file.write_all_at(&[3; 512], 0), file.sync_all(), file.read_exact_at(&mut [0; 512], 0)] {
        assert_eq!(failed.expect_err("no power").raw_os_error(), Some(5));
    }
    assert!(disk.say("restore").starts_with("ok power=on unflushed=0"));
    let found: Vec<u8> = (0..128).map(|sector| byte_at(&file, sector * 512)).collect();
    assert!(found.iter().all(|byte| *byte == 1 || *byte == 2), "{found:?}");
    drop(file);
    disk.end();
}

#[test]
fn one_request_fails_when_told_and_a_lie_makes_nothing_durable() {
    let mut disk = Disk::new("told");
    let file = disk.file();
    assert!(disk.say("fail flush after 1").starts_with("ok"));
    file.sync_all().expect("the first");
    assert!(file.sync_all().is_err());
    file.sync_all().expect("only one");
    disk.say("lie on");
    file.write_all_at(&[1; 512], 0).expect("written");
    file.sync_all().expect("a lie");
    assert!(disk.say("status").contains("unflushed=1 "));
    assert!(disk.say("cut").starts_with("error: say cut SEED"));
    drop(file);
    disk.end();
}
