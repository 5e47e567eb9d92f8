//! Whether audit trail, feed and records agree: the checks, once for all databases.
//!
//! A backend brings the rows of one snapshot, in the order asked for here, and nothing is kept of them
//! but what the next row is compared with. What agrees with itself in all three is not found: there is
//! no signature on any of it.

use serde_json::Value;

pub(super) use self::rows::schema_row;
use self::standing::Standing;
use super::StoreError;
use super::row::PositionRow;
use crate::account::RESERVED_ACCOUNT;
use crate::audit::{Change, Contradiction, Past};
use crate::clock::Timestamp;
use crate::key::Actor;
use crate::token;

pub(super) mod pass;
mod rows;
mod standing;

/// The most characters of a value that a fault repeats.
const SHOWN_CHARS_MAX: usize = 200;

/// Something that does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: `change 7`, `key key_…`, `account acme`, `policy`, `feed`, `request ID (…)` or `schema`.
    pub place: String,
    /// What of it.
    pub what: String,
    /// What follows from everything else.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl Fault {
    fn new(place: &str, contradiction: Contradiction) -> Self {
        let Contradiction { what, expected, found } = contradiction;
        let [place, what, expected, found] = [place, &what, &expected, &found].map(shown);
        Self { place, what, expected, found }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { place, what, expected, found } = self;
        write!(f, "{place}: {what}: expected {expected}, found {found}")
    }
}

/// A value as a fault may repeat it: its beginning, and nothing of it when a token stands in it.
fn shown(value: &str) -> String {
    if token::is_in(value) {
        return "(not repeated: it holds a token)".to_owned();
    }
    match value.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// What was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Changes of the feed, each with its entry in the trail.
    pub changes: u64,
    /// Keys, each put together from its entries.
    pub keys: u64,
    /// Accounts, likewise.
    pub accounts: u64,
    /// Policies, likewise: one.
    pub policies: u64,
    /// Faults.
    pub faults: u64,
}

/// What happens to a fault: it is told at once.
pub(super) type Tell<'a> = &'a mut (dyn FnMut(Fault) + Send);

/// The state of a verification.
pub(super) struct Verifier<'a> {
    pub(super) checked: Checked,
    tell: Tell<'a>,
    /// The last change that was looked at.
    last: Option<FeedRow>,
    epoch: i64,
}

/// The one row of `feed`.
pub(super) struct HeadRow {
    pub(super) position: PositionRow,
    pub(super) at: i64,
    pub(super) is_seeded: bool,
}

/// A row of `changes`, less what only the subject knows.
#[derive(Clone)]
pub(super) struct FeedRow {
    pub(super) n: i64,
    pub(super) tag: i64,
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) at: i64,
}

/// A row of `audit`, as it stands.
pub(super) struct TrailRow {
    pub(super) at: i64,
    pub(super) actor: String,
    /// The key that acted, if it is there.
    pub(super) actor_key: Option<ActorRow>,
    pub(super) action: String,
    pub(super) account_id: Option<String>,
    pub(super) key_id: Option<String>,
    pub(super) change: String,
    pub(super) peer: String,
    pub(super) request_id: Option<String>,
}

/// Of the key that acted: what limits when, and on whom, it can have.
pub(super) struct ActorRow {
    pub(super) account_id: String,
    pub(super) revoke_time: Option<i64>,
    /// The first entry about it.
    pub(super) first_entry: Option<i64>,
}

/// A request that is remembered, or an entry that tells of one.
pub(super) struct RequestRow {
    pub(super) rpc: String,
    pub(super) id: String,
    pub(super) at: i64,
}

/// A part of the database's schema, by its kind and name.
pub(super) struct SchemaRow {
    pub(super) name: String,
    pub(super) sql: String,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(tell: Tell<'a>) -> Self {
        Self { checked: Checked::default(), tell, last: None, epoch: 0 }
    }

    fn fault(&mut self, place: &str, contradiction: Contradiction) {
        self.checked.faults += 1;
        (self.tell)(Fault::new(place, contradiction));
    }

    /// Notes what differs.
    fn check<T: PartialEq + std::fmt::Display + ?Sized>(
        &mut self,
        place: &str,
        what: &str,
        expected: &T,
        found: &T,
    ) {
        if expected != found {
            let contradiction = Contradiction::new(what, expected.to_string(), found.to_string());
            self.fault(place, contradiction);
        }
    }

    // === The feed and the trail, by their numbers ===

    /// Takes the head of the feed; first of all.
    pub(super) fn head(&mut self, head: &HeadRow) {
        self.epoch = head.position.epoch;
    }

    /// Takes the next change, with its entry, by their number.
    pub(super) fn change(&mut self, change: FeedRow, entry: Option<&TrailRow>) {
        self.checked.changes += 1;
        let place = format!("change {}", change.n);
        let (before, time) = self.last.as_ref().map_or((0, i64::MIN), |last| (last.n, last.at));
        if change.n != before + 1 {
            let gap = if change.n - before == 2 {
                format!("change {}", before + 1)
            } else {
                format!("changes {} to {}", before + 1, change.n - 1)
            };
            self.fault(&gap, Contradiction::new("the feed", "no gap", "nothing"));
        }
        if change.at < time {
            let earliest = format!("not before {}", instant(time));
            self.fault(&place, Contradiction::new("time", earliest, instant(change.at)));
        }
        match entry {
            None => self.fault(&place, Contradiction::new("audit entry", "one", "none")),
            Some(entry) => self.entry(&place, &change, entry),
        }
        self.last = Some(change);
    }

