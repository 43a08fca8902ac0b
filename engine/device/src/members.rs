//! The list of a node's devices: an anchor of the first one (docs/formats/device.md).
//!
//! Invariants of a list that was decoded: member 0 is there and comes first, numbers rise, region numbers of no two
//! members overlap, and all lie below `next_region`.

use crate::layout::LOG_AT;
use crate::superblock::MemberPlace;
use crate::{ANCHOR_BYTES_MAX, Roles, Superblock, Uuid};
use cfs_types::{MEMBER_BYTES_MAX, MEMBERS_MAX, Reader};
use std::ops::Range;

const VERSION: u16 = 1;
const HEADER_BYTES: usize = 8;
/// A member without its path.
const MEMBER_BYTES: usize = 40;
/// Longest path, bytes.
const PATH_BYTES_MAX: usize = 4095;

/// Whether a member is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// Regions of it are granted.
    Active,
    /// No region of it is granted any more: what lies there is moved, then it leaves.
    Retiring,
}

impl MemberState {
    const ALL: [MemberState; 2] = [MemberState::Active, MemberState::Retiring];

    fn bits(self) -> u16 {
        match self {
            MemberState::Active => 0,
            MemberState::Retiring => 1,
        }
    }
}

/// A device of the node, as the list knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The device.
    pub device: Uuid,
    /// Its number: the upper bits of all addresses on it.
    pub number: u16,
    /// What it is there for.
    pub roles: Roles,
    /// Whether it is in use.
    pub state: MemberState,
    /// Number of its first region.
    pub first_region: u32,
    /// How many it has.
    pub regions: u32,
    /// Where they begin, bytes.
    pub regions_at: u64,
    /// The path where it was seen last; empty where nobody said.
    pub seen_at: Vec<u8>,
}

impl Member {
    /// What a superblock says of its device. None where it has more regions than can be numbered.
    fn of(superblock: &Superblock, seen_at: Vec<u8>) -> Option<Self> {
        let place = superblock.place.unwrap_or(MemberPlace::FIRST);
        Some(Member {
            device: superblock.device,
            number: place.number,
            roles: place.roles,
            state: MemberState::Active,
            first_region: place.first_region,
            regions: u32::try_from(superblock.layout.regions).ok()?,
            regions_at: superblock.layout.regions_at,
            seen_at,
        })
    }

    /// The numbers of its regions.
    pub fn numbers(&self) -> Range<u32> {
        self.first_region..self.first_region.saturating_add(self.regions)
    }

    /// Whether this is the device that the superblock is of, as the list has it.
    pub fn is_of(&self, superblock: &Superblock) -> bool {
        let said = Member::of(superblock, self.seen_at.clone());
        let said = said.map(|said| Member { roles: self.roles, state: self.state, ..said });
        said.as_ref() == Some(self)
    }
}

/// The devices of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberList {
    /// The number that the next region gets: none is used twice, also where its device has left.
    pub next_region: u32,
    /// In order of their numbers.
    pub members: Vec<Member>,
}

impl MemberList {
    /// The list of a device that is alone. None where it has more regions than can be numbered.
    pub fn alone(superblock: &Superblock) -> Option<Self> {
        let first = Member::of(superblock, Vec::new())?;
        Some(MemberList { next_region: first.numbers().end, members: vec![first] })
    }

    /// The member of that UUID.
    pub fn of_device(&self, device: Uuid) -> Option<&Member> {
        self.members.iter().find(|member| member.device == device)
    }

    /// The lowest number that no member has.
    pub fn free_number(&self) -> Option<u16> {
        (0..MEMBERS_MAX).find(|number| self.members.iter().all(|member| member.number != *number))
    }

