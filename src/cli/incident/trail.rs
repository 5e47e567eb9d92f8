//! What was changed with a leaked key, and whether it still stands.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Findings, LOOK_SPAN};
use crate::cli::console::Console;
use crate::cli::refusal::Refusal;
use crate::cli::session::Session;
use crate::grpc::convert::audit::json_from_proto;
use crate::proto::v1::{AuditEntry, Key, QueryAuditRequest, RecordKind};

/// So many records are looked after; what became of changes to others is not told.
const RECORDS_MAX: usize = 1_000;

/// Whether a change is still in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody has changed it since.
    Stands,
    /// The key that it is about was revoked since.
    Ended,
    /// All that it changed was changed since.
    Replaced,
    /// The later entries are not known.
    Unknown,
}

impl Standing {
    /// In a word or two.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Stands => "stands",
            Self::Ended => "key revoked",
            Self::Replaced => "changed since",
            Self::Unknown => "not known",
        }
    }
}

/// All changes made with the key and with those that it made, the latest first.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) changes: Vec<(AuditEntry, Standing)>,
    /// Whether the trail could be read at all.
    pub(super) is_known: bool,
}

/// A record, by what an entry says it is about.
type Record = (String, String);

impl Trail {
    /// Asks for the changes, and for what became of each.
    pub(super) fn gather(
        session: &Session,
        key: &Key,
        findings: &mut Findings,
        console: &mut Console,
    ) -> Self {
        let mut entries = Vec::new();
        let ids = findings.descendants.iter().map(|key| &key.key_id);
        for key_id in std::iter::once(&key.key_id).chain(ids) {
            let actor = format!("key:{key_id}");
            let query = QueryAuditRequest { actor, ..QueryAuditRequest::default() };
            match session.within(LOOK_SPAN).pages(query, None, console) {
                Ok(answer) => entries.extend(answer.entries),
                Err(refusal) => {
                    let told = format!("what was changed with it: {}", refusal.message());
                    findings.unknown.push(told);
                    return Self::default();
                }
            }
            console.progress(&format!("{} changes so far …", entries.len()));
        }
        let instant = |entry: &AuditEntry| entry.time.map(|time| (time.seconds, time.nanos));
        entries.sort_by_key(|entry| std::cmp::Reverse(instant(entry)));
        let records: BTreeSet<_> = entries.iter().map(record).collect();
        if records.len() > RECORDS_MAX {
            findings
                .unknown
                .push(format!("what became of changes to more than {RECORDS_MAX} records"));
        }
        let mut histories = BTreeMap::new();
        for record in records.into_iter().take(RECORDS_MAX) {
            match history(session, record.clone(), console) {
                Ok(entries) => drop(histories.insert(record, entries)),
                // Whoever is silent now would be so for each of the others.
                Err(refusal) if refusal.is_passing() => {
                    let told = format!("what became of all changes: {}", refusal.message());
                    findings.unknown.push(told);
                    break;
                }
                Err(_) => {}
            }
        }
        let standing = |entry: &AuditEntry| {
            histories.get(&record(entry)).map_or(Standing::Unknown, |all| standing(entry, all))
        };
        let changes = entries.iter().map(|entry| (entry.clone(), standing(entry))).collect();
        Self { changes, is_known: true }
    }
}

/// The policy has neither id, an account no key's.
fn record(entry: &AuditEntry) -> Record {
    (entry.account_id.clone(), entry.key_id.clone())
}

/// All entries about a record, the latest first.
fn history(
    session: &Session,
    (account_id, key_id): Record,
    console: &mut Console,
) -> Result<Vec<AuditEntry>, Refusal> {
    let kind = match (account_id.is_empty(), key_id.is_empty()) {
        (_, false) => RecordKind::Key,
        (false, true) => RecordKind::Account,
        (true, true) => RecordKind::Policy,
    };
    // A key is found by its own id.
    let account_id = if key_id.is_empty() { account_id } else { String::new() };
    let record_kind = kind.into();
    let query =
        QueryAuditRequest { account_id, key_id, record_kind, ..QueryAuditRequest::default() };
    session.within(LOOK_SPAN).pages(query, None, console).map(|answer| answer.entries)
}

/// What became of a change, from all entries about its record, the latest first.
fn standing(entry: &AuditEntry, all: &[AuditEntry]) -> Standing {
    let Some(at) = all.iter().position(|known| known.revision == entry.revision) else {
        return Standing::Unknown;
    };
    let later: Vec<_> = all[..at].iter().map(after).collect();
    if later.iter().any(|fields| fields.get("revoked").is_some_and(|revoked| !revoked.is_null())) {
        return Standing::Ended;
    }
    let is_new = !json(entry).contains_key("before");
    let fields = after(entry);
    let mut fields = fields.keys();
    let is_replaced = |name: &String| later.iter().any(|fields| fields.contains_key(name));
    // What was made is there as long as it has not ended.
    if !is_new && fields.len() > 0 && fields.all(is_replaced) {
        Standing::Replaced
    } else {
        Standing::Stands
    }
}

fn json(entry: &AuditEntry) -> Map<String, Value> {
    json_from_proto(entry.change.clone().unwrap_or_default())
}

fn after(entry: &AuditEntry) -> Map<String, Value> {
    match json(entry).remove("after") {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;
    use prost_types::{Struct, Value as ProtoValue};

    use super::*;

    fn fields(names: &[&str]) -> ProtoValue {
        let field = |name: &&str| {
            ((*name).to_owned(), ProtoValue { kind: Some(Kind::StringValue("x".into())) })
        };
        let fields = names.iter().map(field).collect();
        ProtoValue { kind: Some(Kind::StructValue(Struct { fields })) }
    }

    fn entry(revision: &str, before: Option<&[&str]>, after: &[&str]) -> AuditEntry {
        let mut change = Struct::default();
        change.fields.insert("after".to_owned(), fields(after));
        if let Some(before) = before {
            change.fields.insert("before".to_owned(), fields(before));
        }
        AuditEntry { revision: revision.into(), change: Some(change), ..AuditEntry::default() }
    }

    #[test]
    fn a_change_stands_until_all_of_it_is_changed_or_its_key_ends() {
        let made = entry("1", None, &["scopes", "labels"]);
        let changed = entry("2", Some(&["scopes", "labels"]), &["scopes", "labels"]);
        let partly = entry("3", Some(&["scopes"]), &["scopes"]);
        let rest = entry("4", Some(&["labels"]), &["labels"]);
        let ended = entry("5", Some(&["revoked"]), &["revoked"]);
        let all = [&partly, &changed, &made].map(Clone::clone);
        assert_eq!(standing(&changed, &all), Standing::Stands);
        assert_eq!(standing(&made, &all), Standing::Stands);
        let all = [&rest, &partly, &changed, &made].map(Clone::clone);
        assert_eq!(standing(&changed, &all), Standing::Replaced);
        assert_eq!(standing(&rest, &all), Standing::Stands);
        let all = [&ended, &rest, &partly, &changed, &made].map(Clone::clone);
        assert_eq!(standing(&made, &all), Standing::Ended);
        assert_eq!(standing(&ended, &all), Standing::Stands);
        assert_eq!(standing(&entry("6", None, &[]), &all), Standing::Unknown);
    }
}
