//! Messages of the API as trees of names and values, from their descriptors alone: printed as JSON in the
//! way that protobuf prescribes and grpcurl prints, or as rows for people. A new field needs nothing here.

use std::fmt::Write as _;
use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value,
};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::{Number, Value as Json};

use super::time::{duration_text, instant_text};
use crate::policy::has_unprintable;
use crate::proto::FILE_DESCRIPTOR_SET;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptors were made by our own build")
});

/// A value of JSON whose fields keep the order in which the message declares them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Leaf(Json),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    /// The message; what is not set, or has its default, is left out.
    pub(super) fn of<M: Message + Name>(message: &M) -> Self {
        let descriptor = POOL.get_message_by_name(&M::full_name()).expect("the message is ours");
        let mut dynamic = DynamicMessage::new(descriptor);
        dynamic.transcode_from(message).expect("the message is of that type");
        of_message(&dynamic)
    }

    /// A text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Leaf(Json::String(text.into()))
    }

    /// Names and values, in this order.
    pub(super) fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Object(fields.into_iter().map(|(name, tree)| (name.to_owned(), tree)).collect())
    }

    /// The field of this name, which is the one in JSON.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(known, _)| known == name).map(|(_, tree)| tree)
    }

    /// As JSON, indented.
    pub(super) fn to_json(&self) -> String {
        escaped(&serde_json::to_string_pretty(self).expect("a tree has no keys but texts"))
    }

    /// As JSON in one line.
    pub(super) fn to_json_line(&self) -> String {
        escaped(&serde_json::to_string(self).expect("a tree has no keys but texts"))
    }

    /// Names in words and values in one line each; what is in an object bears its name in front.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        if let Self::Object(fields) = self {
            for (name, value) in fields {
                gather_rows(words(name), value, &mut rows);
            }
        }
        rows
    }

    /// In one line, for a cell of a table.
    pub(super) fn to_line(&self) -> String {
        match self {
            Self::Leaf(Json::String(text)) => plain(text),
            Self::Leaf(value) => value.to_string(),
            Self::List(items) => joined(items.iter().map(Self::to_line)),
            Self::Object(fields) => {
                joined(fields.iter().map(|(name, value)| format!("{name}={}", value.to_line())))
            }
        }
    }
}

/// JSON in which what could play with a terminal is escaped as JSON does it.
fn escaped(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut shown, char| {
        if char != '\n' && has_unprintable(char.encode_utf8(&mut [0; 4])) {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(char);
        }
        shown
    })
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn gather_rows(name: String, value: &Tree, rows: &mut Vec<(String, String)>) {
    match value {
        // The fields of a message; labels, whose names are anybody's, stay in one line.
        Tree::Object(fields) if name != "labels" => {
            for (inner, value) in fields {
                gather_rows(format!("{name} {}", words(inner)), value, rows);
            }
        }
        Tree::List(items) if matches!(items.first(), Some(Tree::Object(_))) => {
            for (index, item) in items.iter().enumerate() {
                gather_rows(format!("{name} {}", index + 1), item, rows);
            }
        }
        Tree::Leaf(_) | Tree::List(_) | Tree::Object(_) => rows.push((name, value.to_line())),
    }
}

/// `lastUsedTime` as people say it.
fn words(name: &str) -> String {
    name.chars().fold(String::new(), |mut words, char| {
        if char.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(char.to_ascii_lowercase());
        words
    })
}

/// `KEY_STATE_ACTIVE` as people say it; anything else as it is.
pub(super) fn plain(text: &str) -> String {
    const PREFIXES: [&str; 6] = [
        "KEY_STATE_",
        "ACCOUNT_STATE_",
        "NODE_STATE_",
        "ENVIRONMENT_",
        "REVOKE_REASON_",
        "DECISION_REASON_",
    ];
    let word = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix));
    word.map_or_else(|| text.to_owned(), |word| word.to_ascii_lowercase().replace('_', " "))
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Leaf(value) => value.serialize(serializer),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Self::Object(fields) => {
                let mut object = serializer.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, value)| object.serialize_entry(name, value))?;
                object.end()
            }
        }
    }
}

// === From messages ===

fn of_message(message: &DynamicMessage) -> Tree {
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => {
            let (seconds, nanos) = seconds_and_nanos(message);
            Tree::text(instant_text(seconds, nanos))
        }
        "google.protobuf.Duration" => {
            let (seconds, nanos) = seconds_and_nanos(message);
            Tree::text(duration_text(seconds, nanos))
        }
        "google.protobuf.Struct" => field(message, "fields"),
        "google.protobuf.ListValue" => field(message, "values"),
        // One of its fields is set, and is what it says; null is the absence of all others.
        "google.protobuf.Value" => message
            .fields()
            .next()
            .map_or(Tree::Leaf(Json::Null), |(field, value)| of_field(&field, value)),
        _ => of_fields(message),
    }
}

fn of_fields(message: &DynamicMessage) -> Tree {
    let descriptor = message.descriptor();
    // A pool gives fields by number; people and grpcurl see them as they are declared.
    let declared = descriptor.descriptor_proto().field.iter();
    let set = declared
        .filter_map(|field| descriptor.get_field_by_name(field.name()))
        .filter(|field| message.has_field(field));
    let fields = set.map(|field| {
        let value = of_field(&field, &message.get_field(&field));
        (field.json_name().to_owned(), value)
    });
    Tree::Object(fields.collect())
}

fn field(message: &DynamicMessage, name: &str) -> Tree {
    let Some(field) = message.descriptor().get_field_by_name(name) else {
        return Tree::Leaf(Json::Null);
    };
    of_field(&field, &message.get_field(&field))
}