    /// The list with one more member, which has the number and the region numbers of its superblock. None where
    /// there is no room for it: in numbers, or in the anchor.
    pub fn with(&self, superblock: &Superblock, seen_at: &[u8]) -> Option<Self> {
        let member = Member::of(superblock, seen_at.to_vec())?;
        let mut list = self.clone();
        list.next_region = list.next_region.max(member.numbers().end);
        list.members.push(member);
        list.members.sort_unstable_by_key(|member| member.number);
        (list.is_sound() && list.fits()).then_some(list)
    }

    /// The list with a member in another state.
    pub fn with_state(&self, number: u16, state: MemberState) -> Self {
        let mut list = self.clone();
        list.members.iter_mut().filter(|member| member.number == number).for_each(|member| member.state = state);
        list
    }

    /// The list without a further device. Its region numbers are not used again.
    pub fn without(&self, number: u16) -> Self {
        assert!(number > 0, "the first device has the list");
        let mut list = self.clone();
        list.members.retain(|member| member.number != number);
        list
    }

    /// Whether an anchor has room for it.
    pub fn fits(&self) -> bool {
        let paths = self.members.iter().map(|member| member.seen_at.len());
        let longest = paths.clone().max().unwrap_or(0);
        longest <= PATH_BYTES_MAX
            && HEADER_BYTES + self.members.len() * MEMBER_BYTES + paths.sum::<usize>() <= ANCHOR_BYTES_MAX
    }

    fn is_sound(&self) -> bool {
        let numbers = self.members.windows(2).all(|pair| pair[0].number < pair[1].number);
        let mut regions: Vec<Range<u32>> = self.members.iter().map(Member::numbers).collect();
        regions.sort_unstable_by_key(|range| range.start);
        let apart = regions.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let below = regions.iter().all(|range| range.end <= self.next_region);
        let each = self.members.iter().all(|member| {
            let end = u64::from(member.regions) * crate::REGION_BYTES;
            member.number < MEMBERS_MAX
                && (LOG_AT..MEMBER_BYTES_MAX).contains(&member.regions_at)
                && member.regions_at + end <= MEMBER_BYTES_MAX
                && member.first_region.checked_add(member.regions).is_some()
        });
        let first = self.members.first().is_some_and(|first| (first.number, first.first_region) == (0, 0));
        numbers && apart && below && each && first
    }

