//! Mutants of good inputs: first a sweep that changes every place, then random piles of changes.

use cfs_sim::Stream;

/// Bytes that tend to be limits.
const BYTES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
/// Numbers that tend to be limits, in any width that they fit or are cut to.
const NUMBERS: [u64; 13] = [
    0,
    1,
    0x1000,
    0x7fff,
    0xffff,
    0x10_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 55,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];
/// Changes of the sweep at one place.
const CHANGES: usize = 8 + BYTES.len() + 4 * NUMBERS.len() + 2;
/// Places of a run of zeros that are changed, at each of its ends: reserved fields, and padding.
const PADDING: usize = 16;

/// A good input, and the places of it that are worth a change.
struct Seed {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

/// Good inputs, from which mutants are made.
pub(crate) struct Corpus {
    seeds: Vec<Seed>,
}

impl Corpus {
    pub fn new(seeds: &[Vec<u8>]) -> Self {
        assert!(!seeds.is_empty(), "there is something to begin with");
        let seed = |bytes: &Vec<u8>| Seed { places: places(bytes), bytes: bytes.clone() };
        Corpus { seeds: seeds.iter().map(seed).collect() }
    }

    /// Mutants of a whole sweep.
    pub fn sweep_len(&self) -> u64 {
        let places: usize = self.seeds.iter().map(|seed| seed.places.len()).sum();
        u64::try_from(places * CHANGES).expect("a small number")
    }

    /// Mutant number `number` of the sweep, into `out`.
    pub fn swept(&self, number: u64, out: &mut Vec<u8>) {
        let mut number = usize::try_from(number).expect("below the length of the sweep");
        for Seed { bytes, places } in &self.seeds {
            if number < places.len() * CHANGES {
                out.clone_from(bytes);
                return change(out, places[number / CHANGES], number % CHANGES);
            }
            number -= places.len() * CHANGES;
        }
        panic!("the sweep is shorter");
    }

    /// A mutant with one to six random changes, into `out`.
    pub fn random(&self, random: &Stream, out: &mut Vec<u8>) {
        let seed = &self.seeds[random.index(self.seeds.len())];
        out.clone_from(&seed.bytes);
        for _ in 0..=random.below(6) {
            let (place, other) = (place(random, seed, out.len()), &self.seeds[random.index(self.seeds.len())].bytes);
            match random.below(16) {
                0..=8 => change(out, place, random.index(CHANGES)),
                9 | 10 if place < out.len() => out[place] = random.next().to_le_bytes()[0],
                11 => {
                    let end = (place + 1 + random.index(64)).min(out.len());
                    out.drain(place.min(end)..end);
                }
                12 => {
                    let more = random.index(40);
                    out.extend((0..more).map(|_| random.next().to_le_bytes()[0]));
                }
                13 => splice(random, out, place, other, true),
                14 => splice(random, out, place, other, false),
                _ => {
                    let own = out.clone();
                    splice(random, out, place, &own, random.chance(500_000));
                }
            }
        }
    }
}

/// Places of an input that the sweep changes: all but long runs of zeros, of which only the ends.
fn places(bytes: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut next = 0;
    for used in (0..bytes.len()).filter(|at| bytes[*at] != 0) {
        places.extend(next.max(used.saturating_sub(PADDING))..=used);
        next = used + 1;
        // What follows belongs to this run until the next one begins.
        let end = (used + 1 + PADDING).min(bytes.len());
        let run = (next..end).take_while(|at| bytes[*at] == 0).count();
        places.extend(next..next + run);
        next += run;
    }
    places.push(bytes.len());
    places
}

fn place(random: &Stream, seed: &Seed, now: usize) -> usize {
    match random.chance(50_000) {
        true => random.index(now + 1),
        false => seed.places[random.index(seed.places.len())],
    }
}

/// Puts a piece of `other` at `place`, over what is there or before it.
fn splice(random: &Stream, out: &mut Vec<u8>, place: usize, other: &[u8], over: bool) {
    let from = random.index(other.len() + 1);
    let end = (from + 1 + random.index(64)).min(other.len());
    let piece = &other[from.min(end)..end];
    let place = place.min(out.len());
    let gone = if over { piece.len().min(out.len() - place) } else { 0 };
    out.splice(place..place + gone, piece.iter().copied());
}

/// Change number `kind` of [`CHANGES`] at a place. Behind the end nothing is changed but the length.
fn change(out: &mut Vec<u8>, place: usize, kind: usize) {
    let flips = 8;
    let sets = flips + BYTES.len();
    let numbers = sets + 4 * NUMBERS.len();
    if kind >= numbers {
        return if kind == numbers { out.truncate(place) } else { out.insert(place.min(out.len()), 0xff) };
    }
    if place >= out.len() {
        return out.push(kind.to_le_bytes()[0]);
    }
    if kind < flips {
        out[place] ^= 1 << kind;
    } else if kind < sets {
        out[place] = BYTES[kind - flips];
    } else {
        let (number, width) = (NUMBERS[(kind - sets) / 4], (kind - sets) % 4);
        match width {
            // A varint, as postcard writes them: in the place of one byte.
            0 => drop(out.splice(place..=place, varint(number))),
            _ => {
                let width = [2, 4, 8][width - 1].min(out.len() - place);
                out[place..place + width].copy_from_slice(&number.to_le_bytes()[..width]);
            }
        }
    }
}

fn varint(mut number: u64) -> impl Iterator<Item = u8> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        ended = number == 0;
        Some(if ended { low } else { low | 0x80 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_sweep_changes_every_place_but_the_middle_of_zeros() {
        let seed = [&b"some input"[..], &[0; 1000], b"x"].concat();
        let corpus = Corpus::new(&[b"x".to_vec(), seed.clone()]);
        let (mut out, mut changed, mut same) = (Vec::new(), BTreeSet::new(), 0);
        for number in 0..corpus.sweep_len() {
            corpus.swept(number, &mut out);
            same += u64::from(corpus.seeds.iter().any(|seed| seed.bytes == out));
            changed.extend(seed.iter().zip(&out).position(|(a, b)| a != b).filter(|_| out.len() == seed.len()));
        }
        // Numbers are longer than the place where they begin.
        assert!((0..10 + PADDING).chain(1010 - PADDING..1011).all(|at| changed.contains(&at)), "{changed:?}");
        assert!(changed.len() < 11 + 2 * PADDING + 16, "{changed:?}");
        assert!(same < corpus.sweep_len() / 4, "{same} of {} changed nothing", corpus.sweep_len());
    }

    #[test]
    fn one_seed_gives_one_series_of_mutants() {
        let corpus = Corpus::new(&[b"one".to_vec(), (0..200).collect()]);
        let series = |seed| {
            let random = Stream::new(seed);
            let mut out = Vec::new();
            (0..1000).map(|_| (corpus.random(&random, &mut out), out.clone()).1).collect::<Vec<_>>()
        };
        assert_eq!(series(1), series(1));
        assert_ne!(series(1), series(2));
        assert!(series(1).iter().any(Vec::is_empty) && series(1).iter().any(|m| m.len() > 200));
    }

    #[test]
    fn varints_are_those_of_postcard() {
        assert_eq!(varint(300).collect::<Vec<_>>(), [0xac, 2]);
        assert_eq!(varint(0).collect::<Vec<_>>(), [0]);
        assert_eq!(varint(u64::MAX).count(), 10);
    }
}
