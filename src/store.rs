//! What the use cases need of a store, and the contract that every store keeps.
//!
//! 1. **One method is one atomic step.** Nothing is answered before its commit is durable; a method
//!    that failed changed nothing, save for [`StoreError::OutcomeUnknown`].
//! 2. **One door in.** Every change of keys, accounts or policy goes through [`Store::mutate`], which
//!    checks the maker's rows, writes the records, the audit row, and last the change, in that order.
//! 3. **One order.** Changes are numbered gaplessly and in commit order: who reads number n sees every
//!    change up to n. Each carries a random tag, so that a number given out twice is noticed.
//! 4. **One door out for the cache.** [`Store::read`] returns one snapshot of the authority itself, never
//!    of a replica. The other look-ups are for administration and confer nothing on a cache.
//! 5. `Ok(None)` means that there is none; an error means that it could not be found out.
//! 6. Time and randomness are in the arguments.

use async_trait::async_trait;
use thiserror::Error as ThisError;
use tokio::sync::watch;

use crate::account::{Account, AccountChange, AccountId, NewAccount};
use crate::audit::{self, Entry};
use crate::clock::Timestamp;
use crate::error::{Error, Reason};
use crate::key::{Actor, KeyChange, KeyId, KeyRecord, KeyState, NewKey, RevokeReason};
use crate::policy::Policy;
use crate::revision::Position;
use crate::token::{Digest, Environment};

mod database;
pub mod door;
mod mac_key;
mod postgres;
mod query;
mod queue;
mod reading;
mod row;
mod rows;
mod sql;
mod sqlite;
mod trail;
mod verify;

pub use mac_key::{MacKey, MacKeys};
pub use verify::{Checked, Fault};

mod opening;

pub use opening::{Schema, check, migrate, new_mac_key, open, open_with, verify};

mod observed;

pub use observed::Observed;

mod nodes;

pub use nodes::{NodeQuery, NodeRow, NodeState, Nodes};

mod read;

pub use read::{Change, Lost, PageAsk, PageEnd, ReadAsk, ReadBatch, Subject, Unreadable};

/// The changes that a node keeps in mind: what a first read brings of them.
pub const RECENT_CHANGES_MAX: usize = 100_000;

/// Where keys, accounts and the policy live; see the module for the contract.
#[async_trait]
pub trait Store: Send + Sync {
    /// The one reader's read: one snapshot. `ask.after` is `None` on the first read.
    async fn read(&self, ask: &ReadAsk) -> Result<ReadBatch, StoreError>;

    /// Carries out one mutation, or none of it. A refusal is `Ok(Err(_))`: the store did its part.
    async fn mutate(&self, mutation: Mutation) -> Result<Result<Done, Error>, StoreError>;

    /// What was changed after the change of this number, the latest first, `most` of it.
    async fn changed(&self, after: u64, most: u32) -> Result<Vec<Change>, StoreError>;

    /// The key of this id.
    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError>;