    /// The record of the anchor. Panics where the list does not fit.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.fits() && self.is_sound(), "checked when it was made");
        let count = u16::try_from(self.members.len()).expect("at most 128");
        let mut bytes = Vec::new();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(self.next_region.to_le_bytes());
        for member in &self.members {
            bytes.extend(member.device.bytes());
            bytes.extend(member.number.to_le_bytes());
            bytes.extend(member.roles.bits().to_le_bytes());
            bytes.extend(member.first_region.to_le_bytes());
            bytes.extend(member.regions.to_le_bytes());
            bytes.extend(member.state.bits().to_le_bytes());
            bytes.extend(u16::try_from(member.seen_at.len()).expect("at most 4095").to_le_bytes());
            bytes.extend(member.regions_at.to_le_bytes());
            bytes.extend(&member.seen_at);
        }
        bytes
    }

    /// The list that a record is of; None where it is none that this version knows.
    pub fn decode(record: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(record);
        (reader.u16()? == VERSION).then_some(())?;
        let (count, next_region) = (reader.u16()?, reader.u32()?);
        let mut members = Vec::new();
        for _ in 0..count {
            let (device, number) = (Uuid::new(*reader.bytes()?), reader.u16()?);
            let roles = Roles::from_bits(reader.u16()?)?;
            let (first_region, regions) = (reader.u32()?, reader.u32()?);
            let state = reader.u16()?;
            let state = MemberState::ALL.into_iter().find(|known| known.bits() == state)?;
            let path_bytes = reader.u16()?;
            let regions_at = reader.u64()?;
            let seen_at = reader.take(usize::from(path_bytes))?.to_vec();
            members.push(Member { device, number, roles, state, first_region, regions, regions_at, seen_at });
        }
        let list = MemberList { next_region, members };
        (reader.rest().is_empty() && list.is_sound() && list.fits()).then_some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::REGION_BYTES;

    fn member(number: u16, first_region: u32, regions: u32, path: &str) -> Member {
        Member {
            device: Uuid::new([u8::try_from(number).expect("small") + 0x10; 16]),
            number,
            roles: if number == 0 { Roles::ALL } else { Roles::DATA },
            state: MemberState::Active,
            first_region,
            regions,
            regions_at: (2 - u64::from(number.min(1))) * REGION_BYTES,
            seen_at: path.into(),
        }
    }

    fn sample() -> MemberList {
        MemberList { next_region: 0x30, members: vec![member(0, 0, 9, "/a"), member(2, 0x20, 16, "")] }
    }

    #[test]
    fn a_list_is_these_bytes() {
        let mut expected = vec![1, 0, 2, 0, 0x30, 0, 0, 0];
        expected.extend([0x10; 16]);
        expected.extend([0, 0, 15, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
        expected.extend(b"/a");
        expected.extend([0x12; 16]);
        expected.extend([2, 0, 4, 0, 0x20, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
        assert_eq!(sample().encode(), expected);
        assert_eq!(MemberList::decode(&expected), Some(sample()));
        for length in 0..expected.len() {
            assert_eq!(MemberList::decode(&expected[..length]), None, "{length}");
        }
        expected.push(0);
        assert_eq!(MemberList::decode(&expected), None);
    }

    #[test]
    fn a_member_retires_and_leaves_its_numbers_behind() {
        let retiring = sample().with_state(2, MemberState::Retiring);
        let mut expected = sample().encode();
        expected[8 + 40 + 2 + 28] = 1;
        assert_eq!(retiring.encode(), expected);
        assert_eq!(MemberList::decode(&expected), Some(retiring.clone()));
        expected[8 + 40 + 2 + 28] = 2;
        assert_eq!(MemberList::decode(&expected), None);
        let left = retiring.without(2);
        assert_eq!((left.members.len(), left.next_region, left.free_number()), (1, 0x30, Some(1)));
        assert_eq!(MemberList::decode(&left.encode()), Some(left));
    }

    #[test]
    fn a_list_that_contradicts_itself_is_refused() {
        let changed = |change: &dyn Fn(&mut MemberList)| {
            let mut list = sample();
            change(&mut list);
            list.is_sound()
        };
        assert!(changed(&|_| ()));
        assert!(!changed(&|list| list.members[1].number = 0));
        assert!(!changed(&|list| list.members[1].first_region = 8));
        assert!(!changed(&|list| list.members[1].regions = 17));
        assert!(!changed(&|list| list.members[0].first_region = 1));
        assert!(!changed(&|list| drop(list.members.remove(0))));
        assert!(!changed(&|list| list.members[1].number = MEMBERS_MAX));
        assert!(!changed(&|list| list.members[1].regions_at = MEMBER_BYTES_MAX - REGION_BYTES));
        assert!(!changed(&|list| list.members[1].regions_at = 0));
    }

    #[test]
    fn there_is_room_for_so_many_and_their_paths() {
        let mut list = sample();
        assert_eq!(list.free_number(), Some(1));
        let path = "/dev/disk/by-id/nvme-a-device-with-a-long-name-0123456789";
        list.members = (0..MEMBERS_MAX).map(|n| member(n, u32::from(n), 1, path)).collect();
        list.next_region = u32::from(MEMBERS_MAX);
        assert!(list.fits() && list.free_number().is_none());
        assert_eq!(MemberList::decode(&list.encode()), Some(list.clone()));
        list.members.iter_mut().for_each(|member| member.seen_at = path.repeat(2).into());
        assert!(!list.fits());
        let long = MemberList { members: vec![member(0, 0, 9, &"x".repeat(4096))], ..sample() };
        assert!(!long.fits());
    }
}
