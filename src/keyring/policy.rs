//! The policy: the use cases of `PolicyService`.

use super::nodes::{Made, Patience};
use super::{Keyring, Receipt, missing};
use crate::authorizer::Operator;
use crate::authorizer::operator::{ReadPolicy, WritePolicy};
use crate::error::Error;
use crate::policy::Policy;
use crate::revision::Position;
use crate::store::Command;

/// A policy to be put in the place of the one that is there.
pub struct PolicyUpdate {
    /// The document, as a whole.
    pub policy: Policy,
    /// The revision that the old one must have.
    pub expected: Option<Position>,
    /// Whether nothing shall be written.
    pub is_dry_run: bool,
    /// Whether scopes that active keys hold may be dropped.
    pub allow_orphans: bool,
}

/// A policy that was put in place, or would have been.
pub struct Applied {
    /// The document.
    pub policy: Policy,
    /// The change that made it what it is.
    pub revision: Position,
    /// Where it has taken effect.
    pub receipt: Receipt,
    /// What the caller should know.
    pub notices: Vec<String>,
}

impl Keyring {
    /// The policy and the change that made it what it is.
    pub async fn get_policy(&self, _: &Operator<ReadPolicy>) -> Result<(Policy, Position), Error> {
        Ok(self.store.policy().await?)
    }

    /// Replaces the policy.
    pub async fn apply_policy(
        &self,
        operator: Operator<WritePolicy>,
        update: PolicyUpdate,
    ) -> Result<Applied, Error> {
        let PolicyUpdate { policy, expected, is_dry_run, allow_orphans } = update;
        let command = Command::ApplyPolicy { policy, expected, is_dry_run, allow_orphans };
        let done = self.mutate_as(operator, command).await?;
        let (policy, revision) = done.policy.ok_or_else(|| missing("policy"))?;
        let made = Made { revision: done.position.unwrap_or(revision), ended: Vec::new() };
        let receipt = self.receipt(&made, &Patience::none()).await;
        Ok(Applied { policy, revision, receipt, notices: done.notices })
    }
}
