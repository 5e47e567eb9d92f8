//! Making an account and changing one.

use super::ground::Ground;
use super::keys::plan_limit;
use super::{Door, Halt, Made, Rows, check_expected};
use crate::account::{Account, AccountChange, AccountId, NewAccount};
use crate::error::{Error, Reason};
use crate::policy::{Policy, catalogue};
use crate::revision::Position;
use crate::store::{Done, RequestMark, StoreError};
use crate::token;

const RPC_CREATE: &str = "CreateAccount";
const ID_PREFIX: &str = "acct_";
const ID_CHARS: usize = 20;
/// As in the ids of keys: Crockford's base32 in lower case.
const ID_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl<R: Rows> Door<'_, R> {
    pub(super) async fn create_account(
        &mut self,
        ground: &Ground,
        new: &NewAccount,
        request: Option<&RequestMark>,
    ) -> Result<Done, Halt> {
        ground.authority.check_reserved()?;
        // A request that leaves the id open is told apart by who sent it.
        let scope = new.id.clone().unwrap_or_else(|| ground.authority.account());
        self.check_request(&scope, RPC_CREATE, request).await?;
        let account = self.make_account(new, ground.catalogue.policy()).await?;
        let made = Made { account: account.id.clone(), key: None };
        self.remember(&scope, RPC_CREATE, request, &made).await?;
        Ok(Done { account: Some((account, 0)), ..self.done() })
    }

    /// Makes an account of an id that is free, on a plan that there is.
    pub(super) async fn make_account(
        &mut self,
        new: &NewAccount,
        policy: &Policy,
    ) -> Result<Account, Halt> {
        let NewAccount { id, display_name, plan, labels } = new.clone();
        let id = id.unwrap_or_else(|| self.draw_account_id());
        // A name for people is 1 to 63 characters; whoever gives none is shown the id.
        let display_name = if display_name.is_empty() {
            id.as_str().chars().take(63).collect()
        } else {
            display_name
        };
        if self.rows.account(&id).await?.is_some() {
            return Err(Error::new(
                Reason::AccountExists,
                format!("there is an account `{id}` already"),
            )
            .with("account_id", id.to_string())
            .into());
        }
        check_plan("plan", &plan, policy)?;
        let account = Account {
            id,
            display_name,
            plan,
            suspended: false,
            suspend_reason: String::new(),
            labels,
            create_time: self.at,
            update_time: self.at,
            revision: self.head,
            version: 1,
        };
        Ok(self.put_account(None, account).await?)
    }

    pub(super) async fn update_account(
        &mut self,
        ground: &Ground,
        id: &AccountId,
        change: &AccountChange,
        expected: Option<Position>,
    ) -> Result<Done, Halt> {
        ground.authority.check_reach(id)?;
        let before = self.rows.account(id).await?.ok_or_else(Error::not_found)?;
        if change.is_reserved() {
            ground.authority.check_reserved()?;
        }
        if id.is_reserved() && change.suspended == Some(true) {
            return Err(Error::invalid(
                "account.suspended",
                "the account `latchkey` cannot be suspended: nobody could undo it",
            )
            .into());
        }
        check_expected(expected, before.revision)?;
        if let Some(plan) = &change.plan {
            check_plan("account.plan", plan, ground.catalogue.policy())?;
        }
        let after = change.clone().apply(&before);
        if after == before {
            return Ok(Done { account: Some(self.counted(before).await?), ..self.done() });
        }
        let has_new_plan = after.plan != before.plan;
        let account = self.put_account(Some(&before), after).await?;
        let (account, count) = self.counted(account).await?;
        let notices = if has_new_plan { overfull(&account, count, ground)? } else { Vec::new() };
        Ok(Done { account: Some((account, count)), notices, ..self.done() })
    }

    fn draw_account_id(&mut self) -> AccountId {
        let digits: String = self.draw()[..ID_CHARS]
            .iter()
            .map(|byte| char::from(ID_ALPHABET[usize::from(byte & 31)]))
            .collect();
        // It follows the grammar by its alphabet and length; the reserved account is never free, so
        // that a defect here would be refused, not given away.
        AccountId::parse(&format!("{ID_PREFIX}{digits}")).unwrap_or_else(AccountId::reserved)
    }
}

/// Refuses a plan that the policy does not have, and names the nearest that it has.
fn check_plan(field: &str, plan: &str, policy: &Policy) -> Result<(), Error> {
    if policy.plan(plan).is_some() {
        return Ok(());
    }
    let names = policy.plans.iter().map(|plan| plan.name.as_str());
    Err(match catalogue::nearest(plan, names) {
        Some(near) => Error::invalid(
            field,
            format!("{} is not a plan of the policy; did you mean `{near}`?", token::quoted(plan)),
        ),
        None => {
            Error::invalid(field, format!("{} is not a plan of the policy", token::quoted(plan)))
        }
    })
}

/// What to say when an account has more keys than its new plan allows.
fn overfull(account: &Account, count: u32, ground: &Ground) -> Result<Vec<String>, StoreError> {
    let limit = plan_limit(account, &ground.catalogue)?;
    Ok(limit
        .filter(|limit| count > *limit)
        .map(|limit| {
            format!(
                "the account has {count} keys and the plan `{}` allows {limit}: they stay, and new ones \
                 are refused",
                account.plan
            )
        })
        .into_iter()
        .collect())
}
