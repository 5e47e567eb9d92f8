//! Who may change anything, judged on the rows.

use latchkey::error::Reason;
use latchkey::key::{Expiry, KeyId, NewKey};
use latchkey::store::Mutation;

use super::support::{
    HOUR, NOW, Shared, at, by, by_id, create, create_command, disable, done, key, later, new_key,
    operator, reason, revoke, scopes, suspend, update, with_account,
};

fn wish(maker: KeyId) -> Mutation {
    by_id(maker, create_command(new_key("acme", &["memory:read"])))
}

pub(crate) async fn a_maker_that_is_not_there_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let nobody = KeyId::new(NOW, 9, 9);
    assert_eq!(reason(&store, wish(nobody)).await, Reason::InvalidCredential);
}

pub(crate) async fn a_revoked_maker_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    done(&store, revoke(maker.id)).await;
    assert_eq!(reason(&store, wish(maker.id)).await, Reason::InvalidCredential);
}

pub(crate) async fn a_disabled_maker_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    done(&store, update(maker.id, disable())).await;
    assert_eq!(reason(&store, wish(maker.id)).await, Reason::InvalidCredential);
}

pub(crate) async fn an_expired_maker_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey {
        expiry: Expiry::In(HOUR),
        grantable_scopes: scopes(&["memory:read"]),
        ..new_key("acme", &["latchkey:keys.write"])
    };
    let maker = key(&store, create(new)).await;
    let late = at(later(HOUR), wish(maker.id));
    assert_eq!(reason(&store, late).await, Reason::InvalidCredential);
}

pub(crate) async fn a_maker_of_a_suspended_account_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    suspend(&store, "acme").await;
    assert_eq!(reason(&store, wish(maker.id)).await, Reason::CallerSuspended);
}

pub(crate) async fn a_maker_without_the_scope_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey {
        grantable_scopes: scopes(&["memory:read"]),
        ..new_key("acme", &["latchkey:keys.read"])
    };
    let maker = key(&store, create(new)).await;
    assert_eq!(reason(&store, wish(maker.id)).await, Reason::PermissionDenied);
}

pub(crate) async fn an_administrator_holds_every_scope_of_latchkey(store: Shared) {
    let root = with_account(&store, "developer").await;
    done(&store, by(&root, create_command(new_key("acme", &["memory:admin"])))).await;
}
