//! What is said to whoever reads our output. Nobody need be there: a reader that has gone (`cfs dev | head`), or a
//! terminal that was closed, must not end a process that serves a mount, as `println!` would.

use std::fmt::Arguments;
use std::io::Write;

/// A line on stdout.
macro_rules! say {
    ($($words:tt)*) => { $crate::output::line(std::io::stdout(), format_args!($($words)*)) };
}

/// A line on stderr.
macro_rules! complain {
    ($($words:tt)*) => { $crate::output::line(std::io::stderr(), format_args!($($words)*)) };
}

/// Writes a line, where anybody takes it.
pub fn line(mut to: impl Write, words: Arguments<'_>) {
    let _unread = writeln!(to, "{words}");
}
