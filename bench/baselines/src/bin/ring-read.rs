//! `ring-read FILE SECONDS`: random 4 KiB direct reads, 32 in flight, from one bare ring; prints
//! reads a second and CPU each.

use io_uring::{IoUring, opcode, types};
use std::alloc::{Layout, alloc_zeroed};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

const DEPTH: u64 = 32;
const BLOCK: usize = 4096;

fn cpu() -> Duration {
    // SAFETY: the structure is plain memory that the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let time = |t: libc::timeval| Duration::from_micros(t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64);
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("usage: ring-read FILE SECONDS");
    let seconds: u64 = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(2);
    cfs_baselines::pin_to_first_cpu();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).expect("the file opens");
    let blocks = file.metadata().expect("its size").len() / BLOCK as u64;
    let mut ring: IoUring = IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(64).expect("io_uring");
    // SAFETY: the layout has a size; the memory is never freed.
    let memory = unsafe { alloc_zeroed(Layout::from_size_align(BLOCK * DEPTH as usize, BLOCK).expect("a layout")) };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut entry = |slot: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // SAFETY: slots are below DEPTH, so this is inside the memory.
        let at = unsafe { memory.add(slot as usize * BLOCK) };
        opcode::Read::new(types::Fd(file.as_raw_fd()), at, BLOCK as u32).offset(state % blocks * BLOCK as u64).build().user_data(slot)
    };
    for slot in 0..DEPTH {
        // SAFETY: the entry points to its own slot of the memory.
        unsafe { ring.submission().push(&entry(slot)) }.expect("64 entries");
    }
    let (start, mut reads) = (Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        ring.submit_and_wait(1).expect("submitting");
        let done: Vec<_> = ring.completion().map(|c| (c.user_data(), c.result())).collect();
        for (slot, result) in done {
            assert_eq!(result, BLOCK as i32, "a whole block");
            reads += 1;
            // SAFETY: the slot's read is over.
            unsafe { ring.submission().push(&entry(slot)) }.expect("64 entries");
        }
    }
    let rate = reads as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} reads/s, {:.2} us CPU each", cpu().as_secs_f64() * 1e6 / reads as f64);
}
