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
use crate::failure::{Failure, chain};
use crate::policy::Policy;
use crate::store::{Command, Done, Maker, Mutation, NewSecret, Store};
use crate::token::{Environment, Prefix, Token};

/// Where the root token comes from, or goes to.
pub(super) enum Chosen {
    /// It was chosen by whoever configured us.
    Given(secrecy::SecretString),
    /// It is made here and goes there.
    Made(Delivery),
}

impl Chosen {
    /// By the configuration; a development session keeps it beside its store.
    pub(super) fn by(config: &Config, dev: Option<&Session>) -> Self {
        if let Some(token) = &config.root_token {
            return Self::Given(token.clone());
        }
        let beside = match dev {
            Some(session) => return Self::Made(Delivery::File(session.root_token_file())),
            None => beside_the_store(config.store.url.expose()),
        };
        Self::Made(Delivery::choose(None).unwrap_or(Delivery::File(beside)))
    }
}

/// `latchkey.db.root-token` for `sqlite://latchkey.db`.
fn beside_the_store(url: &str) -> PathBuf {
    let path = url.split_once("://").map_or(url, |(_, path)| path);
    let mut name = Path::new(path).as_os_str().to_owned();
    name.push(".root-token");
    name.into()
}

/// Makes the reserved account, the policy and the root key, when the store is empty.
pub(super) async fn seed(
    store: &dyn Store,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    prefix: &Prefix,
    policy: Policy,
    chosen: Chosen,
) -> Result<(), Failure> {
    let reserved = AccountId::reserved();
    let seeded = store.account(&reserved, clock.now()).await.map_err(|error| unusable(&error))?;
    if seeded.is_some() {
        return Ok(());
    }
    let (token, delivery) = match chosen {
        Chosen::Given(text) => (given(&text, prefix)?, None),
        Chosen::Made(delivery) => {
            let token = Token::generate(prefix, Environment::Live, entropy);
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
        // The commit may have been made: the file stays, so that the token is not lost.
        (Err(error), _) => return Err(error),
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
    let reserved = AccountId::reserved();
    let seeded = store.account(&reserved, clock.now()).await.map_err(|error| unusable(&error))?;
    if seeded.is_none() {
        return Err(Failure::new("the store is empty: there is no root key to reset")
            .help("start the service once; it makes one"));
    }
    let token = Token::generate(prefix, Environment::Live, entropy);
    delivery.deliver(&token)?;
    let command = Command::ResetRoot { secret: secret(&token) };
    mutate(store, clock, entropy, "root-reset", command).await.map(drop)
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

fn given(text: &secrecy::SecretString, prefix: &Prefix) -> Result<Token, Failure> {
    let malformed = |what: String| {
        Failure::new(format!("root_token is no token: {what}"))
            .help("make one by starting once without root_token, or by `latchkey root reset`")
    };
    let token =
        Token::from_text(text.expose_secret()).map_err(|error| malformed(error.to_string()))?;
    let parsed = crate::token::parse(token.expose().as_bytes());
    match parsed {
        Ok(parsed)
            if parsed.prefix == prefix.as_str() && parsed.environment == Environment::Live =>
        {
            Ok(token)
        }
        Ok(_) | Err(_) => Err(malformed(format!("it must begin with `{}_live_`", prefix.as_str()))),
    }
}

fn secret(token: &Token) -> NewSecret {
    NewSecret { digest: token.digest(), hint: token.hint() }
}

async fn mutate(
    store: &dyn Store,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    occasion: &'static str,
    command: Command,
) -> Result<Done, Failure> {
    let mut seed = [0; 32];
    entropy.fill(&mut seed);
    let maker = Maker::System(occasion);
    let mutation = Mutation { maker, peer: String::new(), now: clock.now(), seed, command };
    match store.mutate(mutation).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(refused)) => Err(Failure::new(chain(&refused))),
        Err(error) => Err(unusable(&error)),
    }
}

fn unusable(error: &crate::store::StoreError) -> Failure {
    Failure::of("cannot use the store", error)
}
