//! What one shard's rows say of inodes, one figure a column: a sorted vector instead of a map, because rows of
//! a key space come in the order of inode numbers, and a store has many of them.
//!
//! Invariant: an inode is there once, and they rise.

use cfs_types::InodeId;

/// Inodes, and what was found of each.
#[derive(Default)]
pub struct Column<T>(Vec<(InodeId, T)>);

impl<T: Default> Column<T> {
    /// The place of an inode: at the end, as long as rows come in order. Others, which only damage explains, are
    /// put where they belong.
    pub fn at(&mut self, ino: InodeId) -> &mut T {
        let place = match self.0.last() {
            Some((last, _)) if *last >= ino => self.0.binary_search_by_key(&ino, |(at, _)| *at),
            _ => Err(self.0.len()),
        };
        let index = place.unwrap_or_else(|missing| {
            self.0.insert(missing, (ino, T::default()));
            missing
        });
        &mut self.0[index].1
    }

    /// How many were found.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Everything from the lowest inode on.
    pub fn read(self) -> Reader<T> {
        Reader(self.0.into_iter())
    }
}

/// A column on its way out.
pub struct Reader<T>(std::vec::IntoIter<(InodeId, T)>);

impl<T: Default> Reader<T> {
    /// The lowest inode that is left.
    pub fn lowest(&self) -> Option<InodeId> {
        self.0.as_slice().first().map(|(ino, _)| *ino)
    }

    /// What was found of the inode; those below it must have been taken.
    pub fn take(&mut self, ino: InodeId) -> T {
        if self.lowest() == Some(ino) {
            self.0.next().map(|(_, value)| value).unwrap_or_default()
        } else {
            T::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_there_once_and_in_its_place_whatever_the_order() {
        let ino = |raw| InodeId::from_raw(raw).expect("valid");
        let mut column = Column::<u64>::default();
        for raw in [5, 5, 9, 7, 9, 2, 7] {
            *column.at(ino(raw)) += 1;
        }
        let mut reader = column.read();
        let mut found = Vec::new();
        assert_eq!(reader.take(ino(1)), 0);
        while let Some(lowest) = reader.lowest() {
            found.push((lowest.get(), reader.take(lowest)));
        }
        assert_eq!(found, [(2, 1), (5, 2), (7, 2), (9, 2)]);
    }
}