    /// The key of this digest.
    async fn key_by_digest(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError>;

    /// The keys, in order of creation, that a query asks for.
    async fn list_keys(&self, query: &KeyQuery) -> Result<Vec<KeyRecord>, StoreError>;

    /// The account of this id, with the number of keys that count against its plan at `now`.
    async fn account(
        &self,
        id: &AccountId,
        now: Timestamp,
    ) -> Result<Option<(Account, u32)>, StoreError>;

    /// The accounts, by id, that a query asks for, each with the keys that count.
    async fn list_accounts(&self, query: &AccountQuery) -> Result<Vec<(Account, u32)>, StoreError>;

    /// The entries of the audit trail, the latest first, that a query asks for. What is made meanwhile
    /// does not move those before it.
    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError>;

    /// The policy and the change that made it what it is.
    async fn policy(&self) -> Result<(Policy, Position), StoreError>;

    /// Remembers that this time was told, so that a later process tells none before it.
    async fn keep_time(&self, now: Timestamp) -> Result<(), StoreError>;

    /// The highest time that was kept or written.
    async fn kept_time(&self) -> Result<Timestamp, StoreError>;

    /// The time by the store's own clock, if it has one: then all who share it go by that.
    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    /// Opens what the next read needs, where nothing is open: that may take longer than a read.
    async fn connect(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether other processes may change it as well: then it has to be polled, and what was read of it holds for a
    /// time only.
    fn is_shared(&self) -> bool {
        false
    }

    /// The nodes that share it, this one included; `None` when it cannot be shared.
    async fn nodes(&self, _query: NodeQuery) -> Result<Option<Nodes>, StoreError> {
        Ok(None)
    }

    /// Takes the row of this node out: it serves no more.
    async fn leave(&self, _boot_id: u64) -> Result<(), StoreError> {
        Ok(())
    }

    /// What may be lost although it was acknowledged, as the database is set up at present, in words for its
    /// operator; `None` when nothing may.
    async fn caveat(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// Changes whenever something was committed here: the reader's reason to read. What others commit to the same
    /// store it does not tell.
    fn commits(&self) -> watch::Receiver<u64>;

    /// Ends what is under way and lets go of the files; later calls fail.
    async fn close(&self);
}

/// Why a store could not do its part.
#[derive(Debug, ThisError)]
pub enum StoreError {
    /// It did not answer, and nothing was changed: a repeat is safe.
    #[error("the store cannot be reached: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A commit was sent, and whether it was made is not known.
    #[error("the store did not say whether it committed: {0}")]
    OutcomeUnknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It holds something impossible, and where.
    #[error("the store holds something impossible in {table}, {row}: {what}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row, by its key.
        row: String,
        /// What is wrong with it.
        what: String,
    },
    /// It was taken over by a newer version, and this one must not use it any more.
    #[error("the store {0}")]
    Outgrown(String),
    /// It cannot be opened; the text says what to do.
    #[error("{0}")]
    Unusable(String),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let (reason, message) = match &error {
            StoreError::Unavailable(_) | StoreError::Unusable(_) | StoreError::Outgrown(_) => {
                (Reason::StoreUnavailable, "the store cannot be reached; nothing was changed")
            }
            StoreError::OutcomeUnknown(_) => (
                Reason::OutcomeUnknown,
                "it is not known whether the change was made; repeat it with the same request_id",
            ),
            StoreError::Corrupt { .. } => (Reason::Internal, "internal error"),
        };
        let retry = matches!(reason, Reason::StoreUnavailable);
        let told = Self::new(reason, message).caused_by(error);
        if retry { told.retry_after(std::time::Duration::from_secs(1)) } else { told }
    }
}

// === Mutations ===

/// A change that somebody wants made.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// Who wants it.
    pub maker: Maker,
    /// From where, for the audit trail; empty when from within.
    pub peer: String,
    /// The time; the store writes it, or the highest time it wrote before if that is later.
    pub now: Timestamp,
    /// Random bits for the tags and ids of this mutation, drawn by the caller.
    pub seed: [u8; 32],
    /// What is wanted.
    pub command: Command,
}

/// Who wants a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Maker {
    /// An operator's key, and the scope by which it asks. Both are checked again, on the rows.
    Key {
        /// The key.
        id: KeyId,
        /// The scope that the call needs.
        scope: &'static str,
    },
    /// latchkey itself, and on what occasion; it may do everything.
    System(&'static str),
}

/// What is wanted.
#[derive(Debug, Clone)]
pub enum Command {
    /// Makes a key.
    CreateKey {
        /// What it shall be.
        new: NewKey,
        /// By what it is found.
        secret: NewSecret,
        /// The request, for a repeat to be recognised.
        request: Option<RequestMark>,
    },
    /// Changes a key.
    UpdateKey {
        /// Which.
        id: KeyId,
        /// How.
        change: KeyChange,
        /// The revision it must have.
        expected: Option<Position>,
    },
    /// Puts another key in a key's place.
    RotateKey {
        /// Which.
        id: KeyId,
        /// By what the new one is found.
        secret: NewSecret,
        /// How long the old one goes on working; zero revokes it at once.
        overlap: std::time::Duration,
        /// The request, for a repeat to be recognised.
        request: Option<RequestMark>,
    },
    /// Ends a key for good; repeating it changes nothing.
    RevokeKey {
        /// Which.
        target: KeyTarget,
        /// Why.
        reason: RevokeReason,
        /// With what words.
        comment: String,
        /// Whether every key that it made, and they made, goes with it.
        with_created: bool,
    },
    /// Makes an account.
    CreateAccount {
        /// What it shall be.
        new: NewAccount,
        /// The request, for a repeat to be recognised.
        request: Option<RequestMark>,
    },
    /// Changes an account.
    UpdateAccount {
        /// Which.
        id: AccountId,
        /// How.
        change: AccountChange,
        /// The revision it must have.
        expected: Option<Position>,
    },
    /// Replaces the policy.
    ApplyPolicy {
        /// By this.
        policy: Policy,
        /// The revision that the old one must have.
        expected: Option<Position>,
        /// Whether nothing shall be written.
        is_dry_run: bool,
        /// Whether scopes that active keys hold may be dropped.
        allow_orphans: bool,
    },
    /// Makes the reserved account, the policy and the root key of an empty store. Decided by one
    /// guarded row: a repeat changes nothing and its [`Done::keys`] is empty.
    Seed {
        /// The policy.
        policy: Policy,
        /// By what the root key is found.
        secret: NewSecret,
    },
    /// Makes a new root key and revokes the old one.
    ResetRoot {
        /// By what the new one is found.
        secret: NewSecret,
    },
    /// Makes an account and keys for trying latchkey out, whatever was made so before.
    SeedDemo {
        /// The account, made when it is not there.
        account: NewAccount,
        /// The keys.
        keys: Vec<(NewKey, NewSecret)>,
        /// The policy to be applied with it, if it changes.
        policy: Option<Policy>,
    },
}

