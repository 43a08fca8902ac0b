//! Loading what a read lacks.

use super::read::Need;
use super::version::Version;
use super::{Inner, KvError, Store};
use crate::block::Block;
use crate::cache::{Loading, Object};
use crate::table::{Footer, Meta, Table};
use cfs_seam::{Io, IoBuf};
use cfs_segment::{SpaceError, UNIT_BYTES};
use cfs_types::Timestamp;
use std::future::Future;
use std::rc::Rc;

/// Footers read at a time.
const FOOTERS_AT_A_TIME: usize = 32;

pub(super) enum Want {
    Get { key: Box<[u8]>, at: Timestamp },
    Scan { from: Box<[u8]>, to: Box<[u8]>, at: Timestamp, limit: usize },
}

/// A read that could not be answered from memory.
pub struct Fetch(pub(super) Want);

impl Fetch {
    /// Of what [`Store::get`] needs: to have it in memory before it is asked for.
    pub fn get(key: &[u8], at: Timestamp) -> Self {
        Fetch(Want::Get { key: key.into(), at })
    }
    /// Of what [`Store::scan`] needs: to have it in memory before it is asked for.
    pub fn scan(from: &[u8], to: &[u8], at: Timestamp, limit: usize) -> Self {
        Fetch(Want::Scan { from: from.into(), to: to.into(), at, limit })
    }
}

/// Keeps what was fetched in memory; hold it until the read was repeated.
#[must_use = "what was fetched may be evicted once the pins are dropped"]
#[derive(Default)]
pub struct Pins(Vec<Object>);

impl Pins {
    /// Holds what `other` holds as well.
    pub fn merge(&mut self, other: Pins) {
        self.0.extend(other.0);
    }
    /// Number of blocks and indexes held.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether nothing had to be loaded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Store {
    /// Loads everything that the read needs, and pins all of it. The read then succeeds while the
    /// pins live, unless a change of the store was installed meanwhile: then fetch again.
    /// Dropping the future is safe.
    pub async fn fetch(&self, fetch: &Fetch) -> Result<Pins, KvError> {
        // Holds what was loaded until the read has succeeded once: each round gets further.
        let mut loaded = Pins::default();
        loop {
            *self.inner.touched.borrow_mut() = Some(Vec::new());
            let missing = match &fetch.0 {
                Want::Get { key, at } => self.inner.lookup(key, *at).err(),
                Want::Scan { from, to, at, limit } => self.inner.rows(from, to, *at, *limit, |_, _, _| ()).err(),
            };
            let touched = self.inner.touched.take().unwrap_or_default();
            match missing {
                None => return Ok(Pins(touched)),
                Some(need) => self.inner.load(need, &mut loaded).await?,
            }
        }
    }
}

impl Inner {
    pub(super) fn damaged(&self, table: &Table, unit: u32) -> KvError {
        let offset = table.cell.offset() + u64::from(unit) * UNIT_BYTES as u64;
        KvError::Damaged { group: self.group, table: table.id, offset }
    }
    /// Begins at the call, so that a table of the current version cannot be retired before.
    pub(super) fn read(
        &self,
        table: &Table,
        first_unit: u32,
        units: u32,
    ) -> impl Future<Output = Result<IoBuf, SpaceError>> + 'static {
        self.space.read_unverified(table.owner(self.group), table.cell, first_unit, units)
    }
    fn keep(&self, table: &Table, unit: u32, object: Object, pins: &mut Pins) {
        let key = self.cache_key(table, unit);
        self.config.cache.insert(key, &object);
        // What is there already stays; that is the one to pin.
        pins.0.push(self.config.cache.peek(key).unwrap_or(object));
    }

    fn begin_loading(&self, table: &Table, unit: u32) -> Result<Loading, Io<()>> {
        self.config.cache.begin_loading(self.cache_key(table, unit))
    }

    async fn load(&self, need: Need, pins: &mut Pins) -> Result<(), KvError> {
        match need {
            Need::Footers(version) => self.load_footers(&version).await,
            Need::Meta(table) => {
                let meta_unit = table.footer.get().map_or(0, |f| f.meta_unit);
                let units = table.cell.units().saturating_sub(1 + meta_unit);
                let loading = match self.begin_loading(&table, meta_unit) {
                    Ok(loading) => loading,
                    Err(over) => {
                        over.await;
                        return Ok(());
                    }
                };
                let buf = self.read(&table, meta_unit, units).await?;
                let meta = Meta::decode(&buf, table.owner(self.group), meta_unit);
                let meta = meta.ok_or_else(|| self.damaged(&table, meta_unit))?;
                self.keep(&table, meta_unit, Object::Meta(Rc::new(meta)), pins);
                drop(loading);
                Ok(())
            }
            Need::Blocks(table, meta, index, count) => {
                let places: Vec<_> = (index..index.saturating_add(count)).map_while(|i| meta.block(i)).collect();
                let Some(first) = places.first().map(|p| p.first_unit) else { return Ok(()) };
                let loading = match self.begin_loading(&table, first) {
                    Ok(loading) => loading,
                    Err(over) => {
                        over.await;
                        return Ok(());
                    }
                };
                let units = places.iter().map(|p| p.units).sum();
                let buf = self.read(&table, first, units).await?;
                let mut at = 0;
                for place in places {
                    let block = Block::decode(table.owner(self.group), place.first_unit, &buf[at..]);
                    let block = block.filter(|b| b.units() == place.units);
                    at += usize::try_from(place.units).expect("at most 512") * UNIT_BYTES;
                    match block {
                        Some(block) => self.keep(&table, place.first_unit, Object::Block(Rc::new(block)), pins),
                        None if place.first_unit == first => return Err(self.damaged(&table, first)),
                        // Damage in what was read ahead matters to whoever asks for it.
                        None => break,
                    }
                }
                drop(loading);
                Ok(())
            }
        }
    }

    /// Loads some of a version's footers, and checks the order of its levels with the last ones.
    /// The version is the current one at the call, and may be replaced meanwhile: ask again.
    pub(super) async fn load_footers(&self, version: &Version) -> Result<(), KvError> {
        let missing = version.tables().filter(|t| t.footer.get().is_none()).take(FOOTERS_AT_A_TIME);
        let begun: Vec<_> = missing.map(|t| (t, self.read(t, t.cell.units() - 1, 1))).collect();
        for (table, reading) in begun {
            let units = table.cell.units();
            let footer = Footer::decode(&reading.await?, self.group, table.id, units);
            let footer = footer.ok_or_else(|| self.damaged(table, units - 1))?;
            table.footer.get_or_init(|| footer);
        }
        if version.tables().any(|t| t.footer.get().is_none()) {
            return Ok(());
        }
        if let Some(table) = version.misplaced() {
            return Err(self.damaged(table, table.cell.units() - 1));
        }
        version.ready.set(true);
        Ok(())
    }
}
