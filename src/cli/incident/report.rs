//! The one report on a leaked key, for people and for programs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::trail::{Standing, Trail};
use super::{Findings, is_root};
use crate::cli::audit;
use crate::cli::console::Console;
use crate::cli::table::{Table, Tone};
use crate::cli::time::shown;
use crate::cli::tree::{Tree, plain};
use crate::cli::{key, receipt};
use crate::proto::v1::{Key, KeyState, RevokeKeyResponse};

/// All that there is to say.
pub(super) struct Report {
    pub(super) findings: Findings,
    pub(super) ended: RevokeKeyResponse,
    pub(super) trail: Trail,
}

impl Report {
    /// For programs.
    pub(super) fn to_tree(&self) -> Tree {
        let texts = |texts: &[String]| Tree::List(texts.iter().map(Tree::text).collect());
        let mut fields = vec![("key", Tree::of(&self.key()))];
        if let Some(before) = &self.findings.key {
            fields.push(("keyBefore", Tree::of(before)));
        }
        if let Some(account) = &self.findings.account {
            fields.push(("account", Tree::of(account)));
        }
        if let Some(receipt) = &self.ended.receipt {
            fields.push(("receipt", Tree::of(receipt)));
        }
        let descendants = self.findings.descendants.iter().map(Tree::of).collect();
        fields.push(("revokedKeyIds", texts(&self.ended.revoked_key_ids)));
        fields.push(("keysMadeWithItBefore", Tree::List(descendants)));
        fields.push(("lastUsed", self.last_used_tree()));
        if self.trail.is_known {
            let change = |(entry, standing): &(_, Standing)| {
                Tree::object([
                    ("entry", Tree::of(entry)),
                    ("standing", Tree::text(standing.as_str().replace(' ', "_").to_uppercase())),
                ])
            };
            let changes = self.trail.changes.iter().map(change).collect();
            fields.push(("changes", Tree::List(changes)));
        }
        fields.push(("notKnown", texts(&self.findings.unknown)));
        fields.push(("next", texts(&self.next())));
        Tree::object(fields)
    }

    fn last_used_tree(&self) -> Tree {
        let mut fields = Vec::new();
        if let Some(time) = self.used().last_used_time {
            let used = Key { last_used_time: Some(time), ..Key::default() };
            fields.extend(Tree::of(&used).get("lastUsedTime").map(|time| ("time", time.clone())));
        }
        let peers = self.peers().into_keys().map(Tree::text).collect();
        fields.push(("administratedFrom", Tree::List(peers)));
        Tree::object(fields)
    }

    /// For people.
    pub(super) fn print(&self, console: &mut Console) {
        let key = self.key();
        let count = self.ended.revoked_key_ids.len();
        let before = if count == 0 { " (it was before)" } else { "" };
        console.answer(&format!("{} is revoked{before}.", key.key_id));

        title("Receipt", console);
        let revoked = match count {
            0 => "nothing; all was revoked before".to_owned(),
            _ => self.ended.revoked_key_ids.join(", "),
        };
        let mut rows = vec![("revoked by this", revoked)];
        rows.push(("revoked since", shown(key.revoke_time.as_ref())));
        rows.push(("reason", plain(key.revoke_reason().as_str_name())));
        rows.extend(self.ended.receipt.as_ref().map(receipt::rows).unwrap_or_default());
        console.answer_rows(&rows);

        title("What it could do", console);
        console.answer_rows(&self.powers());

        title("Use", console);
        console.answer_rows(&self.use_rows());

        self.print_descendants(console);
        self.print_changes(console);

        if !self.findings.unknown.is_empty() {
            title("What could not be found out", console);
            self.findings.unknown.iter().for_each(|what| console.answer(what));
        }
        title("What to do next", console);
        self.next().iter().for_each(|step| console.answer(&format!("- {step}")));
    }

    fn print_descendants(&self, console: &mut Console) {
        let made = &self.findings.descendants;
        if !made.is_empty() {
            title("Keys made with it, as they were before", console);
            console.table(&key::table(made));
        }
    }

    fn print_changes(&self, console: &mut Console) {
        if !self.trail.is_known {
            return;
        }
        title("Changes made with it", console);
        if self.trail.changes.is_empty() {
            console.answer("none");
            return;
        }
        let mut table =
            Table::new(&["NOW", "TIME", "ACTOR", "ACTION", "KEY", "ACCOUNT", "FROM", "CHANGE"]);
        for (entry, standing) in &self.trail.changes {
            let tone = match standing {
                Standing::Stands | Standing::Unknown => Tone::Warn,
                Standing::Ended | Standing::Replaced => Tone::Plain,
            };
            let now = (standing.as_str().to_owned(), tone);
            table.row(std::iter::once(now).chain(audit::cells(entry)));
        }
        console.table(&table);
    }

    /// The key as it is now.
    fn key(&self) -> Key {
        self.ended.key.clone().unwrap_or_default()
    }

    /// The key with its last use: the answer to its end may not carry it.
    fn used(&self) -> Key {
        let now = self.key();
        if now.last_used_time.is_some() { now } else { self.findings.key.clone().unwrap_or(now) }
    }

