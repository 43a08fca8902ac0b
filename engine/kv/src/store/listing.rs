//! Which levels are named by lists, and which lists a change has to write.

use super::version::Version;
use super::{Change, Inner, KvError};
use crate::list::List;
use cfs_seam::IoBuf;
use cfs_segment::{CellRef, Lifetime};
use std::rc::Rc;

impl Inner {
    /// Gives `change` the lists of the version it makes: those that say the same stay, the others are
    /// written and durable when this returns. After an error or when dropped, `change` knows what was
    /// written, to give it back.
    pub(super) async fn write_lists(&self, made: &Version, change: &mut Change) -> Result<(), KvError> {
        let old = self.state.borrow().version.lists.clone();
        let mut written = false;
        for (level, tables) in self.listed(made) {
            for part in tables.chunks(self.config.list_tables) {
                let same = |list: &&Rc<List>| list.level == level && list.tables == part;
                let kept = old.iter().filter(|list| !change.removed.contains(&list.id)).find(same);
                let list = match kept {
                    Some(list) => list.clone(),
                    None => {
                        written = true;
                        self.write_list(level, part).await?
                    }
                };
                change.lists.push(list);
            }
        }
        if written {
            self.space.sync().await?;
        }
        Ok(())
    }

    /// The levels that the anchor has no room for: it names the upper ones table by table while they
    /// are few.
    fn listed(&self, version: &Version) -> Vec<(u8, Vec<(u64, CellRef)>)> {
        let most = self.config.root_tables;
        let (mut room, mut listed) = (most - most / 5, Vec::new());
        if version.tables().count() <= most {
            return listed;
        }
        for (level, tables) in (0..).zip(&version.levels) {
            match room.checked_sub(tables.len()) {
                Some(left) => room = left,
                None => listed.push((level, tables.iter().map(|t| (t.id, t.cell)).collect())),
            }
        }
        listed
    }

    async fn write_list(&self, level: u8, part: &[(u64, CellRef)]) -> Result<Rc<List>, KvError> {
        let id = {
            let mut state = self.state.borrow_mut();
            state.next_table_id += 1;
            state.next_table_id - 1
        };
        let bytes = List::encode(self.group, id, level, part);
        let owner = List::owner(self.group, id);
        let written = self.space.write(owner, Lifetime::Metadata, IoBuf::copy_of(&bytes)).await?;
        Ok(Rc::new(List { id, cell: written.cell, level, tables: part.to_vec() }))
    }
}
