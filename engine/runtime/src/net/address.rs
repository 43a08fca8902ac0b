//! Addresses in the kernel's form.
#![allow(unsafe_code)]

use crate::system::check;
use cfs_seam::{Address, Peer};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A `sockaddr` of any family.
pub(super) enum SocketAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
    Unix(libc::sockaddr_un),
}

fn family(value: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(value).expect("families are small numbers")
}

impl SocketAddress {
    /// ENAMETOOLONG for a Unix path of more than 107 bytes.
    pub(super) fn of(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(SocketAddr::V4(v4)) => Ok(SocketAddress::V4(libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            })),
            Address::Tcp(SocketAddr::V6(v6)) => Ok(SocketAddress::V6(libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            })),
            Address::Unix(path) => {
                let mut sun_path = [0; 108];
                let bytes = path.as_os_str().as_bytes();
                if bytes.len() >= sun_path.len() {
                    return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
                }
                for (to, from) in sun_path.iter_mut().zip(bytes) {
                    *to = libc::c_char::from_ne_bytes([*from]);
                }
                Ok(SocketAddress::Unix(libc::sockaddr_un { sun_family: family(libc::AF_UNIX), sun_path }))
            }
        }
    }

    /// Address and length for the kernel; valid while `self` stays where it is.
    pub(super) fn raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        let (address, bytes) = match self {
            SocketAddress::V4(v4) => (std::ptr::from_ref(v4).cast(), size_of_val(v4)),
            SocketAddress::V6(v6) => (std::ptr::from_ref(v6).cast(), size_of_val(v6)),
            SocketAddress::Unix(unix) => (std::ptr::from_ref(unix).cast(), size_of_val(unix)),
        };
        (address, libc::socklen_t::try_from(bytes).expect("addresses are small"))
    }

    /// A stream socket of this family. Blocking, because the ring does the waiting.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        let family = match self {
            SocketAddress::V4(_) => libc::AF_INET,
            SocketAddress::V6(_) => libc::AF_INET6,
            SocketAddress::Unix(_) => libc::AF_UNIX,
        };
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the kernel just made this descriptor and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A listening Unix socket that only its owner may connect to, from its first moment.
pub(super) fn listen_unix(path: &Path, backlog: libc::c_int) -> io::Result<OwnedFd> {
    let address = SocketAddress::of(&Address::Unix(path.to_owned()))?;
    let socket = address.socket()?;
    // Linux gives the path the mode of the socket it binds (net/unix/af_unix.c, unix_bind_bsd).
    // SAFETY: takes no pointers.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) })?;
    let (raw, length) = address.raw();
    // SAFETY: `raw` is valid for `length` bytes while `address` lives.
    check(unsafe { libc::bind(socket.as_raw_fd(), raw, length) })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(socket)
}

/// The socket's family.
fn is_unix(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let family: libc::c_int = option(socket, libc::SO_DOMAIN, 0)?;
    Ok(family == libc::AF_UNIX)
}

/// Reads an option of level SOL_SOCKET. `T` must be what the kernel writes for `name`.
fn option<T: Copy>(socket: BorrowedFd<'_>, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    let at = (&raw mut value).cast();
    // SAFETY: `value` is valid for `length` bytes, and any bytes the kernel writes are a valid
    // `ucred` or `c_int`, the only types this is called with.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, at, &raw mut length) })?;
    Ok(value)
}

/// Prepares a connected socket (Nagle off) and says who is at its other end.
pub(super) fn prepare(socket: OwnedFd) -> io::Result<(OwnedFd, Peer)> {
    use std::os::fd::AsFd;
    if is_unix(socket.as_fd())? {
        let nobody = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let peer = option(socket.as_fd(), libc::SO_PEERCRED, nobody)?;
        let uid = (peer.uid != u32::MAX).then_some(peer.uid);
        return Ok((socket, Peer { address: format!("unix:pid {}", peer.pid), uid }));
    }
    let tcp = std::net::TcpStream::from(socket);
    tcp.set_nodelay(true)?;
    let peer = Peer { address: tcp.peer_addr()?.to_string(), uid: None };
    Ok((tcp.into(), peer))
}

/// Ends both directions of a connected or listening socket; what waits on it wakes up.
pub(super) fn shutdown(socket: BorrowedFd<'_>) {
    // SAFETY: takes no pointers. Failure means that it was not connected, which is the aim.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}
