//! `AuditService`: which entries are wanted, and entries with their change as JSON.

use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Number, Value};

use super::{account_id, given, instant, key_id, optional, page_size, timestamp};
use crate::audit::{Change, Entry, Kind};
use crate::clock::Timestamp;
use crate::error::{Error, Violations};
use crate::key::Actor;
use crate::keyring::AuditList;
use crate::proto::v1;

/// What the largest whole number is rounded to.
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;
const NANOS_PER_MICRO: i32 = 1_000;
const MICRO: std::time::Duration = std::time::Duration::from_micros(1);

// === To the domain ===

/// Which entries are listed.
pub(in crate::grpc) fn list(request: v1::QueryAuditRequest) -> Result<AuditList, Error> {
    let v1::QueryAuditRequest {
        account_id: account,
        key_id: key,
        actor,
        start_time,
        end_time,
        page_size: size,
        page_token,
        record_kind,
    } = request;
    let account = given(&account, |text| account_id("account_id", text))?;
    let key = given(&key, |text| key_id("key_id", text))?;
    let mut violations = Violations::default();
    let start = start_time.and_then(|time| bound(&mut violations, "start_time", time));
    let end = end_time.and_then(|time| bound(&mut violations, "end_time", time));
    if let (Some(start), Some(end)) = (start, end)
        && start >= end
    {
        violations.add("end_time", "must be later than `start_time`: entries before it are listed");
    }
    let list = AuditList {
        account,
        key,
        kind: kind(&mut violations, record_kind),
        actor: self::actor(&mut violations, &actor),
        start,
        end,
        page_size: page_size(&mut violations, size),
        page_token,
    };
    violations.finish()?;
    Ok(list)
}

/// Entries have times in whole microseconds. The next one is what a finer bound amounts to, of either
/// kind: what is at it or later, and what is before it.
fn bound(
    violations: &mut Violations,
    field: &str,
    time: prost_types::Timestamp,
) -> Option<Timestamp> {
    let is_finer = time.nanos % NANOS_PER_MICRO != 0;
    let instant = instant(violations, field, time)?;
    Some(if is_finer { instant.after(MICRO) } else { instant })
}

fn actor(violations: &mut Violations, text: &str) -> Option<Actor> {
    let remedy = "must be as `AuditEntry.actor` shows it, as in `key:ID`";
    optional(text, |text| violations.check("actor", Actor::parse(text).ok_or(remedy)))
}

fn kind(violations: &mut Violations, number: i32) -> Option<Kind> {
    match v1::RecordKind::try_from(number) {
        Ok(v1::RecordKind::Unspecified) => None,
        Ok(v1::RecordKind::Key) => Some(Kind::Key),
        Ok(v1::RecordKind::Account) => Some(Kind::Account),
        Ok(v1::RecordKind::Policy) => Some(Kind::Policy),
        Err(_) => {
            let remedy = "must be RECORD_KIND_KEY, _ACCOUNT or _POLICY, or be left out";
            violations.add("record_kind", remedy);
            None
        }
    }
}

// === From the domain ===

/// An entry, as clients see it.
pub(in crate::grpc) fn entry(entry: Entry) -> v1::AuditEntry {
    let Entry { revision, time, actor, action, account, key, change, peer, request_id } = entry;
    let Change { before, after } = change;
    let after = Some(("after".to_owned(), value_to_proto(Value::Object(after))));
    let before = before.map(|it| ("before".to_owned(), value_to_proto(Value::Object(it))));
    v1::AuditEntry {
        revision: revision.to_revision(),
        time: Some(timestamp(time)),
        actor: actor.to_string(),
        action,
        account_id: account.map(|id| id.to_string()).unwrap_or_default(),
        key_id: key.map(|id| id.to_string()).unwrap_or_default(),
        change: Some(Struct { fields: before.into_iter().chain(after).collect() }),
        peer,
        request_id: request_id.unwrap_or_default(),
    }
}

