//! Starts that end before the server serves, again and again: killed, out of memory, given up by their supervisor.

use crate::history::{ME, name, new_file};
use crate::stage::{LIMIT, Setup, Stage, formatted};
use cfs_sim::{Crash, Stream};
use cfs_types::InodeId;
use cfs_volume::Lookup;

/// More than a core has slots in the log.
const STARTS: u64 = 60;
const FILES: u32 = 200;
const CORES: u16 = 2;
/// From the first write of a start to its end, at most.
const STEPS: u64 = 800;

#[test]
fn starts_that_end_before_they_serve_use_up_no_log() {
    for seed in 0..4 {
        let setup = Setup::short_log();
        let stage = Stage::new(seed, setup, &formatted(&setup));
        stage.start(CORES);
        stage.client(|_, volume| async move {
            for n in 0..FILES {
                let made = volume.create(&ME, InodeId::ROOT, &name(&n.to_string()), &new_file()).await;
                volume.release(made.expect("made").1);
            }
        });
        stage.crash(Crash::Power);
        let chance = Stream::new(seed);
        let mut interrupted = 0;
        for _ in 0..STARTS {
            let ready = stage.launch(CORES);
            // It writes only once it has read all that earlier ones have left.
            let writes = || stage.device().unflushed_sectors() > 0;
            stage.sim.run_until(LIMIT, || writes() || !stage.ended.borrow().is_empty());
            stage.sim.run_steps(chance.below(STEPS));
            assert!(stage.ended.borrow().is_empty(), "seed {seed}, after {interrupted}: {:?}", stage.ended.borrow());
            interrupted += u64::from(!ready.get());
            stage.crash(if chance.below(2) == 0 { Crash::Process } else { Crash::Power });
        }
        assert!(interrupted > STARTS / 2, "seed {seed}: {interrupted}");
        stage.start(CORES);
        stage.client(|_, volume| async move {
            for n in 0..FILES {
                let found = volume.lookup(&ME, InodeId::ROOT, &name(&n.to_string())).await;
                assert!(matches!(found, Ok(Lookup::Found(_))), "{n}");
            }
        });
        stage.stop();
        let report = stage.check();
        assert!(report.is_sound(), "seed {seed}: {report}");
    }
}