fn of_field(field: &FieldDescriptor, value: &Value) -> Tree {
    match (value, field.kind()) {
        (Value::Map(entries), Kind::Message(entry)) => {
            let kind = entry.map_entry_value_field().kind();
            let mut fields: Vec<_> = entries
                .iter()
                .map(|(name, value)| (key_text(name), of_value(&kind, value)))
                .collect();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            Tree::Object(fields)
        }
        (Value::List(items), kind) => {
            Tree::List(items.iter().map(|item| of_value(&kind, item)).collect())
        }
        (value, kind) => of_value(&kind, value),
    }
}

fn of_value(kind: &Kind, value: &Value) -> Tree {
    Tree::Leaf(match value {
        Value::Message(message) => return of_message(message),
        Value::Bool(value) => Json::Bool(*value),
        Value::I32(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        // A number of JSON does not hold 64 bits everywhere.
        Value::I64(value) => Json::String(value.to_string()),
        Value::U64(value) => Json::String(value.to_string()),
        Value::F32(value) => float(f64::from(*value)),
        Value::F64(value) => float(*value),
        Value::String(value) => Json::String(value.clone()),
        Value::Bytes(value) => {
            use base64::Engine as _;
            Json::String(base64::engine::general_purpose::STANDARD.encode(value))
        }
        Value::EnumNumber(number) => of_enum(kind, *number),
        // Neither is the value of a single field.
        Value::List(_) | Value::Map(_) => Json::Null,
    })
}

fn of_enum(kind: &Kind, number: i32) -> Json {
    let Kind::Enum(kind) = kind else { return number.into() };
    if kind.full_name() == "google.protobuf.NullValue" {
        return Json::Null;
    }
    kind.get_value(number).map_or_else(|| number.into(), |value| value.name().into())
}

/// Whole numbers are written without a fraction, as grpcurl does.
fn float(value: f64) -> Json {
    let text = value.to_string();
    let whole = text.parse::<i64>().ok().map(Number::from);
    whole.or_else(|| Number::from_f64(value)).map_or(Json::String(text), Json::Number)
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
    }
}

fn seconds_and_nanos(message: &DynamicMessage) -> (i64, i32) {
    let field = |name| message.get_field_by_name(name);
    let seconds = field("seconds").and_then(|value| value.as_i64()).unwrap_or(0);
    let nanos = field("nanos").and_then(|value| value.as_i32()).unwrap_or(0);
    (seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{AuditEntry, Key, KeyState, Policy, QueryAuditResponse, RateLimit};

    #[test]
    fn a_message_is_written_as_grpcurl_writes_it() {
        let key = Key {
            key_id: "key_1".into(),
            scopes: vec!["a:b".into()],
            state: KeyState::Active.into(),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 120_000_000 }),
            labels: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            ..Key::default()
        };
        let tree = Tree::of(&key);
        assert_eq!(
            tree.to_json(),
            r#"{
  "keyId": "key_1",
  "scopes": [
    "a:b"
  ],
  "state": "KEY_STATE_ACTIVE",
  "createTime": "1970-01-01T00:00:00.120Z",
  "labels": {
    "a": "1",
    "b": "2"
  }
}"#
        );
        let rows: Vec<_> =
            tree.rows().into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let shown = [
            "key id: key_1",
            "scopes: a:b",
            "state: active",
            "create time: 1970-01-01T00:00:00.120Z",
            "labels: a=1, b=2",
        ];
        assert_eq!(rows, shown);
    }

    #[test]
    fn json_stays_json_when_a_text_would_play_with_the_terminal() {
        let text = "a\u{1b}[2J\u{202e}\u{7f}\n";
        let json = Tree::text(text).to_json();
        assert!(json.is_ascii(), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn a_change_of_the_audit_trail_is_json_within_json() {
        use prost_types::{ListValue, Struct, Value, value::Kind};
        let value = |kind| Value { kind: Some(kind) };
        let list = ListValue { values: vec![value(Kind::StringValue("x".into()))] };
        let fields = [
            ("null".to_owned(), value(Kind::NullValue(0))),
            ("list".to_owned(), value(Kind::ListValue(list))),
            ("no".to_owned(), value(Kind::BoolValue(false))),
            ("half".to_owned(), value(Kind::NumberValue(0.5))),
            ("two".to_owned(), value(Kind::NumberValue(2.0))),
        ];
        let change = Struct { fields: fields.into() };
        let entry = AuditEntry { change: Some(change), ..AuditEntry::default() };
        let answer = QueryAuditResponse { entries: vec![entry], ..Default::default() };
        let json: Json = serde_json::from_str(&Tree::of(&answer).to_json()).unwrap();
        let wanted = serde_json::json!({"entries": [{"change":
            {"half": 0.5, "list": ["x"], "no": false, "null": null, "two": 2}}]});
        assert_eq!(json, wanted);
    }

    #[test]
    fn numbers_and_spans_are_written_as_protobuf_prescribes() {
        use crate::proto::v1::Plan;
        let rate = RateLimit { requests_per_second: 50.0, burst: 100 };
        let plan = Plan {
            monthly_quota: Some(5_000),
            rate_limit: Some(rate),
            max_keys: Some(0),
            ..Plan::default()
        };
        let policy = crate::proto::v1::GetPolicyResponse {
            policy: Some(Policy {
                plans: vec![plan],
                bound: Some(prost_types::Duration { seconds: 0, nanos: 850_000_000 }),
                ..Policy::default()
            }),
        };
        let json: Json = serde_json::from_str(&Tree::of(&policy).to_json()).unwrap();
        let plan = serde_json::json!({"maxKeys": 0, "monthlyQuota": "5000",
            "rateLimit": {"requestsPerSecond": 50, "burst": 100}});
        assert_eq!(json, serde_json::json!({"policy": {"plans": [plan], "bound": "0.850s"}}));
    }
}
