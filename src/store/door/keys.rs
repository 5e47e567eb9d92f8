//! Making a key and changing one.

use super::ground::Ground;
use super::{Door, Halt, Made, Rows, check_expected};
use crate::account::Account;
use crate::clock::Timestamp;
use crate::error::{Error, Reason, Violations};
use crate::key::{Expiry, KeyChange, KeyClass, KeyId, KeyRecord, NewKey, is_expired};
use crate::policy::{Catalogue, HINTS_MAX};
use crate::revision::Position;
use crate::scope::ScopePattern;
use crate::scope::expression::Resolve as _;
use crate::store::{Done, NewSecret, RequestMark, StoreError};
use crate::token::Digest;

const RPC_CREATE: &str = "CreateKey";

impl<R: Rows> Door<'_, R> {
    pub(super) async fn create_key(
        &mut self,
        ground: &Ground,
        new: &NewKey,
        secret: &NewSecret,
        request: Option<&RequestMark>,
    ) -> Result<Done, Halt> {
        ground.authority.check_reach(&new.account)?;
        self.check_request(&new.account, RPC_CREATE, request).await?;
        let account = self.rows.account(&new.account).await?.ok_or_else(Error::not_found)?;
        check_not_suspended(&account)?;
        let key = self.make_key(ground, &account, new, secret).await?;
        let made = Made { account: key.account.clone(), key: Some(key.id) };
        self.remember(&account.id, RPC_CREATE, request, &made).await?;
        Ok(Done { account: Some(self.counted(account).await?), keys: vec![key], ..self.done() })
    }

    /// Makes a key that the rules allow in an account that was found fit for it.
    pub(super) async fn make_key(
        &mut self,
        ground: &Ground,
        account: &Account,
        new: &NewKey,
        secret: &NewSecret,
    ) -> Result<KeyRecord, Halt> {
        let Ground { catalogue, policy_revision: _, authority } = ground;
        let mut violations = Violations::default();
        check_known(&mut violations, "scopes", &new.scopes, catalogue);
        check_known(&mut violations, "grantable_scopes", &new.grantable_scopes, catalogue);
        let expire_time = self.expire_time(&mut violations, new.expiry);
        violations.finish()?;
        let key = self.draft_key(new, expire_time, secret);
        authority.check_grant(&key, catalogue)?;
        self.check_limit(account, key.class(), catalogue).await?;
        self.check_token(&secret.digest).await?;
        Ok(self.insert_key(key).await?)
    }

    /// A key as it will be; its revision, version and times are set when it is written.
    pub(super) fn draft_key(
        &mut self,
        new: &NewKey,
        expire_time: Option<Timestamp>,
        secret: &NewSecret,
    ) -> KeyRecord {
        let NewKey {
            account,
            display_name,
            environment,
            scopes,
            grantable_scopes,
            expiry: _,
            allowed_cidrs,
            labels,
        } = new.clone();
        let NewSecret { digest, hint } = secret.clone();
        KeyRecord {
            id: self.draw_key_id(),
            account,
            display_name,
            environment,
            scopes,
            grantable_scopes,
            digest,
            hint,
            create_time: self.at,
            update_time: self.at,
            expire_time,
            revocation: None,
            disabled: false,
            allowed_cidrs,
            labels,
            rotated_from: None,
            rotated_to: None,
            created_by: self.actor(),
            revision: self.head,
            version: 1,
        }
    }

    pub(super) async fn update_key(
        &mut self,
        ground: &Ground,
        id: KeyId,
        change: &KeyChange,
        expected: Option<Position>,
    ) -> Result<Done, Halt> {
        let Ground { catalogue, policy_revision: _, authority } = ground;
        let before = self.find_key(ground, id).await?;
        if before.revocation.is_some() {
            return Err(revoked(&before).into());
        }
        check_expected(expected, before.revision)?;
        let mut violations = Violations::default();
        let none = Vec::new();
        let scopes = change.scopes.as_ref().unwrap_or(&none);
        check_known(&mut violations, "key.scopes", scopes, catalogue);
        let grantable = change.grantable_scopes.as_ref().unwrap_or(&none);
        check_known(&mut violations, "key.grantable_scopes", grantable, catalogue);
        let after = change.clone().apply(&before);
        let moved = after.expire_time != before.expire_time;
        if moved && is_expired(after.expire_time, self.at) {
            violations.add("key.expire_time", IN_THE_PAST);
        }
        violations.finish()?;
        if !change.is_pause() {
            authority.check_grant(&before, catalogue)?;
            authority.check_grant(&after, catalogue)?;
        }
        check_predecessor(&before, &after)?;
        let account = self.account_of(&before).await?;
        if after == before {
            return Ok(Done {
                account: Some(self.counted(account).await?),
                keys: vec![before],
                ..self.done()
            });
        }
        let counted_before = before.is_counted(self.at) && before.class() == after.class();
        if after.is_counted(self.at) && !counted_before {
            self.check_limit(&account, after.class(), catalogue).await?;
        }
        let key = self.update_row(&before, after).await?;
        let is_paused = key.disabled && !before.disabled;
        let ended = if is_paused { vec![before] } else { Vec::new() };
        let keys = vec![key];
        Ok(Done { account: Some(self.counted(account).await?), keys, ended, ..self.done() })
    }

    /// A key within the maker's reach; otherwise the one text.
    pub(super) async fn find_key(&mut self, ground: &Ground, id: KeyId) -> Result<KeyRecord, Halt> {
        let key = self.rows.key(id).await?.ok_or_else(Error::not_found)?;
        ground.authority.check_reach(&key.account)?;
        Ok(key)
    }

    /// The account of a key, which is always there.
    pub(super) async fn account_of(&mut self, key: &KeyRecord) -> Result<Account, StoreError> {
        self.rows.account(&key.account).await?.ok_or_else(|| super::ground::no_account(key))
    }

    /// Refuses one key more than the account may have of this class.
    async fn check_limit(
        &mut self,
        account: &Account,
        class: KeyClass,
        catalogue: &Catalogue,
    ) -> Result<(), Halt> {
        let limit = match class {
            KeyClass::Data => plan_limit(account, catalogue)?,
            // Whoever runs latchkey gives each node, gateway and administrator a key of its own.
            KeyClass::Operator if account.id.is_reserved() => None,
            KeyClass::Operator => Some(KeyClass::OPERATORS_MAX),
        };
        let Some(limit) = limit else { return Ok(()) };
        let count = self.rows.count_keys(&account.id, class, self.at).await?;
        if count < limit { Ok(()) } else { Err(limit_reached(account, class, limit).into()) }
    }

    /// Refuses a token that a key has already; only one that somebody chose can be that.
    pub(super) async fn check_token(&mut self, digest: &Digest) -> Result<(), Halt> {
        match self.rows.key_by_digest(digest).await? {
            None => Ok(()),
            Some(_) => {
                Err(Error::invalid("token", "is the token of a key already; take another").into())
            }
        }
    }

    fn expire_time(&self, violations: &mut Violations, expiry: Expiry) -> Option<Timestamp> {
        let (field, end, fault) = match expiry {
            Expiry::Never => return None,
            Expiry::At(end) => ("expire_time", end, IN_THE_PAST),
            Expiry::In(span) => ("ttl", self.at.after(span), "must be above zero"),
        };
        if is_expired(Some(end), self.at) {
            violations.add(field, fault);
        }
        Some(end)
    }
}

