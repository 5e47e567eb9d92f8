//! What one client was told, and what it may expect of the store by that.
//!
//! Each client changes keys of its own, one after the other. So at any moment all of them are as it was
//! told, or as they are after the one operation whose answer it does not have.

use std::collections::BTreeMap;

use latchkey::proto::v1::{self, DecisionReason, KeyState};

use crate::support::Dice;

/// A key as somebody knows it; what was not told is `None`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) is_disabled: bool,
    pub(crate) is_revoked: bool,
    /// When it was revoked, in microseconds.
    pub(crate) revoked_at: Option<i64>,
    /// Whether it has an expiry: only predecessors get one here, and it is a day away.
    pub(crate) ends: bool,
    pub(crate) rotated_from: Option<String>,
    pub(crate) rotated_to: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) token: Option<String>,
}

impl From<v1::Key> for Key {
    fn from(key: v1::Key) -> Self {
        let named = |id: String| Some(id).filter(|id| !id.is_empty());
        Self {
            is_revoked: key.state() == KeyState::Revoked,
            revoked_at: key
                .revoke_time
                .map(|at| at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000),
            ends: key.expire_time.is_some(),
            id: key.key_id,
            account: key.account_id,
            name: key.display_name,
            is_disabled: key.disabled,
            rotated_from: named(key.rotated_from),
            rotated_to: named(key.rotated_to),
            revision: named(key.revision),
            token: None,
        }
    }
}

impl Key {
    /// Whether this is what was told of it.
    pub(crate) fn is_as_told(&self, told: &Self) -> bool {
        fn fits<T: PartialEq>(told: Option<&T>, is: Option<&T>) -> bool {
            told.is_none() || told == is
        }
        let Self { id, account, name, is_disabled, is_revoked, ends, .. } = self;
        (id, account, name) == (&told.id, &told.account, &told.name)
            && (is_disabled, is_revoked, ends) == (&told.is_disabled, &told.is_revoked, &told.ends)
            && (&self.rotated_from, &self.rotated_to) == (&told.rotated_from, &told.rotated_to)
            && fits(told.revoked_at.as_ref(), self.revoked_at.as_ref())
            && fits(told.revision.as_ref(), self.revision.as_ref())
    }

    fn revoke(&mut self) {
        self.is_revoked = true;
        self.revision = None;
    }
}

/// Something a client asks for.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Create { account: String, name: String, request_id: String },
    Rename { id: String, name: String, expected: Option<String> },
    Disable { id: String, disabled: bool },
    Rotate { id: String, has_overlap: bool, request_id: String },
    Revoke { id: String, by_token: Option<String> },
    Suspend { suspended: bool },
    ApplyPolicy { description: String },
}

