//! Whether the thread that waits for a request is about to die.
//!
//! The kernel sends INTERRUPT for every signal, also for a timer's that a program handles; to answer
//! EINTR then would break programs that no local file system ever breaks. So a request gives up
//! only for a caller that will never see the answer (as NFS does: killable, not interruptible).

/// What the kernel says of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A fatal signal is pending: nobody will see the answer.
    Dying,
    /// It will see the answer.
    Alive,
    /// It has no number here, or /proc does not tell.
    Unknown,
}

/// Bit of SIGKILL in the masks of /proc. A fatal signal of any number becomes a pending SIGKILL in
/// every thread of the process (`complete_signal` in kernel/signal.c).
const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// Looks at thread `tid` of our pid namespace. Reads /proc, which does not wait for devices.
pub fn look(tid: u32) -> Caller {
    if tid == 0 {
        return Caller::Unknown;
    }
    match std::fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => judge(&status),
        Err(_) => Caller::Unknown,
    }
}

fn judge(status: &str) -> Caller {
    let pending = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    match (pending("SigPnd:"), pending("ShdPnd:")) {
        (Some(own), Some(shared)) if (own | shared) & SIGKILL_BIT != 0 => Caller::Dying,
        (Some(_), Some(_)) => Caller::Alive,
        _ => Caller::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_kill_of_thread_or_process_is_death() {
        let status = |own, shared| format!("Name:\tcat\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\n");
        assert_eq!(judge(&status(0x100, 0)), Caller::Dying);
        assert_eq!(judge(&status(0, 0x100)), Caller::Dying);
        assert_eq!(judge(&status(0x2000, 0x2)), Caller::Alive);
        assert_eq!(judge("Name:\tcat\n"), Caller::Unknown);
        assert_eq!(judge("SigPnd:\tzz\nShdPnd:\t0\n"), Caller::Unknown);
    }

    #[test]
    fn this_thread_is_alive_and_nobody_is_unknown() {
        assert_eq!(look(std::process::id()), Caller::Alive);
        assert_eq!(look(0), Caller::Unknown);
    }
}
