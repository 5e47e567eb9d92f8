//! The one door through which every change goes, for all databases alike: the rules, once.
//!
//! A backend gives it the [`Rows`] of one transaction and commits when it comes out. Whatever it refuses
//! or fails at, the backend rolls back; so a rule may be found broken after rows were written.
//!
//! For each record that changes: the record, its audit row, and last the change itself.

use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use self::ground::Ground;
pub(super) use self::requests::forgotten_before;
use super::{Change, Command, Done, Maker, Mutation, RequestMark, StoreError, Subject};
use crate::account::{Account, AccountId};
use crate::audit::{self, Entry};
use crate::clock::Timestamp;
use crate::error::{Error, Reason};
use crate::key::{Actor, KeyClass, KeyId, KeyRecord};
use crate::policy::{Catalogue, Policy};
use crate::revision::Position;
use crate::token::Digest;

mod ground;

mod keys;

mod rotation;

mod revocation;

mod accounts;

mod policy;

mod seed;

mod requests;

/// Carries out a mutation on the rows of one transaction, or says why not. Unless it comes out with
/// `Ok(Ok(_))`, everything that was written must be rolled back.
pub async fn pass<R: Rows>(
    rows: &mut R,
    mutation: &Mutation,
) -> Result<Result<Done, Error>, StoreError> {
    match carry_out(rows, mutation).await {
        Ok(done) => Ok(Ok(done)),
        Err(Halt::Refused(error)) => Ok(Err(error)),
        Err(Halt::Failed(error)) => Err(error),
    }
}

/// The rows of one transaction, in which nobody else writes.
#[async_trait]
pub trait Rows: Send {
    /// The head of the feed. It is asked for first, and from then on to the end of the transaction no
    /// other transaction may come past it: this makes the numbers gapless and in commit order.
    async fn head(&mut self) -> Result<Head, StoreError>;
    /// Sets the guard of [`Head::is_seeded`].
    async fn set_seeded(&mut self) -> Result<(), StoreError>;
    /// Adds a row to the audit trail, appends its change, and moves the head to it.
    async fn append(&mut self, entry: &Entry, change: &Change) -> Result<(), StoreError>;

    /// The policy, worked out; `None` before the store was seeded.
    async fn catalogue(&mut self) -> Result<Option<(Arc<Catalogue>, Position)>, StoreError>;
    /// Writes the policy.
    async fn put_policy(
        &mut self,
        policy: &Policy,
        revision: Position,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// The account of this id.
    async fn account(&mut self, id: &AccountId) -> Result<Option<Account>, StoreError>;
    /// Writes an account for the first time.
    async fn insert_account(&mut self, account: &Account) -> Result<(), StoreError>;
    /// Writes an account again; there has to be one.
    async fn update_account(&mut self, account: &Account) -> Result<(), StoreError>;
    /// The plans that have accounts, and how many.
    async fn plans_used(&mut self) -> Result<Vec<(String, u64)>, StoreError>;

    /// The key of this id.
    async fn key(&mut self, id: KeyId) -> Result<Option<KeyRecord>, StoreError>;
    /// The key of this digest.
    async fn key_by_digest(&mut self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError>;
    /// Writes a key for the first time.
    async fn insert_key(&mut self, key: &KeyRecord) -> Result<(), StoreError>;
    /// Writes a key again; there has to be one.
    async fn update_key(&mut self, key: &KeyRecord) -> Result<(), StoreError>;
    /// How many keys of a class count in an account at `at`: [`KeyRecord::is_counted`].
    async fn count_keys(
        &mut self,
        account: &AccountId,
        class: KeyClass,
        at: Timestamp,
    ) -> Result<u32, StoreError>;
    /// Every key that this maker made.
    async fn keys_made_by(&mut self, maker: &Actor) -> Result<Vec<KeyRecord>, StoreError>;
    /// The scopes that keys hold or may hand out which are neither revoked nor expired, and how many
    /// keys do.
    async fn scopes_held(&mut self, at: Timestamp) -> Result<Vec<(String, u64)>, StoreError>;

    /// What is remembered of a request.
    async fn request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        id: &str,
    ) -> Result<Option<Remembered>, StoreError>;
    /// Remembers a request.
    async fn insert_request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        mark: &RequestMark,
        made: &Made,
        at: Timestamp,
    ) -> Result<(), StoreError>;
    /// Forgets some of the requests made before an instant, a bounded number at a time.
    async fn forget_requests(&mut self, before: Timestamp) -> Result<(), StoreError>;
}

/// The head of the feed.
pub struct Head {
    /// The last change; number 0 when there was none yet.
    pub position: Position,
    /// When it was made.
    pub at: Timestamp,
    /// Whether the root key was made.
    pub is_seeded: bool,
}

