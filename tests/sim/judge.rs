//! What each answer may be, by the store's history alone.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use latchkey::account::AccountId;
use latchkey::decision::Denial;
use latchkey::key::KeyId;
use latchkey::policy::Policy;
use latchkey::revision::Position;
use latchkey::store::{Change, Subject};
use latchkey::token::Digest;

use crate::books::Books;
use crate::people::{Act, Came, Check, Said};
use crate::world::{State, World};

/// No policy's bounds are longer.
const LONGEST: Duration = Duration::from_secs(10);

/// What is so of a key and a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Truth {
    denial: Option<Denial>,
    who: Option<(AccountId, KeyId)>,
    is_strict: bool,
}

/// By rows as they are.
pub(crate) fn truth(books: &Books, digest: &Digest, scope: Option<&str>) -> Truth {
    let policy = books.policy.as_ref().map(|(policy, _)| policy).unwrap();
    let Some(key) = books.key_of(digest) else {
        let is_strict = scope.is_some_and(|scope| is_strict(policy, scope));
        return Truth { denial: Some(Denial::UnknownKey), who: None, is_strict };
    };
    let held: BTreeSet<_> =
        key.scopes.iter().flat_map(|scope| with_implied(policy, scope.as_str())).collect();
    let is_suspended = books.accounts[&key.account].suspended;
    let reasons = [
        (key.revocation.is_some(), Denial::KeyRevoked),
        (key.disabled, Denial::KeyDisabled),
        (is_suspended, Denial::AccountSuspended),
        (scope.is_some_and(|scope| !held.contains(scope)), Denial::InsufficientScope),
    ];
    let denial = reasons.into_iter().find_map(|(is_so, denial)| is_so.then_some(denial));
    let is_strict = match scope {
        Some(scope) => is_strict(policy, scope),
        None => held.iter().any(|scope| is_strict(policy, scope)),
    };
    Truth { denial, who: Some((key.account.clone(), key.id)), is_strict }
}

impl Truth {
    /// Whether this answer says so.
    pub(crate) fn is_said_by(&self, said: &Said, may_be_stale: bool) -> bool {
        match said {
            Said::Allowed { account, key, stale } => {
                self.denial.is_none()
                    && self.who.as_ref() == Some(&(account.clone(), *key))
                    && (!stale || (may_be_stale && !self.is_strict))
            }
            Said::Denied { denial, stale } => {
                self.denial == Some(*denial) && (!stale || (may_be_stale && !self.is_strict))
            }
            Said::Unavailable(_) | Said::GivenUp => false,
        }
    }
}

fn is_strict(policy: &Policy, scope: &str) -> bool {
    policy.scopes.iter().any(|it| it.name == scope && it.strict)
}

/// The scope, and all that it contains.
fn with_implied<'a>(policy: &'a Policy, scope: &'a str) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::from([scope]);
    loop {
        let implied = policy.scopes.iter().filter(|it| all.contains(&*it.name));
        let implied: Vec<_> =
            implied.flat_map(|it| it.implies.iter().map(String::as_str)).collect();
        let before = all.len();
        all.extend(implied);
        if all.len() == before {
            return all;
        }
    }
}

/// What was promised and not kept.
pub(crate) fn judge(state: &State) -> Vec<String> {
    let judge = Judge::of(state);
    let wrong = state.checks.iter().filter_map(|check| judge.of_check(check));
    wrong.chain(state.acts.iter().filter_map(|act| judge.of_act(act))).take(20).collect()
}

struct Judge<'a> {
    state: &'a State,
    /// In which era a change was there first.
    first: HashMap<u64, usize>,
    /// From when on a node's answers have to show an era.
    own: HashMap<u64, Vec<(Duration, usize)>>,
    /// From when on everybody's have to, about this.
    everywhere: Vec<(Duration, usize, &'a [Change], &'a Act)>,
}

impl<'a> Judge<'a> {
    fn of(state: &'a State) -> Self {
        let mut judge =
            Self { state, first: HashMap::new(), own: HashMap::new(), everywhere: Vec::new() };
        for (era, (_, books)) in state.eras.iter().enumerate() {
            for change in &books.changes {
                judge.first.entry(change.position.tag).or_insert(era);
            }
        }
        for act in &state.acts {
            let Came::Made(position, receipt) = &act.came else { continue };
            let era = match position {
                Some(position) => judge.first.get(&position.tag).copied().unwrap_or(0),
                None => state.era_at(act.sent),
            };
            judge.own.entry(act.boot_id).or_default().push((act.answered, era));
            if let (Some(receipt), Some(_)) = (receipt, position) {
                let from = World::since_begin(receipt.effective_time);
                let from = if receipt.pending_nodes.is_empty() { act.answered } else { from };
                let before = state.eras[era.saturating_sub(1)].1.changes.len();
                let made = state.eras[era].1.changes.get(before..).unwrap_or_default();
                judge.everywhere.push((from, era, made, act));
            }
        }
        judge
    }

