//! What a check found, where, and how bad it is.

use cfs_types::{GroupId, InodeId, PlaceName};
use std::fmt;

/// Findings kept word for word; the rest is only counted.
const FINDINGS_MAX: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Legal: left by a crash, mended by the next start, or a second witness that is lost.
    Note,
    /// Space that nobody can use until it is found again.
    Leak,
    /// Something is not what was stored.
    Damage,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Leak => "leak",
            Severity::Damage => "damage",
        })
    }
}

/// Where it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Site {
    /// A place on the devices.
    Device(u64),
    /// A shard, or the control group.
    Group(GroupId),
    /// An inode, and its path where one leads there.
    Inode(InodeId, Option<String>),
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Device(offset) => write!(f, "{}", PlaceName(*offset)),
            Site::Group(group) if *group == GroupId::CONTROL => write!(f, "control group"),
            Site::Group(group) => write!(f, "shard {group}"),
            Site::Inode(ino, Some(path)) => write!(f, "{path} ({ino:?})"),
            Site::Inode(ino, None) => write!(f, "{ino:?}"),
        }
    }
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub place: Site,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.place, self.what)
    }
}

/// Findings so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// The first thousand.
    pub kept: Vec<Finding>,
    /// How many more there were.
    pub more: u64,
    /// All of severity `Damage`.
    pub damage: u64,
}

impl Findings {
    /// Adds one.
    pub fn add(&mut self, severity: Severity, place: Site, what: impl Into<String>) {
        self.damage += u64::from(severity == Severity::Damage);
        if self.kept.len() < FINDINGS_MAX {
            self.kept.push(Finding { severity, place, what: what.into() });
        } else {
            self.more += 1;
        }
    }

    /// Damage of a shard or the control group.
    pub fn group(&mut self, group: GroupId, what: impl Into<String>) {
        self.add(Severity::Damage, Site::Group(group), what);
    }

    /// Damage of an inode.
    pub fn inode(&mut self, ino: InodeId, what: impl Into<String>) {
        self.add(Severity::Damage, Site::Inode(ino, None), what);
    }
}
