//! The case: a key, its account and the policy as they were at an instant, and the judgement on them, row by
//! row. Pure: all that it needs was fetched before.

use std::net::IpAddr;

use serde_json::Value;

use super::shown;
use crate::audit::{Change, KeyThen, Past, Unreadable, policy_then, suspended_then};
use crate::clock::Timestamp;
use crate::decision::{self, Denial, Facts, Requirement};
use crate::failure::Failure;
use crate::grpc::convert::audit::json_from_proto;
use crate::policy::{Catalogue, own_scopes};
use crate::proto::v1::AuditEntry;
use crate::scope::expression::Expression;
use crate::scope::{ScopePattern, ScopeSet};
use crate::token::{Environment, Malformed};

/// The most scopes that are named as ways to a missing one.
const WAYS_MAX: usize = 4;

/// What the request asks.
pub(super) struct Ask {
    pub(super) need: Need,
    pub(super) client_address: Option<IpAddr>,
    pub(super) environment: Option<Environment>,
}

/// The scopes that a request needs.
pub(super) enum Need {
    /// An expression of them.
    Scope(String),
    /// None: whose key it is.
    Identity,
}

/// An entry of the trail about one record.
struct Told {
    time: Timestamp,
    /// Who made it, by which call and from where.
    by: String,
    revision: String,
}

/// All entries about one record, and what they come to at the instant.
pub(super) struct History {
    entries: Vec<Told>,
    /// The changes after the instant.
    later: Vec<(Change, usize)>,
    past: Past,
    contradictions: Vec<String>,
}

impl History {
    /// Of entries as a server lists them, the latest first.
    pub(super) fn of(entries: Vec<AuditEntry>, at: Timestamp) -> Result<Self, Failure> {
        let mut history = Self {
            entries: Vec::with_capacity(entries.len()),
            later: Vec::new(),
            past: Past::default(),
            contradictions: Vec::new(),
        };
        for entry in entries.into_iter().rev() {
            let AuditEntry { revision, time, actor, action, change, peer, .. } = entry;
            let time = time.and_then(|it| Timestamp::from_seconds_and_nanos(it.seconds, it.nanos));
            let change = Value::Object(json_from_proto(change.unwrap_or_default()));
            let change: Change = serde_json::from_value(change)
                .map_err(|error| unreadable(&Failure::of("an entry of the trail", &error)))?;
            let from = if peer.is_empty() { String::new() } else { format!(", from {peer}") };
            let by = format!("{actor} ({action}{from})");
            let time = time.unwrap_or(Timestamp::EPOCH);
            if time <= at {
                let found = history.past.step(&change).into_iter();
                history.contradictions.extend(found.map(|it| it.what));
            } else {
                history.later.push((change, history.entries.len()));
            }
            history.entries.push(Told { time, by, revision });
        }
        Ok(history)
    }

    /// When, by whom, by which call and from where a field got the value that it had.
    fn told_by(&self, field: &str) -> String {
        self.past.told_by(field).map(|index| self.at(index)).unwrap_or_default()
    }

    fn at(&self, index: usize) -> String {
        self.entries
            .get(index)
            .map_or_else(String::new, |told| format!("{} by {}", shown(told.time), told.by))
    }

    /// The first change after the instant that gives this field a value of which this is true.
    fn told_later(&self, field: &str, is_it: impl Fn(&Value) -> bool) -> Option<String> {
        let found =
            self.later.iter().find(|(change, _)| change.after.get(field).is_some_and(&is_it));
        found.map(|(_, index)| self.at(*index))
    }

    /// The change that made the record what it was at the instant.
    fn revision(&self) -> String {
        let last = self.past.entries().checked_sub(1).and_then(|last| self.entries.get(last));
        last.map(|told| told.revision.clone()).unwrap_or_default()
    }
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It had nothing against the request.
    Passed,
    /// It refused.
    Answers,
    /// One above had refused.
    NotReached,
    /// Nothing here can tell.
    NotLookedAt,
}

impl Verdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Answers => "answers",
            Self::NotReached => "not reached",
            Self::NotLookedAt => "not looked at",
        }
    }
}

/// A row of the decision table.
pub(super) struct Row {
    pub(super) number: usize,
    pub(super) denial: Denial,
    pub(super) verdict: Verdict,
    pub(super) why: String,
}

