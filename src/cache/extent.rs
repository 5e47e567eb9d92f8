//! How much of the store the cache holds, and what is still to be read of it page by page.

use crate::key::KeyId;
use crate::store::{PageAsk, PageEnd};

/// Keys of one page of the first load: small enough for a read to take milliseconds.
const PAGE_KEYS_MAX: usize = 512;
/// Digests of one page, once no more keys fit.
const PAGE_DIGESTS_MAX: usize = 1_024;

/// How much of the store the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The first load is under way: pages up to this key are in.
    Loading(Option<KeyId>),
    /// Some keys are not here; those up to this one are listed.
    Listing(Option<KeyId>),
    /// Every key is in: what is not here is not there.
    Complete,
    /// Some keys are not here.
    Partial,
}

impl Extent {
    /// Whether there are pages to be read.
    pub(super) const fn is_loading(self) -> bool {
        matches!(self, Self::Loading(_) | Self::Listing(_))
    }

    /// The next page, halved so often.
    pub(super) fn next_page(self, halvings: u32) -> Option<PageAsk> {
        let (after, most, of_digests) = match self {
            Self::Loading(after) => (after, PAGE_KEYS_MAX, false),
            Self::Listing(after) => (after, PAGE_DIGESTS_MAX, true),
            Self::Complete | Self::Partial => return None,
        };
        Some(PageAsk { after, keys_max: (most >> halvings).max(1), of_digests })
    }

    /// The same once a page is in that ends so; `may_list` more.
    pub(super) const fn after_page(self, end: PageEnd, may_list: bool) -> Self {
        match (self, end) {
            (Self::Loading(_), PageEnd::At(id)) => Self::Loading(Some(id)),
            (Self::Loading(_), PageEnd::Last) | (Self::Complete, _) => Self::Complete,
            (Self::Listing(_), PageEnd::At(id)) if may_list => Self::Listing(Some(id)),
            (Self::Listing(_) | Self::Partial, _) => Self::Partial,
        }
    }

    /// What is not here is not known to be absent any more. Pages that are still to come are of digests alone.
    pub(super) const fn without_completeness(self) -> Self {
        match self {
            Self::Loading(after) | Self::Listing(after) => Self::Listing(after),
            Self::Complete | Self::Partial => Self::Partial,
        }
    }
}
