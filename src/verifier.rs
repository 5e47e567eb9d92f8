//! Looks again, from outside, whether the cache holds what the store holds: at keys that were changed a little while ago.
//!
//! It learns of changes from the store by itself, past the reader, so that it does not share a mistake with it. What it
//! finds must be nothing, ever: a difference that the lease does not explain is a defect, and is told as loudly as can be.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::account::Account;
use crate::cache::{Cache, Found, KeyView, View};
use crate::clock::{Clock, Timestamp};
use crate::decision::{Facts, Identity};
use crate::key::KeyRecord;
use crate::lease::{Freshness, Lease};
use crate::store::{Change, KeyQuery, NodeQuery, Store, StoreError, Subject};

/// How often the store is asked what was changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many changes are taken of what came since the last look, the latest: a store that changes more is sampled.
const SAMPLE_MAX: u32 = 20;
/// How many keys of an account that changed are looked at.
const KEYS_OF_ACCOUNT_MAX: u32 = 2;
/// When the last look at a change is taken.
const LAST_LOOK: Duration = Duration::from_mins(1);
/// How many looks may wait for their time.
const WAITING_MAX: usize = 10_000;

/// The one that looks; cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    counts: Arc<Counts>,
}

/// What came of all looks, since the start.
#[derive(Debug, Default)]
struct Counts {
    agree: AtomicU64,
    violations: AtomicU64,
    /// It changed meanwhile, is not held, or may be behind.
    open: AtomicU64,
}

/// A change that is to be looked at.
struct Look {
    change: Change,
    /// When it was there for certain.
    seen: Timestamp,
}

/// What came of one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Agrees,
    /// The cache holds something else, and nothing excuses it.
    Violation(&'static str),
    Open,
}

