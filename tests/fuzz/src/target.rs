//! One decoder under mutants, and what must hold of it.

use crate::allocation::with_peak;
use crate::mutation::Corpus;
use cfs_sim::Stream;
use std::fmt::{Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Mutants of a target that says nothing else.
const MUTANTS: u64 = 40_000;
/// How many times that, for long runs.
const TIMES: &str = "CFS_FUZZ_TIMES";
/// Another seed than the usual one.
const SEED: &str = "CFS_FUZZ_SEED";

type Seal<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;

/// A decoder, what it is fed with and what it may take.
pub struct Target<'a> {
    what: &'static str,
    sources: &'static [&'static str],
    seeds: Vec<Vec<u8>>,
    cases: Vec<Vec<u8>>,
    seal: Option<Seal<'a>>,
    bytes_per_byte: u64,
    bytes_besides: u64,
    mutants: u64,
}

impl<'a> Target<'a> {
    /// The decoder of `what`, which lies in `sources` (paths from the root), with good inputs of it.
    pub fn new(what: &'static str, sources: &'static [&'static str], seeds: Vec<Vec<u8>>) -> Self {
        Target {
            what,
            sources,
            seeds,
            cases: Vec::new(),
            seal: None,
            bytes_per_byte: 16,
            bytes_besides: 1024,
            mutants: MUTANTS,
        }
    }

    /// Makes the checksums of a mutant right again: most mutants are sealed, so that they reach what lies behind.
    pub fn sealed(mut self, seal: impl Fn(&mut Vec<u8>) + 'a) -> Self {
        self.seal = Some(Box::new(seal));
        self
    }

    /// A mutant that was a bug once, tried as it is.
    pub fn case(mut self, bytes: Vec<u8>) -> Self {
        self.cases.push(bytes);
        self
    }

    /// Decoding may hold so many bytes for each byte of input, and so many besides.
    pub fn may_hold(mut self, bytes_per_byte: u64, bytes_besides: u64) -> Self {
        (self.bytes_per_byte, self.bytes_besides) = (bytes_per_byte, bytes_besides);
        self
    }

    /// Mutants tried in a usual run: fewer where decoding takes long.
    pub fn mutants(mut self, count: u64) -> Self {
        self.mutants = count;
        self
    }

    /// Tries a decoder that has an encoder: whatever decodes is encoded and decoded to the same again.
    pub fn round_trips<T: PartialEq + Debug>(
        self,
        decode: impl Fn(&[u8]) -> Option<T>,
        encode: impl Fn(&T) -> Vec<u8>,
    ) {
        self.run(&decode, |value, _| {
            let again = decode(&encode(value));
            (again.as_ref() == Some(value)).then_some(()).ok_or_else(|| format!("{value:?} comes back as {again:?}"))
        });
    }

    /// The same of a format in which a value has one form: what decodes is encoded to the bytes that it was.
    pub fn is_exact<T: Debug>(self, decode: impl Fn(&[u8]) -> Option<T>, encode: impl Fn(&T) -> Vec<u8>) {
        self.run(&decode, |value, bytes| {
            let again = encode(value);
            (again == *bytes).then_some(()).ok_or_else(|| format!("{value:?} is encoded as {}", dump(&again)))
        });
    }

    /// Tries a decoder alone.
    pub fn decodes<T>(self, decode: impl Fn(&[u8]) -> Option<T>) {
        self.run(&decode, |_, _| Ok(()));
    }

    fn run<T>(self, decode: &dyn Fn(&[u8]) -> Option<T>, check: impl Fn(&T, &[u8]) -> Result<(), String>) {
        let (_, peak) = with_peak(|| vec![1_u8; 4096]);
        assert_eq!(peak, 4096, "the counting allocator is in use");
        let mut tally = Tally::default();
        let mut attempt = |bytes: &[u8]| {
            let decoded = self.attempt(bytes, decode, &check, &mut tally);
            decoded.unwrap_or_else(|wrong| panic!("{} ({:?}): {wrong}\n{}", self.what, self.sources, dump(bytes)))
        };
        for seed in &self.seeds {
            assert!(attempt(seed), "{}: a good input is refused\n{}", self.what, dump(seed));
        }
        for case in &self.cases {
            attempt(case);
        }
        let good = u64::try_from(self.seeds.len()).expect("few");
        self.each_mutant(|mutant| {
            attempt(mutant);
        });
        assert!(tally.decoded > good, "{}: no mutant decodes", self.what);
        println!("{}: {tally:?}", self.what);
    }

    /// Whether it decoded; or what is wrong.
    fn attempt<T>(
        &self,
        bytes: &[u8],
        decode: &dyn Fn(&[u8]) -> Option<T>,
        check: &impl Fn(&T, &[u8]) -> Result<(), String>,
        tally: &mut Tally,
    ) -> Result<bool, String> {
        let (value, peak) = with_peak(|| catch_unwind(AssertUnwindSafe(|| decode(bytes))));
        let value = value.map_err(|_| "decoding panics".to_string())?;
        let length = u64::try_from(bytes.len()).expect("short");
        let most = length * self.bytes_per_byte + self.bytes_besides;
        if peak > most {
            return Err(format!("decoding {length} bytes holds {peak} bytes, and may hold {most}"));
        }
        tally.tried += 1;
        tally.held_max = tally.held_max.max(peak);
        tally.held_per_byte_max = tally.held_per_byte_max.max(peak.saturating_sub(self.bytes_besides) / length.max(1));
        let Some(value) = value else { return Ok(false) };
        tally.decoded += 1;
        let checked = catch_unwind(AssertUnwindSafe(|| check(&value, bytes)));
        checked.unwrap_or_else(|_| Err("what was decoded cannot be encoded".into())).map(|()| true)
    }

    fn each_mutant(&self, mut visit: impl FnMut(&[u8])) {
        let corpus = Corpus::new(&self.seeds);
        let mutants = self.mutants * number(TIMES).unwrap_or(1);
        let random = Stream::new(number(SEED).unwrap_or(1));
        let mut bytes = Vec::new();
        let mut visit = |bytes: &mut Vec<u8>| {
            if let Some(seal) = self.seal.as_ref().filter(|_| !random.chance(125_000)) {
                seal(bytes);
            }
            visit(bytes);
        };
        // At most half of the mutants are of the sweep: where that is too long, evenly distributed ones.
        let (whole, wanted) = (corpus.sweep_len(), mutants / 2);
        let step = whole.div_ceil(wanted).max(1);
        let swept = (random.below(step)..whole).step_by(usize::try_from(step).expect("a small number"));
        let mut tried = 0;
        for number in swept {
            corpus.swept(number, &mut bytes);
            visit(&mut bytes);
            tried += 1;
        }
        for _ in tried..mutants {
            corpus.random(&random, &mut bytes);
            visit(&mut bytes);
        }
    }
}

/// What became of the mutants.
#[derive(Debug, Default)]
struct Tally {
    tried: u64,
    decoded: u64,
    held_max: u64,
    held_per_byte_max: u64,
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

/// The bytes in hex; long runs of one byte as their count.
fn dump(bytes: &[u8]) -> String {
    let mut out = format!("{} bytes: ", bytes.len());
    for run in bytes.chunk_by(|a, b| a == b) {
        match run.len() {
            1..=8 => run.iter().for_each(|byte| write!(out, "{byte:02x}").expect("a string takes all")),
            count => write!(out, " {:02x}x{count} ", run[0]).expect("a string takes all"),
        }
    }
    out
}

/// The bytes of hex text, white space apart.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.as_chunks::<2>().0.iter();
    pairs.map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("hex")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length, a checksum (the sum of what follows) and so many bytes.
    fn decode(bytes: &[u8], believes: bool) -> Option<Vec<u8>> {
        let (head, rest) = bytes.split_first_chunk::<3>()?;
        let sum = rest.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        (sum == head[2]).then_some(())?;
        let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
        Some(if believes { Vec::from_iter(rest[..length].iter().copied()) } else { rest.get(..length)?.to_vec() })
    }

