//! Why a node lets go of all that it holds.

use thiserror::Error;

/// Why nothing that the cache holds can be trusted any more: the store went back in time, or broke
/// its order.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fence {
    /// It is another store, or was restored as such.
    #[error("the store is in another epoch")]
    AnotherEpoch,
    /// What was applied is not what stands there now.
    #[error("the store went back in time: at change {n} it no longer holds what this node applied")]
    WentBack {
        /// The number.
        n: u64,
    },
    /// A change is missing.
    #[error("the store's order is broken: after change {n} comes {next}")]
    Gap {
        /// The last change that fits.
        n: u64,
        /// What comes after it.
        next: u64,
    },
    /// A commit that this node was told of is not there.
    #[error("the store does not show change {n}, which it acknowledged")]
    OwnCommitMissing {
        /// The number.
        n: u64,
    },
    /// The store must not be used by this version any more.
    #[error("the store {0}")]
    Outgrown(String),
    /// A change cannot be read: it may have changed anything.
    #[error("what the change after {n} changed cannot be told")]
    Unreadable {
        /// The last change that was applied.
        n: u64,
    },
    /// The policy in the store is not one.
    #[error("the store's policy cannot be used: {0}")]
    BadPolicy(String),
}

impl Fence {
    /// Whether the store went back in time or out of order, and is not only of another version than this node.
    #[must_use]
    pub const fn is_of_history(&self) -> bool {
        match self {
            Self::AnotherEpoch
            | Self::WentBack { .. }
            | Self::Gap { .. }
            | Self::OwnCommitMissing { .. } => true,
            Self::Outgrown(_) | Self::Unreadable { .. } | Self::BadPolicy(_) => false,
        }
    }
}