    fn entry(&mut self, place: &str, change: &FeedRow, entry: &TrailRow) {
        self.check(place, "time in the trail", &instant(change.at), &instant(entry.at));
        let subject = match (&entry.key_id, &entry.account_id) {
            (Some(key), Some(_)) => ("key", key.as_str()),
            (None, Some(account)) => ("account", account.as_str()),
            (None, None) => ("policy", ""),
            (Some(key), None) => ("key without account", key.as_str()),
        };
        let told = |(kind, id): (&str, &str)| format!("{kind} {id}").trim_end().to_owned();
        let of_feed = told((&change.kind, &change.subject));
        self.check(place, "subject in the trail", &of_feed, &told(subject));
        match serde_json::from_str::<Change>(&entry.change) {
            Ok(told) => self.actor(change.n, place, entry, &told),
            Err(error) => {
                let found = error.to_string();
                let what = Contradiction::new("change in the trail", "before and after", found);
                self.fault(place, what);
            }
        }
        let request_id = entry.request_id.as_deref().unwrap_or_default();
        for (name, text) in [
            ("actor", entry.actor.as_str()),
            ("action", &entry.action),
            ("change in the trail", &entry.change),
            ("peer", &entry.peer),
            ("request_id", request_id),
        ] {
            if token::is_in(text) {
                self.fault(place, Contradiction::new(name, "no token", "a token"));
            }
        }
    }

    /// Whether whoever acted can have: there at the time, within reach, and named by what was made.
    fn actor(&mut self, n: i64, place: &str, entry: &TrailRow, told: &Change) {
        let mut expect = |expected: &str| {
            self.fault(place, Contradiction::new("actor", expected, &entry.actor));
        };
        let actor = Actor::parse(&entry.actor);
        match (&actor, &entry.actor_key) {
            (None, _) => return expect("`key:ID` or `system:WHAT`"),
            (Some(Actor::Key(_)), None) => return expect("a key that is there"),
            (Some(Actor::System(_)), _) => {}
            (Some(Actor::Key(_)), Some(key)) => {
                if key.first_entry.is_none_or(|made| made >= n) {
                    expect("a key that was made before");
                }
                if key.revoke_time.is_some_and(|revoked| revoked < entry.at) {
                    expect("a key that was not revoked before");
                }
                if key.account_id != RESERVED_ACCOUNT
                    && entry.account_id.as_ref() != Some(&key.account_id)
                {
                    expect("a key of the same account, or of `latchkey`");
                }
            }
        }
        let maker = told.after.get("created_by").and_then(Value::as_str);
        // A root key is made by `system:root`, whatever the occasion was.
        let is_system = |actor: Option<Actor>| matches!(actor, Some(Actor::System(_)));
        if let Some(maker) = maker
            && maker != entry.actor
            && !(is_system(actor) && is_system(Actor::parse(maker)))
        {
            expect(maker);
        }
    }

    /// Takes the number of an entry that no change has.
    pub(super) fn entry_without_change(&mut self, n: i64) {
        let place = format!("change {n}");
        self.fault(&place, Contradiction::new("the feed", "a change, as in the trail", "nothing"));
    }

    /// After the last change.
    pub(super) fn end_of_feed(&mut self, head: &HeadRow) {
        let (n, tag, at) = self.last.take().map_or((0, 0, 0), |last| (last.n, last.tag, last.at));
        let HeadRow { position, at: head_at, is_seeded } = head;
        self.check("feed", "number of the last change", &n, &position.n);
        if n == position.n {
            self.check("feed", "tag of the last change", &hex(tag), &hex(position.tag));
            self.check("feed", "time of the last change", &instant(at), &instant(*head_at));
        }
        // A start on a store that is not seeded makes another root key.
        self.check("feed", "seeded", &(n > 0), is_seeded);
    }

    // === What no record tells of ===

    /// Takes a request of the last two days that an entry tells of, and that is not remembered.
    pub(super) fn forgotten_request(&mut self, request: &RequestRow) {
        let what = Contradiction::new("remembered", "as the trail tells", "not there");
        self.fault(&told(request), what);
    }

    /// Takes a request that is remembered, and that no entry tells of.
    pub(super) fn request_without_entry(&mut self, request: &RequestRow) {
        let what = Contradiction::new("an entry in the trail", "one", "none");
        self.fault(&told(request), what);
    }

