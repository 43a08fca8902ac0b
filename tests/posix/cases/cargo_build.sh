# A small Rust crate builds with its target directory on the mount, again after a change, and its test runs.
mkdir src
printf '[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' >Cargo.toml
cat >src/main.rs <<'RUST'
mod part;
fn main() { println!("{}", part::answer()); }
#[test]
fn right() { assert_eq!(part::answer(), 42); }
RUST
echo 'pub fn answer() -> u32 { 41 }' >src/part.rs
export CARGO_TARGET_DIR=$WORK/target
cargo build --quiet --offline
[ "$(target/debug/small)" = 41 ]
echo 'pub fn answer() -> u32 { 42 }' >src/part.rs
touch -d '+2 seconds' src/part.rs
cargo build --quiet --offline
[ "$(target/debug/small)" = 42 ]
cargo test --quiet --offline
