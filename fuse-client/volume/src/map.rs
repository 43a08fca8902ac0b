//! Which core serves which shard, and where a file's ranges live.

use cfs_seam::Address;
use cfs_types::{MapEpoch, SHARDS, ShardId};
use cfs_wire::Welcome;
use std::path::PathBuf;

/// A checked shard map: every shard has a core, every core an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ShardMap {
    pub epoch: MapEpoch,
    shard_core: Vec<u16>,
    cores: Vec<Address>,
}

impl ShardMap {
    /// None where the welcome's map is incomplete.
    pub fn from_welcome(welcome: &Welcome) -> Option<Self> {
        let cores = welcome.cores.iter().map(|text| parse_address(text)).collect::<Option<Vec<_>>>()?;
        let complete = welcome.shard_core.len() == SHARDS
            && welcome.shard_core.iter().all(|core| usize::from(*core) < cores.len());
        complete.then(|| ShardMap { epoch: welcome.map_epoch, shard_core: welcome.shard_core.clone(), cores })
    }

    /// The core that owns a shard.
    pub fn core_of(&self, shard: ShardId) -> u16 {
        self.shard_core[usize::from(shard.get())]
    }

    /// Any shard of a core, to address the core itself; None where it has none.
    pub fn shard_of(&self, core: u16) -> Option<ShardId> {
        ShardId::all().find(|shard| self.core_of(*shard) == core)
    }

    /// Where a core listens; None where the map has shrunk since the core was chosen.
    pub fn address(&self, core: u16) -> Option<&Address> {
        self.cores.get(usize::from(core))
    }

    /// Cores of the server.
    pub fn cores(&self) -> u16 {
        u16::try_from(self.cores.len()).unwrap_or(u16::MAX)
    }
}

/// `unix:/path` or `ip:port`.
fn parse_address(text: &str) -> Option<Address> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(PathBuf::from(path))),
        None => text.parse().ok().map(Address::Tcp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_types::SessionId;

    fn welcome(shard_core: Vec<u16>, cores: Vec<String>) -> Welcome {
        Welcome {
            session: SessionId::new(1),
            cluster: [0; 16],
            map_epoch: MapEpoch::new(1),
            shard_core,
            cores,
            lease_ms: 2000,
            incarnation: 1,
        }
    }

    #[test]
    fn maps_that_name_missing_cores_are_refused() {
        let address = "127.0.0.1:7400".to_owned();
        assert!(ShardMap::from_welcome(&welcome(vec![0; 256], vec![address.clone()])).is_some());
        assert!(ShardMap::from_welcome(&welcome(vec![1; 256], vec![address.clone()])).is_none());
        assert!(ShardMap::from_welcome(&welcome(vec![0; 255], vec![address])).is_none());
        assert!(ShardMap::from_welcome(&welcome(vec![0; 256], vec!["nowhere".to_owned()])).is_none());
    }

    #[test]
    fn a_core_is_addressed_by_a_shard_of_its_own() {
        let shard_core = (0..256_u16).map(|shard| shard % 2).collect();
        let address = "127.0.0.1:7400".to_owned();
        let map = ShardMap::from_welcome(&welcome(shard_core, vec![address; 3])).expect("complete");
        assert_eq!(map.shard_of(1).map(|shard| map.core_of(shard)), Some(1));
        assert_eq!(map.shard_of(2), None);
    }

    #[test]
    fn displayed_addresses_parse_back() {
        for address in
            [Address::Unix("/run/cfs/core-0.sock".into()), Address::Tcp("[::1]:7400".parse().expect("an address"))]
        {
            assert_eq!(parse_address(&address.to_string()), Some(address));
        }
    }
}