    /// Compares the parts of the schema, among them the triggers by which nothing is rewritten, with those of
    /// the same version of the schema.
    pub(super) fn schema(&mut self, released: &[SchemaRow], found: &[SchemaRow]) {
        let sql_of = |rows: &[SchemaRow], name: &str| -> Option<String> {
            rows.iter().find(|row| row.name == name).map(|row| row.sql.clone())
        };
        let added = found.iter().filter(|row| sql_of(released, &row.name).is_none());
        for SchemaRow { name, .. } in released.iter().chain(added) {
            let (expected, found) = match (sql_of(released, name), sql_of(found, name)) {
                (None, _) => ("none", "one"),
                (Some(_), None) => ("one", "none"),
                (Some(released), Some(found)) if released != found => ("as released", "another"),
                (Some(_), Some(_)) => continue,
            };
            self.fault("schema", Contradiction::new(name, expected, found));
        }
    }

    // === Records, each with its entries ===

    /// A record whose entries end here: what they come to, and what stands in the store.
    pub(super) fn record(
        &mut self,
        history: History,
        standing: Option<Result<Standing, StoreError>>,
    ) {
        let History { place, past, first_at, last, accounts, digests, is_readable, found } =
            history;
        for contradiction in found {
            self.fault(&place, contradiction);
        }
        let standing = match standing {
            None => {
                let what = Contradiction::new("the record", "as its entries tell", "none");
                return self.fault(&place, what);
            }
            Some(Err(error)) => {
                let found = error.to_string();
                let what = Contradiction::new("the record", "one that can be read", found);
                return self.fault(&place, what);
            }
            Some(Ok(standing)) => standing,
        };
        let Standing { fields, revision, version, create_time, update_time, account, digest } =
            standing;
        let Some(last) = last else {
            let what = Contradiction::new("the record", "entries that tell of it", "none");
            return self.fault(&place, what);
        };
        if is_readable {
            for contradiction in past.compare(&fields) {
                self.fault(&place, contradiction);
            }
        }
        let PositionRow { epoch, n, tag } = revision.into();
        self.check(&place, "epoch", &hex(self.epoch), &hex(epoch));
        self.check(&place, "change that made it what it is", &last.n, &n);
        if let Some(expected) = last.tag {
            self.check(&place, "tag of that change", &hex(expected), &hex(tag));
        }
        self.check(&place, "version", &(past.entries() as u64), &version);
        if let Some(create_time) = create_time {
            let created = instant(create_time.micros());
            self.check(&place, "create_time", &instant(first_at), &created);
        }
        let updated = instant(update_time.micros());
        self.check(&place, "update_time", &instant(last.at), &updated);
        if let Some(account) = account
            && let Some(other) = accounts.into_iter().find(|other| *other != account)
        {
            self.check(&place, "account", &other, &account);
        }
        if let Some(digest) = digest
            && digests.iter().any(|other| *other != digest)
        {
            self.fault(&place, Contradiction::new("digest", "that of its changes", "another"));
        }
    }
}

/// The number, tag and time of a change.
struct Last {
    n: i64,
    tag: Option<i64>,
    at: i64,
}

/// The entries of one record so far.
pub(super) struct History {
    place: String,
    past: Past,
    first_at: i64,
    last: Option<Last>,
    /// The accounts that entries name; more than one is a fault.
    accounts: Vec<String>,
    /// The digests that changes carry; more than one is a fault.
    digests: Vec<Vec<u8>>,
    /// Whether every change could be read.
    is_readable: bool,
    found: Vec<Contradiction>,
}

/// An entry of a record, with the tag and the digest of its change.
pub(super) struct StepRow {
    pub(super) n: i64,
    pub(super) tag: Option<i64>,
    pub(super) at: i64,
    pub(super) account_id: Option<String>,
    pub(super) change: String,
    pub(super) digest: Option<Vec<u8>>,
}

impl History {
    /// Of a record that goes by this name.
    pub(super) fn of(place: String) -> Self {
        Self {
            place,
            past: Past::default(),
            first_at: 0,
            last: None,
            accounts: Vec::new(),
            digests: Vec::new(),
            is_readable: true,
            found: Vec::new(),
        }
    }

    /// Takes the next entry.
    pub(super) fn step(&mut self, step: StepRow) {
        let StepRow { n, tag, at, account_id, change, digest } = step;
        if self.last.is_none() {
            self.first_at = at;
        }
        self.last = Some(Last { n, tag, at });
        note(&mut self.accounts, account_id);
        note(&mut self.digests, digest);
        // One that cannot be read is told with its number.
        match serde_json::from_str::<Change>(&change) {
            Ok(change) => {
                let found = self.past.step(&change).into_iter();
                self.found.extend(
                    found.map(|it| Contradiction {
                        what: format!("{} (change {n})", it.what),
                        ..it
                    }),
                );
            }
            Err(_) => self.is_readable = false,
        }
    }
}

fn note<T: PartialEq>(seen: &mut Vec<T>, value: Option<T>) {
    if let Some(value) = value
        && !seen.contains(&value)
    {
        seen.push(value);
    }
}

fn told(request: &RequestRow) -> String {
    let RequestRow { rpc, id, at } = request;
    format!("request {id} ({rpc} at {})", instant(*at))
}

fn instant(micros: i64) -> String {
    Timestamp::from_micros(micros).to_rfc3339()
}

fn hex(bits: i64) -> String {
    format!("{bits:016x}")
}
