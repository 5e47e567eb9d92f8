//! What an entry of the trail changed, in a few words: `disabled: false → true`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::grpc::convert::audit::json_from_proto;
use crate::proto::v1::AuditEntry;

/// What people are told of a record that was made; the rest is in the JSON.
const TOLD_OF_NEW: [&str; 7] = [
    "display_name",
    "environment",
    "scopes",
    "grantable_scopes",
    "expire_time",
    "rotated_from",
    "plan",
];

/// The change of an entry in one line.
pub(super) fn of(entry: &AuditEntry) -> String {
    let change = json_from_proto(entry.change.clone().unwrap_or_default());
    let part = |name: &str| change.get(name).and_then(Value::as_object);
    let none = Map::new();
    let after = part("after").unwrap_or(&none);
    match part("before") {
        None if entry.account_id.is_empty() => "the first policy".to_owned(),
        None => joined(
            TOLD_OF_NEW
                .iter()
                .filter_map(|name| Some((*name, after.get(*name)?)))
                .filter(|(_, value)| !is_nothing(value))
                .map(|(name, value)| format!("{name}: {}", shown(value))),
        ),
        Some(before) => joined(after.iter().map(|(name, value)| {
            difference(name, before.get(name).unwrap_or(&Value::Null), value)
        })),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}

fn difference(name: &str, before: &Value, after: &Value) -> String {
    if name == "revoked"
        && let Some(revoked) = after.as_object()
    {
        let text = |name: &str| revoked.get(name).and_then(Value::as_str).unwrap_or_default();
        let comment = text("comment");
        let comment = if comment.is_empty() { String::new() } else { format!(", {comment:?}") };
        return format!("revoked: {}{comment}", text("reason"));
    }
    match (by_name(before), by_name(after)) {
        (Some(before), Some(after)) => format!("{name}: {}", names_that_differ(&before, &after)),
        _ => format!("{name}: {} → {}", shown(before), shown(after)),
    }
}

/// An item of a list in which each has a name, as the scopes, plans and rules of a policy have.
type Named<'a> = (&'a str, &'a Value);

fn by_name(list: &Value) -> Option<Vec<Named<'_>>> {
    let items = list.as_array()?.iter();
    items.map(|item| Some((item.get("name")?.as_str()?, item))).collect()
}

fn names_that_differ(before: &[Named<'_>], after: &[Named<'_>]) -> String {
    let [was, is] = [before, after].map(|list| list.iter().copied().collect::<BTreeMap<_, _>>());
    let added = is.keys().filter(|name| !was.contains_key(*name)).map(|name| format!("+{name}"));
    let dropped = was.keys().filter(|name| !is.contains_key(*name)).map(|name| format!("-{name}"));
    let changed = is
        .iter()
        .filter(|(name, item)| was.get(*name).is_some_and(|before| before != *item))
        .map(|(name, _)| format!("~{name}"));
    // Of rules the first that matches answers.
    let before = before.iter().map(|(name, _)| name).filter(|name| is.contains_key(*name));
    let after = after.iter().map(|(name, _)| name).filter(|name| was.contains_key(*name));
    let moved = (!before.eq(after)).then(|| "in another order".to_owned());
    added.chain(dropped).chain(changed).chain(moved).collect::<Vec<_>>().join(" ")
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn shown(value: &Value) -> String {
    match value {
        _ if is_nothing(value) => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name}={}", shown(value)));
            fields.collect::<Vec<_>>().join(" ")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(before: &Value, after: &Value) -> String {
        let empty = Map::new();
        let before = before.as_object().unwrap_or(&empty);
        let after = after.as_object().unwrap_or(&empty);
        joined(after.iter().map(|(name, value)| difference(name, &before[name], value)))
    }

    #[test]
    fn a_change_is_told_in_a_few_words() {
        for (before, after, words) in [
            (json!({"disabled": false}), json!({"disabled": true}), "disabled: false → true"),
            (
                json!({"scopes": ["a:b"], "labels": {}}),
                json!({"scopes": ["a:b", "c:d"], "labels": {"team": "x"}}),
                "labels: none → team=x; scopes: a:b → a:b c:d",
            ),
            (
                json!({"revoked": null}),
                json!({"revoked": {"time": "t", "reason": "compromised", "comment": "in a log"}}),
                "revoked: compromised, \"in a log\"",
            ),
            (
                json!({"plans": [{"name": "a", "max_keys": 1}, {"name": "b"}, {"name": "d"}]}),
                json!({"plans": [{"name": "a", "max_keys": 2}, {"name": "c"}, {"name": "d"}]}),
                "plans: +c -b ~a",
            ),
            (
                json!({"rules": [{"name": "a"}, {"name": "b"}, {"name": "c", "deny": true}]}),
                json!({"rules": [{"name": "c"}, {"name": "a"}, {"name": "d"}]}),
                "rules: +d -b ~c in another order",
            ),
        ] {
            assert_eq!(told(&before, &after), words);
        }
    }
}
