//! What latchkey makes by itself: the first contents of an empty store, another root key, and what
//! `--dev` tries things out with.

use super::ground::{Authority, Ground};
use super::policy::Wish;
use super::revocation::Words;
use super::{Door, Halt, Rows};
use crate::account::{AccountId, Labels, NewAccount};
use crate::key::{Actor, Expiry, KeyRecord, NewKey, RevokeReason};
use crate::policy::{Catalogue, Policy};
use crate::scope::{BadPattern, ScopePattern};
use crate::store::{Done, NewSecret, StoreError};
use crate::token::Environment;

/// Who made the root keys, on whatever occasion.
const ROOT: &str = "root";
const ROOT_SCOPE: &str = "latchkey:admin";
const RESET: Words<'static> =
    Words { reason: RevokeReason::Superseded, comment: "replaced by a new root key" };
const DEMO: Words<'static> =
    Words { reason: RevokeReason::Superseded, comment: "replaced at the next start" };

impl<R: Rows> Door<'_, R> {
    pub(super) async fn seed(&mut self, policy: &Policy, secret: &NewSecret) -> Result<Done, Halt> {
        let policy = Catalogue::compile(policy.clone(), "policy.")?.policy().clone();
        let new = NewAccount {
            id: Some(AccountId::reserved()),
            display_name: "latchkey".into(),
            plan: reserved_plan(&policy),
            labels: Labels::new(),
        };
        let account = self.make_account(&new, &policy).await?;
        let revision = self.put_policy(None, &policy).await?;
        let key = self.make_root(secret).await?;
        self.rows.set_seeded().await?;
        Ok(Done {
            account: Some(self.counted(account).await?),
            keys: vec![key],
            policy: Some((policy, revision)),
            ..self.done()
        })
    }

    /// Every root key that works ends, those in their place by rotation too.
    pub(super) async fn reset_root(&mut self, secret: &NewSecret) -> Result<Done, Halt> {
        let old = self.root_keys().await?;
        let mut keys = vec![self.make_root(secret).await?];
        for key in old.iter().filter(|key| key.revocation.is_none()) {
            keys.push(self.end_key(key, &RESET).await?);
        }
        Ok(Done { keys, ..self.done() })
    }

    /// The policy first, because the plan and the scopes may be new in it.
    pub(super) async fn seed_demo(
        &mut self,
        ground: Ground,
        account: &NewAccount,
        keys: &[(NewKey, NewSecret)],
        policy: Option<&Policy>,
    ) -> Result<Done, Halt> {
        let (ground, mut done) = match policy {
            None => (ground, Done::nothing()),
            Some(policy) => self.demo_policy(ground, policy).await?,
        };
        let there = match &account.id {
            Some(id) => self.rows.account(id).await?,
            None => None,
        };
        let account = match there {
            Some(account) => account,
            None => self.make_account(account, ground.catalogue.policy()).await?,
        };
        // Those of an earlier start would count against the plan, and nobody has their tokens.
        for key in self.rows.keys_made_by(&self.actor()).await? {
            if key.account == account.id && key.revocation.is_none() {
                self.end_key(&key, &DEMO).await?;
            }
        }
        for (new, secret) in keys {
            let new = NewKey { account: account.id.clone(), ..new.clone() };
            done.keys.push(self.make_key(&ground, &account, &new, secret).await?);
        }
        Ok(Done { position: self.last, account: Some(self.counted(account).await?), ..done })
    }

    async fn demo_policy(
        &mut self,
        ground: Ground,
        policy: &Policy,
    ) -> Result<(Ground, Done), Halt> {
        let wish = Wish { policy, expected: None, is_dry_run: false, allow_orphans: true };
        let done = self.apply_policy(&ground, &wish).await?;
        let revision = done.policy.as_ref().map_or(ground.policy_revision, |(_, at)| *at);
        let ground = Ground {
            catalogue: Catalogue::compile(policy.clone(), "policy.")?.into(),
            policy_revision: revision,
            authority: Authority::System,
        };
        Ok((ground, done))
    }

    async fn make_root(&mut self, secret: &NewSecret) -> Result<KeyRecord, Halt> {
        self.check_token(&secret.digest).await?;
        let scope = ScopePattern::parse(ROOT_SCOPE).map_err(|error: BadPattern| {
            StoreError::Unusable(format!("the root key's scope: {error}"))
        })?;
        let new = NewKey {
            account: AccountId::reserved(),
            display_name: ROOT.into(),
            environment: Environment::Live,
            scopes: vec![scope],
            grantable_scopes: Vec::new(),
            expiry: Expiry::Never,
            allowed_cidrs: Vec::new(),
            labels: Labels::new(),
        };
        let created_by = Actor::System(ROOT.into());
        let key = KeyRecord { created_by, ..self.draft_key(&new, None, secret) };
        Ok(self.insert_key(key).await?)
    }

    /// The root keys, and what took their places.
    async fn root_keys(&mut self) -> Result<Vec<KeyRecord>, StoreError> {
        let mut keys = self.rows.keys_made_by(&Actor::System(ROOT.into())).await?;
        let mut next = 0;
        while let Some(key) = keys.get(next) {
            if let Some(successor) = key.rotated_to
                && keys.iter().all(|key| key.id != successor)
                && let Some(successor) = self.rows.key(successor).await?
            {
                keys.push(successor);
            }
            next += 1;
        }
        Ok(keys)
    }
}

/// latchkey's own account is on a plan without a limit, if there is one.
fn reserved_plan(policy: &Policy) -> String {
    let unlimited = policy.plans.iter().find(|plan| plan.max_keys.is_none());
    unlimited.or(policy.plans.first()).map(|plan| plan.name.clone()).unwrap_or_default()
}
