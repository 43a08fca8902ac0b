//! Streams of starts that ended before they served.
//!
//! Until all cores are open a start writes copies only, and frees nothing. One that ends before (killed, out of
//! memory, a core that cannot open) leaves its streams, and the next one the same again, until slots or
//! anchors run out and no start can open any more. But what such a stream holds lies in other streams as well: it may go.

use super::walk::Walked;
use super::{Found, newest_boot};
use crate::record::Origin;
use cfs_types::{GroupId, MoveEpoch};
use std::collections::{BTreeMap, BTreeSet};

type Key = (GroupId, MoveEpoch, Origin);

/// Streams of copies that the others hold too, by their number, rising. None of the newest start: while a stream has
/// no anchor its batches must be older than one that has.
pub(super) fn find(streams: &[(u16, Walked)]) -> Vec<usize> {
    let newest = newest_boot(streams);
    let may_go = |walked: &Walked| walked.head.stream.boot < newest && walked.found.iter().all(|f| is_copy(walked, f));
    let mut found: Vec<usize> = (0..streams.len()).filter(|n| may_go(&streams[*n].1)).collect();
    let keys = |n: usize| streams[n].1.found.iter().map(key).collect::<BTreeSet<Key>>();
    let mut holders: BTreeMap<Key, usize> = found.iter().flat_map(|n| keys(*n)).map(|key| (key, 0)).collect();
    for (_, walked) in streams {
        let held: BTreeSet<Key> = walked.found.iter().map(key).filter(|key| holders.contains_key(key)).collect();
        held.iter().for_each(|key| *holders.get_mut(key).expect("looked for") += 1);
    }
    found.retain(|n| {
        let keys = keys(*n);
        let spare = keys.iter().all(|key| holders[key] > 1);
        if spare {
            keys.iter().for_each(|key| *holders.get_mut(key).expect("looked for") -= 1);
        }
        spare
    });
    found
}

fn key(found: &Found) -> Key {
    (found.group, found.epoch, found.origin)
}

fn is_copy(walked: &Walked, found: &Found) -> bool {
    let stream = walked.head.stream;
    (found.origin.boot, found.origin.core) != (stream.boot, stream.core)
}