    fn of_check(&self, check: &Check) -> Option<String> {
        let is_stale = match &check.said {
            Said::Allowed { stale, .. } | Said::Denied { stale, .. } => *stale,
            Said::Unavailable(_) | Said::GivenUp => {
                // What somebody was told by a node that is ahead may not be here yet.
                let is_due = check.is_due && check.min.is_none();
                return is_due.then(|| format!("nothing was in the way of an answer: {check:?}"));
            }
        };
        let state = self.state;
        let last = state.era_at(check.answered);
        let mut first = state.era_at(check.sent.saturating_sub(self.horizon(check, is_stale)));
        let mut why = "the bound".to_owned();
        let mut at_least = |era: usize, reason: &dyn Fn() -> String| {
            if era > first {
                first = era;
                why = reason();
            }
        };
        for (answered, era) in self.own.get(&check.boot_id).into_iter().flatten() {
            if *answered <= check.sent {
                at_least(*era, &|| format!("its own answer at {answered:?}"));
            }
        }
        for (from, era, changes, act) in &self.everywhere {
            let (made, _) = state.eras[*era];
            // A store that went back in time forgot the change, or who may go on by what was after it.
            let since = made.saturating_sub(2 * LONGEST);
            let is_void = state.reverts.iter().any(|it| (since..=check.answered).contains(it));
            // From then on nobody allows by what was before; why somebody is denied is another matter.
            let is_of = |subject: &Subject| match (subject, &check.said) {
                (_, Said::Denied { .. } | Said::Unavailable(_) | Said::GivenUp) => false,
                (Subject::Key(id), Said::Allowed { key, .. }) => id == key,
                (Subject::Account(id), Said::Allowed { account, .. }) => id == account,
                (Subject::Policy, Said::Allowed { .. }) => true,
            };
            let is_about = changes.iter().any(|change| is_of(&change.subject));
            if is_about && *from <= check.sent && !is_void {
                at_least(*era, &|| format!("the receipt of {act:?}"));
            }
        }
        if let Some(min) = check.min {
            at_least(self.first.get(&min.tag).copied().unwrap_or(0), &|| "min_revision".into());
        }
        // These never change again.
        let ended = [Denial::KeyRevoked, Denial::KeyExpired];
        let is_final = matches!(&check.said, Said::Denied { denial, .. } if ended.contains(denial));
        let first = if is_final { 0 } else { first.min(last) };
        let truths: Vec<_> = state.eras[first..=last]
            .iter()
            .filter(|(_, books)| books.policy.is_some())
            .map(|(_, books)| truth(books, &check.digest, check.scope))
            .collect();
        let may_be_stale = truths.iter().any(|truth| !truth.is_strict);
        let is_right = truths.iter().any(|truth| {
            let truth = Truth { is_strict: truth.is_strict && !may_be_stale, ..truth.clone() };
            truth.is_said_by(&check.said, true)
        });
        (!is_right).then(|| {
            format!("eras {first} to {last} (by {why}): {check:?}, but {:?}", truths.first())
        })
    }

    /// How old what an answer goes by may be.
    fn horizon(&self, check: &Check, is_stale: bool) -> Duration {
        let first = self.state.era_at(check.sent.saturating_sub(LONGEST));
        let last = self.state.era_at(check.answered);
        let policies = self.state.eras[first..=last].iter();
        let policies = policies.filter_map(|(_, books)| books.policy.as_ref());
        let spans = policies.map(|(policy, _)| {
            if is_stale { policy.bound_ms.max(policy.grace_ms) } else { policy.bound_ms }
        });
        Duration::from_millis(spans.max().unwrap_or_default())
    }

    /// Whether it was lost in the instant in which it was made.
    fn was_never_seen(&self, position: Position) -> bool {
        let Some(era) = self.first.get(&position.tag) else { return false };
        let (made, _) = self.state.eras[*era];
        let mut later = self.state.eras[era + 1..].iter().take_while(|(from, _)| *from == made);
        later.any(|(_, books)| !books.shows(position))
    }

    fn of_act(&self, act: &Act) -> Option<String> {
        let is_made = self.state.eras.iter().any(|(_, books)| bears(books, &act.mark));
        match &act.came {
            Came::Made(Some(position), _) if !self.first.contains_key(&position.tag) => {
                Some(format!("it was never made: {act:?}"))
            }
            Came::Made(Some(position), _) if self.was_never_seen(*position) => {
                Some(format!("nobody can have read it: {act:?}"))
            }
            Came::Refused(_) if is_made => Some(format!("it was made: {act:?}")),
            Came::Made(..) | Came::Refused(_) | Came::NotKnown | Came::GivenUp => None,
        }
    }
}

/// Whether a change with this mark was made.
fn bears(books: &Books, mark: &str) -> bool {
    let of_keys = books.keys.values().any(|key| {
        let is_revoked_by = |it: &latchkey::key::Revocation| it.comment == mark;
        key.display_name == mark || key.revocation.as_ref().is_some_and(is_revoked_by)
    });
    let of_accounts = books.accounts.values().any(|account| account.display_name == mark);
    let of_policy = books
        .policy
        .as_ref()
        .is_some_and(|(policy, _)| policy.scopes.iter().any(|scope| scope.description == mark));
    of_keys || of_accounts || of_policy
}
