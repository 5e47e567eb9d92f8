//! What the one reader asks for, and what it is brought: one snapshot.

use std::time::Duration;

use super::{MacKeys, NodeRow};
use crate::account::{Account, AccountId};
use crate::key::{KeyId, KeyRecord};
use crate::policy::Policy;
use crate::revision::Position;
use crate::token::Digest;

/// What the one reader asks for.
#[derive(Debug, Clone, Default)]
pub struct ReadAsk {
    /// What this node says of itself. Where the store is shared, it is written and committed before the read, on the
    /// same connection, when `must_renew`, and when the connection is new.
    pub node: Option<NodeRow>,
    /// Whether that must be written.
    pub must_renew: bool,
    /// The position up to which the reader has applied everything; `None` at the start.
    pub after: Option<Position>,
    /// Digests that somebody waits for.
    pub wanted: Vec<Digest>,
    /// A page of the first load: the keys after this one, so many.
    pub page: Option<PageAsk>,
    /// The most changes that one read brings.
    pub changes_max: usize,
    /// After how long it is given up; the store need not go on for longer then. Zero: when it likes.
    pub time_max: Duration,
}

/// A page of the first load.
#[derive(Debug, Clone, Copy)]
pub struct PageAsk {
    /// The last key of the page before; `None` for the first page.
    pub after: Option<KeyId>,
    /// How many.
    pub keys_max: usize,
    /// Whether only their digests are brought.
    pub of_digests: bool,
}

/// One snapshot of the store.
#[derive(Debug, Clone)]
pub struct ReadBatch {
    /// Whether the node's row was written and committed before this was read, by a server that can commit.
    pub is_renewed: bool,
    /// The position as of which all of this is true. When `is_behind`, that of the last change brought.
    pub position: Position,
    /// Whether there are more changes than one read brings; then it brings changes with their records, and
    /// neither what was wanted nor a page.
    pub is_behind: bool,
    /// What stands in the store at the number that was asked after; `None` when nothing does.
    pub found: Option<Position>,
    /// The changes after the position asked after, in order. On the first read: the window of recent
    /// ones, without their records.
    pub changes: Vec<Change>,
    /// Keys that changed, were wanted, or stand on the page, as they are now.
    pub keys: Vec<KeyRecord>,
    /// Accounts that changed, and those of the keys above, as they are now.
    pub accounts: Vec<Account>,
    /// The policy, when it changed, and on the first read.
    pub policy: Option<Policy>,
    /// Wanted digests that no key has.
    pub absent: Vec<Digest>,
    /// Those on the page, where it is of digests alone.
    pub listed: Vec<Digest>,
    /// Rows that should be above and cannot be read, because they make no sense or a newer version wrote
    /// them: neither there nor absent, so nothing may be answered about them.
    pub unreadable: Vec<Unreadable>,
    /// Where the page ended, when one was asked for.
    pub page: Option<PageEnd>,
    /// By what nodes authenticate what they keep elsewhere.
    pub mac_keys: MacKeys,
}

/// A row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// What it should have told of.
    pub of: Lost,
    /// Which row it is and what is wrong with it; nothing that stands in it.
    pub why: String,
}

/// What a row that cannot be read should have told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The key of this digest; without one, nobody's.
    Key(Option<Digest>),
    /// An account.
    Account(AccountId),
    /// The policy.
    Policy,
    /// A change: after the position asked after, or, on the first read, before the changes that are brought.
    Change,
}

/// Where a page of the first load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageEnd {
    /// There may be keys after this one.
    At(KeyId),
    /// That was the last.
    Last,
}

/// One change, as the feed has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place in the order.
    pub position: Position,
    /// What was changed.
    pub subject: Subject,
    /// The digest of a key, so that what was remembered of its absence dies by it.
    pub digest: Option<Digest>,
}

/// What a change was made to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A key.
    Key(KeyId),
    /// An account.
    Account(AccountId),
    /// The policy.
    Policy,
}
