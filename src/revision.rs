//! Positions in the store's one order of changes. Opaque outside, where they are called revisions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::Error;

const BYTES: usize = 24;

/// A place in the order of changes. The tag makes a number that is given out twice, by a store that
/// went back in time, a different position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which life of the store: another after a restored backup was declared as such.
    pub epoch: u64,
    /// The number of the change, gapless and in commit order.
    pub n: u64,
    /// 64 random bits, drawn for this change.
    pub tag: u64,
}

impl Position {
    /// The form that clients see: 32 characters.
    #[must_use]
    pub fn to_revision(self) -> String {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.n.to_be_bytes());
        bytes[16..].copy_from_slice(&self.tag.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`Position::to_revision`] made; `field` is the field it came in.
    pub fn from_revision(text: &str, field: &str) -> Result<Self, Error> {
        let bytes =
            URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == BYTES).ok_or_else(
                || Error::invalid(field, "is not a revision; send back one that you were given"),
            )?;
        let number =
            |at: usize| bytes[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Self { epoch: number(0), n: number(8), tag: number(16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_read_back_as_it_was_given() {
        let position = Position { epoch: u64::MAX, n: 7, tag: 0x0102_0304_0506_0708 };
        let revision = position.to_revision();
        assert_eq!(revision.len(), 32);
        assert_eq!(Position::from_revision(&revision, "revision").unwrap(), position);
        assert!(Position::from_revision("7", "revision").is_err());
    }
}
