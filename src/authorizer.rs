//! The hot path: credential, digest, cache, decision.
//!
//! On a hit nothing is awaited. A token whose form, prefix or checksum is wrong is neither hashed nor
//! looked up. A miss waits until it was found out, then looks again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::account::AccountId;
use crate::cache::{Cache, Found, View};
use crate::clock::Clock;
use crate::decision::{Ask, Decision, Denial, Identity, Requirement, decide};
use crate::error::{Error, Reason};
use crate::feed::{Feed, not_ready};
use crate::filling::Filling;
use crate::key::KeyId;
use crate::lease::Freshness;
use crate::metrics::Lookup;
use crate::policy::routes::{Gate, Needs};
use crate::policy::target::Target;
use crate::revision::Position;
use crate::scope::expression::{BadExpression, Expression};
use crate::token::{self, Digest, Environment, Prefix};

pub mod credential;
pub mod operator;

pub use credential::Credential;
pub use operator::{Operator, Permission};

/// How often a key is read that is gone again when looked up: in a cache too small for its traffic.
const FETCHES_MAX: usize = 3;
/// How long a request waits for this node to reach its `min_revision`.
const CATCH_UP_TIME_MAX: Duration = Duration::from_millis(150);

/// Decides on requests; a cheap handle.
#[derive(Clone)]
pub struct Authorizer {
    cache: Arc<Cache>,
    feed: Feed,
    filling: Filling,
    clock: Arc<dyn Clock>,
    prefix: Prefix,
}

/// What a caller asks about a request.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// What the client brought.
    pub credential: Credential<'a>,
    /// What the request needs.
    pub required: Required<'a>,
    /// From where the client comes, where known.
    pub client_address: Option<IpAddr>,
    /// The environment it must have, if it must.
    pub environment: Option<Environment>,
    /// What the request counts; `None` means the highest cost of the scopes named.
    pub cost: Option<u32>,
    /// A change that the answer must reflect.
    pub min_revision: Option<Position>,
}

/// What a request needs, as the caller wrote it.
#[derive(Clone, Copy)]
pub enum Required<'a> {
    /// An expression of scopes.
    Scope(&'a str),
    /// Nothing but a valid key.
    AuthenticateOnly,
    /// What the policy's rules say of it.
    ByRules(&'a Target<'a>),
}

/// What a request needs, once the policy was asked.
struct Needed {
    /// `None` means that any valid key will do.
    scope: Option<Arc<Expression>>,
    /// Of the question and of the rule; the key must be of both.
    environments: [Option<Environment>; 2],
    cost: Option<u32>,
    /// Where a rule said so: its name, and whether it is only observed.
    rule: Option<(Arc<str>, bool)>,
}

/// What one look at the cache gave.
enum Looked {
    Decided(Box<Decision>),
    Miss(Digest),
    Behind,
    /// What is held is too old for this answer.
    TooOld,
}

impl Authorizer {
    /// Decides by this cache, which this reader keeps true; new tokens have this prefix.
    #[must_use]
    pub fn new(
        cache: Arc<Cache>,
        feed: Feed,
        filling: Filling,
        clock: Arc<dyn Clock>,
        prefix: Prefix,
    ) -> Self {
        Self { cache, feed, filling, clock, prefix }
    }

    /// Decides. An error means that it could not be found out, or that the question is wrong.
    pub async fn authorize(&self, question: &Question<'_>) -> Result<Decision, Error> {
        self.authorize_noting(question, &mut Lookup::None).await
    }

    /// The same, with a note on how the cache could help.
    pub async fn authorize_noting(
        &self,
        question: &Question<'_>,
        lookup: &mut Lookup,
    ) -> Result<Decision, Error> {
        let mut may_catch_up = true;
        for _ in 0..FETCHES_MAX {
            match self.look(question)? {
                Looked::Decided(decision) => {
                    if *lookup != Lookup::Miss {
                        *lookup = lookup_of(&decision);
                    }
                    return Ok(*decision);
                }
                Looked::Miss(digest) => {
                    *lookup = Lookup::Miss;
                    self.filling.fetch(digest).await?;
                }
                Looked::Behind | Looked::TooOld if may_catch_up => {
                    may_catch_up = false;
                    self.feed.catch_up(CATCH_UP_TIME_MAX).await;
                }
                Looked::TooOld => {
                    return Err(not_ready(
                        "this node cannot reach the store, and what it holds is too old to answer from",
                    ));
                }
                Looked::Behind => {
                    return Err(Error::new(
                        Reason::RevisionAhead,
                        "this node has not yet seen min_revision",
                    )
                    .retry_after(Duration::from_millis(100)));
                }
            }
        }
        Err(not_ready("the key cannot be read, or the cache is too small to hold it"))
    }