/// What a request made, so that a repeat can say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The account, or that of the key.
    pub account: AccountId,
    /// The key, if it was one.
    pub key: Option<KeyId>,
}

/// A request that was carried out before.
pub struct Remembered {
    /// What was asked, as its mark has it.
    pub content: Vec<u8>,
    /// What it made.
    pub made: Made,
}

/// Why a mutation came to a halt: refused by a rule, or failed by the database.
#[derive(Debug)]
enum Halt {
    Refused(Error),
    Failed(StoreError),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

async fn carry_out<R: Rows>(rows: &mut R, mutation: &Mutation) -> Result<Done, Halt> {
    let Head { position, at, is_seeded } = rows.head().await?;
    let mut door =
        Door { rows, mutation, at: mutation.now.max(at), head: position, last: None, draws: 0 };
    let door = &mut door;
    if let Command::Seed { policy, secret } = &mutation.command {
        ground::check_system(&mutation.maker)?;
        return if is_seeded { Ok(Done::nothing()) } else { door.seed(policy, secret).await };
    }
    let ground = Ground::of(door).await?;
    match &mutation.command {
        Command::CreateKey { new, secret, request } => {
            door.create_key(&ground, new, secret, request.as_ref()).await
        }
        Command::UpdateKey { id, change, expected } => {
            door.update_key(&ground, *id, change, *expected).await
        }
        Command::RotateKey { id, secret, overlap, request } => {
            door.rotate_key(&ground, *id, secret, *overlap, request.as_ref()).await
        }
        Command::RevokeKey { target, reason, comment, with_created } => {
            let words = revocation::Words { reason: *reason, comment };
            door.revoke_key(&ground, *target, &words, *with_created).await
        }
        Command::CreateAccount { new, request } => {
            door.create_account(&ground, new, request.as_ref()).await
        }
        Command::UpdateAccount { id, change, expected } => {
            door.update_account(&ground, id, change, *expected).await
        }
        Command::ApplyPolicy { policy, expected, is_dry_run, allow_orphans } => {
            let wish = policy::Wish {
                policy,
                expected: *expected,
                is_dry_run: *is_dry_run,
                allow_orphans: *allow_orphans,
            };
            door.apply_policy(&ground, &wish).await
        }
        Command::Seed { .. } => Ok(Done::nothing()),
        Command::ResetRoot { secret } => {
            ground::check_system(&mutation.maker)?;
            door.reset_root(secret).await
        }
        Command::SeedDemo { account, keys, policy } => {
            ground::check_system(&mutation.maker)?;
            door.seed_demo(ground, account, keys, policy.as_ref()).await
        }
    }
}

/// One mutation on its way through.
struct Door<'a, R> {
    rows: &'a mut R,
    mutation: &'a Mutation,
    /// The time of every change that it makes; not before that of the change before it.
    at: Timestamp,
    /// The last change in the feed.
    head: Position,
    /// The last change that this mutation made.
    last: Option<Position>,
    /// How many random values were drawn.
    draws: u64,
}

