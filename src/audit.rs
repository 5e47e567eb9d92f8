//! The audit trail: what an entry says of a change, and what a record was by its entries.
//!
//! Never in it: a token, or a digest by which one could be recognised. A field that a later version adds
//! to a record has to be left out here while it has its default: entries of before do not tell it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::account::{Account, AccountId};
use crate::clock::Timestamp;
use crate::key::{Actor, KeyId, KeyRecord, Revocation};
use crate::policy::Policy;
use crate::revision::Position;
use crate::scope::ScopePattern;

mod past;

pub use past::{Contradiction, KeyThen, Past, Unreadable, policy_then, suspended_then};

/// Fields by their names, in JSON.
pub type Fields = Map<String, Value>;

/// One change, as the trail tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The change.
    pub revision: Position,
    /// When it was made.
    pub time: Timestamp,
    /// By whom.
    pub actor: Actor,
    /// By which call, as in `CreateKey`.
    pub action: String,
    /// The account concerned; `None` for the policy.
    pub account: Option<AccountId>,
    /// The key concerned, if one is.
    pub key: Option<KeyId>,
    /// What was changed.
    pub change: Change,
    /// From where; empty when from within.
    pub peer: String,
    /// The client's id of the request.
    pub request_id: Option<String>,
}

/// What kind of record an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key.
    Key,
    /// An account itself.
    Account,
    /// The policy.
    Policy,
}

impl Kind {
    /// The word in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Account => "account",
            Self::Policy => "policy",
        }
    }
}

/// The fields that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// As they are from then on; all fields of what this change made.
    pub after: Fields,
    /// As they were; `None` when there was nothing before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Fields>,
}

impl Change {
    /// What differs between two states of a record.
    #[must_use]
    pub fn between(before: Option<Fields>, mut after: Fields) -> Self {
        let Some(mut before) = before else {
            return Self { after, before: None };
        };
        // A field that is left out while it is empty is told as empty where it comes or goes.
        for (name, value) in &after {
            before.entry(name).or_insert_with(|| nothing_like(value));
        }
        for (name, value) in &before {
            after.entry(name).or_insert_with(|| nothing_like(value));
        }
        before.retain(|name, value| after.get(name) != Some(value));
        after.retain(|name, _| before.contains_key(name));
        Self { after, before: Some(before) }
    }
}

/// A key as the trail tells it.
#[must_use]
pub fn of_key(key: &KeyRecord) -> Fields {
    let KeyRecord {
        // In columns of their own, told by the change itself, or secret.
        id: _,
        account: _,
        digest: _,
        create_time: _,
        update_time: _,
        revision: _,
        version: _,
        display_name,
        environment,
        scopes,
        grantable_scopes,
        hint,
        expire_time,
        revocation,
        disabled,
        allowed_cidrs,
        labels,
        rotated_from,
        rotated_to,
        created_by,
    } = key;
    let names = |scopes: &[ScopePattern]| -> Vec<String> {
        scopes.iter().map(|scope| scope.as_str().to_owned()).collect()
    };
    object(json!({
        "display_name": display_name,
        "environment": environment.as_str(),
        "scopes": names(scopes),
        "grantable_scopes": names(grantable_scopes),
        "token_hint": hint,
        "expire_time": expire_time.map(Timestamp::to_rfc3339),
        "revoked": revocation.as_ref().map(|Revocation { time, reason, comment }| {
            json!({ "time": time.to_rfc3339(), "reason": reason.as_str(), "comment": comment })
        }),
        "disabled": disabled,
        "allowed_cidrs": allowed_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "labels": labels,
        "rotated_from": rotated_from.map(|id| id.to_string()),
        "rotated_to": rotated_to.map(|id| id.to_string()),
        "created_by": created_by.to_string(),
    }))
}

/// An account as the trail tells it.
#[must_use]
pub fn of_account(account: &Account) -> Fields {
    let Account {
        id: _,
        create_time: _,
        update_time: _,
        revision: _,
        version: _,
        display_name,
        plan,
        suspended,
        suspend_reason,
        labels,
    } = account;
    object(json!({
        "display_name": display_name,
        "plan": plan,
        "suspended": suspended,
        "suspend_reason": suspend_reason,
        "labels": labels,
    }))
}

/// The policy as the trail tells it.
#[must_use]
pub fn of_policy(policy: &Policy) -> Fields {
    object(serde_json::to_value(policy).unwrap_or_default())
}

/// What a field is that is left out in one state of a record, and not in another.
fn nothing_like(value: &Value) -> Value {
    match value {
        Value::Array(_) => json!([]),
        Value::Object(_) => json!({}),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Value::Null,
    }
}

fn object(value: Value) -> Fields {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let told = Change::between(
            Some(object(json!({ "disabled": false, "labels": {}, "scopes": ["a:b"] }))),
            object(json!({ "disabled": true, "labels": {}, "scopes": ["a:b"] })),
        );
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(text, r#"{"after":{"disabled":true},"before":{"disabled":false}}"#);
        assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), told);
    }

    #[test]
    fn what_comes_and_goes_is_told_as_empty_before_and_after() {
        let (without, with) = (json!({ "plans": [1] }), json!({ "plans": [1], "rules": [2] }));
        let between = |before: &Value, after: &Value| {
            let told = Change::between(Some(object(before.clone())), object(after.clone()));
            serde_json::to_value(told).unwrap()
        };
        let (none, some) = (json!({ "rules": [] }), json!({ "rules": [2] }));
        assert_eq!(between(&without, &with), json!({ "before": none, "after": some }));
        assert_eq!(between(&with, &without), json!({ "before": some, "after": none }));
    }
}
