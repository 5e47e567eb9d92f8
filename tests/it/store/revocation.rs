//! Ending keys for good.

use std::collections::BTreeSet;
use std::time::Duration;

use latchkey::error::Reason;
use latchkey::key::{KeyRecord, KeyState, NewKey, RevokeReason};
use latchkey::store::{Command, KeyTarget, Mutation};

use super::support::{
    HOUR, NOW, Shared, at, by, create, create_account, create_command, create_reader, done, found,
    key, later, mutation, new_key, operator, reason, revoke, revoke_command, revoke_created,
    rotate_command, scopes, secret, seeded, suspend, tip, update, with_account,
};

pub(crate) async fn a_revoked_key_stays_revoked(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let revoked = key(&store, revoke(made.id)).await;
    assert_eq!(revoked.state(NOW), KeyState::Revoked);
    let resume = latchkey::key::KeyChange { disabled: Some(false), ..Default::default() };
    assert_eq!(reason(&store, update(made.id, resume)).await, Reason::KeyRevoked);
    assert_eq!(found(&store, made.id).await, revoked);
}

pub(crate) async fn revoking_twice_keeps_the_first_date_and_reason(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let first = key(&store, revoke(made.id)).await;
    let before = tip(&store).await;
    let again = Mutation {
        command: Command::RevokeKey {
            target: KeyTarget::Id(made.id),
            reason: RevokeReason::Unused,
            comment: "again".into(),
            with_created: false,
        },
        ..at(later(HOUR), revoke(made.id))
    };
    let again = done(&store, again).await;
    assert_eq!(again.position, None);
    assert_eq!(again.keys, [first]);
    assert_eq!(tip(&store).await, before);
}

pub(crate) async fn a_key_is_revoked_by_its_digest(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let wish = |digest| {
        mutation(Command::RevokeKey {
            target: KeyTarget::Digest(digest),
            reason: RevokeReason::Compromised,
            comment: String::new(),
            with_created: false,
        })
    };
    assert_eq!(key(&store, wish(made.digest)).await.id, made.id);
    assert_eq!(reason(&store, wish(secret().digest)).await, Reason::NotFound);
}

pub(crate) async fn a_key_that_is_not_there_is_not_found(store: Shared) {
    let root = with_account(&store, "developer").await;
    let nobody = latchkey::key::KeyId::new(NOW, 9, 9);
    assert_eq!(reason(&store, by(&root, revoke_command(nobody))).await, Reason::NotFound);
}

pub(crate) async fn a_foreign_key_is_not_found(store: Shared) {
    let root = with_account(&store, "developer").await;
    let maker = operator(&store).await;
    assert_eq!(reason(&store, by(&maker, revoke_command(root.id))).await, Reason::NotFound);
}

pub(crate) async fn revoking_needs_no_grant(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    let strong = key(&store, create(new_key("acme", &["memory:admin"]))).await;
    done(&store, by(&maker, revoke_command(strong.id))).await;
}

/// An operator key made by `maker`, able to make more of its kind.
async fn child(store: &Shared, maker: &KeyRecord, names: &[&str]) -> KeyRecord {
    let new = NewKey {
        grantable_scopes: scopes(&["memory:read", "latchkey:keys.write"]),
        ..new_key("acme", names)
    };
    key(store, by(maker, create_command(new))).await
}

pub(crate) async fn what_a_key_made_goes_with_it(store: Shared) {
    with_account(&store, "developer").await;
    let top = operator(&store).await;
    let middle = child(&store, &top, &["latchkey:keys.write"]).await;
    let leaf = child(&store, &middle, &["memory:read"]).await;
    let bystander = key(&store, create_reader()).await;
    let gone = done(&store, mutation(revoke_created(top.id))).await.keys;
    assert_eq!(gone[0].id, top.id);
    let ids: BTreeSet<_> = gone.iter().map(|key| key.id).collect();
    assert_eq!(ids, BTreeSet::from([top.id, middle.id, leaf.id]));
    assert!(gone.iter().all(|key| key.state(NOW) == KeyState::Revoked));
    assert_eq!(found(&store, bystander.id).await, bystander);
}

pub(crate) async fn what_a_key_made_goes_later_too(store: Shared) {
    with_account(&store, "developer").await;
    let top = operator(&store).await;
    let middle = child(&store, &top, &["latchkey:keys.write"]).await;
    let leaf = child(&store, &middle, &["memory:read"]).await;
    done(&store, revoke(top.id)).await;
    done(&store, revoke(middle.id)).await;
    let gone = done(&store, mutation(revoke_created(top.id))).await;
    let ids = |keys: &[KeyRecord]| keys.iter().map(|key| key.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&gone.ended), BTreeSet::from([leaf.id]));
    assert_eq!(ids(&gone.keys), BTreeSet::from([top.id, middle.id, leaf.id]));
}

pub(crate) async fn a_key_that_made_itself_by_rotation_ends_the_search(store: Shared) {
    with_account(&store, "developer").await;
    let top = operator(&store).await;
    let next = key(&store, by(&top, rotate_command(top.id, HOUR))).await;
    let gone = done(&store, mutation(revoke_created(top.id))).await.keys;
    assert_eq!(gone.iter().map(|key| key.id).collect::<Vec<_>>(), [top.id, next.id]);
}

pub(crate) async fn a_key_of_latchkeys_own_account_takes_what_it_made_elsewhere(store: Shared) {
    let root = with_account(&store, "developer").await;
    let there = key(&store, by(&root, create_command(new_key("acme", &["memory:read"])))).await;
    let gone = done(&store, by(&root, revoke_created(root.id))).await.keys;
    assert_eq!(gone.iter().map(|key| key.id).collect::<Vec<_>>(), [root.id, there.id]);
}

pub(crate) async fn keys_of_a_suspended_account_are_revoked(store: Shared) {
    seeded(&store).await;
    done(&store, create_account("acme", "developer")).await;
    let made = key(&store, create_reader()).await;
    suspend(&store, "acme").await;
    let revoked = key(&store, at(later(Duration::from_secs(1)), revoke(made.id))).await;
    assert_eq!(revoked.state(NOW), KeyState::Revoked);
}
