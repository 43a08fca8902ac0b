//! A session against a socket that plays the kernel: INIT, interrupts, lost replies, hostile bytes.
#![allow(unsafe_code)]

mod stage;

use cfs_fuse::abi::{InHeader, InitIn, InitOut, Opcode, OutHeader, ReadIn};
use cfs_fuse::{Device, Session};
use cfs_seam::{Class, spawn};
use stage::memory::Memory;
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// The kernel's end.
struct Kernel(File);

/// A thread that the session can look at and that no signal threatens: this process's first.
fn alive() -> u32 {
    std::process::id()
}

impl Kernel {
    /// A pair of packet sockets: like /dev/fuse they keep messages apart.
    fn pair() -> (Kernel, Device) {
        let mut fds = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: the array takes two descriptors.
        assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }, 0);
        // SAFETY: the kernel has just made both and nobody else owns them.
        let [kernel, device] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        (Kernel(kernel.into()), Device::from_fd(device).expect("non-blocking"))
    }

    fn send(&mut self, opcode: Opcode, unique: u64, nodeid: u64, pid: u32, arguments: &[u8]) {
        let len = u32::try_from(size_of::<InHeader>() + arguments.len()).expect("short");
        let opcode = opcode.raw();
        let header = InHeader { len, opcode, unique, nodeid, pid, ..InHeader::default() };
        self.0.write_all(&[header.as_bytes(), arguments].concat()).expect("sent");
    }

    /// The next reply: its header and body.
    fn receive(&mut self) -> (OutHeader, Vec<u8>) {
        let mut bytes = vec![0; 1 << 16];
        let len = self.0.read(&mut bytes).expect("a reply");
        let (header, body) = OutHeader::read_from_prefix(&bytes[..len]).expect("a whole header");
        assert_eq!(usize::try_from(header.len), Ok(len));
        (header, body.to_vec())
    }

    fn expect(&mut self, unique: u64, error: i32) -> Vec<u8> {
        let (header, body) = self.receive();
        assert_eq!((header.unique, header.error), (unique, error));
        body
    }

    /// Creates `name` in the root; its handle.
    fn create(&mut self, unique: u64, name: &str) -> u64 {
        let arguments = [&[0u8; 16][..], name.as_bytes(), b"\0"].concat();
        self.send(Opcode::Create, unique, 1, alive(), &arguments);
        let body = self.expect(unique, 0);
        u64::from_ne_bytes(body[128..136].try_into().expect("eight bytes"))
    }

    /// The session has closed its end.
    fn receive_nothing(&mut self) {
        assert_eq!(self.0.read(&mut [0; 16]).expect("the end"), 0);
    }

    fn read(&mut self, unique: u64, pid: u32, fh: u64) {
        let arguments = ReadIn { fh, size: 10, ..ReadIn::default() };
        self.send(Opcode::Read, unique, fh, pid, arguments.as_bytes());
    }
}

/// Plays `script` against a session on another thread; ends when the script's socket closes.
/// `meanwhile` runs beside the session.
#[expect(clippy::disallowed_methods, reason = "the kernel's side of the device blocks, as a process does")]
fn play<F: Future<Output = ()> + 'static>(
    script: impl FnOnce(Kernel) + Send + 'static,
    meanwhile: impl FnOnce(cfs_fuse::Host, Rc<Session<Memory>>, Rc<Memory>) -> F + 'static,
) -> (usize, usize) {
    let (kernel, device) = Kernel::pair();
    let player = std::thread::spawn(move || script(kernel));
    let (tell, told) = std::sync::mpsc::channel();
    stage::core::run(move |host| async move {
        let memory = Rc::new(Memory::new(Duration::ZERO));
        let session = Session::new(host.clone(), device, memory.clone());
        let beside = spawn(&host.tasks, Class::Foreground, meanwhile(host.clone(), session.clone(), memory.clone()));
        session.serve().await.expect("a clean end");
        drop(beside);
        tell.send((memory.released.get(), session.in_work())).expect("somebody listens");
    });
    player.join().expect("the script holds");
    told.recv().expect("the session ended")
}

