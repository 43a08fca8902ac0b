//! Bloom filters over keys: no false negatives, about 1 % false positives.
//!
//! Source: Kirsch and Mitzenmacher, "Less Hashing, Same Performance" (2006), 10 bits a key, 6 probes.

const BITS_PER_KEY: usize = 10;
const PROBES: u64 = 6;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hash of a key; part of the table format. Eight bytes at a time, the finisher of MurmurHash3.
pub(crate) fn hash(key: &[u8]) -> u64 {
    let mut hash = u64::try_from(key.len()).expect("lengths fit").wrapping_mul(MULTIPLIER);
    for chunk in key.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(MULTIPLIER);
        hash ^= hash >> 32;
    }
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

fn bits(hash: u64, bits: u64) -> impl Iterator<Item = u64> {
    let step = hash >> 33 | 1;
    (0..PROBES).map(move |i| hash.wrapping_add(i.wrapping_mul(step)) % bits)
}

/// Bytes of a filter of so many keys.
pub(crate) fn filter_bytes(keys: usize) -> usize {
    (keys * BITS_PER_KEY).div_ceil(8).max(8)
}

/// The filter of these keys' hashes.
pub(crate) fn build(hashes: &[u64]) -> Vec<u8> {
    let mut filter = vec![0; filter_bytes(hashes.len())];
    let size = u64::try_from(filter.len() * 8).expect("small");
    for bit in hashes.iter().flat_map(|h| bits(*h, size)) {
        filter[usize::try_from(bit / 8).expect("below the size")] |= 1 << (bit % 8);
    }
    filter
}

/// False only where no key with that hash was added. True for an empty filter.
pub(crate) fn may_contain(filter: &[u8], hash: u64) -> bool {
    let size = u64::try_from(filter.len() * 8).expect("small");
    size == 0
        || bits(hash, size).all(|bit| {
            let byte = usize::try_from(bit / 8).ok().and_then(|at| filter.get(at)).copied().unwrap_or(0xff);
            byte & 1 << (bit % 8) != 0
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_lost_and_few_strangers_pass() {
        let key = |i: u32| hash(&[&b"some prefix"[..], &i.to_be_bytes()].concat());
        let hashes: Vec<u64> = (0..1000).map(key).collect();
        let filter = build(&hashes);
        assert!(hashes.iter().all(|h| may_contain(&filter, *h)));
        let strangers = (1000..11_000).filter(|i| may_contain(&filter, key(*i))).count();
        assert!(strangers < 300, "{strangers} of 10000");
    }

    #[test]
    fn the_hash_is_part_of_the_format() {
        assert_eq!(hash(b""), 0);
        assert_eq!(hash(b"inode"), 0xcf1_7a34_d18f_6487);
        assert_eq!(hash(b"a longer key of 26 bytes.."), 0xcd79_f25b_3231_d843);
    }
}
