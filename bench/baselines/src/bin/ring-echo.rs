//! `ring-echo ADDR`: returns every byte; one bare io_uring ring with multishot receive on the
//! first CPU: about the least that an echo on a ring can cost.

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

const BUFFERS: u16 = 256;
const BUFFER_BYTES: usize = 4096;
const GROUP: u16 = 7;
/// user_data: kind in the low byte, descriptor and buffer above it.
const ACCEPT: u64 = 0;
const RECV: u64 = 1;
const SEND: u64 = 2;

struct Buffers {
    memory: Vec<u8>,
    ring: *mut types::BufRingEntry,
    tail: u16,
}

impl Buffers {
    fn new(uring: &IoUring) -> Self {
        let bytes = usize::from(BUFFERS) * std::mem::size_of::<types::BufRingEntry>();
        // SAFETY: a private anonymous mapping; the result is checked.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS | libc::MAP_PRIVATE, -1, 0)
        };
        assert!(at != libc::MAP_FAILED, "memory for the ring of buffers");
        // SAFETY: the mapping is page aligned, large enough and never unmapped.
        unsafe { uring.submitter().register_buf_ring_with_flags(at as u64, BUFFERS, GROUP, 0) }.expect("kernel 5.19");
        let mut buffers = Buffers { memory: vec![0; usize::from(BUFFERS) * BUFFER_BYTES], ring: at.cast(), tail: 0 };
        (0..BUFFERS).for_each(|id| buffers.give(id));
        buffers
    }

    fn address(&self, id: u16) -> *const u8 {
        self.memory[usize::from(id) * BUFFER_BYTES..].as_ptr()
    }

    fn give(&mut self, id: u16) {
        let address = self.address(id) as u64;
        // SAFETY: the index is inside the mapping; only this thread writes entries, and the tail
        // is published after them.
        unsafe {
            let entry = &mut *self.ring.add(usize::from(self.tail % BUFFERS));
            entry.set_addr(address);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = types::BufRingEntry::tail(self.ring).cast_mut().cast::<std::sync::atomic::AtomicU16>();
            (*tail).store(self.tail, std::sync::atomic::Ordering::Release);
        }
    }
}

fn push(uring: &mut IoUring, entry: squeue::Entry) {
    loop {
        // SAFETY: entries point to buffers that live as long as the program.
        if unsafe { uring.submission().push(&entry) }.is_ok() {
            return;
        }
        uring.submit().expect("submitting");
    }
}

fn receive(uring: &mut IoUring, fd: RawFd) {
    push(uring, opcode::RecvMulti::new(types::Fd(fd), GROUP).build().user_data(RECV | (fd as u64) << 8));
}

fn main() {
    cfs_baselines::pin_to_first_cpu();
    let listener = TcpListener::bind(cfs_baselines::address()).expect("the address is free");
    let mut uring = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_cqsize(4096)
        .build(512)
        .expect("io_uring");
    let mut buffers = Buffers::new(&uring);
    push(&mut uring, opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build().user_data(ACCEPT));
    println!("ready");
    loop {
        uring.submit_and_wait(1).expect("submitting");
        let done: Vec<_> = uring.completion().map(|c| (c.user_data(), c.result(), c.flags())).collect();
        for (data, result, flags) in done {
            let fd = (data >> 8 & 0xffff_ffff) as RawFd;
            match data & 0xff {
                ACCEPT => accepted(&mut uring, result),
                RECV if result > 0 => {
                    let id = cqueue::buffer_select(flags).expect("received into a buffer");
                    let entry = opcode::Send::new(types::Fd(fd), buffers.address(id), result as u32);
                    push(&mut uring, entry.build().user_data(SEND | (fd as u64) << 8 | u64::from(id) << 40));
                    if !cqueue::more(flags) {
                        receive(&mut uring, fd);
                    }
                }
                RECV if -result == libc::ENOBUFS => receive(&mut uring, fd),
                // SAFETY: the descriptor is ours and no receive is armed on it any more.
                RECV => drop(unsafe { libc::close(fd) }),
                _ => buffers.give((data >> 40) as u16),
            }
        }
    }
}

fn accepted(uring: &mut IoUring, result: i32) {
    use std::os::fd::FromRawFd;
    if result < 0 {
        return;
    }
    // SAFETY: the kernel has just given us this descriptor.
    let stream = unsafe { TcpStream::from_raw_fd(result) };
    let _nodelay = stream.set_nodelay(true);
    receive(uring, stream.into_raw_fd());
}
