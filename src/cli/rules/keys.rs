//! What the keys of a log may do, as a server tells it: each is looked up once, as long as there is one that answers.

use std::collections::HashMap;
use std::rc::Rc;

use crate::cli::Environment;
use crate::cli::console::Console;
use crate::cli::server::ServerArguments;
use crate::cli::session::Session;
use crate::error::Reason;
use crate::failure::{Failure, Failures};
use crate::key::KeyId;
use crate::policy::Catalogue;
use crate::proto::v1::{self, GetKeyRequest};
use crate::scope::{ScopePattern, ScopeSet};
use crate::token;

/// How many keys are remembered; beyond that all are forgotten, and those in use are looked up again.
const KEYS_MAX: usize = 100_000;

/// The keys of a log.
pub(super) struct Keys<'a> {
    catalogue: &'a Catalogue,
    known: HashMap<String, Known>,
    server: Server<'a>,
}

/// Where they are looked up.
enum Server<'a> {
    NotAsked(&'a ServerArguments, &'a Environment),
    Open(Session),
    Away,
}

/// What there is to know of a key.
#[derive(Clone)]
pub(super) enum Known {
    Held(Rc<Held>),
    /// There is none of this id, or not for this operator.
    Unknown,
    NotLookedUp,
}

/// What a key may do.
pub(super) struct Held {
    pub(super) environment: token::Environment,
    pub(super) scopes: String,
    pub(super) set: ScopeSet,
}

impl<'a> Keys<'a> {
    /// To be looked up in this session, else at this server, which is asked when the first key comes.
    pub(super) fn new(
        catalogue: &'a Catalogue,
        session: Option<Session>,
        server: &'a ServerArguments,
        environment: &'a Environment,
    ) -> Self {
        let server = session.map_or(Server::NotAsked(server, environment), Server::Open);
        Self { catalogue, known: HashMap::new(), server }
    }

    /// What there is to know of this key.
    pub(super) fn get(&mut self, id: &str, console: &mut Console) -> Known {
        if let Some(known) = self.known.get(id) {
            return known.clone();
        }
        let known = match KeyId::parse(id) {
            None => Known::Unknown,
            Some(key_id) => self.look_up(&key_id, console),
        };
        if self.known.len() >= KEYS_MAX {
            self.known.clear();
        }
        self.known.insert(id.to_owned(), known.clone());
        known
    }

    fn look_up(&mut self, id: &KeyId, console: &mut Console) -> Known {
        if let Server::NotAsked(server, environment) = self.server {
            self.server = match server.open(environment) {
                Ok(session) => Server::Open(session),
                Err(failures) => away(&failures, console),
            };
        }
        let Server::Open(session) = &self.server else { return Known::NotLookedUp };
        let refusal = match session.call(GetKeyRequest { key_id: id.to_string() }) {
            Ok(answer) => {
                let held = answer.key.and_then(|key| self.held(&key));
                return held.map_or(Known::Unknown, |held| Known::Held(Rc::new(held)));
            }
            Err(refusal) => refusal,
        };
        if refusal.is(Reason::NotFound) {
            return Known::Unknown;
        }
        self.server = away(&refusal.into(), console);
        Known::NotLookedUp
    }

    fn held(&self, key: &v1::Key) -> Option<Held> {
        let environment = match v1::Environment::try_from(key.environment) {
            Ok(v1::Environment::Live) => token::Environment::Live,
            Ok(v1::Environment::Test) => token::Environment::Test,
            Ok(v1::Environment::Unspecified) | Err(_) => return None,
        };
        let patterns: Vec<_> =
            key.scopes.iter().filter_map(|scope| ScopePattern::parse(scope).ok()).collect();
        let set = self.catalogue.held(&patterns);
        Some(Held { environment, scopes: key.scopes.join(", "), set })
    }
}

fn away<'a>(failures: &Failures, console: &mut Console) -> Server<'a> {
    let why = failures.0.first().map_or("", |Failure { message, .. }| message);
    console.note(&format!("Keys are not looked up: {why}."));
    Server::Away
}