/// The answer, and how the rows came to it.
pub(super) struct Explanation {
    pub(super) key_id: String,
    pub(super) account_id: String,
    pub(super) at: Timestamp,
    /// `None` means allow.
    pub(super) answer: Option<Denial>,
    pub(super) why: String,
    pub(super) rows: Vec<Row>,
    pub(super) key_revision: String,
    pub(super) account_revision: String,
    pub(super) policy_revision: String,
}

impl Explanation {
    /// Of what is no token.
    pub(super) fn of_malformed(fault: Malformed, at: Timestamp) -> Self {
        Self::of_none(Denial::MalformedCredential, at, fault.to_string())
    }

    /// Of a token that no key has.
    pub(super) fn of_nobody(at: Timestamp) -> Self {
        let why = "no key that your operator may see has this token";
        Self::of_none(Denial::UnknownKey, at, why.to_owned())
    }

    fn of_none(answer: Denial, at: Timestamp, why: String) -> Self {
        let above = |denial| match denial {
            Denial::MissingCredential => "a credential was given".to_owned(),
            _ => "the form and the checksum are right".to_owned(),
        };
        Self {
            key_id: String::new(),
            account_id: String::new(),
            at,
            answer: Some(answer),
            rows: rows(Some(answer), above, &why),
            why,
            key_revision: String::new(),
            account_revision: String::new(),
            policy_revision: String::new(),
        }
    }
}

/// The table: what is above the answer passed, what is below it was not reached.
fn rows(answer: Option<Denial>, passed: impl Fn(Denial) -> String, why: &str) -> Vec<Row> {
    // Routes are denied whatever the key, so nothing of one explains it.
    let rows = || Denial::ALL.into_iter().filter(|denial| *denial != Denial::RouteDenied);
    let place = |wanted| rows().position(|denial| denial == wanted);
    let answers = answer.and_then(place).unwrap_or(Denial::ALL.len());
    let row = |(index, denial): (usize, Denial)| {
        let (verdict, why) = match denial {
            Denial::RateLimited | Denial::QuotaExceeded => {
                (Verdict::NotLookedAt, "this version does not decide it".to_owned())
            }
            _ if index < answers => (Verdict::Passed, passed(denial)),
            _ if index == answers => (Verdict::Answers, why.to_owned()),
            _ => (Verdict::NotReached, String::new()),
        };
        Row { number: index + 1, denial, verdict, why }
    };
    rows().enumerate().map(row).collect()
}

/// All that a decision depended on at the instant.
pub(super) struct Case {
    pub(super) key_id: String,
    pub(super) account_id: String,
    /// The prefix of the token, when one was given.
    pub(super) prefix: Option<String>,
    pub(super) key: History,
    pub(super) account: History,
    pub(super) policy: History,
    pub(super) at: Timestamp,
}

impl Case {
    /// What in the trail does not follow from what it told before.
    pub(super) fn contradictions(&self) -> impl Iterator<Item = &str> {
        let histories = [&self.key, &self.account, &self.policy];
        histories.into_iter().flat_map(|history| &history.contradictions).map(String::as_str)
    }

    /// Judges.
    pub(super) fn explain(&self, ask: &Ask) -> Result<Explanation, Failure> {
        let read = |error: Unreadable| unreadable(&Failure::of("the trail", &error));
        if !self.key.past.is_made() && !self.policy.past.is_made() {
            return Ok(self.unknown(|_| "a credential was given".to_owned()));
        }
        let policy = policy_then(self.policy.past.fields()).map_err(read)?;
        let catalogue = Catalogue::compile(policy, "policy.")
            .map_err(|error| unreadable(&Failure::of("the policy of that time", &error)))?;
        let needed = match &ask.need {
            Need::Identity => None,
            Need::Scope(text) => Some(catalogue.expression(text).map_err(|fault| {
                Failure::new(format!("--scope: {fault}")).help(
                    "the server answers such a request with an error (INVALID_ARGUMENT), and never \
                     allows it",
                )
            })?),
        };
        if !self.key.past.is_made() {
            return Ok(self.unknown(|denial| self.before_the_key(denial, &catalogue)));
        }
        let key = KeyThen::of(self.key.past.fields()).map_err(read)?;
        let suspended = suspended_then(self.account.past.fields()).map_err(read)?;
        let judged = Judged {
            case: self,
            key,
            suspended,
            catalogue: &catalogue,
            needed: needed.as_deref(),
            ask,
        };
        let answer = judged.decide().err();
        let why = match answer {
            Some(denial) => judged.why(denial),
            None => judged.why(Denial::InsufficientScope),
        };
        Ok(self.explanation(answer, |denial| judged.why(denial), why))
    }

