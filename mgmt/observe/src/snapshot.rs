//! All cores of a process at about one moment.

use crate::process::Process;
use crate::status::CoreStatus;
use cfs_types::UNIT_BYTES;

/// What is known of a core.
#[derive(Clone, Debug)]
pub enum CorePicture {
    /// It answered.
    Answered(Box<CoreStatus>),
    /// It did not answer in time.
    Silent(u16),
}

/// All cores and the process.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every core, in order.
    pub cores: Vec<CorePicture>,
    /// The process.
    pub process: Process,
    /// The store's file was removed, moved or replaced while it is served.
    pub store_gone: bool,
}

/// Space of all cores that answered, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// On the device, for file data and metadata.
    pub total_bytes: u64,
    /// In use.
    pub used_bytes: u64,
    /// What file data may still take.
    pub available_bytes: u64,
}

impl Space {
    /// Share in use of what file data may have, percent, rounded up as df(1) does.
    pub fn full_percent(&self) -> u64 {
        let all = u128::from(self.used_bytes) + u128::from(self.available_bytes);
        let percent = (u128::from(self.used_bytes) * 100).div_ceil(all.max(1));
        u64::try_from(percent).expect("at most 100")
    }
}

impl Snapshot {
    /// The cores that answered.
    pub fn answered(&self) -> impl Iterator<Item = &CoreStatus> {
        self.cores.iter().filter_map(|core| match core {
            CorePicture::Answered(status) => Some(&**status),
            CorePicture::Silent(_) => None,
        })
    }

    /// The cores that did not.
    pub fn silent(&self) -> impl Iterator<Item = u16> {
        self.cores.iter().filter_map(|core| match core {
            CorePicture::Answered(_) => None,
            CorePicture::Silent(core) => Some(*core),
        })
    }

    /// Their space.
    pub fn space(&self) -> Space {
        let unit = u64::from(UNIT_BYTES);
        let mut space = Space::default();
        for status in self.answered() {
            let [total, _, garbage, free] = status.space_units;
            let unused = free + garbage;
            space.total_bytes += total * unit;
            space.used_bytes += total.saturating_sub(unused) * unit;
            space.available_bytes += unused.saturating_sub(status.floor_units) * unit;
        }
        space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_what_file_data_may_take() {
        let status = CoreStatus { space_units: [100, 40, 20, 30], floor_units: 10, ..CoreStatus::default() };
        let cores = vec![CorePicture::Answered(Box::new(status)), CorePicture::Silent(1)];
        let snapshot = Snapshot { cores, ..Snapshot::default() };
        let space = snapshot.space();
        assert_eq!((space.total_bytes, space.used_bytes, space.available_bytes), (409_600, 204_800, 163_840));
        assert_eq!(space.full_percent(), 56);
        assert_eq!(snapshot.silent().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn an_empty_snapshot_is_not_full() {
        assert_eq!(Snapshot::default().space().full_percent(), 0);
    }
}
