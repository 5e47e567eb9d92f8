//! Accounts.

use latchkey::account::AccountChange;
use latchkey::error::Reason;
use latchkey::key::NewKey;
use latchkey::store::Command;

use super::support::{
    NOW, Shared, by, create, create_account, create_reader, done, id, key, mutation, new_account,
    new_key, reason, refused, scopes, seeded, tip, with_account,
};

fn change(account: &str, change: AccountChange) -> Command {
    Command::UpdateAccount { id: id(account), change, expected: None }
}

fn rename(name: &str) -> AccountChange {
    AccountChange { display_name: Some(name.into()), ..AccountChange::default() }
}

fn move_to(plan: &str) -> AccountChange {
    AccountChange { plan: Some(plan.into()), ..AccountChange::default() }
}

/// A key of `acme` that may change its account.
async fn owner(store: &Shared) -> latchkey::key::KeyRecord {
    let new = NewKey {
        grantable_scopes: scopes(&["memory:read"]),
        ..new_key("acme", &["latchkey:accounts.write"])
    };
    key(store, create(new)).await
}

pub(crate) async fn a_new_account_is_found(store: Shared) {
    seeded(&store).await;
    let made = done(&store, create_account("acme", "pro")).await.account.unwrap();
    assert_eq!(made.1, 0);
    assert_eq!(store.account(&id("acme"), NOW).await.unwrap(), Some(made));
    assert_eq!(store.account(&id("nobody"), NOW).await.unwrap(), None);
}

pub(crate) async fn an_id_is_made_when_none_is_given(store: Shared) {
    seeded(&store).await;
    let (made, _) = done(&store, create_account("", "free")).await.account.unwrap();
    assert!(made.id.as_str().starts_with("acct_") && made.id.as_str().len() == 25, "{}", made.id);
}

pub(crate) async fn a_taken_id_is_refused(store: Shared) {
    with_account(&store, "free").await;
    for taken in ["acme", "latchkey"] {
        assert_eq!(reason(&store, create_account(taken, "free")).await, Reason::AccountExists);
    }
}

pub(crate) async fn an_unknown_plan_is_refused_with_the_nearest_name(store: Shared) {
    with_account(&store, "free").await;
    let error = refused(&store, create_account("other", "develper")).await;
    assert_eq!(error.violations[0].field, "plan");
    assert!(error.message.contains("did you mean `developer`?"), "{error}");
    let error = refused(&store, mutation(change("acme", move_to("gold")))).await;
    assert_eq!(error.violations[0].field, "account.plan");
}

pub(crate) async fn only_the_reserved_account_makes_accounts(store: Shared) {
    let root = with_account(&store, "free").await;
    let owner = owner(&store).await;
    let wish = || Command::CreateAccount { new: new_account("other", "free"), request: None };
    assert_eq!(reason(&store, by(&owner, wish())).await, Reason::PermissionDenied);
    done(&store, by(&root, wish())).await;
}

pub(crate) async fn only_the_reserved_account_changes_plans_and_suspends(store: Shared) {
    let root = with_account(&store, "free").await;
    let owner = owner(&store).await;
    let suspend = AccountChange { suspended: Some(true), ..AccountChange::default() };
    for wish in [move_to("pro"), suspend] {
        let refused = reason(&store, by(&owner, change("acme", wish.clone()))).await;
        assert_eq!(refused, Reason::PermissionDenied);
        done(&store, by(&root, change("acme", wish))).await;
    }
}

pub(crate) async fn an_account_changes_its_own_name(store: Shared) {
    with_account(&store, "free").await;
    let owner = owner(&store).await;
    let (account, _) =
        done(&store, by(&owner, change("acme", rename("Acme")))).await.account.unwrap();
    assert_eq!((account.display_name.as_str(), account.version), ("Acme", 2));
}

pub(crate) async fn a_foreign_account_is_not_found(store: Shared) {
    with_account(&store, "free").await;
    let owner = owner(&store).await;
    for foreign in ["latchkey", "nobody"] {
        let wish = by(&owner, change(foreign, rename("mine")));
        assert_eq!(reason(&store, wish).await, Reason::NotFound);
    }
}

pub(crate) async fn the_reserved_account_cannot_be_suspended(store: Shared) {
    let root = seeded(&store).await;
    let suspend = AccountChange { suspended: Some(true), ..AccountChange::default() };
    let error = refused(&store, by(&root, change("latchkey", suspend))).await;
    assert_eq!(error.violations[0].field, "account.suspended");
}

pub(crate) async fn a_downgrade_keeps_the_keys_and_says_so(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, create_reader()).await;
    done(&store, create_reader()).await;
    let done = done(&store, mutation(change("acme", move_to("free")))).await;
    assert_eq!(done.account.unwrap().1, 2);
    assert_eq!(done.notices.len(), 1);
    assert_eq!(reason(&store, create_reader()).await, Reason::PlanLimitReached);
}

pub(crate) async fn another_revision_than_expected_is_refused(store: Shared) {
    with_account(&store, "free").await;
    let first = done(&store, mutation(change("acme", rename("one")))).await.position;
    done(&store, mutation(change("acme", rename("two")))).await;
    let stale = Command::UpdateAccount { id: id("acme"), change: rename("three"), expected: first };
    assert_eq!(reason(&store, mutation(stale)).await, Reason::RevisionMismatch);
}

pub(crate) async fn a_change_that_changes_nothing_makes_no_change(store: Shared) {
    with_account(&store, "free").await;
    let before = tip(&store).await;
    let done = done(&store, mutation(change("acme", move_to("free")))).await;
    assert_eq!(done.position, None);
    assert!(done.account.is_some());
    assert_eq!(tip(&store).await, before);
}
