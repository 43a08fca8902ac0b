//! What the baselines share: their CPU and their arguments.

use std::net::SocketAddr;

/// Pins the calling thread to the first CPU it may use, as core 0 of a server is.
pub fn pin_to_first_cpu() {
    // SAFETY: both calls only fill or read the set, which is plain memory of the right size.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = std::mem::size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
            return;
        }
        let Some(first) = (0..1024).find(|cpu| libc::CPU_ISSET(*cpu, &allowed)) else { return };
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(first, &mut set);
        libc::sched_setaffinity(0, size, &set);
    }
}

/// The first argument as an address.
pub fn address() -> SocketAddr {
    let argument = std::env::args().nth(1).expect("usage: PROGRAM ADDR");
    argument.parse().expect("the first argument is an address and port")
}
