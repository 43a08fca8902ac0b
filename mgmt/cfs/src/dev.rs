//! `cfs dev`: format on first use, serve, mount; mend what a crash left.

use crate::args::DevOptions;
use crate::management::manage;
use crate::place::Place;
use crate::serving::{self, Sharing};
use crate::stop_sign::StopSign;
use crate::{Failure, format, mounting, registry};
use cfs_types::SessionId;
use cfs_volume::VolumeOptions;
use std::path::{Path, PathBuf};

/// Runs until Ctrl-C, SIGTERM, SIGHUP or an unmount.
pub fn run(options: &DevOptions) -> Result<(), Failure> {
    let stop = StopSign::catch()?;
    let dir = options.dir.clone().unwrap_or_else(|| registry::home().join(".local/share/cfs/dev"));
    let mountpoint = options.mountpoint.clone().unwrap_or_else(|| registry::home().join("cfs"));
    let place = Place::of(&dir);
    if !place.is_device && format::is_needed(&place.store)? {
        println!("formatting {} ({} MiB)", place.target.display(), options.size >> 20);
        format::format(&place, Some(options.size), false)?;
    }
    place.prepare()?;
    prepare_mountpoint(&mountpoint)?;
    let (server, api, core) = serving::start(&place, &options.serving, Sharing::WithMount, &stop)?;
    let mut volume = VolumeOptions::new(server.addresses.clone(), Some(place.secret()?));
    volume.predecessor = read_session(&place);
    let (seat, how) = (mounting::Seat::Core(core), cfs_fuse::MountOptions::default());
    let mount = match mounting::start(seat, volume, &mountpoint, how, &stop) {
        Ok((mount, _)) => mount,
        Err(error) => {
            let _stopped = server.stop();
            return Err(error);
        }
    };
    write_session(&place, mount.session)?;
    println!("store   {}", place.store.display());
    println!("rpc     {}  ({} cores)", options.serving.listen, server.remote.cores());
    println!("metrics http://{}/metrics", server.http);
    println!("mount   cfs mount {} OTHER_MOUNTPOINT", options.serving.listen);
    println!("ready   {}", mountpoint.display());
    let remote = server.remote.clone();
    let managed = manage(api, &remote, &stop, || server.has_ended() || mount.has_ended());
    let unmounted = mount.stop();
    let _gone = std::fs::remove_file(place.session_file());
    server.stop().and(unmounted).and(managed)
}

/// A mountpoint that is there: made where missing, freed from a dead mount.
fn prepare_mountpoint(path: &Path) -> Result<(), Failure> {
    match cfs_fuse::mend_dead_mount(path) {
        Ok(true) => println!("mended {} (its server had died)", path.display()),
        Ok(false) => {}
        Err(error) => return Err(Failure::plain(error)),
    }
    std::fs::create_dir_all(path).map_err(|e| Failure::new(format!("making {}", path.display()), e))
}

fn read_session(place: &Place) -> Option<SessionId> {
    std::fs::read_to_string(place.session_file()).ok()?.trim().parse().ok().map(SessionId::new)
}

fn write_session(place: &Place, session: SessionId) -> Result<(), Failure> {
    let path: PathBuf = place.session_file();
    std::fs::write(&path, session.to_string()).map_err(|e| Failure::new(format!("writing {}", path.display()), e))
}
