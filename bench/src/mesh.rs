//! A message to another core and back, both cores looking for work.

use crate::Failure;
use crate::latency::{Latencies, Summary};
use cfs_runtime::{CoreConfig, ParkPolicy, available_cpus, mesh, start_core};
use cfs_seam::World;
use cfs_types::CoreId;
use std::time::Duration;

/// Exchanges before the clock counts.
const WARM_UP: u32 = 2_000;

struct Ping;
struct Stop;

/// Round trips for `time`. None where the machine has one CPU.
pub fn round_trips(time: Duration) -> Result<Option<Summary>, Failure> {
    let cpus = available_cpus();
    if cpus.len() < 2 {
        return Ok(None);
    }
    let failed = |e| Failure::new("starting two cores", e);
    let mut seats = mesh(2).map_err(failed)?.into_iter();
    let (Some(first), Some(second)) = (seats.next(), seats.next()) else {
        return Err(Failure("a mesh of two has two seats".into()));
    };
    let config = |core: u16| {
        let mut config = CoreConfig::new(CoreId::new(core));
        config.pin_cpu = cpus.get(usize::from(core)).copied();
        config.park = ParkPolicy::Spin { limit: Duration::from_millis(2) };
        config
    };
    let answers = start_core(config(1), second, |world, _| answer(world)).map_err(failed)?;
    let asks = start_core(config(0), first, move |world, _| ask(world, time)).map_err(failed)?;
    let summary = asks.join().map_err(failed)?;
    answers.join().map_err(failed)?;
    Ok(Some(summary))
}

async fn ask(world: World, time: Duration) -> Summary {
    let other = CoreId::new(1);
    let mut seen = Latencies::default();
    let mut start = world.clock.now();
    for number in 0_u32.. {
        if number == WARM_UP {
            start = world.clock.now();
        }
        let begun = world.clock.now();
        let _full = world.mesh.send(other, Box::new(Ping));
        world.mesh.recv().await;
        if number >= WARM_UP {
            seen.record(world.clock.now().since(begun));
            if world.clock.now().since(start) >= time {
                break;
            }
        }
    }
    let _full = world.mesh.send(other, Box::new(Stop));
    seen.summary(world.clock.now().since(start))
}

async fn answer(world: World) {
    loop {
        let (from, message) = world.mesh.recv().await;
        if message.is::<Stop>() {
            return;
        }
        let _full = world.mesh.send(from, message);
    }
}
