//! Making keys.

use std::time::Duration;

use latchkey::error::Reason;
use latchkey::key::{Actor, Expiry, KeyClass, NewKey};
use latchkey::store::{Command, NewSecret};

use super::support::{
    HOUR, NOW, Shared, at, by, counted, create, create_command, create_reader, disable, done,
    found, key, later, new_key, operator, reason, refused, revoke, scopes, secret, seeded, suspend,
    update, with_account,
};

pub(crate) async fn a_new_key_is_found_by_its_id_and_by_its_digest(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    assert_eq!(found(&store, made.id).await, made);
    assert_eq!(store.key_by_digest(&made.digest).await.unwrap(), Some(made));
}

pub(crate) async fn ids_are_in_order_of_creation(store: Shared) {
    with_account(&store, "enterprise").await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(key(&store, create_reader()).await.id);
    }
    assert!(ids.is_sorted());
    assert!(ids.iter().map(ToString::to_string).is_sorted());
}

pub(crate) async fn an_unknown_scope_is_refused_with_the_nearest_name(store: Shared) {
    with_account(&store, "developer").await;
    let error = refused(&store, create(new_key("acme", &["memory:read", "memory:wirte"]))).await;
    assert_eq!(error.reason, Reason::InvalidField);
    assert_eq!(error.violations[0].field, "scopes[1]");
    assert!(error.message.contains("did you mean `memory:write`?"), "{error}");
}

pub(crate) async fn an_unknown_grantable_scope_names_its_field(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey { grantable_scopes: scopes(&["a:b"]), ..new_key("acme", &["memory:read"]) };
    assert_eq!(refused(&store, create(new)).await.violations[0].field, "grantable_scopes[0]");
}

pub(crate) async fn a_pattern_that_covers_nothing_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let error = refused(&store, create(new_key("acme", &["orders:*"]))).await;
    assert!(error.message.contains("covers no scope"), "{error}");
    done(&store, create(new_key("acme", &["memory:*"]))).await;
}

pub(crate) async fn an_expiry_in_the_past_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey { expiry: Expiry::At(NOW), ..new_key("acme", &["memory:read"]) };
    assert_eq!(refused(&store, create(new.clone())).await.violations[0].field, "expire_time");
    let new = NewKey { expiry: Expiry::In(Duration::ZERO), ..new };
    assert_eq!(refused(&store, create(new)).await.violations[0].field, "ttl");
}

pub(crate) async fn a_span_of_life_counts_from_when_the_key_was_made(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey { expiry: Expiry::In(HOUR), ..new_key("acme", &["memory:read"]) };
    let made = key(&store, create(new)).await;
    assert_eq!(made.create_time, NOW);
    assert_eq!(made.expire_time, Some(later(HOUR)));
}

pub(crate) async fn a_key_beyond_its_makers_grant_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    let wish = |names: &[&str]| by(&maker, create_command(new_key("acme", names)));
    assert_eq!(reason(&store, wish(&["memory:admin"])).await, Reason::GrantExceeded);
    done(&store, wish(&["memory:read"])).await;
}

pub(crate) async fn a_key_in_a_foreign_account_is_not_found(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, super::support::create_account("other", "free")).await;
    let maker = operator(&store).await;
    let foreign = refused(&store, by(&maker, create_command(new_key("other", &[])))).await;
    let unknown = refused(&store, by(&maker, create_command(new_key("nobody", &[])))).await;
    assert_eq!(foreign.reason, Reason::NotFound);
    assert_eq!(foreign.message, unknown.message);
}

pub(crate) async fn a_key_for_an_account_that_is_not_there_is_not_found(store: Shared) {
    let root = seeded(&store).await;
    let wish = by(&root, create_command(new_key("nobody", &["memory:read"])));
    assert_eq!(reason(&store, wish).await, Reason::NotFound);
}

pub(crate) async fn a_suspended_account_gets_no_keys(store: Shared) {
    with_account(&store, "developer").await;
    suspend(&store, "acme").await;
    assert_eq!(reason(&store, create_reader()).await, Reason::AccountSuspended);
}

pub(crate) async fn a_plan_of_five_refuses_the_sixth_key(store: Shared) {
    with_account(&store, "developer").await;
    for _ in 0..5 {
        done(&store, create_reader()).await;
    }
    let error = refused(&store, create_reader()).await;
    assert_eq!(error.reason, Reason::PlanLimitReached);
    let wanted = [("account_id", "acme"), ("plan", "developer"), ("limit", "5")];
    assert_eq!(error.metadata, wanted.map(|(name, value)| (name, value.to_owned())));
}

pub(crate) async fn keys_that_are_over_do_not_count(store: Shared) {
    with_account(&store, "free").await;
    let new = NewKey { expiry: Expiry::In(HOUR), ..new_key("acme", &["memory:read"]) };
    done(&store, create(new)).await;
    assert_eq!(reason(&store, create_reader()).await, Reason::PlanLimitReached);
    let second = key(&store, at(later(HOUR), create_reader())).await;
    assert_eq!(reason(&store, create_reader()).await, Reason::PlanLimitReached);
    done(&store, revoke(second.id)).await;
    done(&store, create_reader()).await;
}

pub(crate) async fn a_disabled_key_counts(store: Shared) {
    with_account(&store, "free").await;
    let made = key(&store, create_reader()).await;
    done(&store, update(made.id, disable())).await;
    assert_eq!(counted(&store).await, 1);
    assert_eq!(reason(&store, create_reader()).await, Reason::PlanLimitReached);
}

pub(crate) async fn operator_keys_have_a_limit_of_their_own(store: Shared) {
    with_account(&store, "free").await;
    let wish = || create(new_key("acme", &["latchkey:keys.read"]));
    for _ in 0..KeyClass::OPERATORS_MAX {
        done(&store, wish()).await;
    }
    assert_eq!(counted(&store).await, 0);
    assert_eq!(reason(&store, wish()).await, Reason::PlanLimitReached);
    done(&store, create_reader()).await;
}

pub(crate) async fn latchkeys_own_account_may_have_any_number_of_operator_keys(store: Shared) {
    seeded(&store).await;
    for _ in 0..=KeyClass::OPERATORS_MAX {
        done(&store, create(new_key("latchkey", &["latchkey:authorize"]))).await;
    }
}

pub(crate) async fn the_token_of_another_key_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let digest = key(&store, create_reader()).await.digest;
    let again = Command::CreateKey {
        new: new_key("acme", &["memory:read"]),
        secret: NewSecret { digest, ..secret() },
        request: None,
    };
    let error = refused(&store, super::support::mutation(again)).await;
    assert_eq!(error.violations[0].field, "token");
}

pub(crate) async fn a_key_says_who_made_it(store: Shared) {
    let root = with_account(&store, "developer").await;
    let made = key(&store, by(&root, create_command(new_key("acme", &["memory:read"])))).await;
    assert_eq!(made.created_by, Actor::Key(root.id));
    assert_eq!(key(&store, create_reader()).await.created_by, Actor::System("test".into()));
}
