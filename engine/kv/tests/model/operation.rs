//! What is done to a store, so that proptest can make it smaller.

use cfs_kv::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use proptest::collection::vec;
use proptest::prelude::*;
use std::rc::Rc;

/// Operations of a case, at most.
const OPERATIONS_MAX: usize = 2_000;
/// Most rows of one write.
const ROWS_MAX: usize = 5;

/// When a read looks.
#[derive(Clone, Copy, Debug)]
pub enum When {
    Now,
    /// So much of the way from the oldest time that can be read, in 256ths.
    Past(u8),
}

/// Bytes of a value.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// A deletion.
    None,
    Short(u8),
    /// Some to a block.
    Long(u16),
    /// More than a block.
    Block(u16),
    /// A few to a table: only where the case says so, else short.
    Huge,
}

pub type Row = (u16, Size, u8);

#[derive(Clone, Debug)]
pub enum Operation {
    /// Rows, and how much later than the last ones.
    Apply(Vec<Row>, u8),
    Get(u16, When),
    /// From a key up to another one, to the end of its stem, or to the end.
    Scan(u16, To, When, u8),
    /// What is older than so much of what can be read goes; None: all but the newest.
    SetFloor(Option<u8>),
    Freeze,
    Flush,
    Compact,
    /// Of the cells in use the one with this number, as often as it takes.
    Relocate(u8),
    /// Goes on with one of the changes under way: it is proposed, made durable, installed.
    Proceed(u8),
    /// One that is not durable is given up.
    GiveUp(u8),
    /// The whole content is replaced.
    Replace(Vec<Row>),
    /// The power is cut before the device's write, flush or discard after so many; and what is lost then.
    Cut(u8, u16),
    /// Only the process ends.
    Restart,
    /// Everything is read.
    Verify,
}

#[derive(Clone, Copy, Debug)]
pub enum To {
    Key(u16),
    Stem,
    End,
}

/// A store and what is done to it.
#[derive(Clone, Debug)]
pub struct Case {
    pub cache_bytes: usize,
    pub level1_units: u64,
    pub root_tables: usize,
    pub huge: bool,
    pub operations: Vec<Operation>,
}

/// The key of a number: some are prefixes of others, some have no stem, a few are as short or long as can be.
pub fn key(number: u16) -> Box<[u8]> {
    let longest = |byte| vec![byte; KEY_BYTES_MAX];
    match number {
        0 => Box::default(),
        1 => longest(b'k').into(),
        2 => longest(0xff).into(),
        _ => {
            let first = if number % 4 == 3 { 'x' } else { 'k' };
            let mut key = format!("{first}{:03}", number / 8).into_bytes();
            key.resize(key.len() + usize::from(number % 3), 0);
            key.into()
        }
    }
}

/// Keys of a few bytes belong together.
pub fn stem(key: &[u8]) -> Option<&[u8]> {
    if key.first() == Some(&b'k') { key.get(..3) } else { None }
}

/// The value of a row; None where it deletes.
pub fn value((_, size, byte): Row, huge: bool) -> Option<Rc<[u8]>> {
    let length = match size {
        Size::None => return None,
        Size::Short(length) => usize::from(length),
        Size::Long(length) => usize::from(length % 2_000),
        Size::Block(length) => usize::from(length % 20_000),
        Size::Huge if huge => VALUE_BYTES_MAX - usize::from(byte),
        Size::Huge => 3,
    };
    Some(vec![byte; length].into())
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![
        20 => any::<u8>().prop_map(Size::Short),
        10 => Just(Size::None),
        4 => any::<u16>().prop_map(Size::Long),
        1 => any::<u16>().prop_map(Size::Block),
        2 => Just(Size::Huge),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![Just(When::Now), any::<u8>().prop_map(When::Past)]
}

fn rows(keys: u16) -> impl Strategy<Value = Vec<Row>> {
    vec((0..keys, size(), any::<u8>()), 1..=ROWS_MAX)
}

fn operation(keys: u16) -> impl Strategy<Value = Operation> {
    let to = prop_oneof![3 => (0..keys).prop_map(To::Key), 1 => Just(To::Stem), 1 => Just(To::End)];
    prop_oneof![
        350 => (rows(keys), 0..3_u8).prop_map(|(rows, later)| Operation::Apply(rows, later)),
        250 => (0..keys, when()).prop_map(|(key, when)| Operation::Get(key, when)),
        60 => (0..keys, to, when(), any::<u8>()).prop_map(|(from, to, when, limit)| Operation::Scan(from, to, when, limit)),
        8 => prop::option::weighted(0.7, any::<u8>()).prop_map(Operation::SetFloor),
        30 => Just(Operation::Freeze),
        30 => Just(Operation::Flush),
        30 => Just(Operation::Compact),
        8 => any::<u8>().prop_map(Operation::Relocate),
        150 => any::<u8>().prop_map(Operation::Proceed),
        4 => any::<u8>().prop_map(Operation::GiveUp),
        2 => rows(keys).prop_map(Operation::Replace),
        6 => (0..20_u8, any::<u16>()).prop_map(|(after, lost)| Operation::Cut(after, lost)),
        2 => Just(Operation::Restart),
        4 => Just(Operation::Verify),
    ]
}

/// Any store, and any operations on it.
pub fn cases() -> impl Strategy<Value = Case> {
    let store = (
        prop::sample::select(vec![1, 20 << 10, 64 << 10, 1 << 20]),
        prop::sample::select(vec![3, 12, 24, 200]),
        prop::sample::select(vec![3, 5, 640]),
        prop::sample::select(vec![8, 60, 400]),
        prop::bool::weighted(0.05),
    );
    store.prop_flat_map(|(cache_bytes, level1_units, root_tables, keys, huge)| {
        vec(operation(keys), 1..OPERATIONS_MAX).prop_map(move |operations| Case {
            cache_bytes,
            level1_units,
            root_tables,
            huge,
            operations,
        })
    })
}
