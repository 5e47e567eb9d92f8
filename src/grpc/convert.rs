//! Messages to the domain and back: the only place where what a message says is checked.
//!
//! Messages are taken apart exhaustively, so that a new field does not compile until it is dealt with.
//! Every field at fault is named at once; only an id that is none is answered alone.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::account::AccountId;
use crate::clock::Timestamp;
use crate::error::{Error, Violations};
use crate::key::KeyId;
use crate::keyring::Receipt;
use crate::proto::v1;
use crate::revision::Position;
use crate::token::Environment;
use crate::token::quoted;

pub(super) mod accounts;
pub(crate) mod audit;
pub(crate) mod authorization;
pub(super) mod check;
pub(super) mod keys;
pub(super) mod nodes;
pub(super) mod policy;

pub(crate) use policy::rule_to_proto;
pub use policy::{policy_from_proto, policy_to_proto};

const PAGE_SIZE_DEFAULT: u32 = 50;
const PAGE_SIZE_MAX: u32 = 1_000;

// === To the domain ===

/// The key that a call is about. Text that is no id belongs to no key: it gets the one text, as a
/// foreign or an unknown id does.
pub(super) fn key_id(field: &str, text: &str) -> Result<KeyId, Error> {
    match KeyId::parse(text) {
        Some(id) => Ok(id),
        None if text.is_empty() => Err(Error::invalid(field, KeyId::GRAMMAR)),
        None => Err(Error::not_found()),
    }
}

/// The account that a call is about; see [`key_id`].
pub(super) fn account_id(field: &str, text: &str) -> Result<AccountId, Error> {
    match AccountId::parse(text) {
        Some(id) => Ok(id),
        None if text.is_empty() => Err(Error::invalid(field, AccountId::GRAMMAR)),
        None => Err(Error::not_found()),
    }
}

/// What a field that may be left empty says.
fn given<T>(text: &str, read: impl FnOnce(&str) -> Result<T, Error>) -> Result<Option<T>, Error> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

fn optional<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    if text.is_empty() { None } else { read(text) }
}

/// A revision that was handed out; empty means none.
fn position(violations: &mut Violations, field: &str, text: &str) -> Option<Position> {
    let remedy = "is not a revision; send back one that you were given";
    optional(text, |text| {
        violations.check(field, Position::from_revision(text, field).map_err(|_| remedy))
    })
}

/// A UUID in its canonical form; empty means none.
fn request_id(violations: &mut Violations, text: &str) -> Option<String> {
    let remedy = "must be a UUID, as in `c0ffee00-1234-4abc-8def-0123456789ab`, or empty";
    optional(text, |text| {
        let id = uuid::Uuid::parse_str(text).map_err(|_| remedy);
        Some(violations.check("request_id", id)?.to_string())
    })
}

/// An environment that may be left unspecified.
fn environment_if_any(
    violations: &mut Violations,
    field: &str,
    number: i32,
) -> Option<Environment> {
    match v1::Environment::try_from(number) {
        Ok(v1::Environment::Unspecified) => None,
        Ok(v1::Environment::Live) => Some(Environment::Live),
        Ok(v1::Environment::Test) => Some(Environment::Test),
        Err(_) => {
            violations.add(field, "must be ENVIRONMENT_LIVE or ENVIRONMENT_TEST, or be left out");
            None
        }
    }
}

/// An environment that must be said.
fn environment(violations: &mut Violations, field: &str, number: i32) -> Option<Environment> {
    let environment = environment_if_any(&mut Violations::default(), field, number);
    if environment.is_none() {
        violations.add(field, "must be ENVIRONMENT_LIVE or ENVIRONMENT_TEST");
    }
    environment
}

/// How many items a page may hold (AIP-158).
fn page_size(violations: &mut Violations, wanted: i32) -> u32 {
    match u32::try_from(wanted) {
        Ok(0) => PAGE_SIZE_DEFAULT,
        Ok(wanted) => wanted.min(PAGE_SIZE_MAX),
        Err(_) => {
            violations.add("page_size", "must not be negative; 0 means 50, the most is 1,000");
            PAGE_SIZE_DEFAULT
        }
    }
}

