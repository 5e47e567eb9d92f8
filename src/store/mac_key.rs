//! Keys made in the store, by which nodes tell what they have kept elsewhere from what others put there.

use std::fmt;

use zeroize::Zeroizing;

use super::database::Statement;
use super::sql::Columns;
use super::{StoreError, row::Named};
use crate::clock::Entropy;

const BYTES: usize = 32;

/// A key for HMAC-SHA-256. It does not print.
#[derive(Clone)]
pub struct MacKey(Zeroizing<[u8; BYTES]>);

/// Those of now: what is kept is authenticated by the first, and what the one before authenticated still counts.
#[derive(Debug, Clone)]
pub struct MacKeys {
    /// By this one.
    pub current: MacKey,
    /// Until there is another one.
    pub previous: Option<MacKey>,
}

impl MacKey {
    /// Of random bytes, which nobody else has seen.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; BYTES]>) -> Self {
        Self(bytes)
    }

    /// A new one.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; BYTES]);
        entropy.fill(&mut *bytes);
        Self::new(bytes)
    }

    /// Its bytes: for making and checking what it authenticates, and for the store.
    #[must_use]
    pub fn expose(&self) -> &[u8; BYTES] {
        &self.0
    }

    /// Puts it in the place of the one by which nodes authenticate what they keep elsewhere.
    pub(super) fn renewal(&self) -> Statement {
        Statement::new("UPDATE feed SET mac_key_before = mac_key, mac_key = $1")
            .bind(self.expose().to_vec())
    }

    fn read(bytes: Vec<u8>) -> Result<Self, StoreError> {
        let bytes = Zeroizing::new(bytes);
        let key = bytes.as_slice().try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)));
        Named { table: "feed", row: "1".into() }.need("mac_key", key)
    }
}

impl MacKeys {
    /// Those in two columns from this one on.
    pub(super) fn read(row: &impl Columns, column: usize) -> Result<Self, StoreError> {
        let previous = row.maybe_bytes(column + 1)?.map(MacKey::read).transpose()?;
        Ok(Self { current: MacKey::read(row.bytes(column)?)?, previous })
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}
