//! The root key: made once on an empty store, and made anew by whoever holds the store itself.
//!
//! Its token is delivered before the commit that makes it valid, and never to a log.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;

use super::dev::Session;
use crate::account::AccountId;
use crate::clock::{Clock, Entropy};
use crate::config::Config;
use crate::delivery::Delivery;
use crate::failure::{Failure, Failures, chain};
use crate::policy::Policy;
use crate::store::{Command, Done, Maker, Mutation, NewSecret, Store, StoreError};
use crate::token::{Environment, Prefix, Token};

/// Where the root token comes from, or goes to.
pub enum Chosen {
    /// It was chosen by whoever configured us.
    Given(secrecy::SecretString),
    /// It is made here and goes there.
    Made(Delivery),
}

impl Chosen {
    /// By the configuration; a development session keeps it beside its store.
    pub(super) fn by(config: &mut Config, dev: Option<&Session>) -> Self {
        // Taken, so that it is wiped when it was used, and not kept for as long as the process lives.
        if let Some(token) = config.root_token.take() {
            return Self::Given(token);
        }
        let beside = match dev {
            Some(session) => return Self::Made(Delivery::File(session.root_token_file())),
            None => beside_the_store(config.store.url.file()),
        };
        Self::Made(Delivery::choose(None).unwrap_or(Delivery::File(beside)))
    }
}

/// `latchkey.db.root-token` for `latchkey.db`; for a store that is no file, `latchkey.root-token` in the working
/// directory.
fn beside_the_store(file: Option<&Path>) -> PathBuf {
    let mut name = file.unwrap_or(Path::new("latchkey")).as_os_str().to_owned();
    name.push(".root-token");
    name.into()
}

/// Makes the reserved account, the policy and the root key, when the store is empty. The policy is
/// asked for only then.
pub async fn seed(
    store: &dyn Store,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    prefix: &Prefix,
    policy: impl FnOnce() -> Result<Policy, Failures>,
    chosen: Chosen,
) -> Result<(), Failures> {
    if is_seeded(store, clock).await? {
        if let Chosen::Given(_) = chosen {
            tracing::info!(
                "root_token is not looked at: the store has its root key already, which `latchkey root reset` replaces"
            );
        }
        return Ok(());
    }
    let policy = policy()?;
    let (token, delivery) = match chosen {
        Chosen::Given(text) => (given(&text)?, None),
        Chosen::Made(delivery) => {
            let token = Token::generate(prefix, Environment::Live, entropy);
            make_way(&delivery)?;
            delivery.deliver(&token)?;
            (token, Some(delivery))
        }
    };
    let command = Command::Seed { policy, secret: secret(&token) };
    let done = mutate(store, clock, entropy, "root", command).await;
    match (done, delivery) {
        (Ok(done), Some(delivery)) if done.keys.is_empty() => delivery.withdraw(),
        (Ok(_), Some(delivery)) => announce(&delivery),
        (Ok(_), None) => tracing::info!("the root key was made from root_token"),
        (Err(unmade), delivery) => return Err(unmade.settle(delivery.as_ref()).into()),
    }
    Ok(())
}

/// Makes a new root key and revokes the old one.
pub(super) async fn reset(
    store: &dyn Store,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    prefix: &Prefix,
    delivery: &Delivery,
) -> Result<(), Failure> {
    if !is_seeded(store, clock).await? {
        return Err(Failure::new("the store is empty: there is no root key to reset")
            .help("start the service once; it makes one"));
    }
    let token = Token::generate(prefix, Environment::Live, entropy);
    delivery.deliver(&token)?;
    let command = Command::ResetRoot { secret: secret(&token) };
    let done = mutate(store, clock, entropy, "root-reset", command).await;
    done.map(drop).map_err(|unmade| unmade.settle(Some(delivery)))
}

/// Whoever resets a root key means a store that is there.
pub(super) fn demand_database(path: &Path) -> Result<(), Failure> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = format!("store.url: there is no database at {}", path.display());
            Err(Failure::new(message).help(
                "name the one that the service uses, by --store-url or by the service's --config",
            ))
        }
        Err(error) => Err(Failure::reading(format!("store.url {}", path.display()), &error)),
    }
}

async fn is_seeded(store: &dyn Store, clock: &dyn Clock) -> Result<bool, Failure> {
    let reserved = store.account(&AccountId::reserved(), clock.now()).await;
    reserved.map(|account| account.is_some()).map_err(|error| unusable(&error))
}

/// A start that was interrupted leaves its file behind. The store knows of no root key, so the token in
/// it opens nothing here.
fn make_way(delivery: &Delivery) -> Result<(), Failure> {
    if let Some(old) = delivery.set_aside()? {
        tracing::warn!(
            file = %old.display(),
            "a root token was there already, which opens nothing in this store: its file was renamed"
        );
    }
    Ok(())
}

fn announce(delivery: &Delivery) {
    match delivery {
        Delivery::File(path) => {
            tracing::info!(file = %path.display(), "the root key was made; its token is in this file");
        }
        Delivery::Terminal => {
            tracing::info!("the root key was made; its token stands above and is not shown again");
        }
    }
}

/// [`Config::check`] has looked at what it begins with.
fn given(text: &secrecy::SecretString) -> Result<Token, Failure> {
    Token::from_text(text.expose_secret())
        .map_err(|error| Failure::of("root_token is no token", &error))
}

fn secret(token: &Token) -> NewSecret {
    NewSecret { digest: token.digest(), hint: token.hint() }
}

/// Why a change is not known to have been made.
enum Unmade {
    /// Nothing was changed, for certain.
    Certain(Failure),
    /// The commit may have been made.
    Perhaps(Failure),
}

impl Unmade {
    /// Takes a token away that opens nothing; one that may open something is not lost.
    fn settle(self, delivery: Option<&Delivery>) -> Failure {
        match self {
            Self::Certain(failure) => {
                delivery.into_iter().for_each(Delivery::withdraw);
                failure
            }
            Self::Perhaps(failure) => {
                failure.help("keep the token until it was tried: it may be that of the root key")
            }
        }
    }
}

async fn mutate(
    store: &dyn Store,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    occasion: &'static str,
    command: Command,
) -> Result<Done, Unmade> {
    let mut seed = [0; 32];
    entropy.fill(&mut seed);
    let maker = Maker::System(occasion);
    let mutation = Mutation { maker, peer: String::new(), now: clock.now(), seed, command };
    match store.mutate(mutation).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(refused)) => Err(Unmade::Certain(Failure::new(chain(&refused)))),
        Err(error @ StoreError::OutcomeUnknown(_)) => Err(Unmade::Perhaps(unusable(&error))),
        Err(
            error @ (StoreError::Unavailable(_)
            | StoreError::Corrupt { .. }
            | StoreError::Unusable(_)
            | StoreError::Outgrown(_)),
        ) => Err(Unmade::Certain(unusable(&error))),
    }
}

fn unusable(error: &StoreError) -> Failure {
    Failure::of("cannot use the store", error)
}