    /// One step under the cache's lock: everything that an answer is made of is looked up in it.
    fn look(&self, question: &Question<'_>) -> Result<Looked, Error> {
        let now = self.clock.now();
        self.cache
            .view(now, |view| {
                // First, for what it waits for may be the policy that the scope is in.
                if let Some(wanted) = question.min_revision
                    && !is_reached(wanted, view)?
                {
                    return Ok(Looked::Behind);
                }
                let needed = match question.required {
                    Required::Scope(text) => match view.catalogue().expression(text) {
                        Ok(expression) => Needed::of_question(question, Some(expression)),
                        // A policy that was made since may have it.
                        Err(BadExpression::Unknown { .. }) if !self.is_fresh(view) => {
                            return Ok(Looked::TooOld);
                        }
                        Err(wrong) => {
                            return Err(Error::invalid("required_scope", wrong.to_string()));
                        }
                    },
                    Required::AuthenticateOnly => Needed::of_question(question, None),
                    Required::ByRules(target) => match Needed::by_rules(question, target, view) {
                        Ok(needed) => needed,
                        Err(decision) => return Ok(self.in_time(decision, false, view)),
                    },
                };
                let digest = match self.digest(&question.credential, view) {
                    Ok(digest) => digest,
                    Err(denial) => {
                        // Of a rule that only observes, this is an allow.
                        let is_strict = needed.scope.as_ref().is_some_and(|scope| scope.strict);
                        let decision = decided(Err(denial), None, needed, view);
                        return Ok(self.in_time(decision, is_strict, view));
                    }
                };
                match view.find(&digest) {
                    Found::Key(key) => {
                        let facts = key.facts();
                        let mut environments = needed.environments.into_iter().flatten();
                        let requirement = needed
                            .scope
                            .as_deref()
                            .map_or(Requirement::AuthenticateOnly, Requirement::Scope);
                        let ask = Ask {
                            requirement,
                            client_address: question.client_address,
                            environment: environments.find(|wanted| *wanted != facts.environment),
                        };
                        let is_strict =
                            needed.scope.as_ref().map_or(key.is_strict(), |scope| scope.strict);
                        let verdict = decide(&facts, &ask, now);
                        let decision = decided(verdict, Some(key.identity()), needed, view);
                        Ok(self.in_time(decision, is_strict, view))
                    }
                    Found::Absent => {
                        let decision = decided(Err(Denial::UnknownKey), None, needed, view);
                        // Absence is final only while it is known that nothing was made since.
                        let is_final = self.is_fresh(view);
                        Ok(if is_final { Looked::Decided(decision) } else { Looked::Miss(digest) })
                    }
                    Found::Miss | Found::Doubtful => Ok(Looked::Miss(digest)),
                }
            })
            .unwrap_or_else(|| Err(not_ready("this node holds nothing of the store yet")))
    }

    fn is_fresh(&self, view: &View<'_>) -> bool {
        view.freshness(|| self.clock.now()) == Freshness::Fresh
    }

    /// The decision, if what is held may still be answered from. The clock is the last that is looked at: whoever was
    /// held up before it answers nothing that is too old.
    fn in_time(&self, mut decision: Box<Decision>, is_strict: bool, view: &View<'_>) -> Looked {
        match view.freshness(|| self.clock.now()) {
            Freshness::Fresh => {}
            Freshness::Stale if !is_strict => decision.stale = true,
            Freshness::Stale | Freshness::Expired if decision.denial.is_some_and(is_final) => {}
            Freshness::Stale | Freshness::Expired => return Looked::TooOld,
        }
        Looked::Decided(decision)
    }

    /// Rows 1 and 2 of the table: nothing is hashed before the form is found right.
    fn digest(&self, credential: &Credential<'_>, view: &View<'_>) -> Result<Digest, Denial> {
        let bytes = match credential {
            Credential::Missing => return Err(Denial::MissingCredential),
            Credential::Malformed => return Err(Denial::MalformedCredential),
            Credential::Token(bytes) => bytes,
        };
        let parsed = token::parse(bytes).map_err(|_| Denial::MalformedCredential)?;
        let accepted = &view.catalogue().policy().accepted_prefixes;
        if parsed.prefix != self.prefix.as_str()
            && !accepted.iter().any(|other| other == parsed.prefix)
        {
            return Err(Denial::MalformedCredential);
        }
        Ok(parsed.digest())
    }
}

/// Whether no change can make it another answer: what the caller sent stays as it is, and a key does not come back.
const fn is_final(denial: Denial) -> bool {
    matches!(
        denial,
        Denial::MissingCredential
            | Denial::MalformedCredential
            | Denial::KeyRevoked
            | Denial::KeyExpired
    )
}