    /// Before the key was made.
    fn unknown(&self, passed: impl Fn(Denial) -> String) -> Explanation {
        let why = match self.key.entries.first() {
            Some(_) => format!("the key was made later, at {}", self.key.at(0)),
            None => "there is no such key".to_owned(),
        };
        self.explanation(Some(Denial::UnknownKey), passed, why)
    }

    fn explanation(
        &self,
        answer: Option<Denial>,
        passed: impl Fn(Denial) -> String,
        why: String,
    ) -> Explanation {
        Explanation {
            key_id: self.key_id.clone(),
            account_id: self.account_id.clone(),
            at: self.at,
            answer,
            rows: self.with_form(rows(answer, passed, &why)),
            why,
            key_revision: self.key.revision(),
            account_revision: self.account.revision(),
            policy_revision: self.policy.revision(),
        }
    }

    /// An id says nothing of what a client sent.
    fn with_form(&self, mut rows: Vec<Row>) -> Vec<Row> {
        if self.prefix.is_none() {
            for row in &mut rows {
                if matches!(row.denial, Denial::MissingCredential | Denial::MalformedCredential) {
                    row.verdict = Verdict::NotLookedAt;
                    "an id was named, and no token".clone_into(&mut row.why);
                }
            }
        }
        rows
    }

    fn before_the_key(&self, denial: Denial, catalogue: &Catalogue) -> String {
        match (denial, &self.prefix) {
            (Denial::MissingCredential, _) | (_, None) => "a credential was given".to_owned(),
            (_, Some(prefix)) => {
                let accepted = &catalogue.policy().accepted_prefixes;
                let by = if accepted.contains(prefix) {
                    "which the policy accepts"
                } else {
                    "if that was the server's token.prefix, which the trail does not tell"
                };
                format!("the form and the checksum are right; the prefix is `{prefix}`, {by}")
            }
        }
    }
}

/// A key that was there, and all that speaks for and against the request.
struct Judged<'a> {
    case: &'a Case,
    key: KeyThen,
    suspended: Option<String>,
    catalogue: &'a Catalogue,
    needed: Option<&'a Expression>,
    ask: &'a Ask,
}