impl<R: Rows> Door<'_, R> {
    /// Writes a new key. What it says of its revision, version and times is set here.
    async fn insert_key(&mut self, mut key: KeyRecord) -> Result<KeyRecord, StoreError> {
        key.revision = self.next();
        key.version = 1;
        key.create_time = self.at;
        key.update_time = self.at;
        self.rows.insert_key(&key).await?;
        let change = audit::Change::between(None, audit::of_key(&key));
        self.finish(Subject::Key(key.id), Some(&key), Some(&key.account), change).await?;
        Ok(key)
    }

    /// Writes a key again.
    async fn update_row(
        &mut self,
        before: &KeyRecord,
        mut key: KeyRecord,
    ) -> Result<KeyRecord, StoreError> {
        key.revision = self.next();
        key.version = before.version + 1;
        key.update_time = self.at;
        self.rows.update_key(&key).await?;
        let change = audit::Change::between(Some(audit::of_key(before)), audit::of_key(&key));
        self.finish(Subject::Key(key.id), Some(&key), Some(&key.account), change).await?;
        Ok(key)
    }

    /// Writes an account, for the first time when there is none before.
    async fn put_account(
        &mut self,
        before: Option<&Account>,
        mut account: Account,
    ) -> Result<Account, StoreError> {
        account.revision = self.next();
        account.version = before.map_or(1, |before| before.version + 1);
        account.update_time = self.at;
        if before.is_none() {
            account.create_time = self.at;
            self.rows.insert_account(&account).await?;
        } else {
            self.rows.update_account(&account).await?;
        }
        let change =
            audit::Change::between(before.map(audit::of_account), audit::of_account(&account));
        let subject = Subject::Account(account.id.clone());
        self.finish(subject, None, Some(&account.id), change).await?;
        Ok(account)
    }

    /// Writes the policy.
    async fn put_policy(
        &mut self,
        before: Option<&Policy>,
        policy: &Policy,
    ) -> Result<Position, StoreError> {
        let revision = self.next();
        self.rows.put_policy(policy, revision, self.at).await?;
        let change = audit::Change::between(before.map(audit::of_policy), audit::of_policy(policy));
        self.finish(Subject::Policy, None, None, change).await?;
        Ok(revision)
    }

    /// Takes the next number, with a tag drawn for it. It counts once [`Door::finish`] wrote it.
    fn next(&mut self) -> Position {
        let tag = self.draw_number();
        self.head = Position { n: self.head.n + 1, tag, ..self.head };
        self.head
    }

    /// The audit row, and last of all the change.
    async fn finish(
        &mut self,
        subject: Subject,
        key: Option<&KeyRecord>,
        account: Option<&AccountId>,
        change: audit::Change,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            revision: self.head,
            time: self.at,
            actor: self.actor(),
            action: action(&self.mutation.command).to_owned(),
            account: account.cloned(),
            key: key.map(|key| key.id),
            change,
            peer: self.mutation.peer.clone(),
            request_id: request_id(&self.mutation.command),
        };
        let change = Change { position: self.head, subject, digest: key.map(|key| key.digest) };
        self.rows.append(&entry, &change).await?;
        self.last = Some(self.head);
        Ok(())
    }

    /// Who makes the change.
    fn actor(&self) -> Actor {
        match &self.mutation.maker {
            Maker::Key { id, scope: _ } => Actor::Key(*id),
            Maker::System(occasion) => Actor::System((*occasion).to_owned()),
        }
    }

    /// 64 random bits.
    fn draw_number(&mut self) -> u64 {
        self.draw()[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// 256 random bits: the seed, and how many were drawn before, hashed.
    fn draw(&mut self) -> [u8; 32] {
        let hash = Sha256::new()
            .chain_update(self.mutation.seed)
            .chain_update(self.draws.to_be_bytes())
            .finalize();
        self.draws += 1;
        hash.into()
    }

    /// An id for the key that the next change makes.
    fn draw_key_id(&mut self) -> KeyId {
        let random = self.draw_number();
        KeyId::new(self.at, self.head.n + 1, random)
    }

    /// What was done, without anything concerned.
    fn done(&self) -> Done {
        Done { position: self.last, ..Done::nothing() }
    }

    /// An account with its keys that count, as answers have it.
    async fn counted(&mut self, account: Account) -> Result<(Account, u32), StoreError> {
        let count = self.rows.count_keys(&account.id, KeyClass::Data, self.at).await?;
        Ok((account, count))
    }
}

/// Fails when the caller expects another revision than the one there is.
fn check_expected(expected: Option<Position>, actual: Position) -> Result<(), Error> {
    if expected.is_none_or(|expected| expected == actual) {
        return Ok(());
    }
    Err(Error::new(
        Reason::RevisionMismatch,
        "the resource was changed since that revision; read it again",
    )
    .with("revision", actual.to_revision()))
}

/// What a change is called, in the audit trail as in the log.
pub(super) const fn action(command: &Command) -> &'static str {
    match command {
        Command::CreateKey { .. } => "CreateKey",
        Command::UpdateKey { .. } => "UpdateKey",
        Command::RotateKey { .. } => "RotateKey",
        Command::RevokeKey { .. } => "RevokeKey",
        Command::CreateAccount { .. } => "CreateAccount",
        Command::UpdateAccount { .. } => "UpdateAccount",
        Command::ApplyPolicy { .. } => "ApplyPolicy",
        Command::Seed { .. } => "Seed",
        Command::ResetRoot { .. } => "ResetRoot",
        Command::SeedDemo { .. } => "SeedDemo",
    }
}

fn request_id(command: &Command) -> Option<String> {
    match command {
        Command::CreateKey { request, .. }
        | Command::RotateKey { request, .. }
        | Command::CreateAccount { request, .. } => {
            request.as_ref().map(|request| request.id.clone())
        }
        Command::UpdateKey { .. }
        | Command::RevokeKey { .. }
        | Command::UpdateAccount { .. }
        | Command::ApplyPolicy { .. }
        | Command::Seed { .. }
        | Command::ResetRoot { .. }
        | Command::SeedDemo { .. } => None,
    }
}