/// What the cache knew of the key of a decision that waited for nothing.
const fn lookup_of(decision: &Decision) -> Lookup {
    if decision.stale {
        return Lookup::Stale;
    }
    match (&decision.identity, decision.denial, decision.observed) {
        (Some(_), _, _) => Lookup::Hit,
        (None, Some(Denial::UnknownKey), _) | (None, _, Some(Denial::UnknownKey)) => {
            Lookup::Negative
        }
        (None, _, _) => Lookup::None,
    }
}

/// Whether this node reflects `wanted`. A number that the store gave out twice is told by its tag.
fn is_reached(wanted: Position, view: &View<'_>) -> Result<bool, Error> {
    let applied = view.applied();
    let is_known = wanted.epoch == applied.epoch && (wanted.n > applied.n || view.shows(wanted));
    if !is_known {
        return Err(Error::new(
            Reason::RevisionOfAnotherEpoch,
            "min_revision was given by the store before it was replaced or restored",
        ));
    }
    Ok(wanted.n <= applied.n)
}

impl Needed {
    fn of_question(question: &Question<'_>, scope: Option<Arc<Expression>>) -> Self {
        let (environments, cost) = ([question.environment, None], question.cost);
        Self { scope, environments, cost, rule: None }
    }

    /// What the rule that answers says; or the decision, where no key changes it.
    fn by_rules(
        question: &Question<'_>,
        target: &Target<'_>,
        view: &View<'_>,
    ) -> Result<Self, Box<Decision>> {
        let answer = view.catalogue().routes().answer(target);
        let (route, denial) = match answer.gate() {
            Gate::Key(route) => {
                let scope = match &route.needs {
                    Needs::Scope(expression) => Some(Arc::clone(expression)),
                    Needs::AuthenticateOnly | Needs::Public | Needs::Deny => None,
                };
                return Ok(Self {
                    scope,
                    environments: [question.environment, route.environment],
                    cost: question.cost.or(route.cost),
                    rule: Some((Arc::clone(&route.name), route.is_observed)),
                });
            }
            Gate::Open(route) => (Some(route), None),
            Gate::Closed(route) => (route, Some(Denial::RouteDenied)),
        };
        let is_observed = route.is_some_and(|route| route.is_observed);
        Err(Box::new(Decision {
            denial: denial.filter(|_| !is_observed),
            identity: None,
            needed: None,
            billable: false,
            rule: route.map(|route| Arc::clone(&route.name)),
            ambiguity: answer.ambiguity(),
            observed: denial.filter(|_| is_observed),
            stale: false,
            revision: view.applied(),
        }))
    }
}

fn decided(
    verdict: Result<(), Denial>,
    identity: Option<Identity>,
    needed: Needed,
    view: &View<'_>,
) -> Box<Decision> {
    let Needed { scope, environments: _, cost, rule } = needed;
    let cost = cost.unwrap_or_else(|| scope.as_ref().map_or(0, |scope| scope.cost));
    let is_live = identity.as_ref().is_some_and(|it| it.environment == Environment::Live);
    let denial = verdict.err();
    let (rule, is_observed) = rule.map_or((None, false), |(name, is)| (Some(name), is));
    Box::new(Decision {
        denial: denial.filter(|_| !is_observed),
        identity,
        needed: scope,
        billable: denial.is_none() && cost > 0 && is_live,
        rule,
        ambiguity: None,
        observed: denial.filter(|_| is_observed),
        stale: false,
        revision: view.applied(),
    })
}

// === Operators ===

impl Authorizer {
    /// Admits an operator to a call that needs this permission; the proof is the returned value.
    pub async fn operator<P: Permission>(
        &self,
        credential: Credential<'_>,
        address: Option<IpAddr>,
        peer: String,
    ) -> Result<Operator<P>, Error> {
        let question = Question {
            credential,
            required: Required::Scope(P::SCOPE),
            client_address: address,
            environment: None,
            cost: Some(0),
            min_revision: None,
        };
        let decision = self.authorize(&question).await?;
        if let Some(denial) = decision.denial {
            return Err(operator::refusal(denial, P::SCOPE));
        }
        if decision.stale && P::SHOWS {
            return Err(not_ready(
                "this node has not heard from the store for a while, and may not know what became of your key",
            ));
        }
        let (key_id, account): (KeyId, AccountId) = decision
            .identity
            .map(|identity| (identity.key_id, identity.account))
            .ok_or_else(|| Error::new(Reason::Internal, "internal error"))?;
        Ok(Operator::new(key_id, account, peer))
    }
}