fn instant(
    violations: &mut Violations,
    field: &str,
    time: prost_types::Timestamp,
) -> Option<Timestamp> {
    let prost_types::Timestamp { seconds, nanos } = time;
    let instant = Timestamp::from_seconds_and_nanos(seconds, nanos);
    if instant.is_none() {
        violations.add(field, "must be in the years 1970 to 9999, with nanos of 0 to 999,999,999");
    }
    instant
}

/// A span that is not negative; `remedy` says what would be right when `fits` says no.
fn span(
    violations: &mut Violations,
    field: &str,
    span: prost_types::Duration,
    fits: impl FnOnce(Duration) -> bool,
    remedy: &str,
) -> Option<Duration> {
    let prost_types::Duration { seconds, nanos } = span;
    let span = match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos @ 0..=999_999_999)) => Some(Duration::new(seconds, nanos)),
        _ => None,
    };
    let span = span.filter(|span| fits(*span));
    if span.is_none() {
        violations.add(field, remedy);
    }
    span
}

/// The paths of a mask, once each; none at all is a mistake.
fn mask(violations: &mut Violations, mask: Option<prost_types::FieldMask>) -> BTreeSet<String> {
    let prost_types::FieldMask { paths } = mask.unwrap_or_default();
    if paths.is_empty() {
        violations.add("update_mask", "names no field; say what to change");
    }
    paths.into_iter().collect()
}

/// A path in a mask that cannot be changed.
fn not_in_mask(violations: &mut Violations, path: &str, allowed: &str) {
    let path = quoted(path);
    violations.add("update_mask", format!("{path} cannot be changed; what can is {allowed}"));
}

/// What was read, once nothing was at fault. That something is missing all the same is our defect.
fn whole<T>(violations: Violations, read: Option<T>) -> Result<T, Error> {
    violations.finish()?;
    read.ok_or_else(|| Error::new(crate::error::Reason::Internal, "internal error"))
}

// === From the domain ===

/// Where a change has taken effect.
pub(super) fn receipt(receipt: Receipt) -> v1::Receipt {
    let Receipt { revision, applied_nodes, pending_nodes, effective_time, effective_in } = receipt;
    v1::Receipt {
        revision: revision.to_revision(),
        applied_nodes,
        pending_nodes,
        effective_everywhere_time: Some(timestamp(effective_time)),
        effective_everywhere_in: Some(duration(effective_in)),
    }
}

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
}

fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or_default(),
    }
}

const fn environment_to_proto(environment: Environment) -> v1::Environment {
    match environment {
        Environment::Live => v1::Environment::Live,
        Environment::Test => v1::Environment::Test,
    }
}

fn texts(items: &[impl fmt::Display]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(read: impl FnOnce(&mut Violations)) -> String {
        let mut violations = Violations::default();
        read(&mut violations);
        violations.finish().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_span_that_is_negative_or_not_normalised_is_refused() {
        let is_fine = |seconds, nanos| {
            let given = prost_types::Duration { seconds, nanos };
            faults(|violations| _ = span(violations, "f", given, |_| true, "bad")).is_empty()
        };
        assert!(is_fine(0, 0) && is_fine(5, 999_999_999));
        assert!(!is_fine(-1, 0) && !is_fine(0, -1) && !is_fine(1, 1_000_000_000));
        assert!(is_fine(i64::MAX, 0));
    }

    #[test]
    fn a_page_has_50_items_by_default_and_1000_at_most() {
        let mut violations = Violations::default();
        assert_eq!(page_size(&mut violations, 0), 50);
        assert_eq!(page_size(&mut violations, 7), 7);
        assert_eq!(page_size(&mut violations, i32::MAX), 1_000);
        assert!(violations.finish().is_ok());
        assert!(faults(|violations| _ = page_size(violations, -1)).starts_with("page_size:"));
    }

    #[test]
    fn a_request_id_is_canonical() {
        let read = |text| request_id(&mut Violations::default(), text);
        let canonical = "c0ffee00-1234-4abc-8def-0123456789ab";
        assert_eq!(read("C0FFEE0012344ABC8DEF0123456789AB").as_deref(), Some(canonical));
        assert_eq!(read(canonical).as_deref(), Some(canonical));
        assert_eq!(read(""), None);
        assert!(!faults(|violations| _ = request_id(violations, "once")).is_empty());
    }
}