fn value_to_proto(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => ValueKind::NullValue(0),
        Value::Bool(truth) => ValueKind::BoolValue(truth),
        // A number in a `Struct` is a double: above 2^53 it is rounded.
        Value::Number(number) => ValueKind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => ValueKind::StringValue(text),
        Value::Array(items) => {
            let values = items.into_iter().map(value_to_proto).collect();
            ValueKind::ListValue(ListValue { values })
        }
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, value_to_proto(value)));
            ValueKind::StructValue(Struct { fields: fields.collect() })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

// === For those who ask us ===

/// A change as JSON again: whole numbers are written as such.
pub(crate) fn json_from_proto(change: Struct) -> Map<String, Value> {
    change.fields.into_iter().map(|(name, value)| (name, value_from_proto(value))).collect()
}

fn value_from_proto(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(ValueKind::NullValue(_)) => Value::Null,
        Some(ValueKind::BoolValue(truth)) => Value::Bool(truth),
        Some(ValueKind::NumberValue(number)) => number_from_proto(number),
        Some(ValueKind::StringValue(text)) => Value::String(text),
        Some(ValueKind::ListValue(ListValue { values })) => {
            Value::Array(values.into_iter().map(value_from_proto).collect())
        }
        Some(ValueKind::StructValue(fields)) => Value::Object(json_from_proto(fields)),
    }
}

fn number_from_proto(number: f64) -> Value {
    // Written out, a whole number has no point and no exponent.
    let text = number.to_string();
    let whole =
        text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
    match whole {
        Ok(whole) => Value::Number(whole),
        Err(_) if number == TWO_TO_64 => Value::Number(u64::MAX.into()),
        Err(_) => Number::from_f64(number).map_or(Value::Null, Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(error: Option<Error>) -> Vec<String> {
        error.into_iter().flat_map(|it| it.violations).map(|it| it.field).collect()
    }

    #[test]
    fn a_change_survives_being_sent() {
        let change = json!({
            "after": {
                "none": null, "true": true, "whole": 250_000, "negative": -1, "half": 0.5,
                "most": u64::MAX, "text": "a", "list": [1, "b", {}], "map": { "a": { "b": [] } },
            },
            "before": {},
        });
        let ValueKind::StructValue(sent) = value_to_proto(change.clone()).kind.unwrap() else {
            panic!("an object is a struct")
        };
        assert_eq!(Value::Object(json_from_proto(sent)), change);
    }

    #[test]
    fn every_field_of_a_query_at_fault_is_named() {
        let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        let query = v1::QueryAuditRequest {
            actor: "root".into(),
            start_time: time(-1, 0),
            end_time: time(0, -1),
            page_size: -1,
            record_kind: 9,
            ..Default::default()
        };
        let named = ["start_time", "end_time", "record_kind", "actor", "page_size"];
        assert_eq!(fields(list(query).err()), named);
        let backwards = |start, end| v1::QueryAuditRequest {
            start_time: start,
            end_time: end,
            ..Default::default()
        };
        assert_eq!(fields(list(backwards(time(5, 0), time(5, 0))).err()), ["end_time"]);
        assert_eq!(fields(list(backwards(time(6, 0), time(5, 0))).err()), ["end_time"]);
        assert!(list(backwards(time(5, 0), time(5, 1_000))).is_ok());
    }

    #[test]
    fn a_bound_finer_than_entries_keeps_its_meaning() {
        let of = |nanos| {
            bound(&mut Violations::default(), "f", prost_types::Timestamp { seconds: 1, nanos })
        };
        assert_eq!(of(2_000), Some(Timestamp::from_micros(1_000_002)));
        assert_eq!(of(2_001), Some(Timestamp::from_micros(1_000_003)));
        assert_eq!(of(999_999_999), Some(Timestamp::from_micros(2_000_000)));
    }
}
