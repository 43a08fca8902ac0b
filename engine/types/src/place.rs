//! Places on the devices of a node: one space of bytes, in which the upper 7 bits of an offset are the member and
//! the lower 57 the place on it (docs/decisions/0015-device-pool.md).

use std::fmt;

/// Devices of one node at most.
pub const MEMBERS_MAX: u16 = 128;
/// Bytes that can be addressed on one of them.
pub const MEMBER_BYTES_MAX: u64 = 1 << MEMBER_SHIFT;
const MEMBER_SHIFT: u32 = 57;
const _: () = assert!(MEMBERS_MAX as u64 * (MEMBER_BYTES_MAX >> 1) == 1 << 63);

/// The first byte of a member. Panics where there can be no such member.
pub fn member_offset(member: u16) -> u64 {
    assert!(member < MEMBERS_MAX, "member {member} of {MEMBERS_MAX}");
    u64::from(member) << MEMBER_SHIFT
}

/// The member that an offset lies on, and the place there.
pub fn member_of(offset: u64) -> (u16, u64) {
    let member = u16::try_from(offset >> MEMBER_SHIFT).expect("seven bits");
    (member, offset & (MEMBER_BYTES_MAX - 1))
}

/// A place for people: as an offset of the only device looks, where it is on the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlaceName(pub u64);

impl fmt::Display for PlaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match member_of(self.0) {
            (0, at) => write!(f, "device offset {at}"),
            (member, at) => write!(f, "device {member} offset {at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_a_member_and_a_place_on_it() {
        for (member, at) in [(0, 0), (0, MEMBER_BYTES_MAX - 1), (1, 0), (127, 4096), (127, MEMBER_BYTES_MAX - 1)] {
            assert_eq!(member_of(member_offset(member) + at), (member, at));
        }
        assert_eq!(PlaceName(4096).to_string(), "device offset 4096");
        assert_eq!(PlaceName(member_offset(3) + 4096).to_string(), "device 3 offset 4096");
    }
}
