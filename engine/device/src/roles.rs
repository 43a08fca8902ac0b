//! What a device of a node is there for.

use std::fmt;

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Roles(u16);

impl Roles {
    /// Log and anchors.
    pub const LOG: Roles = Roles(1);
    /// Sorted tables of metadata.
    pub const METADATA: Roles = Roles(2);
    /// File data.
    pub const DATA: Roles = Roles(4);
    /// File data that the cleaner has moved.
    pub const COLD: Roles = Roles(8);
    /// All of them: those of the first device.
    pub const ALL: Roles = Roles(15);
    /// All but the log: those of further devices unless others are asked for.
    pub const ALL_BUT_LOG: Roles = Roles(14);
    const NAMES: [(Roles, &'static str); 4] =
        [(Roles::LOG, "log"), (Roles::METADATA, "metadata"), (Roles::DATA, "data"), (Roles::COLD, "cold")];

    /// The bits as they are stored.
    pub const fn bits(self) -> u16 {
        self.0
    }
    /// From stored bits; None where there are others among them, or none.
    pub fn from_bits(bits: u16) -> Option<Self> {
        (bits != 0 && bits & !Roles::ALL.0 == 0).then_some(Roles(bits))
    }
    /// Whether all of `other` are among these.
    pub const fn has(self, other: Roles) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Roles::NAMES.iter().filter(|(role, _)| self.has(*role)).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_these_bits_and_names() {
        let bits = [Roles::LOG, Roles::METADATA, Roles::DATA, Roles::COLD].map(Roles::bits);
        assert_eq!(bits, [1, 2, 4, 8]);
        assert_eq!(Roles::ALL.to_string(), "log,metadata,data,cold");
        assert_eq!(Roles::from_bits(14), Some(Roles::ALL_BUT_LOG));
        assert_eq!((Roles::from_bits(0), Roles::from_bits(16)), (None, None));
        assert!(!Roles::ALL_BUT_LOG.has(Roles::LOG) && Roles::ALL.has(Roles::ALL_BUT_LOG));
    }
}