const IN_THE_PAST: &str = "must lie in the future; to end a key, revoke it";

/// Refuses scopes that the catalogue does not know, and names the nearest that it does.
pub(super) fn check_known(
    violations: &mut Violations,
    field: &str,
    scopes: &[ScopePattern],
    catalogue: &Catalogue,
) {
    let mut hints = HINTS_MAX;
    for (index, scope) in scopes.iter().enumerate() {
        if catalogue.knows(scope) {
            continue;
        }
        let near = (hints > 0).then(|| catalogue.nearest(scope.as_str())).flatten();
        hints = hints.saturating_sub(1);
        let text = match (scope.stem(), near) {
            (None, Some(near)) => {
                format!("`{scope}` is not in the policy; did you mean `{near}`?")
            }
            (None, None) => format!("`{scope}` is not in the policy"),
            (Some(_), _) => format!("`{scope}` covers no scope of the policy"),
        };
        violations.add(format!("{field}[{index}]"), text);
    }
}

/// Refuses new keys of a suspended account.
pub(super) fn check_not_suspended(account: &Account) -> Result<(), Error> {
    if account.suspended {
        return Err(Error::new(
            Reason::AccountSuspended,
            format!("the account `{}` is suspended", account.id),
        )
        .with("account_id", account.id.to_string()));
    }
    Ok(())
}

/// A key that another took the place of may not outlast what the rotation left it.
fn check_predecessor(before: &KeyRecord, after: &KeyRecord) -> Result<(), Error> {
    let Some(successor) = before.rotated_to else { return Ok(()) };
    let is_extended = match (before.expire_time, after.expire_time) {
        (Some(end), Some(wanted)) => wanted > end,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if is_extended { Err(rotated(before.id, successor)) } else { Ok(()) }
}

pub(super) fn rotated(id: KeyId, successor: KeyId) -> Error {
    Error::new(
        Reason::KeyRotated,
        format!("`{id}` was rotated; its successor is `{successor}`, change that one"),
    )
    .with("key_id", id.to_string())
    .with("successor", successor.to_string())
}

pub(super) fn revoked(key: &KeyRecord) -> Error {
    Error::new(Reason::KeyRevoked, format!("`{}` is revoked, and that is final", key.id))
        .with("key_id", key.id.to_string())
}

/// The most keys that an account's plan allows; `None` means that there is no limit.
pub(super) fn plan_limit(
    account: &Account,
    catalogue: &Catalogue,
) -> Result<Option<u32>, StoreError> {
    // The reserved account is there from the start, whatever plans the policy has.
    if account.id.is_reserved() {
        return Ok(None);
    }
    let plan = catalogue.policy().plan(&account.plan).ok_or_else(|| StoreError::Corrupt {
        table: "accounts",
        row: account.id.to_string(),
        what: format!("its plan `{}` is not in the policy", account.plan),
    })?;
    Ok(plan.max_keys)
}

fn limit_reached(account: &Account, class: KeyClass, limit: u32) -> Error {
    let Account { id, plan, .. } = account;
    let message = match class {
        KeyClass::Data => {
            format!(
                "the plan `{plan}` of the account `{id}` allows {limit} keys, and they are used up"
            )
        }
        KeyClass::Operator => {
            format!(
                "an account may have {limit} keys that hold `latchkey:` scopes only; `{id}` has them"
            )
        }
    };
    Error::new(Reason::PlanLimitReached, message)
        .with("account_id", id.to_string())
        .with("plan", plan.clone())
        .with("limit", limit.to_string())
}
