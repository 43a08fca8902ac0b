//! `cfs dev`: format on first use, serve, mount; mend what a crash left.

use crate::args::DevOptions;
use crate::management::manage;
use crate::place::{Place, Target};
use crate::serving::{self, Sharing};
use crate::stop_sign::StopSign;
use crate::{Failure, format, mounting, registry};
use cfs_device::Layout;
use cfs_types::SessionId;
use cfs_volume::VolumeOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs until Ctrl-C, SIGTERM, SIGHUP or an unmount.
pub fn run(options: &DevOptions) -> Result<(), Failure> {
    let stop = Arc::new(StopSign::catch()?);
    let dir = options.dir.clone().unwrap_or_else(|| registry::home().join(".local/share/cfs/dev"));
    let mountpoint = options.mountpoint.clone().unwrap_or_else(|| registry::home().join("cfs"));
    let target = Target::of(&dir)?;
    check_mountpoint(&mountpoint)?;
    if !target.is_device && format::is_needed(&target.store)? {
        // What would fail later is better known before gigabytes are laid out.
        let cores = cores_of_new(options)?;
        serving::check_addresses(&options.serving, cores)?;
        say!("formatting {} ({} MiB)", target.path.display(), options.size >> 20);
        format::format(&target, Some(options.size), false, &stop)?;
    }
    std::fs::create_dir_all(&mountpoint).map_err(|e| Failure::new(format!("making {}", mountpoint.display()), e))?;
    let (server, api, core) = serving::start(&[dir], &options.serving, Sharing::WithMount, &stop)?;
    let place = server.place.clone();
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
    say!("store   {}", target.store.display());
    say!("rpc     {}  ({} cores)", options.serving.listen, server.remote.cores());
    say!("metrics http://{}/metrics", server.http);
    say!("mount   cfs mount {} OTHER_MOUNTPOINT", options.serving.listen);
    say!("ready   {}", mountpoint.display());
    let managed = manage(api, &server, &stop, || server.has_ended() || mount.has_ended());
    let unmounted = mount.stop();
    let _gone = std::fs::remove_file(place.session_file());
    server.stop().and(unmounted).and(managed)
}

/// The cores that a store yet to be made will be served with.
fn cores_of_new(options: &DevOptions) -> Result<u16, Failure> {
    let layout = Layout::derive(options.size, None, None).map_err(|e| Failure::plain(format!("--size: {e}")))?;
    serving::cores_for(&options.serving, &layout)
}

/// A mountpoint that can be used, or made: it is freed from a dead mount.
fn check_mountpoint(path: &Path) -> Result<(), Failure> {
    if cfs_fuse::mend_dead_mount(path).map_err(Failure::plain)? {
        say!("mended {} (its server had died)", path.display());
    }
    cfs_fuse::check_place(path).map_err(Failure::plain)
}

fn read_session(place: &Place) -> Option<SessionId> {
    std::fs::read_to_string(place.session_file()).ok()?.trim().parse().ok().map(SessionId::new)
}

fn write_session(place: &Place, session: SessionId) -> Result<(), Failure> {
    let path: PathBuf = place.session_file();
    std::fs::write(&path, session.to_string()).map_err(|e| Failure::new(format!("writing {}", path.display()), e))
}
