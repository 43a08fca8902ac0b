//! Groups of three and five voters: the server's own driver, log and store on every node, clients
//! at whichever node leads, power cuts, isolation, lost letters, followers that need the state.
//!
//! Checked: no acknowledged command is lost or executed twice, no read misses what was
//! acknowledged before it began, all replicas end with the same state bit for bit, and can read
//! every small write; one seed twice is one trace.

mod client;
mod history;
mod member;
mod wire;

use history::{History, Outcome, Plan};

/// Seeds that CI runs; `CFS_SEEDS` asks for others, as FIRST..END.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("CFS_SEEDS").ok();
    let parsed = asked.and_then(|text| {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    });
    parsed.unwrap_or(1..201)
}

#[test]
fn nothing_acknowledged_is_lost_and_replicas_agree_whatever_goes_wrong() {
    let mut total = Outcome::default();
    let seeds = seeds();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| history::troubled(seed));
        let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        total.add(&outcome);
    }
    println!("{count} seeds: {total:?}");
    assert!(total.operations > 50 * count && total.reads > 5 * count, "the histories make progress");
    assert!(total.crashes > 2 * count && total.terms > 2 * count, "and much goes wrong");
    assert!(count < 20 || total.pages > count / 4, "and states are sent");
}

#[test]
fn one_seed_is_one_history() {
    assert_eq!(history::troubled(7), history::troubled(7));
}

#[test]
fn a_follower_that_lags_far_behind_is_sent_the_state_and_serves_it() {
    let history = History::new(11, Plan { voters: 3, bytes_max: 30_000, checkpoint_ms: 300, loss: 0 });
    history.start_all();
    history.set_up();
    let leader = history.leader();
    let follower = 1 + leader % 3;
    history.wire.isolate(follower);
    history.work_for(6_000);
    assert_eq!(history.wire.pages.get(), 0);
    history.wire.heal();
    history.finish();
    assert!(history.wire.pages.get() > 5, "the state was sent");
    // Once it leads, clients read from it what came with the state.
    history.wire.isolate(1 + follower % 3);
    history.run_until_leader(follower);
    history.wire.heal();
    history.check();
}
