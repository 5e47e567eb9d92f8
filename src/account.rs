//! Accounts: whom keys belong to.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::error::Violations;
use crate::policy::{UNPRINTABLE, has_unprintable};
use crate::revision::Position;
use crate::token;

/// The account whose keys act on every account. It is there from the start and cannot be suspended.
pub const RESERVED_ACCOUNT: &str = "latchkey";
/// The plan of an account for which none was named.
pub const DEFAULT_PLAN: &str = "free";

const ID_BYTES_MAX: usize = 64;
const DISPLAY_NAME_CHARS_MAX: usize = 63;
const LABELS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 63;
/// The most characters of a reason or comment.
pub const COMMENT_CHARS_MAX: usize = 500;

/// An account's id: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, never used again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(std::sync::Arc<str>);

impl AccountId {
    /// `None` when the text does not follow the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() <= ID_BYTES_MAX
            && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        well_formed.then(|| Self(text.into()))
    }

    /// What is said of a text that is no id.
    pub const GRAMMAR: &'static str =
        "must be 1 to 64 characters of A-Z, a-z, 0-9, `.`, `_` and `-`, a letter or digit first";

    /// The reserved account.
    #[must_use]
    pub fn reserved() -> Self {
        Self(RESERVED_ACCOUNT.into())
    }

    /// Whether it is the reserved account.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        &*self.0 == RESERVED_ACCOUNT
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for AccountId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names and values that the owner attaches; at most 16, of at most 63 bytes each.
pub type Labels = BTreeMap<String, String>;

/// The record of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name for people.
    pub display_name: String,
    /// The name of its plan.
    pub plan: String,
    /// Whether its keys are refused.
    pub suspended: bool,
    /// Why; may be empty.
    pub suspend_reason: String,
    /// What the owner attached.
    pub labels: Labels,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was changed last.
    pub update_time: Timestamp,
    /// The change that made it what it is.
    pub revision: Position,
    /// How often it was changed.
    pub version: u64,
}

/// An account to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// The id; `None` has one made.
    pub id: Option<AccountId>,
    /// Its name for people; empty means the id.
    pub display_name: String,
    /// The name of its plan.
    pub plan: String,
    /// What the owner attaches.
    pub labels: Labels,
}

/// What shall change of an account; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// Its name for people.
    pub display_name: Option<String>,
    /// The name of its plan.
    pub plan: Option<String>,
    /// Whether its keys are refused.
    pub suspended: Option<bool>,
    /// Why.
    pub suspend_reason: Option<String>,
    /// What the owner attached, as a whole.
    pub labels: Option<Labels>,
}

impl AccountChange {
    /// Whether the change is for keys of the reserved account alone.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.plan.is_some() || self.suspended.is_some() || self.suspend_reason.is_some()
    }

    /// The account as it will be.
    #[must_use]
    pub fn apply(self, account: &Account) -> Account {
        let Self { display_name, plan, suspended, suspend_reason, labels } = self;
        let mut after = account.clone();
        after.display_name = display_name.unwrap_or(after.display_name);
        after.plan = plan.unwrap_or(after.plan);
        after.suspended = suspended.unwrap_or(after.suspended);
        after.suspend_reason = suspend_reason.unwrap_or(after.suspend_reason);
        after.labels = labels.unwrap_or(after.labels);
        after
    }
}

/// Checks a name for people: at most 63 characters, printable.
pub fn check_display_name(violations: &mut Violations, field: &str, name: &str) {
    if name.chars().count() > DISPLAY_NAME_CHARS_MAX {
        violations.add(field, "may have 63 characters at most");
    } else {
        check_text(violations, field, name);
    }
}

/// Checks a reason or comment: at most 500 characters, printable.
pub fn check_comment(violations: &mut Violations, field: &str, comment: &str) {
    if comment.chars().count() > COMMENT_CHARS_MAX {
        violations.add(field, "may have 500 characters at most");
    } else {
        check_text(violations, field, comment);
    }
}

fn check_text(violations: &mut Violations, field: &str, text: &str) {
    if has_unprintable(text) {
        violations.add(field, UNPRINTABLE);
    } else if token::is_in(text) {
        violations.add(field, token::HOLDS_TOKEN);
    }
}

/// Checks labels: at most 16, names and values of at most 63 bytes, printable.
pub fn check_labels(violations: &mut Violations, field: &str, labels: &Labels) {
    if labels.len() > LABELS_MAX {
        violations.add(field, "may hold 16 labels at most");
        return;
    }
    for (name, value) in labels {
        if name.is_empty() || name.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            let name = token::quoted(name);
            violations.add(
                field,
                format!("{name}: a label has a name of 1 to 63 bytes and a value of at most 63"),
            );
        } else {
            check_text(violations, field, name);
            check_text(violations, field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_follows_the_grammar() {
        for good in ["a", "A.b_c-9", "9", &"x".repeat(64)] {
            assert!(AccountId::parse(good).is_some(), "{good}");
        }
        for bad in ["", ".a", "-a", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(AccountId::parse(bad).is_none(), "{bad}");
        }
    }
}