impl Verifier {
    /// Compares this cache with this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>, clock: Arc<dyn Clock>) -> Self {
        Self { store, cache, clock, counts: Arc::default() }
    }

    /// How many looks found agreement, a violation, and nothing that could be judged, since the start.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let Counts { agree, violations, open } = &*self.counts;
        [("agree", agree), ("violation", violations), ("open", open)]
            .map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }

    /// Looks until it is dropped: at each change once the policy's bound has passed, when it has passed twice, and after
    /// a minute.
    pub async fn run(&self) {
        let mut after = self.cache.applied().map(|applied| applied.n);
        let mut waiting: [VecDeque<Look>; 3] = Default::default();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(standing) = self.cache.standing() else { continue };
            // After the store went back in time its numbers begin anew.
            let from = after.map_or(standing.applied.n, |n| n.min(standing.applied.n));
            after = Some(from);
            let Ok(changed) = self.store.changed(from, SAMPLE_MAX).await else { continue };
            after = changed.first().map_or(after, |last| Some(last.position.n));
            let seen = self.clock.now();
            waiting[0].extend(changed.into_iter().map(|change| Look { change, seen }));
            let bound = standing.bounds.bound;
            for (at, span) in [bound, bound * 2, LAST_LOOK].into_iter().enumerate() {
                while let Some(look) = self.take_due(&mut waiting[at], span) {
                    self.look(&look).await;
                    if let Some(next) =
                        waiting.get_mut(at + 1).filter(|next| next.len() < WAITING_MAX)
                    {
                        next.push_back(look);
                    }
                }
            }
        }
    }

    fn take_due(&self, waiting: &mut VecDeque<Look>, span: Duration) -> Option<Look> {
        let is_due = |look: &Look| self.clock.now().since(look.seen) >= span;
        waiting.front().is_some_and(is_due).then(|| waiting.pop_front())?
    }

    async fn look(&self, look: &Look) {
        let verdicts = match &look.change.subject {
            Subject::Key(id) => match self.store.key(*id).await {
                Ok(Some(key)) => vec![self.compare(&key, look).await],
                Ok(None) | Err(_) => vec![Ok(Verdict::Open)],
            },
            Subject::Account(id) => {
                let query = KeyQuery {
                    account: Some(id.clone()),
                    created_by: None,
                    environment: None,
                    hint: None,
                    states: Vec::new(),
                    now: look.seen,
                    after: None,
                    limit: KEYS_OF_ACCOUNT_MAX,
                };
                let mut verdicts = Vec::new();
                for key in self.store.list_keys(&query).await.unwrap_or_default() {
                    verdicts.push(self.compare(&key, look).await);
                }
                verdicts
            }
            // Whatever it changed, it is one document, which came with the change.
            Subject::Policy => Vec::new(),
        };
        for verdict in verdicts {
            let count = match verdict {
                Ok(Verdict::Agrees) => &self.counts.agree,
                Ok(Verdict::Violation(_)) => &self.counts.violations,
                Ok(Verdict::Open) | Err(_) => &self.counts.open,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Compares what is held of a key with its row, which was read before; the row must be the same afterwards.
    async fn compare(&self, key: &KeyRecord, look: &Look) -> Result<Verdict, StoreError> {
        let now = self.clock.now();
        let Some((account, _)) = self.store.account(&key.account, now).await? else {
            return Ok(Verdict::Open);
        };
        let judged = self.cache.view(now, |view| match view.freshness(|| self.clock.now()) {
            Freshness::Fresh => (judge(view, key, &account, look), view.applied()),
            // These rows may be of a standby, or of a store that was put back in time: the reader would know, but cannot.
            Freshness::Stale | Freshness::Expired => (Verdict::Open, view.applied()),
        });
        let Some((verdict, applied)) = judged else { return Ok(Verdict::Open) };
        let Verdict::Violation(what) = verdict else { return Ok(verdict) };
        // A store that was put back in time is the reader's to notice, at its next read.
        let seen = look.change.position;
        let last = if seen.n > applied.n { seen } else { applied };
        let query = NodeQuery { shown: Some(last), with_policy: false };
        self.store.nodes(query).await?;
        let is_same = self.store.key(key.id).await?.as_ref() == Some(key)
            && self.store.account(&key.account, now).await?.is_some_and(|(it, _)| it == account);
        if !is_same {
            return Ok(Verdict::Open);
        }
        tracing::error!(
            key_id = %key.id,
            account_id = %account.id,
            change = key.revision.n,
            what,
            "the cache does not hold what the store holds: this is a defect, and this key may be decided on wrongly"
        );
        Ok(verdict)
    }
}

/// Whether what is held agrees with these rows.
fn judge(view: &View<'_>, key: &KeyRecord, account: &Account, look: &Look) -> Verdict {
    let different = match view.find(&key.digest) {
        Found::Key(held) => difference(&held, key, account),
        Found::Absent => Some("it is taken for unknown"),
        Found::Miss | Found::Doubtful => return Verdict::Open,
    };
    let Some(what) = different else { return Verdict::Agrees };
    let change = key.revision.n.max(account.revision.n);
    let seen = look.change.position;
    let is_covered = match view.lease() {
        // Whoever made the change waits until it is applied.
        Lease::Held => false,
        // What came later than the change that was seen is not covered, and has a look of its own. Nor is anything by
        // one from before the store went back in time.
        Lease::Since { from, .. } => {
            let is_past = view.applied().n >= seen.n && !view.shows(seen);
            from >= look.seen && change <= seen.n && !is_past
        }
    };
    if view.applied().n >= change || is_covered { Verdict::Violation(what) } else { Verdict::Open }
}

fn difference(held: &KeyView<'_>, key: &KeyRecord, account: &Account) -> Option<&'static str> {
    // What is held is the policy's word on the scopes, which are compared as they were given.
    let Facts { revoked, disabled, expire_time, suspended, allowed_cidrs, environment, held: _ } =
        held.facts();
    let Identity {
        key_id,
        account: owner,
        environment: told,
        scopes,
        plan,
        labels,
        expire_time: _,
    } = held.identity();
    let labels_agree = labels.as_deref().map_or(key.labels.is_empty(), |it| *it == key.labels);
    let pairs = [
        ("whether it is revoked", revoked == key.revocation.is_some()),
        ("whether it is disabled", disabled == key.disabled),
        ("whether its account is suspended", suspended == account.suspended),
        ("when it expires", expire_time == key.expire_time),
        ("its networks", allowed_cidrs == key.allowed_cidrs),
        ("its environment", environment == key.environment && told == key.environment),
        ("its scopes", *scopes == *key.scopes),
        ("its id", key_id == key.id),
        ("whose it is", owner == account.id),
        ("its plan", *plan == account.plan),
        ("its labels", labels_agree),
    ];
    pairs.into_iter().find_map(|(what, is_same)| (!is_same).then_some(what))
}