    fn seal(bytes: &mut [u8]) {
        if bytes.len() >= 3 {
            bytes[2] = bytes[3..].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        }
    }

    fn target() -> Target<'static> {
        let mut good = vec![4, 0, 0, b'g', b'o', b'o', b'd', 0];
        seal(&mut good);
        Target::new("a test", &[], vec![good]).sealed(|bytes| seal(bytes)).mutants(2_000)
    }

    fn failure(run: impl FnOnce()) -> String {
        let failed = catch_unwind(AssertUnwindSafe(run)).expect_err("it fails");
        failed.downcast_ref::<String>().expect("with words").clone()
    }

    #[test]
    fn a_sound_decoder_passes() {
        target().round_trips(
            |bytes| decode(bytes, false),
            |value| {
                let length = u16::try_from(value.len()).expect("short");
                let mut bytes = [&length.to_le_bytes()[..], &[0], value].concat();
                seal(&mut bytes);
                bytes
            },
        );
    }

    #[test]
    fn a_missing_check_of_bounds_is_found_behind_the_checksum() {
        let told = failure(|| target().decodes(|bytes| decode(bytes, true)));
        assert!(told.contains("decoding panics"), "{told}");
    }

    #[test]
    fn a_length_that_is_believed_before_it_is_checked_is_found() {
        let greedy = |bytes: &[u8]| {
            let room = Vec::<u64>::with_capacity(usize::from(u16::from_le_bytes(*bytes.first_chunk()?)));
            decode(bytes, false).map(|value| (room, value))
        };
        let told = failure(|| target().decodes(greedy));
        assert!(told.contains("may hold"), "{told}");
    }

    #[test]
    fn an_encoder_that_forgets_something_is_found() {
        let told = failure(|| target().round_trips(|bytes| decode(bytes, false), |_| vec![0, 0, 0]));
        assert!(told.contains("comes back as"), "{told}");
    }

    #[test]
    fn a_corpus_that_says_nothing_is_refused() {
        assert!(failure(|| target().decodes(|_| None::<()>)).contains("a good input is refused"));
    }

    #[test]
    fn hex_is_read_and_runs_are_counted() {
        assert_eq!(unhex("00 ff\n1a"), [0, 255, 0x1a]);
        assert_eq!(dump(&[7, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "10 bytes: 07 00x9 ");
    }
}