/// What one client was told.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    /// What the names of its keys begin with.
    pub(crate) name: String,
    pub(crate) account: String,
    /// The account of few keys that it shares with others.
    pub(crate) shared: Option<String>,
    pub(crate) is_suspended: bool,
    pub(crate) keys: BTreeMap<String, Key>,
    /// The description that its policy has; one client changes the policy.
    pub(crate) policy: Option<String>,
    /// What it asked for and has no answer to.
    pub(crate) pending: Option<Operation>,
    /// How many operations were acknowledged.
    pub(crate) acknowledged: u64,
    /// Keys that something was done to since they were looked at last.
    pub(crate) touched: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            name: format!("c{number}-"),
            account: format!("account-{number}"),
            shared: (number < 3).then(|| "shared".to_owned()),
            is_suspended: false,
            keys: BTreeMap::new(),
            policy: (number == 0).then(String::new),
            pending: None,
            acknowledged: 0,
            touched: Vec::new(),
        }
    }

    /// The next thing to ask for.
    pub(crate) fn choose(&self, dice: &mut Dice) -> Operation {
        let name = format!("{}{:016x}", self.name, dice.draw());
        let create = |account: &String, dice: &mut Dice| Operation::Create {
            account: account.clone(),
            name: name.clone(),
            request_id: request_id(dice),
        };
        if self.policy.is_some() && dice.is_one_of(1, 8) {
            return Operation::ApplyPolicy { description: name };
        }
        if dice.is_one_of(1, if self.is_suspended { 2 } else { 20 }) {
            return Operation::Suspend { suspended: !self.is_suspended };
        }
        let live: Vec<_> =
            self.keys.values().rev().filter(|key| !key.is_revoked).take(12).collect();
        if live.is_empty() || dice.is_one_of(3, 10) {
            let account = self.shared.as_ref().filter(|_| dice.is_one_of(1, 2));
            return create(account.unwrap_or(&self.account), dice);
        }
        let key = *dice.pick(&live);
        let id = key.id.clone();
        match dice.below(8) {
            0 | 1 => {
                let expected = key.revision.clone().filter(|_| dice.is_one_of(1, 2));
                Operation::Rename { id, name, expected }
            }
            2 => Operation::Disable { id, disabled: !key.is_disabled },
            3..=5 if key.rotated_to.is_none() => {
                let has_overlap = dice.is_one_of(2, 3);
                Operation::Rotate { id, has_overlap, request_id: request_id(dice) }
            }
            _ => {
                let by_token = key.token.clone().filter(|_| dice.is_one_of(1, 3));
                Operation::Revoke { id, by_token }
            }
        }
    }

    /// What is to be expected once this was done; it made the key of this id, if it makes one.
    pub(crate) fn after(&self, operation: &Operation, made: Option<&str>) -> Self {
        let mut after = self.clone();
        after.expect(operation, made);
        after
    }

    /// Expects what [`Ledger::after`] tells.
    pub(crate) fn expect(&mut self, operation: &Operation, made: Option<&str>) {
        let id = made.unwrap_or_default().to_owned();
        match operation {
            Operation::Create { account, name, request_id: _ } => {
                let (account, name) = (account.clone(), name.clone());
                self.put(Key { id, account, name, ..Key::default() });
            }
            Operation::Rename { id, name, expected: _ } => self.change(id, |key| {
                key.name.clone_from(name);
                key.revision = None;
            }),
            Operation::Disable { id, disabled } => self.change(id, |key| {
                key.is_disabled = *disabled;
                key.revision = None;
            }),
            Operation::Rotate { id: old, has_overlap, request_id: _ } => {
                self.rotate(old, id, *has_overlap);
            }
            Operation::Revoke { id, by_token: _ } => self.change(id, Key::revoke),
            Operation::Suspend { suspended } => self.is_suspended = *suspended,
            Operation::ApplyPolicy { description } => self.policy = Some(description.clone()),
        }
    }

    fn rotate(&mut self, old: &str, id: String, has_overlap: bool) {
        let before = self.keys[old].clone();
        self.put(Key {
            id: id.clone(),
            rotated_from: Some(before.id.clone()),
            rotated_to: None,
            revision: None,
            token: None,
            ends: false,
            ..before.clone()
        });
        self.change(old, |key| {
            key.rotated_to = Some(id);
            key.revision = None;
            if has_overlap {
                key.ends = true;
            } else {
                key.is_revoked = true;
            }
        });
        // One predecessor per key.
        if let Some(older) = before.rotated_from
            && !self.keys[&older].is_revoked
        {
            self.change(&older, Key::revoke);
        }
    }

    fn change(&mut self, id: &str, how: impl FnOnce(&mut Key)) {
        how(self.keys.get_mut(id).unwrap());
        self.touched.push(id.to_owned());
    }

    /// Takes in what was told of a key; its token stays known.
    pub(crate) fn put(&mut self, key: Key) {
        self.touched.push(key.id.clone());
        let before = self.keys.remove(&key.id).and_then(|before| before.token);
        let token = key.token.clone().or(before);
        self.keys.insert(key.id.clone(), Key { token, ..key });
    }

    /// What a question about a key is to be answered with.
    pub(crate) fn reason(&self, key: &Key) -> DecisionReason {
        if key.is_revoked {
            DecisionReason::KeyRevoked
        } else if key.is_disabled {
            DecisionReason::KeyDisabled
        } else if self.is_suspended && key.account == self.account {
            DecisionReason::AccountSuspended
        } else {
            DecisionReason::Allowed
        }
    }
}

pub(crate) fn request_id(dice: &mut Dice) -> String {
    let (high, low) = (dice.draw(), dice.draw());
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}