impl Judged<'_> {
    fn decide(&self) -> Result<(), Denial> {
        let KeyThen { environment, scopes, expire_time, revoked, disabled, allowed_cidrs, .. } =
            &self.key;
        let facts = Facts {
            revoked: revoked.is_some(),
            disabled: *disabled,
            expire_time: *expire_time,
            suspended: self.suspended.is_some(),
            allowed_cidrs,
            environment: *environment,
            held: &self.catalogue.held(scopes),
        };
        let ask = decision::Ask {
            requirement: self.needed.map_or(Requirement::AuthenticateOnly, Requirement::Scope),
            client_address: self.ask.client_address,
            environment: self.ask.environment,
        };
        decision::decide(&facts, &ask, self.case.at)
    }

    /// What there was for or against a row.
    fn why(&self, denial: Denial) -> String {
        match denial {
            Denial::MissingCredential | Denial::MalformedCredential => {
                self.case.before_the_key(denial, self.catalogue)
            }
            Denial::UnknownKey => format!("made at {}", self.case.key.at(0)),
            Denial::KeyRevoked => self.revoked(),
            Denial::KeyDisabled => self.disabled(),
            Denial::KeyExpired => self.expired(),
            Denial::AccountSuspended => self.suspended(),
            Denial::AddressNotAllowed => self.address(),
            Denial::WrongEnvironment => self.environment(),
            Denial::InsufficientScope => self.scope(),
            Denial::RateLimited | Denial::QuotaExceeded | Denial::RouteDenied => String::new(),
        }
    }

    fn revoked(&self) -> String {
        let history = &self.case.key;
        match &self.key.revoked {
            None => match history.told_later("revoked", |value| !value.is_null()) {
                None => "not revoked".to_owned(),
                Some(later) => format!("revoked only later, at {later}"),
            },
            Some((reason, comment)) => {
                let comment =
                    if comment.is_empty() { String::new() } else { format!(": {comment}") };
                let heir = self
                    .key
                    .rotated_to
                    .as_ref()
                    .map_or_else(String::new, |heir| format!("; {heir} took its place"));
                format!("revoked at {} as {reason}{comment}{heir}", history.told_by("revoked"))
            }
        }
    }

    fn disabled(&self) -> String {
        let history = &self.case.key;
        if self.key.disabled {
            return format!("disabled at {}", history.told_by("disabled"));
        }
        match history.told_later("disabled", |value| value == &Value::Bool(true)) {
            None => "not disabled".to_owned(),
            Some(later) => format!("disabled only later, at {later}"),
        }
    }

    fn expired(&self) -> String {
        let told = self.case.key.told_by("expire_time");
        match self.key.expire_time {
            None => "it never expires".to_owned(),
            Some(time) if time <= self.case.at => {
                format!("expired at {}; so it was set at {told}", shown(time))
            }
            Some(time) => format!("expires at {}", shown(time)),
        }
    }

    fn suspended(&self) -> String {
        let account = &self.case.account_id;
        match &self.suspended {
            None => format!("`{account}` was not suspended"),
            Some(reason) => {
                let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                let told = self.case.account.told_by("suspended");
                format!("`{account}` was suspended at {told}{reason}")
            }
        }
    }

    fn address(&self) -> String {
        let networks = self.key.allowed_cidrs.iter().map(ToString::to_string);
        let networks = networks.collect::<Vec<_>>().join(", ");
        match self.ask.client_address {
            _ if networks.is_empty() => "the key may be used from anywhere".to_owned(),
            None => format!(
                "the client's address is not known, and the key is for {networks} alone; name it with \
                 --client-address"
            ),
            Some(address) => format!("{address} comes, and the key is for {networks}"),
        }
    }

    fn environment(&self) -> String {
        let own = self.key.environment.as_str();
        match self.ask.environment {
            None => format!("a {own} key, and none is demanded"),
            Some(wanted) => format!("a {own} key, and {} is demanded", wanted.as_str()),
        }
    }

    fn scope(&self) -> String {
        let Some(needed) = self.needed else {
            return "no scope is needed: the request only asks whose key it is".to_owned();
        };
        let held = names(&self.key.scopes);
        if needed.is_met_by(&self.catalogue.held(&self.key.scopes)) {
            return format!("{} needed, and the key holds {held}", needed.scopes);
        }
        let holding = self.catalogue.held(&self.key.scopes);
        let ways: Vec<_> = needed
            .scopes
            .split(' ')
            .filter(|scope| !self.has(&holding, scope))
            .filter_map(|scope| self.ways_to(scope))
            .collect();
        let ways = if ways.is_empty() { String::new() } else { format!("; {}", ways.join("; ")) };
        let asked = match &self.ask.need {
            Need::Scope(text) => text.trim(),
            Need::Identity => "",
        };
        format!("{asked} needed, and the key holds {held}{ways}")
    }

    fn has(&self, held: &ScopeSet, scope: &str) -> bool {
        self.catalogue.index(scope).is_some_and(|index| held.contains(index))
    }

    /// Which other scopes would bring this one.
    fn ways_to(&self, scope: &str) -> Option<String> {
        let own = own_scopes();
        let known = self.catalogue.policy().scopes.iter().chain(&own);
        let mut ways = known.map(|known| known.name.as_str()).filter(|name| {
            *name != scope
                && ScopePattern::parse(name)
                    .is_ok_and(|pattern| self.has(&self.catalogue.held([&pattern]), scope))
        });
        let named: Vec<_> = ways.by_ref().take(WAYS_MAX).collect();
        let more = if ways.next().is_some() { " and others" } else { "" };
        (!named.is_empty()).then(|| format!("{}{more} would imply {scope}", named.join(", ")))
    }
}

fn names(scopes: &[ScopePattern]) -> String {
    if scopes.is_empty() {
        return "none".to_owned();
    }
    scopes.iter().map(ScopePattern::as_str).collect::<Vec<_>>().join(", ")
}

fn unreadable(failure: &Failure) -> Failure {
    Failure::new(format!("this version cannot read {}", failure.message))
        .help("use the latchkey of the server's version; `latchkey audit verify` checks the store")
}