    fn powers(&self) -> Vec<(&'static str, String)> {
        let key = self.key();
        let listed = |items: &[String], none: &str| {
            if items.is_empty() { none.to_owned() } else { items.join(", ") }
        };
        let cidrs =
            key.restrictions.as_ref().map(|it| it.allowed_cidrs.clone()).unwrap_or_default();
        let mut rows = vec![
            ("name", key.display_name.clone()),
            ("hint", key.token_hint.clone()),
            ("made", format!("{} by {}", shown(key.create_time.as_ref()), key.created_by)),
            ("environment", plain(key.environment().as_str_name())),
            ("scopes", listed(&key.scopes, "none: it could only show who it is")),
            ("could hand out", listed(&key.grantable_scopes, "nothing")),
            ("from networks", listed(&cidrs, "any")),
            (
                "until",
                if key.expire_time.is_some() {
                    shown(key.expire_time.as_ref())
                } else {
                    "its end".into()
                },
            ),
            ("account", key.account_id.clone()),
        ];
        if let Some(account) = &self.findings.account {
            let state = plain(account.state().as_str_name());
            rows.push(("plan", format!("{}, account {state}", account.plan)));
        }
        rows
    }

    fn use_rows(&self) -> Vec<(&'static str, String)> {
        let used = self.used();
        let last = used.last_used_time.as_ref();
        let last = if last.is_some() {
            format!("{}, give or take some minutes", shown(last))
        } else {
            "not known: never, or it was not recorded".to_owned()
        };
        let from = match (self.trail.is_known, self.peers()) {
            (false, _) => "not known".to_owned(),
            (true, peers) if peers.is_empty() => {
                "not known: only calls of administration are recorded, and there are none"
                    .to_owned()
            }
            (true, peers) => {
                let told = peers.into_iter().map(|(peer, time)| format!("{peer} (last {time})"));
                told.collect::<Vec<_>>().join(", ")
            }
        };
        vec![("last used", last), ("administrated from", from)]
    }

    /// From where changes were made, and when last.
    fn peers(&self) -> BTreeMap<String, String> {
        let mut peers = BTreeMap::new();
        // The latest comes first, and stays.
        for (entry, _) in self.trail.changes.iter().filter(|(entry, _)| !entry.peer.is_empty()) {
            // Each connection has another port, which tells nothing.
            let address = entry.peer.parse::<SocketAddr>().map(|peer| peer.ip().to_string());
            let address = address.unwrap_or_else(|_| entry.peer.clone());
            peers.entry(address).or_insert_with(|| shown(entry.time.as_ref()));
        }
        peers
    }

    fn next(&self) -> Vec<String> {
        let key = self.key();
        let mut steps = Vec::new();
        if let Some(receipt) = &self.ended.receipt
            && !receipt.pending_nodes.is_empty()
        {
            let until = shown(receipt.effective_everywhere_time.as_ref());
            steps.push(format!(
                "Until {until} some nodes may still accept it: wait before you rely on it."
            ));
        }
        let standing =
            self.trail.changes.iter().filter(|(_, standing)| *standing == Standing::Stands).count();
        if standing > 0 {
            steps.push(format!(
                "Look at the {} marked as standing, and take back what was not yours: revoking undoes \
                 none of them.",
                counted(standing, "change")
            ));
        }
        if !self.trail.is_known {
            steps.push(format!(
                "Let somebody with latchkey:audit.read run `latchkey incident --key-id {}` again, to \
                 see what was changed with it.",
                key.key_id
            ));
        }
        if self.findings.has_own {
            steps.push(
                "The key that you called with has ended as well: go on with that of another operator."
                    .to_owned(),
            );
        }
        steps.push(successor(&key));
        if key.account_id != "latchkey" {
            steps.push(format!(
                "If the account itself is not to be trusted: latchkey account suspend {}",
                word(&key.account_id)
            ));
        }
        if !key.rotated_to.is_empty() {
            steps.push(format!(
                "It had been replaced by {}, which still works: look whether that one leaked too.",
                key.rotated_to
            ));
        }
        let other = &key.rotated_from;
        let is_ended = |id: &String| {
            self.findings
                .descendants
                .iter()
                .any(|it| it.key_id == *id && it.state() == KeyState::Revoked)
        };
        if !other.is_empty() && !is_ended(other) {
            steps.push(format!("It had replaced {other}: see with `latchkey key get {other}` that this one has ended."));
        }
        steps.push(
            "Find out how it leaked, and clean that place: logs, repositories, tickets.".to_owned(),
        );
        steps
    }
}

/// How there comes to be a key in its place.
fn successor(key: &Key) -> String {
    if is_root(key) {
        return "If no other operator may make keys of `latchkey`: stop the service, and make a root key: \
                latchkey root reset"
            .to_owned();
    }
    let scopes = key.scopes.iter().map(|scope| format!(" --scope {}", quoted(scope)));
    let grantable = key.grantable_scopes.iter();
    let grantable = grantable.map(|scope| format!(" --grantable {}", quoted(scope)));
    format!(
        "Give whoever used it a new key: latchkey key create --account {} --name {} --environment {}{}",
        word(&key.account_id),
        quoted(&key.display_name),
        word(&plain(key.environment().as_str_name())),
        scopes.chain(grantable).collect::<String>(),
    )
}

/// For a shell, which takes nothing in it for its own.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The same, but what is a plain word stays one.
fn word(text: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    if !text.is_empty() && text.chars().all(is_plain) { text.to_owned() } else { quoted(text) }
}

/// `1 key`, `2 keys`.
pub(super) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn title(text: &str, console: &mut Console) {
    console.answer(&format!("\n{text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_pasted_holds_nothing_for_the_shell() {
        let key = Key {
            account_id: "acme; id".into(),
            display_name: "it's $(id)".into(),
            scopes: vec!["a:b'`id`".into()],
            ..Key::default()
        };
        let told = successor(&key);
        let safe = r"--account 'acme; id' --name 'it'\''s $(id)' --environment unspecified --scope 'a:b'\''`id`'";
        assert!(told.ends_with(safe), "{told}");
    }
}
