//! Keys that are looked for together.
//!
//! A store's user says which keys belong together by how they begin: names that hash alike, extents of one file. A
//! table's filter knows these stems, so that a search for any of them passes a table by that has none.

/// The first bytes of a key that it shares with those it is looked for with; None where it stands alone. Part of the
/// table format: whatever begins with a stem has that stem.
pub type Stem = fn(&[u8]) -> Option<&[u8]>;

/// The stem that all keys with `from` <= key < `to` have, if there is one.
pub(crate) fn of_range<'a>(stem: Stem, from: &'a [u8], to: &[u8]) -> Option<&'a [u8]> {
    stem(from).filter(|stem| to.starts_with(stem) || is_next(stem, to))
}

/// Whether `to` is the least byte string above everything that begins with `prefix`.
fn is_next(prefix: &[u8], to: &[u8]) -> bool {
    let Some((last, before)) = to.split_last() else { return false };
    let Some((same, rest)) = prefix.split_at_checked(before.len()) else { return false };
    let Some((raised, ones)) = rest.split_first() else { return false };
    same == before && raised.checked_add(1) == Some(*last) && ones.iter().all(|byte| *byte == u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(key: &[u8]) -> Option<&[u8]> {
        key.get(..2)
    }

    #[test]
    fn a_range_has_a_stem_where_all_its_keys_do() {
        let of = |from: &'static [u8], to: &[u8]| of_range(two, from, to);
        assert_eq!(of(b"ab", b"abc"), Some(&b"ab"[..]));
        assert_eq!(of(b"abc", b"ac"), Some(&b"ab"[..]));
        assert_eq!(of(b"abc", b"ac\0"), None);
        assert_eq!(of(b"abc", b"ad"), None);
        assert_eq!(of(b"a", b"ab"), None, "shorter than a stem");
        assert_eq!(of(b"a\xff\x01", b"b"), Some(&b"a\xff"[..]));
        assert_eq!(of(b"a\xff\x01", b"b\0"), None);
        assert_eq!(of(b"\xff\xff\x01", b"\xff\xff\x02"), Some(&b"\xff\xff"[..]));
        assert_eq!(of_range(|_| None, b"ab", b"abc"), None);
    }
}