/// By what a new key is found and shown; its token stays with the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSecret {
    /// The digest of its token.
    pub digest: Digest,
    /// What people are shown of its token.
    pub hint: String,
}

/// A request that must not be carried out twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMark {
    /// The client's UUID, in its canonical form.
    pub id: String,
    /// SHA-256 of what was asked, less the secret: the same content again has the same one.
    pub content: [u8; 32],
}

/// A key, by its id or by its token's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyTarget {
    /// By its id.
    Id(KeyId),
    /// By its token.
    Digest(Digest),
}

/// What a mutation did.
#[derive(Debug, Clone)]
pub struct Done {
    /// The last change made; `None` when nothing was changed.
    pub position: Option<Position>,
    /// The keys concerned: the one asked about first. `CreateKey`: the new one. `RotateKey`: the new one,
    /// then its predecessor. `RevokeKey`: the target, then those that are to go with it, now or before.
    pub keys: Vec<KeyRecord>,
    /// The keys that this very mutation revoked or paused, as they were before it.
    pub ended: Vec<KeyRecord>,
    /// The account concerned, with the keys that count against its plan.
    pub account: Option<(Account, u32)>,
    /// The policy as it is now.
    pub policy: Option<(Policy, Position)>,
    /// What the caller should know.
    pub notices: Vec<String>,
}

impl Done {
    /// Nothing was changed and nothing is concerned; the base for the others.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            position: None,
            keys: Vec::new(),
            ended: Vec::new(),
            account: None,
            policy: None,
            notices: Vec::new(),
        }
    }
}

// === Queries ===

/// Which keys are listed.
#[derive(Debug, Clone)]
pub struct KeyQuery {
    /// Of this account; `None` means of all.
    pub account: Option<AccountId>,
    /// Made by this, as in `key:ID`.
    pub created_by: Option<String>,
    /// Of this environment.
    pub environment: Option<Environment>,
    /// With this hint.
    pub hint: Option<String>,
    /// In one of these states at `now`; empty means any.
    pub states: Vec<KeyState>,
    /// The instant at which states are told.
    pub now: Timestamp,
    /// After this key.
    pub after: Option<KeyId>,
    /// At most so many.
    pub limit: u32,
}

/// Which accounts are listed.
#[derive(Debug, Clone)]
pub struct AccountQuery {
    /// Only this one: for callers who see no other.
    pub only: Option<AccountId>,
    /// On this plan.
    pub plan: Option<String>,
    /// The instant at which keys are counted.
    pub now: Timestamp,
    /// After this account.
    pub after: Option<AccountId>,
    /// At most so many.
    pub limit: u32,
}

/// The most that the changes on one page of the audit trail come to, as the store keeps them, unless one
/// entry alone comes to more.
pub const AUDIT_PAGE_BYTES: usize = 1024 * 1024;

/// Which entries of the audit trail are brought. Every field that is given narrows.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// About this account, its keys and the policy: for callers who see no more.
    pub reach: Option<AccountId>,
    /// About this account or its keys.
    pub account: Option<AccountId>,
    /// About this key.
    pub key: Option<KeyId>,
    /// About records of this kind.
    pub kind: Option<audit::Kind>,
    /// Made by this.
    pub actor: Option<Actor>,
    /// At this instant or later.
    pub start: Option<Timestamp>,
    /// Before this instant.
    pub end: Option<Timestamp>,
    /// Before the change of this number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// Entries of the audit trail.
#[derive(Debug, Clone)]
pub struct AuditPage {
    /// At most as many as were asked for and as [`AUDIT_PAGE_BYTES`] allows; one at least, if there is one.
    pub entries: Vec<Entry>,
    /// Whether there are more.
    pub has_more: bool,
}
