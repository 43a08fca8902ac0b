//! Builds the ring, or says in the user's words why there is none.

use super::Ring;
use crate::config::TaskRun;
use crate::{CoreConfig, RuntimeError};
use io_uring::{Probe, opcode};
use std::io;

/// Files a ring's table has room for: the devices of a core.
const FILES: u32 = 64;

/// What the runtime submits. SEND_ZC is not used: it came with 6.0 as multishot receive did,
/// which a probe does not show.
const NEEDED: [(u8, &str); 15] = [
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::ReadFixed::CODE, "READ_FIXED"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::MsgRingData::CODE, "MSG_RING"),
    (opcode::SendZc::CODE, "multishot RECV"),
];

/// The ring with the best flags the kernel has.
pub(super) fn build(config: &CoreConfig) -> Result<Ring, RuntimeError> {
    let mut last = None;
    for deferred in [config.task_run == TaskRun::Deferred, false] {
        let mut builder = Ring::builder();
        builder.setup_submit_all().setup_clamp().dontfork();
        builder.setup_cqsize(config.ring_entries * 4);
        builder.setup_single_issuer().setup_taskrun_flag();
        if deferred {
            builder.setup_defer_taskrun()
        } else {
            builder.setup_coop_taskrun()
        };
        match builder.build(config.ring_entries) {
            Ok(ring) => return probe(ring),
            Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => last = Some(refused),
            Err(refused) => return Err(explain(refused)),
        }
    }
    Err(explain(last.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))))
}

fn probe(ring: Ring) -> Result<Ring, RuntimeError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(RuntimeError::system("probing io_uring"))?;
    let lacking: Vec<_> = NEEDED.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
    if !lacking.is_empty() {
        return Err(RuntimeError::Kernel { missing: format!("io_uring operation {}", lacking.join(", ")) });
    }
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(RuntimeError::Kernel { missing: "io_uring waits with a time-out".to_owned() });
    }
    Ok(ring)
}

/// What the refusal of io_uring_setup(2) means.
fn explain(refused: io::Error) -> RuntimeError {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let forbidden = |why: &str| RuntimeError::Forbidden { why: why.to_owned() };
    match (refused.raw_os_error(), disabled.trim()) {
        (Some(libc::ENOSYS), _) => RuntimeError::Kernel { missing: "io_uring".to_owned() },
        (Some(libc::EINVAL), _) => {
            RuntimeError::Kernel { missing: "io_uring with SINGLE_ISSUER, COOP_TASKRUN and SQE128".to_owned() }
        }
        (Some(libc::EPERM | libc::EACCES), "2") => forbidden("sysctl kernel.io_uring_disabled is 2; set it to 0"),
        (Some(libc::EPERM | libc::EACCES), "1") => {
            forbidden("sysctl kernel.io_uring_disabled is 1; set it to 0, or join the group kernel.io_uring_group")
        }
        (Some(libc::EPERM | libc::EACCES), _) => forbidden(
            "a seccomp filter or security module refuses it; containers need a profile that allows io_uring_setup, io_uring_enter and io_uring_register",
        ),
        (Some(libc::ENOMEM), _) => forbidden("it may lock too little memory for its ring; raise the limit `ulimit -l`"),
        _ => RuntimeError::System { operation: "io_uring_setup", source: refused },
    }
}

/// An empty table of registered files; the free slots, none where the kernel refuses.
pub(super) fn register_files(ring: &Ring) -> Vec<u32> {
    match ring.submitter().register_files_sparse(FILES) {
        Ok(()) => (0..FILES).rev().collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_cause_and_the_minimum_kernel() {
        let old = explain(io::Error::from_raw_os_error(libc::ENOSYS)).to_string();
        assert!(old.contains("no io_uring") && old.contains(crate::KERNEL_MIN), "{old}");
        let forbidden = explain(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(forbidden.contains("forbidden") && forbidden.contains(crate::KERNEL_MIN), "{forbidden}");
    }
}
