//! The end of a process that is killed while its mount is in use.
//!
//! A thread of ours can wait in the kernel, deaf to signals, for a lock whose holder waits for our answer
//! (see [`crate::notifier`]). Killed at that moment the process would never end, and neither would its
//! mount's users: the waiting thread keeps the device open, and so the connection alive. So a shell watches from
//! outside, and aborts the connection when the thread that mounted is gone. It holds the control file that does so
//! from the start: that file speaks of this very connection, whoever is given its number later.
//!
//! The file is that of /sys/fs/fuse/connections; where nothing is mounted there root finds it all the same, and
//! an ordinary user goes without a guard.
#![allow(unsafe_code)]

use super::syscall;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// `wait` ends at the signal that says that our thread died, or with `cat`, which ends with the pipe: then
/// all of our threads are gone, and the kernel has aborted the connection by itself.
const SCRIPT: &str = "trap 'echo 1; exit 0' USR1; trap '' INT TERM HUP; \
    exec 3<&0; cat <&3 >/dev/null & exec 3<&-; kill -0 \"$1\" || exit 0; wait";

/// The shell; it ends when this is dropped.
#[derive(Debug)]
pub struct Guard {
    shell: Child,
    connection: File,
}

impl Guard {
    /// Watches over the connection of `device_number` until the calling thread ends.
    pub fn start(device_number: &str) -> io::Result<Guard> {
        let connection = abort_file(device_number)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "cfs-guard"]).arg(std::process::id().to_string());
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(connection.try_clone()?).stderr(Stdio::null());
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and takes no pointers.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        Ok(Guard { shell: command.spawn()?, connection })
    }

    /// Ends the connection: whoever waits for an answer gets an error, also our notifier in the kernel.
    pub fn abort(&mut self) {
        // An error says that it is over.
        let _over = self.connection.write_all(b"1");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _reaped = self.shell.wait();
    }
}

/// What ends the connection when it is written to.
fn abort_file(device_number: &str) -> io::Result<File> {
    let minor = device_number.rsplit(':').next().unwrap_or_default();
    let name = format!("{minor}/abort");
    match OpenOptions::new().write(true).open(format!("/sys/fs/fuse/connections/{name}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            syscall::open_within(&syscall::detached_mount(c"fusectl")?, &name)
        }
        opened => opened,
    }
}
