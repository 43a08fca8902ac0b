//! Request codes.

macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What a request asks. Codes that are not listed are answered ENOSYS, which tells the
        /// kernel to do without.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Opcode { $($name,)* }

        impl Opcode {
            /// The operation behind a code; None where this crate does not serve it.
            pub fn from_raw(raw: u32) -> Option<Self> {
                match raw { $($number => Some(Opcode::$name),)* _ => None }
            }
            /// The code on the wire.
            pub fn raw(self) -> u32 {
                match self { $(Opcode::$name => $number,)* }
            }
        }
    };
}

opcodes! {
    Lookup = 1,
    Forget = 2,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Fsync = 20,
    Setxattr = 21,
    Getxattr = 22,
    Listxattr = 23,
    Removexattr = 24,
    Flush = 25,
    Init = 26,
    Opendir = 27,
    Readdir = 28,
    Releasedir = 29,
    Fsyncdir = 30,
    Access = 34,
    Create = 35,
    Interrupt = 36,
    Destroy = 38,
    BatchForget = 42,
    Fallocate = 43,
    Readdirplus = 44,
    Rename2 = 45,
    Lseek = 46,
    Syncfs = 50,
    Statx = 52,
}