#[test]
fn init_agrees_and_an_old_kernel_is_refused() {
    let script = |mut kernel: Kernel| {
        let old = InitIn { major: 7, minor: 20, ..InitIn::default() };
        kernel.send(Opcode::Init, 2, 0, 0, old.as_bytes());
        kernel.expect(2, -libc::EOPNOTSUPP);
        let init = InitIn { major: 7, minor: 45, flags: u32::MAX, flags2: u32::MAX, ..InitIn::default() };
        kernel.send(Opcode::Init, 4, 0, 0, init.as_bytes());
        let out = InitOut::read_from_bytes(&kernel.expect(4, 0)).expect("64 bytes");
        assert_eq!((out.major, out.minor, out.max_write), (7, 45, 1 << 20));
    };
    play(script, |_, session, _| async move {
        assert!(session.started().await.agreed.has("ASYNC_READ"));
    });
}

#[test]
fn an_interrupt_leaves_a_living_caller_its_answer() {
    let script = |mut kernel: Kernel| {
        let fh = kernel.create(2, "stuck");
        kernel.read(4, alive(), fh);
        kernel.send(Opcode::Interrupt, 5, 0, 0, &4u64.to_ne_bytes());
        // A read by nobody in particular is given up, which proves that the callers were looked at.
        kernel.read(6, 0, fh);
        kernel.send(Opcode::Interrupt, 7, 0, 0, &6u64.to_ne_bytes());
        kernel.expect(6, -libc::EINTR);
        kernel.send(Opcode::Statfs, 8, 1, alive(), &[]);
        kernel.expect(8, 0);
        kernel.send(Opcode::Removexattr, 10, 1, alive(), b"user.release\0");
        let mut answers = [kernel.receive().0, kernel.receive().0].map(|header| (header.unique, header.error));
        answers.sort();
        assert_eq!(answers, [(4, 0), (10, -libc::ENODATA)], "the read was answered, not interrupted");
    };
    let (_, in_work) = play(script, |_, _, _| async {});
    assert_eq!(in_work, 0);
}

#[test]
fn an_interrupt_of_nobody_is_no_trouble() {
    let script = |mut kernel: Kernel| {
        kernel.send(Opcode::Interrupt, 3, 0, 0, &2u64.to_ne_bytes());
        kernel.send(Opcode::Forget, 4, 1, 0, &1u64.to_ne_bytes());
        kernel.send(Opcode::BatchForget, 6, 0, 0, &[0xff; 64]);
        kernel.send(Opcode::Statfs, 8, 1, 0, &[]);
        kernel.expect(8, 0);
    };
    play(script, |_, _, _| async {});
}

#[test]
fn a_handle_whose_reply_is_lost_is_released() {
    let script = |mut kernel: Kernel| {
        kernel.send(Opcode::Create, 2, 1, alive(), &[&[0u8; 16][..], b"file\0"].concat());
    };
    let (released, in_work) = play(script, |_, _, _| async {});
    assert_eq!((released, in_work), (1, 0));
}

#[test]
fn destroy_is_answered_and_ends_the_session() {
    let script = |mut kernel: Kernel| {
        kernel.send(Opcode::Destroy, 2, 0, 0, &[]);
        kernel.expect(2, 0);
        kernel.receive_nothing();
    };
    play(script, |_, _, _| async {});
}

/// SplitMix64.
fn noise(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[test]
fn hostile_bytes_leave_the_session_serving() {
    let script = |mut kernel: Kernel| {
        let mut state = 7;
        for round in 0..20_000u64 {
            let len = usize::try_from(noise(&mut state) % 256).expect("small").max(1);
            let mut bytes: Vec<u8> = (0..len).map(|_| noise(&mut state).to_le_bytes()[0] % 3).collect();
            if len >= 40 && round % 3 != 0 {
                bytes[..4].copy_from_slice(&u32::try_from(len).expect("small").to_le_bytes());
                let opcode = u32::try_from(noise(&mut state) % 54).expect("small");
                let opcode = if opcode == Opcode::Destroy.raw() { 0 } else { opcode };
                bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
            }
            kernel.0.write_all(&bytes).expect("sent");
            kernel.send(Opcode::Statfs, u64::MAX, 1, alive(), &[]);
            while kernel.receive().0.unique != u64::MAX {}
        }
    };
    play(script, |_, _, _| async {});
}
