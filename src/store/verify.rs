//! Whether audit trail, feed and records agree: the checks, once for all databases.
//!
//! A backend brings the rows of one snapshot, in the order asked for here, and nothing is kept of them
//! but what the next row is compared with. What agrees with itself in all three is not found: there is
//! no signature on any of it.

use super::StoreError;
use super::row::PositionRow;
use crate::account::Account;
use crate::audit::{self, Change, Contradiction, Fields, Past};
use crate::clock::Timestamp;
use crate::key::{Actor, KeyRecord};
use crate::policy::Policy;
use crate::revision::Position;
use crate::token;

/// The most characters of a value that a fault repeats.
const SHOWN_CHARS_MAX: usize = 200;

/// Something that does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: `change 7`, `key key_…`, `account acme`, `policy` or `feed`.
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
        Self { place: place.to_owned(), what, expected: shown(&expected), found: shown(&found) }
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
    /// Whether the key that acted is there.
    pub(super) is_actor_there: bool,
    pub(super) action: String,
    pub(super) account_id: Option<String>,
    pub(super) key_id: Option<String>,
    pub(super) change: String,
    pub(super) peer: String,
    pub(super) request_id: Option<String>,
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
        match Actor::parse(&entry.actor) {
            Some(Actor::Key(_)) if !entry.is_actor_there => {
                self.fault(place, Contradiction::new("actor", "a key that is there", &entry.actor));
            }
            Some(Actor::Key(_) | Actor::System(_)) => {}
            None => self.fault(
                place,
                Contradiction::new("actor", "`key:ID` or `system:WHAT`", &entry.actor),
            ),
        }
        if let Err(error) = serde_json::from_str::<Change>(&entry.change) {
            let found = error.to_string();
            self.fault(place, Contradiction::new("change in the trail", "before and after", found));
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

    /// Takes the number of an entry that no change has.
    pub(super) fn entry_without_change(&mut self, n: i64) {
        let place = format!("change {n}");
        self.fault(&place, Contradiction::new("the feed", "a change, as in the trail", "nothing"));
    }

    /// After the last change.
    pub(super) fn end_of_feed(&mut self, head: &HeadRow) {
        let (n, tag, at) = self.last.take().map_or((0, 0, 0), |last| (last.n, last.tag, last.at));
        let HeadRow { position, at: head_at } = head;
        self.check("feed", "number of the last change", &n, &position.n);
        if n == position.n {
            self.check("feed", "tag of the last change", &hex(tag), &hex(position.tag));
            self.check("feed", "time of the last change", &instant(at), &instant(*head_at));
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

/// A record as it stands in the store.
pub(super) struct Standing {
    fields: Fields,
    revision: Position,
    version: u64,
    create_time: Option<Timestamp>,
    update_time: Timestamp,
    account: Option<String>,
    digest: Option<Vec<u8>>,
}

impl From<KeyRecord> for Standing {
    fn from(key: KeyRecord) -> Self {
        Self {
            fields: audit::of_key(&key),
            revision: key.revision,
            version: key.version,
            create_time: Some(key.create_time),
            update_time: key.update_time,
            account: Some(key.account.to_string()),
            digest: Some(key.digest.as_bytes().to_vec()),
        }
    }
}

impl From<Account> for Standing {
    fn from(account: Account) -> Self {
        Self {
            fields: audit::of_account(&account),
            revision: account.revision,
            version: account.version,
            create_time: Some(account.create_time),
            update_time: account.update_time,
            account: None,
            digest: None,
        }
    }
}

impl Standing {
    /// Of the policy, which was written so often.
    pub(super) fn policy(policy: &Policy, revision: Position, version: u64, at: Timestamp) -> Self {
        Self {
            fields: audit::of_policy(policy),
            revision,
            version,
            create_time: None,
            update_time: at,
            account: None,
            digest: None,
        }
    }
}

fn instant(micros: i64) -> String {
    Timestamp::from_micros(micros).to_rfc3339()
}

fn hex(bits: i64) -> String {
    format!("{bits:016x}")
}
