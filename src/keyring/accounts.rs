//! Accounts: the use cases of `AccountService`.

use super::keys::labels_text;
use super::nodes::{Made, Patience};
use super::{Keyring, Page, Receipt, missing, page, request_mark};
use crate::account::{Account, AccountChange, AccountId, NewAccount};
use crate::authorizer::Operator;
use crate::authorizer::operator::{ReadAccounts, WriteAccounts};
use crate::error::Error;
use crate::policy::Policy;
use crate::revision::Position;
use crate::store::{AccountQuery, Command};

/// A change to an account.
pub struct AccountUpdate {
    /// Which.
    pub id: AccountId,
    /// What shall change.
    pub change: AccountChange,
    /// The revision it must have.
    pub expected: Option<Position>,
}

/// Which accounts are listed.
pub struct AccountList {
    /// On this plan.
    pub plan: Option<String>,
    /// At most so many on a page.
    pub page_size: u32,
    /// What the page before gave; empty for the first.
    pub page_token: String,
}

/// An account beside the number of keys that count against its plan.
pub type Counted = (Account, u32);

impl Keyring {
    /// Makes an account.
    pub async fn create_account(
        &self,
        operator: Operator<WriteAccounts>,
        new: NewAccount,
        request_id: Option<String>,
    ) -> Result<Counted, Error> {
        let NewAccount { id, display_name, plan, labels } = &new;
        let id_text = id.as_ref().map_or("", AccountId::as_str);
        let request = request_mark(
            request_id,
            &["CreateAccount", id_text, display_name, plan, &labels_text(labels)],
        );
        let command = Command::CreateAccount { new, request };
        let done = self.mutate_as(operator, command).await?;
        done.account.ok_or_else(|| missing("account"))
    }

    /// The account of this id.
    pub async fn get_account(
        &self,
        operator: &Operator<ReadAccounts>,
        id: &AccountId,
    ) -> Result<Counted, Error> {
        if !operator.reaches(id) {
            return Err(Error::not_found());
        }
        self.store.account(id, self.now()).await?.ok_or_else(Error::not_found)
    }

    /// One page of accounts, by id.
    pub async fn list_accounts(
        &self,
        operator: &Operator<ReadAccounts>,
        list: AccountList,
    ) -> Result<Page<Counted>, Error> {
        let AccountList { plan, page_size, page_token } = list;
        let binding = format!("accounts {} {plan:?}", operator.account);
        let query = AccountQuery {
            only: operator.only(),
            plan,
            now: self.now(),
            after: page::read(&page_token, &binding, AccountId::parse)?,
            limit: page_size + 1,
        };
        let accounts = self.store.list_accounts(&query).await?;
        Ok(page::cut(accounts, page_size, &binding, |(account, _)| account.id.to_string()))
    }

    /// Changes an account.
    pub async fn update_account(
        &self,
        operator: Operator<WriteAccounts>,
        update: AccountUpdate,
    ) -> Result<(Counted, Receipt), Error> {
        let AccountUpdate { id, change, expected } = update;
        let command = Command::UpdateAccount { id, change, expected };
        let done = self.mutate_as(operator, command).await?;
        let counted = done.account.ok_or_else(|| missing("account"))?;
        let revision = done.position.unwrap_or(counted.0.revision);
        let made = Made { revision, ended: Vec::new() };
        let receipt = self.receipt(&made, &Patience::none()).await;
        Ok((counted, receipt))
    }

    /// How many keys an account may have under the policy of now; `None` means unlimited.
    pub async fn max_keys(
        &self,
        plans: impl IntoIterator<Item = &str>,
    ) -> Result<Vec<Option<u32>>, Error> {
        let (policy, _): (Policy, _) = self.store.policy().await?;
        Ok(plans.into_iter().map(|plan| policy.plan(plan).and_then(|plan| plan.max_keys)).collect())
    }
}
