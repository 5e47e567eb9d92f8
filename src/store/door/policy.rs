//! Replacing the policy as a whole.

use super::ground::Ground;
use super::{Door, Halt, Rows, check_expected};
use crate::error::{Error, Reason};
use crate::policy::{Catalogue, Policy};
use crate::revision::Position;
use crate::scope::ScopePattern;
use crate::store::{Done, StoreError};

/// How many of the scopes at fault a message names.
const NAMED_MAX: usize = 10;

/// What is wished of the policy.
pub(super) struct Wish<'a> {
    pub(super) policy: &'a Policy,
    pub(super) expected: Option<Position>,
    pub(super) is_dry_run: bool,
    pub(super) allow_orphans: bool,
}

impl<R: Rows> Door<'_, R> {
    pub(super) async fn apply_policy(
        &mut self,
        ground: &Ground,
        wish: &Wish<'_>,
    ) -> Result<Done, Halt> {
        ground.authority.check_reserved()?;
        let old = ground.catalogue.policy();
        let new = Catalogue::compile(wish.policy.clone(), "policy.")?;
        check_expected(wish.expected, ground.policy_revision)?;
        self.check_plans_used(&new).await?;
        let orphans = self.orphans(&ground.catalogue, &new).await?;
        if let (Some((scope, count)), false) = (orphans.first(), wish.allow_orphans) {
            return Err(scope_in_use(&orphans, scope, *count).into());
        }
        let notices = orphans.iter().map(|(scope, count)| {
            format!("`{scope}` is held by {count} keys in use, and means nothing from now on")
        });
        let is_written = !wish.is_dry_run && wish.policy != old;
        let revision = if is_written {
            self.put_policy(Some(old), wish.policy).await?
        } else {
            ground.policy_revision
        };
        Ok(Done {
            policy: Some((wish.policy.clone(), revision)),
            notices: notices.collect(),
            ..self.done()
        })
    }

    /// A plan that accounts are on is never dropped: nothing could be said of their limits.
    async fn check_plans_used(&mut self, new: &Catalogue) -> Result<(), Halt> {
        let used = self.rows.plans_used().await?;
        match used.iter().find(|(plan, _)| new.policy().plan(plan).is_none()) {
            None => Ok(()),
            Some((plan, count)) => Err(Error::new(
                Reason::PlanInUse,
                format!("{count} accounts are on the plan `{plan}`, which this policy lacks"),
            )
            .with("plan", plan.clone())
            .with("count", count.to_string())
            .into()),
        }
    }

    /// The scopes of keys in use that mean less from then on.
    async fn orphans(
        &mut self,
        old: &Catalogue,
        new: &Catalogue,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let is_kept = |name: &str| new.index(name).is_some();
        let dropped: Vec<_> = old
            .policy()
            .scopes
            .iter()
            .filter(|scope| !is_kept(&scope.name))
            .filter_map(|scope| old.index(&scope.name))
            .collect();
        if dropped.is_empty() {
            return Ok(Vec::new());
        }
        let mut held = self.rows.scopes_held(self.at).await?;
        // A key holds what its scopes imply and what lies below its patterns, too.
        held.retain(|(scope, _)| {
            ScopePattern::parse(scope).is_ok_and(|scope| {
                let amount = old.held([&scope]);
                dropped.iter().any(|index| amount.contains(*index))
            })
        });
        held.sort();
        Ok(held)
    }
}

fn scope_in_use(orphans: &[(String, u64)], scope: &str, count: u64) -> Error {
    let named: Vec<_> = orphans
        .iter()
        .take(NAMED_MAX)
        .map(|(scope, count)| format!("`{scope}` ({count} keys)"))
        .collect();
    let more = orphans.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Error::new(
        Reason::ScopeInUse,
        format!("keys in use hold scopes that this policy lacks: {}{more}", named.join(", ")),
    )
    .with("scope", scope)
    .with("count", count.to_string())
}
