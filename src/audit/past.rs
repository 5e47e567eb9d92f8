//! What a record was: its entries put together, the oldest first.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error as ThisError;

use super::{Change, Fields};
use crate::clock::Timestamp;
use crate::key::parse_cidr;
use crate::policy::Policy;
use crate::scope::ScopePattern;
use crate::token::Environment;

const REVOKED: &str = "revoked";

/// A record as it was after some of its entries.
#[derive(Debug, Clone, Default)]
pub struct Past {
    fields: Fields,
    /// Which entry gave each field its value, counted from the first.
    told_by: BTreeMap<String, usize>,
    entries: usize,
}

/// Two things that the trail, or the trail and a record, say of one field, of which one must be wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Contradiction {
    /// The field, or what else it is about.
    pub what: String,
    /// What follows from the entries before.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl Contradiction {
    /// A contradiction about this, between this and that.
    pub fn new(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), expected: expected.into(), found: found.into() }
    }
}

impl Past {
    /// Whether there was a record.
    #[must_use]
    pub const fn is_made(&self) -> bool {
        self.entries > 0
    }

    /// How many entries there were: the record's version.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// The record.
    #[must_use]
    pub const fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Which entry gave this field its value, counted from the first.
    #[must_use]
    pub fn told_by(&self, field: &str) -> Option<usize> {
        self.told_by.get(field).copied()
    }

    /// Takes the next entry in, and says what in it does not follow from those before.
    pub fn step(&mut self, change: &Change) -> Vec<Contradiction> {
        let Change { before, after } = change;
        let mut found = Vec::new();
        match before {
            None if self.is_made() => {
                found.push(Contradiction::new("its making", "made once", "made again"));
            }
            Some(_) if !self.is_made() => {
                found.push(Contradiction::new("its making", "made first", "changed unmade"));
            }
            None | Some(_) => {}
        }
        if self.fields.get(REVOKED).is_some_and(|revoked| !revoked.is_null()) {
            found.push(Contradiction::new("a revoked key", "never changed", "changed"));
        }
        for (name, value) in before.iter().flatten() {
            if self.is_made() && !is_same(self.fields.get(name), Some(value)) {
                found.push(Contradiction::new(
                    format!("{name} before the change"),
                    shown(self.fields.get(name)),
                    shown(Some(value)),
                ));
            }
            if !after.contains_key(name) {
                found.push(Contradiction::new(
                    format!("{name} after the change"),
                    "told",
                    "left out",
                ));
            }
        }
        for (name, value) in after {
            if before.as_ref().is_some_and(|before| !before.contains_key(name)) {
                found.push(Contradiction::new(
                    format!("{name} before the change"),
                    "told",
                    "left out",
                ));
            }
            self.fields.insert(name.clone(), value.clone());
            self.told_by.insert(name.clone(), self.entries);
        }
        self.entries += 1;
        found
    }

    /// What of a record, as it stands in the store, does not follow from the entries.
    #[must_use]
    pub fn compare(&self, record: &Fields) -> Vec<Contradiction> {
        let names =
            self.fields.keys().chain(record.keys().filter(|name| !self.fields.contains_key(*name)));
        names
            .filter(|name| !is_same(self.fields.get(*name), record.get(*name)))
            .map(|name| {
                Contradiction::new(name, shown(self.fields.get(name)), shown(record.get(name)))
            })
            .collect()
    }
}

/// Whether two say the same; a list that is left out is an empty one.
fn is_same(one: Option<&Value>, other: Option<&Value>) -> bool {
    let is_none = |value: Option<&Value>| {
        value.is_none_or(|value| value.as_array().is_some_and(Vec::is_empty))
    };
    one == other || (is_none(one) && is_none(other))
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

// === What decisions depend on ===

/// An entry holds what this version cannot read.
#[derive(Debug, ThisError)]
#[error("the audit trail holds a {record} that cannot be read: {why}")]
pub struct Unreadable {
    record: &'static str,
    why: String,
}

/// What of a key decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyThen {
    /// Production or development.
    pub environment: Environment,
    /// What it might do.
    pub scopes: Vec<ScopePattern>,
    /// When its time is over.
    pub expire_time: Option<Timestamp>,
    /// Whether it was revoked: the reason and the comment.
    pub revoked: Option<(String, String)>,
    /// Whether it was disabled.
    pub disabled: bool,
    /// From where it might be used; empty means anywhere.
    pub allowed_cidrs: Vec<IpNet>,
    /// What people are shown of its token.
    pub hint: String,
    /// Its name for people.
    pub display_name: String,
    /// The key that had taken its place.
    pub rotated_to: Option<String>,
}

