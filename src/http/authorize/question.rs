//! The question as JSON, as protobuf prescribes it; and stricter: a field that stands there twice is refused, for whoever
//! put the body together meant one of them, and it cannot be seen which.
//!
//! What is wrong is told by the field's name and by what would be right. The value is not repeated: it may be a token.

use std::fmt;

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::descriptor;
use crate::error::{Error, Reason};
use crate::proto::v1::AuthorizeRequest;
use crate::token::quoted;

pub(super) fn read(body: &[u8]) -> Result<AuthorizeRequest, Error> {
    let descriptor = descriptor("latchkey.v1.AuthorizeRequest");
    let Names(names) = serde_json::from_slice(body).map_err(|error| no_object(&error))?;
    demand_once(&descriptor, &names)?;
    let mut json = serde_json::Deserializer::from_slice(body);
    let message = DynamicMessage::deserialize(descriptor.clone(), &mut json)
        .map_err(|error| wrong_value(&descriptor, body).unwrap_or_else(|| no_object(&error)))?;
    let bytes = Zeroizing::new(message.encode_to_vec());
    AuthorizeRequest::decode(&**bytes).map_err(|_| Error::new(Reason::Internal, "internal error"))
}

fn no_object(error: &serde_json::Error) -> Error {
    let place = format!("line {}, column {}", error.line(), error.column());
    let told = format!("the body is no AuthorizeRequest in JSON; it is wrong at {place}");
    Error::new(Reason::InvalidField, told)
}

/// The names in an object, in their order.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        json.deserialize_map(Object)
    }
}

fn demand_once(descriptor: &MessageDescriptor, names: &[String]) -> Result<(), Error> {
    let mut seen = Vec::new();
    for name in names {
        let field = field(descriptor, name).ok_or_else(|| {
            let known: Vec<_> =
                descriptor.fields().map(|field| format!("`{}`", field.json_name())).collect();
            let told =
                format!("there is no field {}; there are {}", quoted(name), known.join(", "));
            Error::new(Reason::InvalidField, told)
        })?;
        if seen.contains(&field.number()) {
            return Err(Error::invalid(field.name(), "stands there twice"));
        }
        seen.push(field.number());
    }
    Ok(())
}

/// By either of its two names, as protobuf has it.
fn field(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name))
}

/// The first field whose value alone is not right.
fn wrong_value(descriptor: &MessageDescriptor, body: &[u8]) -> Option<Error> {
    let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let name = fields.into_iter().find_map(|(name, value)| {
        let alone = Value::Object(Map::from_iter([(name.clone(), value)]));
        DynamicMessage::deserialize(descriptor.clone(), alone).is_err().then_some(name)
    })?;
    let field = field(descriptor, &name)?;
    let right = match field.kind() {
        Kind::String => "a text".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Enum(kind) => {
            let names: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
            format!("one of {}", names.join(", "))
        }
        _ => "a whole number".to_owned(),
    };
    Some(Error::invalid(field.name(), format!("must be {right}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        let message = read(json.as_bytes()).unwrap_err().message;
        assert!(!message.contains("secret"), "{json}: {message}");
        message
    }

    #[test]
    fn a_question_is_read_by_either_name_of_its_fields() {
        for json in [
            r#"{"token": "t", "requiredScope": "a:b", "requiredEnvironment": "ENVIRONMENT_LIVE", "cost": 0}"#,
            r#"{"token": "t", "required_scope": "a:b", "required_environment": 1, "cost": "0"}"#,
            r#"{"token": "t", "requiredScope": "a:b", "requiredEnvironment": 1, "cost": 0.0, "clientAddress": null}"#,
        ] {
            let request = read(json.as_bytes()).unwrap();
            assert_eq!((&*request.token, &*request.required_scope), ("t", "a:b"));
            assert_eq!((request.required_environment, request.cost), (1, Some(0)));
        }
    }

    #[test]
    fn what_is_no_object_is_told_by_its_place() {
        for json in ["", "[]", "{", "null", "{} x", r#"{"token": "secret}"#, "\u{feff}{}"] {
            assert!(refusal(json).contains("wrong at line 1"), "{json}");
        }
        let deep = format!("{}1{}", "{\"token\":".repeat(500), "}".repeat(500));
        assert!(refusal(&deep).contains("wrong at line 1"));
    }

    #[test]
    fn a_wrong_field_is_named_with_what_would_be_right() {
        for (json, told) in [
            (
                r#"{"tokn": "hm_live_secret"}"#,
                "there is no field `tokn`; there are `token`, `requiredScope`",
            ),
            (r#"{"token": 7}"#, "token: must be a text"),
            (
                r#"{"token": "t", "authenticateOnly": "secret"}"#,
                "authenticate_only: must be true or false",
            ),
            (
                r#"{"token": "t", "requiredEnvironment": "secret"}"#,
                "must be one of ENVIRONMENT_UNSPECIFIED, ENVIRONMENT_LIVE",
            ),
            (r#"{"cost": -1}"#, "cost: must be a whole number"),
            (r#"{"cost": 4294967296}"#, "cost: must be a whole number"),
        ] {
            let message = refusal(json);
            assert!(message.contains(told), "{json}: {message}");
        }
    }

    #[test]
    fn a_field_that_stands_there_twice_is_refused() {
        for json in [
            r#"{"token": "t", "requiredScope": "a:secret", "requiredScope": "a:b"}"#,
            r#"{"token": "t", "requiredScope": "a:secret", "required_scope": "a:b"}"#,
            r#"{"token": "t", "requiredScope": "a:secret", "requiredScope": null}"#,
            r#"{"token": "t", "requiredScope": "a:secret", "required\u0053cope": "a:b"}"#,
        ] {
            assert_eq!(refusal(json), "required_scope: stands there twice", "{json}");
        }
    }
}
