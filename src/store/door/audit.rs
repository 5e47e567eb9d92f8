//! What the audit trail says of a change: the fields that differ, before and after.
//!
//! Never among them: a token, or a digest by which one could be recognised.

use serde_json::{Map, Value, json};

use crate::account::{Account, AccountId};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord, Revocation};
use crate::policy::Policy;
use crate::store::row::names;

/// A row of the audit trail.
pub(in crate::store) struct AuditRow {
    /// The number of the change.
    pub(in crate::store) n: u64,
    /// When it was made.
    pub(in crate::store) at: Timestamp,
    /// By whom: `key:ID` or `system:WHAT`.
    pub(in crate::store) actor: String,
    /// By which call.
    pub(in crate::store) action: &'static str,
    /// The account concerned.
    pub(in crate::store) account: Option<AccountId>,
    /// The key concerned.
    pub(in crate::store) key: Option<KeyId>,
    /// What was changed, as JSON.
    pub(in crate::store) change: String,
    /// From where; empty when from within.
    pub(in crate::store) peer: String,
    /// The client's id of the request.
    pub(in crate::store) request_id: Option<String>,
}

/// The fields that differ; all of them when there was nothing before.
pub(super) fn change(before: Option<Map<String, Value>>, mut after: Map<String, Value>) -> String {
    let Some(mut before) = before else {
        return json!({ "after": after }).to_string();
    };
    before.retain(|name, value| after.get(name) != Some(value));
    after.retain(|name, _| before.contains_key(name));
    json!({ "before": before, "after": after }).to_string()
}

/// A key as the audit trail tells it.
pub(super) fn of_key(key: &KeyRecord) -> Map<String, Value> {
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
    object(json!({
        "display_name": display_name,
        "environment": environment.as_str(),
        "scopes": names(scopes),
        "grantable_scopes": names(grantable_scopes),
        "token_hint": hint,
        "expire_time": expire_time.map(instant),
        "revoked": revocation.as_ref().map(|Revocation { time, reason, comment }| {
            json!({ "time": instant(*time), "reason": reason.as_str(), "comment": comment })
        }),
        "disabled": disabled,
        "allowed_cidrs": allowed_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "labels": labels,
        "rotated_from": rotated_from.map(|id| id.to_string()),
        "rotated_to": rotated_to.map(|id| id.to_string()),
        "created_by": created_by.to_string(),
    }))
}

/// An account as the audit trail tells it.
pub(super) fn of_account(account: &Account) -> Map<String, Value> {
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

/// The policy as the audit trail tells it.
pub(super) fn of_policy(policy: &Policy) -> Map<String, Value> {
    object(serde_json::to_value(policy).unwrap_or_default())
}

/// RFC 3339 to the microsecond, so that what differs is seen to differ.
fn instant(at: Timestamp) -> String {
    let second = at.to_string();
    let (_, nanos) = at.seconds_and_nanos();
    format!("{}.{:06}Z", second.trim_end_matches('Z'), nanos / 1_000)
}

fn object(value: Value) -> Map<String, Value> {
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
        let map = |value| object(value);
        let told = change(
            Some(map(json!({ "disabled": false, "labels": {}, "scopes": ["a:b"] }))),
            map(json!({ "disabled": true, "labels": {}, "scopes": ["a:b"] })),
        );
        assert_eq!(told, r#"{"after":{"disabled":true},"before":{"disabled":false}}"#);
    }

    #[test]
    fn an_instant_is_told_to_the_microsecond() {
        assert_eq!(instant(Timestamp::from_micros(1_000_002)), "1970-01-01T00:00:01.000002Z");
    }
}
