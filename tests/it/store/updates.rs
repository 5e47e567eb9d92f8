//! Changing keys.

use latchkey::error::Reason;
use latchkey::key::{Expiry, KeyChange, NewKey};
use latchkey::policy::Policy;
use latchkey::store::Command;

use super::support::{
    HOUR, NOW, Shared, at, by, create, create_account, create_reader, disable, done, found, key,
    later, mutation, new_key, operator, reason, refused, rename, revoke, scopes, tip, update,
    update_command, with_account,
};

pub(crate) async fn a_change_moves_version_revision_and_time(store: Shared) {
    with_account(&store, "developer").await;
    let before = key(&store, create_reader()).await;
    let after = key(&store, at(later(HOUR), update(before.id, rename("another")))).await;
    assert_eq!(after.display_name, "another");
    assert_eq!((before.version, after.version), (1, 2));
    assert_eq!(after.revision.n, before.revision.n + 1);
    assert_eq!((after.create_time, after.update_time), (NOW, later(HOUR)));
    assert_eq!(found(&store, before.id).await, after);
}

pub(crate) async fn a_revoked_key_is_not_changed(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    done(&store, revoke(made.id)).await;
    assert_eq!(reason(&store, update(made.id, disable())).await, Reason::KeyRevoked);
}

pub(crate) async fn another_revision_than_expected_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    done(&store, update(made.id, rename("another"))).await;
    let stale =
        Command::UpdateKey { id: made.id, change: rename("third"), expected: Some(made.revision) };
    assert_eq!(reason(&store, mutation(stale)).await, Reason::RevisionMismatch);
}

pub(crate) async fn the_expected_revision_is_let_through(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let change = Command::UpdateKey {
        id: made.id,
        change: rename("another"),
        expected: Some(made.revision),
    };
    done(&store, mutation(change)).await;
}

pub(crate) async fn pausing_a_key_needs_no_grant(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    let strong = key(&store, create(new_key("acme", &["memory:admin"]))).await;
    done(&store, by(&maker, update_command(strong.id, disable()))).await;
}

pub(crate) async fn resuming_a_key_needs_a_grant(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    let strong = key(&store, create(new_key("acme", &["memory:admin"]))).await;
    done(&store, update(strong.id, disable())).await;
    let resume = KeyChange { disabled: Some(false), ..KeyChange::default() };
    let wish = by(&maker, update_command(strong.id, resume));
    assert_eq!(reason(&store, wish).await, Reason::GrantExceeded);
}

pub(crate) async fn a_change_beyond_the_grant_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    let weak = key(&store, create_reader()).await;
    let widen = KeyChange { scopes: Some(scopes(&["memory:admin"])), ..KeyChange::default() };
    let wish = by(&maker, update_command(weak.id, widen));
    assert_eq!(reason(&store, wish).await, Reason::GrantExceeded);
}

pub(crate) async fn a_key_that_holds_more_than_the_grant_is_not_changed(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    let strong = key(&store, create(new_key("acme", &["memory:admin"]))).await;
    let narrow = KeyChange { scopes: Some(scopes(&["memory:read"])), ..KeyChange::default() };
    let wish = by(&maker, update_command(strong.id, narrow));
    assert_eq!(reason(&store, wish).await, Reason::GrantExceeded);
}

pub(crate) async fn bringing_an_expired_key_back_counts(store: Shared) {
    with_account(&store, "free").await;
    let new = NewKey { expiry: Expiry::In(HOUR), ..new_key("acme", &["memory:read"]) };
    let old = key(&store, create(new)).await;
    let second = key(&store, at(later(HOUR), create_reader())).await;
    let back = || {
        let change = KeyChange { expire_time: Some(None), ..KeyChange::default() };
        at(later(HOUR), update(old.id, change))
    };
    assert_eq!(reason(&store, back()).await, Reason::PlanLimitReached);
    done(&store, revoke(second.id)).await;
    done(&store, back()).await;
}

pub(crate) async fn a_change_of_class_counts(store: Shared) {
    with_account(&store, "free").await;
    done(&store, create_reader()).await;
    let operator = key(&store, create(new_key("acme", &["latchkey:keys.read"]))).await;
    let change = KeyChange { scopes: Some(scopes(&["memory:read"])), ..KeyChange::default() };
    assert_eq!(reason(&store, update(operator.id, change)).await, Reason::PlanLimitReached);
}

pub(crate) async fn scopes_given_anew_are_checked(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let change = KeyChange {
        scopes: Some(scopes(&["memory:reed"])),
        grantable_scopes: Some(scopes(&["a:b"])),
        ..KeyChange::default()
    };
    let fields: Vec<_> = refused(&store, update(made.id, change))
        .await
        .violations
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(fields, ["key.scopes[0]", "key.grantable_scopes[0]"]);
}

pub(crate) async fn scopes_left_alone_are_not_checked(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create(new_key("acme", &["memory:readonly"]))).await;
    let mut policy = Policy::default();
    policy.scopes.retain(|scope| scope.name != "memory:readonly");
    let drop_it =
        Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: true };
    done(&store, mutation(drop_it)).await;
    done(&store, update(made.id, rename("another"))).await;
}

pub(crate) async fn a_new_expiry_in_the_past_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let change = KeyChange { expire_time: Some(Some(NOW)), ..KeyChange::default() };
    let error = refused(&store, update(made.id, change)).await;
    assert_eq!(error.violations[0].field, "key.expire_time");
}

pub(crate) async fn a_change_that_changes_nothing_makes_no_change(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let before = tip(&store).await;
    let done = done(&store, update(made.id, rename(&made.display_name))).await;
    assert_eq!(done.position, None);
    assert_eq!(done.keys, [made]);
    assert_eq!(tip(&store).await, before);
}

pub(crate) async fn a_foreign_key_is_not_found(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, create_account("other", "free")).await;
    let maker = operator(&store).await;
    let foreign = key(&store, create(new_key("other", &["memory:read"]))).await;
    let wish = by(&maker, update_command(foreign.id, disable()));
    assert_eq!(reason(&store, wish).await, Reason::NotFound);
}