impl KeyThen {
    /// Reads it from the fields of a key.
    pub fn of(fields: &Fields) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Told {
            environment: String,
            scopes: Vec<String>,
            expire_time: Option<String>,
            revoked: Option<Revoked>,
            disabled: bool,
            allowed_cidrs: Vec<String>,
            token_hint: String,
            display_name: String,
            rotated_to: Option<String>,
        }
        #[derive(Deserialize)]
        struct Revoked {
            reason: String,
            comment: String,
        }
        let unreadable = |why: String| Unreadable { record: "key", why };
        let told: Told = read(fields).map_err(unreadable)?;
        let need = |what: &str| unreadable(format!("{what} makes no sense"));
        let environment =
            Environment::parse(&told.environment).ok_or_else(|| need("environment"))?;
        let scopes = told.scopes.iter().map(|scope| ScopePattern::parse(scope));
        let cidrs = told.allowed_cidrs.iter().map(|cidr| parse_cidr(cidr));
        let expire_time = told
            .expire_time
            .as_deref()
            .map(|time| Timestamp::parse(time).ok_or_else(|| need("expire_time")));
        Ok(Self {
            environment,
            scopes: scopes.collect::<Result<_, _>>().map_err(|_| need("scopes"))?,
            expire_time: expire_time.transpose()?,
            revoked: told.revoked.map(|Revoked { reason, comment }| (reason, comment)),
            disabled: told.disabled,
            allowed_cidrs: cidrs.collect::<Result<_, _>>().map_err(|_| need("allowed_cidrs"))?,
            hint: told.token_hint,
            display_name: told.display_name,
            rotated_to: told.rotated_to,
        })
    }
}

/// Whether an account was suspended, and why.
pub fn suspended_then(fields: &Fields) -> Result<Option<String>, Unreadable> {
    #[derive(Deserialize)]
    struct Told {
        suspended: bool,
        suspend_reason: String,
    }
    let told: Told = read(fields).map_err(|why| Unreadable { record: "account", why })?;
    Ok(told.suspended.then_some(told.suspend_reason))
}

/// The policy as it was.
pub fn policy_then(fields: &Fields) -> Result<Policy, Unreadable> {
    read(fields).map_err(|why| Unreadable { record: "policy", why })
}

fn read<'a, T: Deserialize<'a>>(fields: &'a Fields) -> Result<T, String> {
    T::deserialize(fields).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit;

    fn fields(value: Value) -> Fields {
        audit::object(value)
    }

    fn change(before: Option<Value>, after: Value) -> Change {
        Change { after: fields(after), before: before.map(fields) }
    }

    fn whats(found: &[Contradiction]) -> Vec<&str> {
        found.iter().map(|it| it.what.as_str()).collect()
    }

    #[test]
    fn entries_give_the_record_and_say_which_of_them_told_each_field() {
        let mut past = Past::default();
        assert!(past.step(&change(None, json!({ "plan": "free", "suspended": false }))).is_empty());
        let suspended = change(Some(json!({ "suspended": false })), json!({ "suspended": true }));
        assert!(past.step(&suspended).is_empty());
        assert_eq!(past.compare(&fields(json!({ "plan": "free", "suspended": true }))), []);
        assert_eq!((past.told_by("plan"), past.told_by("suspended")), (Some(0), Some(1)));
        let found = past.compare(&fields(json!({ "plan": "pro", "suspended": true, "x": 1 })));
        assert_eq!(whats(&found), ["plan", "x"]);
        assert_eq!((found[0].expected.as_str(), found[0].found.as_str()), ("\"free\"", "\"pro\""));
    }

    #[test]
    fn an_entry_that_does_not_follow_is_found() {
        let mut past = Past::default();
        let change_first = change(Some(json!({ "plan": "pro" })), json!({ "plan": "free" }));
        assert_eq!(whats(&past.step(&change_first)), ["its making"]);
        assert_eq!(whats(&past.step(&change(None, json!({ "plan": "free" })))), ["its making"]);
        assert_eq!(whats(&past.step(&change_first)), ["plan before the change"]);
        let odd = change(Some(json!({ "plan": "free" })), json!({ "labels": {} }));
        assert_eq!(whats(&past.step(&odd)), ["plan after the change", "labels before the change"]);
    }

    #[test]
    fn a_list_that_comes_and_goes_follows() {
        let mut past = Past::default();
        past.step(&change(None, json!({ "plans": [1] })));
        let (without, with) = (json!({ "rules": [] }), json!({ "rules": [2] }));
        assert!(past.step(&change(Some(without.clone()), with.clone())).is_empty());
        assert_eq!(past.compare(&fields(json!({ "plans": [1], "rules": [2] }))), []);
        assert_eq!(whats(&past.compare(&fields(json!({ "plans": [1] })))), ["rules"]);
        assert!(past.step(&change(Some(with), without)).is_empty());
        assert_eq!(past.compare(&fields(json!({ "plans": [1] }))), []);
    }

    #[test]
    fn a_revoked_key_that_changes_is_found() {
        let mut past = Past::default();
        past.step(&change(None, json!({ "revoked": { "time": "t" } })));
        let undone =
            change(Some(json!({ "revoked": { "time": "t" } })), json!({ "revoked": null }));
        assert_eq!(whats(&past.step(&undone)), ["a revoked key"]);
    }
}
