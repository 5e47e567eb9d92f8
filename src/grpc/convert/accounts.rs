//! `AccountService`: accounts, their changes and the questions about them.

use super::{account_id, mask, not_in_mask, page_size, position, request_id, timestamp};
use crate::account::{
    Account, AccountChange, AccountId, DEFAULT_PLAN, NewAccount, check_comment, check_display_name,
    check_labels,
};
use crate::error::{Error, Violations};
use crate::keyring::{AccountList, AccountUpdate};
use crate::proto::v1;
use crate::token;

/// What of an account can be changed.
const CHANGEABLE: &str = "`display_name`, `plan`, `suspended`, `suspend_reason`, `labels`";
const PLAN_BYTES_MAX: usize = 63;

// === To the domain ===

/// The account to be made, and the id of the request.
pub(in crate::grpc) fn create(
    request: v1::CreateAccountRequest,
) -> Result<(NewAccount, Option<String>), Error> {
    let v1::CreateAccountRequest { account_id, display_name, plan, labels, request_id: request } =
        request;
    let mut violations = Violations::default();
    let id = AccountId::parse(&account_id);
    if id.is_none() && !account_id.is_empty() {
        let remedy = format!("{}; leave it empty to have one made", AccountId::GRAMMAR);
        violations.add("account_id", remedy);
    }
    if token::is_in(&account_id) {
        violations.add("account_id", token::HOLDS_TOKEN);
    }
    check_display_name(&mut violations, "display_name", &display_name);
    check_labels(&mut violations, "labels", &labels);
    let plan = if plan.is_empty() { DEFAULT_PLAN.to_owned() } else { plan };
    check_plan(&mut violations, "plan", &plan);
    let request = request_id(&mut violations, &request);
    violations.finish()?;
    Ok((NewAccount { id, display_name, plan, labels }, request))
}

/// Which accounts are listed.
pub(in crate::grpc) fn list(request: v1::ListAccountsRequest) -> Result<AccountList, Error> {
    let v1::ListAccountsRequest { page_size: size, page_token, plan } = request;
    let mut violations = Violations::default();
    let page_size = page_size(&mut violations, size);
    let plan = (!plan.is_empty()).then_some(plan);
    if let Some(plan) = &plan {
        check_plan(&mut violations, "plan", plan);
    }
    violations.finish()?;
    Ok(AccountList { plan, page_size, page_token })
}

/// A change to an account: the fields that the mask names.
pub(in crate::grpc) fn update(request: v1::UpdateAccountRequest) -> Result<AccountUpdate, Error> {
    let v1::UpdateAccountRequest { account, update_mask, expected_revision } = request;
    let v1::Account {
        account_id: id,
        display_name,
        plan,
        suspended,
        suspend_reason,
        labels,
        // Output only.
        state: _,
        create_time: _,
        update_time: _,
        revision: _,
        counted_keys: _,
        max_keys: _,
    } = account.ok_or_else(|| Error::invalid("account", "is missing"))?;
    let id = account_id("account.account_id", &id)?;
    let mut violations = Violations::default();
    let mut change = AccountChange::default();
    for path in mask(&mut violations, update_mask) {
        match path.as_str() {
            "display_name" => {
                check_display_name(&mut violations, "account.display_name", &display_name);
                if display_name.is_empty() {
                    violations.add("account.display_name", "must have 1 to 63 characters");
                }
                change.display_name = Some(display_name.clone());
            }
            "plan" => {
                check_plan(&mut violations, "account.plan", &plan);
                change.plan = Some(plan.clone());
            }
            "suspended" => change.suspended = Some(suspended),
            "suspend_reason" => {
                check_comment(&mut violations, "account.suspend_reason", &suspend_reason);
                change.suspend_reason = Some(suspend_reason.clone());
            }
            "labels" => {
                check_labels(&mut violations, "account.labels", &labels);
                change.labels = Some(labels.clone());
            }
            other => not_in_mask(&mut violations, other, CHANGEABLE),
        }
    }
    let expected = position(&mut violations, "expected_revision", &expected_revision);
    violations.finish()?;
    Ok(AccountUpdate { id, change, expected })
}

/// Whether the policy has it is seen later; here, that it is short enough to be spoken of.
fn check_plan(violations: &mut Violations, field: &str, plan: &str) {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !(1..=PLAN_BYTES_MAX).contains(&plan.len()) || !plan.bytes().all(is_word) {
        violations.add(field, "must be the name of a plan of the policy, as in `free`");
    }
}

// === From the domain ===

/// An account, with the keys that count and how many its plan allows.
pub(in crate::grpc) fn account(
    account: Account,
    counted_keys: u32,
    max_keys: Option<u32>,
) -> v1::Account {
    let Account {
        id,
        display_name,
        plan,
        suspended,
        suspend_reason,
        labels,
        create_time,
        update_time,
        revision,
        version: _,
    } = account;
    let state = if suspended { v1::AccountState::Suspended } else { v1::AccountState::Active };
    v1::Account {
        account_id: id.to_string(),
        display_name,
        plan,
        state: state.into(),
        suspended,
        suspend_reason,
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        revision: revision.to_revision(),
        labels,
        counted_keys,
        max_keys,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_without_id_and_plan_gets_both() {
        let (new, request) = create(v1::CreateAccountRequest::default()).unwrap();
        assert_eq!((new.id, new.plan.as_str(), request), (None, "free", None));
    }

    #[test]
    fn every_field_of_a_change_at_fault_is_named() {
        let paths = ["display_name", "plan", "suspended", "suspend_reason", "max_keys"];
        let request = v1::UpdateAccountRequest {
            account: Some(v1::Account {
                account_id: "acme".into(),
                display_name: "\u{202e}".into(),
                suspend_reason: "x".repeat(501),
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
            expected_revision: "7".into(),
        };
        let fields: Vec<_> =
            update(request).err().unwrap().violations.into_iter().map(|it| it.field).collect();
        let named = [
            "account.display_name",
            "update_mask",
            "account.plan",
            "account.suspend_reason",
            "expected_revision",
        ];
        assert_eq!(fields, named);
    }
}
