//! Administration: making, changing, rotating and revoking keys, accounts and the policy.
//!
//! Every change goes through one method, `Keyring::mutate_doubting`: it is answered after a read sent after its
//! commit has shown it, so that on this node no earlier answer can return. A call that goes away half-way
//! must not stop it: the transport runs administration as tasks of their own.

use std::sync::Arc;

use sha2::Digest as _;
use tokio::sync::Semaphore;

use crate::account::AccountId;
use crate::authorizer::{Operator, Permission};
use crate::cache::Doubt;
use crate::clock::{Clock, Entropy, Timestamp};
use crate::error::{Error, Reason};
use crate::feed::Feed;
use crate::store::{
    Command, Done, KeyTarget, Maker, Mutation, NewSecret, RequestMark, Store, StoreError,
};
use crate::token::{Environment, Prefix, Token};

mod accounts;
mod audit;
mod keys;
mod nodes;
pub(crate) mod page;
mod policy;
mod receipt;

pub use accounts::{AccountList, AccountUpdate, Counted};
pub use audit::AuditList;
pub use keys::{Created, KeyList, KeyUpdate, LookupBy, Revoke, Revoked, Rotated};
pub use nodes::{ListedNode, Patience};
pub use policy::{Applied, PolicyUpdate};
pub use receipt::{Liveness, Receipt};

/// A handle on administration; cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    store: Arc<dyn Store>,
    feed: Feed,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    prefix: Prefix,
    /// Places for calls that wait for the nodes.
    waits: Arc<Semaphore>,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// What to ask for the next one with; empty at the end.
    pub next_page_token: String,
}

impl Keyring {
    /// Administers this store, which this reader reads; new tokens have this prefix.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        feed: Feed,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        prefix: Prefix,
    ) -> Self {
        let waits = Arc::new(Semaphore::new(nodes::WAITS_MAX));
        Self { store, feed, clock, entropy, prefix, waits }
    }

    /// The present instant, for states that depend on it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Makes a token; only its digest and hint go on.
    #[must_use]
    pub fn new_token(&self, environment: Environment) -> (Token, NewSecret) {
        let token = Token::generate(&self.prefix, environment, &*self.entropy);
        let secret = NewSecret { digest: token.digest(), hint: token.hint() };
        (token, secret)
    }

    /// Fails, with the one text, unless there is such an account within the operator's reach.
    async fn check_account<P: Permission>(
        &self,
        operator: &Operator<P>,
        account: &AccountId,
    ) -> Result<(), Error> {
        let is_there =
            operator.reaches(account) && self.store.account(account, self.now()).await?.is_some();
        is_there.then_some(()).ok_or_else(Error::not_found)
    }

    /// Makes a change for latchkey itself.
    pub async fn mutate_as_system(
        &self,
        what: &'static str,
        command: Command,
    ) -> Result<Done, Error> {
        self.mutate(Maker::System(what), String::new(), command).await
    }

    async fn mutate_as<P: Permission>(
        &self,
        operator: Operator<P>,
        command: Command,
    ) -> Result<Done, Error> {
        let maker = operator.maker();
        self.mutate(maker, operator.peer, command).await
    }

    async fn mutate(&self, maker: Maker, peer: String, command: Command) -> Result<Done, Error> {
        let doubts = doubts(&command);
        self.mutate_doubting(maker, peer, command, doubts).await
    }

    /// The one way to a change. Should its outcome not be known, the doubts are what must be read again.
    async fn mutate_doubting(
        &self,
        maker: Maker,
        peer: String,
        command: Command,
        doubts: Vec<Doubt>,
    ) -> Result<Done, Error> {
        let mut seed = [0; 32];
        self.entropy.fill(&mut seed);
        let mutation = Mutation { maker, peer, now: self.clock.now(), seed, command };
        let done = match self.store.mutate(mutation).await {
            Ok(Ok(done)) => done,
            Ok(Err(refused)) => {
                // What was done before by the same request must be shown as much as if it were done now.
                if refused.reason == Reason::AlreadyCreated {
                    self.feed.show(None).await?;
                }
                return Err(refused);
            }
            Err(error) => {
                if matches!(error, StoreError::OutcomeUnknown(_)) {
                    self.feed.doubt(doubts);
                }
                return Err(error.into());
            }
        };
        if let Err(unread) = self.feed.show(done.position).await {
            self.feed.doubt(doubts);
            return Err(unread);
        }
        Ok(done)
    }
}

/// What must be read again before it is used, should the outcome of this not be known.
fn doubts(command: &Command) -> Vec<Doubt> {
    match command {
        Command::CreateKey { secret, .. } => vec![Doubt::Digest(secret.digest)],
        Command::UpdateKey { id, .. } => vec![Doubt::Key(*id)],
        Command::RevokeKey { target: KeyTarget::Id(id), with_created: false, .. } => {
            vec![Doubt::Key(*id)]
        }
        Command::RevokeKey { target: KeyTarget::Digest(digest), with_created: false, .. } => {
            vec![Doubt::Digest(*digest)]
        }
        // An account without keys is in no cache.
        Command::CreateAccount { .. } => Vec::new(),
        Command::UpdateAccount { id, .. } => vec![Doubt::Account(id.clone())],
        // These concern keys that are not named; a rotation names them where its key is known.
        Command::RotateKey { .. }
        | Command::RevokeKey { with_created: true, .. }
        | Command::ApplyPolicy { .. }
        | Command::Seed { .. }
        | Command::ResetRoot { .. }
        | Command::SeedDemo { .. } => vec![Doubt::Everything],
    }
}

/// A request id beside a digest of what was asked: the same fields in the same order give the same one.
fn request_mark(id: Option<String>, content: &[&str]) -> Option<RequestMark> {
    let id = id?;
    let mut hash = sha2::Sha256::new();
    for field in content {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    Some(RequestMark { id, content: hash.finalize().into() })
}

/// A store that says it did a thing, and does not show it.
fn missing(what: &str) -> Error {
    Error::new(Reason::Internal, "internal error")
        .caused_by(format!("the store returned no {what}"))
}
