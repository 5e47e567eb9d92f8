//! Putting another key in a key's place.

use std::time::Duration;

use latchkey::error::Reason;
use latchkey::key::{Expiry, KeyChange, KeyRecord, KeyState, NewKey, RevokeReason};

use super::support::{
    HOUR, NOW, Shared, at, by, counted, create, create_reader, done, found, key, later, new_key,
    operator, reason, refused, revoke, rotate, rotate_command, suspend, update, with_account,
};

pub(crate) async fn a_successor_is_a_copy_with_another_token(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    let keys = done(&store, rotate(old.id, HOUR)).await.keys;
    let [new, after] = keys.as_slice() else { panic!("{keys:?}") };
    assert_ne!(new.digest, old.digest);
    assert_eq!((new.rotated_from, after.rotated_to), (Some(old.id), Some(new.id)));
    assert_eq!(after.revision.n, new.revision.n + 1);
    let like_old = KeyRecord {
        id: old.id,
        digest: old.digest,
        rotated_from: None,
        revision: old.revision,
        ..new.clone()
    };
    assert_eq!(like_old, old);
}

pub(crate) async fn the_old_key_lives_on_for_the_overlap(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    let old = done(&store, rotate(old.id, HOUR)).await.keys.remove(1);
    assert_eq!(old.expire_time, Some(later(HOUR)));
    assert_eq!(old.state(NOW), KeyState::Active);
}

pub(crate) async fn an_overlap_does_not_lengthen_a_life(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey { expiry: Expiry::In(HOUR), ..new_key("acme", &["memory:read"]) };
    let old = key(&store, create(new)).await;
    let keys = done(&store, rotate(old.id, HOUR * 24)).await.keys;
    assert_eq!(keys[0].expire_time, Some(later(HOUR)));
    assert_eq!(keys[1].expire_time, Some(later(HOUR)));
}

pub(crate) async fn no_overlap_revokes_the_old_key_at_once(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    let old = done(&store, rotate(old.id, Duration::ZERO)).await.keys.remove(1);
    let revocation = old.revocation.unwrap();
    assert_eq!((revocation.time, revocation.reason), (NOW, RevokeReason::Superseded));
    assert_eq!(old.expire_time, None);
}

pub(crate) async fn rotating_again_ends_the_one_before(store: Shared) {
    with_account(&store, "developer").await;
    let first = key(&store, create_reader()).await;
    let second = key(&store, rotate(first.id, HOUR)).await;
    let done = done(&store, rotate(second.id, HOUR)).await;
    let first = found(&store, first.id).await;
    assert_eq!(first.revocation.unwrap().reason, RevokeReason::Superseded);
    assert_eq!(Some(first.revision), done.position);
    assert_eq!(found(&store, second.id).await.state(NOW), KeyState::Active);
}

pub(crate) async fn a_rotated_key_is_not_rotated_again(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    let new = key(&store, rotate(old.id, HOUR)).await;
    let error = refused(&store, rotate(old.id, HOUR)).await;
    assert_eq!(error.reason, Reason::KeyRotated);
    assert!(error.metadata.contains(&("successor", new.id.to_string())));
}

pub(crate) async fn a_revoked_key_is_not_rotated(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    done(&store, revoke(old.id)).await;
    assert_eq!(reason(&store, rotate(old.id, HOUR)).await, Reason::KeyRevoked);
}

pub(crate) async fn an_expired_key_is_not_rotated(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey { expiry: Expiry::In(HOUR), ..new_key("acme", &["memory:read"]) };
    let old = key(&store, create(new)).await;
    let wish = at(later(HOUR), rotate(old.id, HOUR));
    assert_eq!(reason(&store, wish).await, Reason::KeyExpired);
}

pub(crate) async fn a_key_of_a_suspended_account_is_not_rotated(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    suspend(&store, "acme").await;
    assert_eq!(reason(&store, rotate(old.id, HOUR)).await, Reason::AccountSuspended);
}

pub(crate) async fn a_rotation_beyond_the_grant_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    let maker = operator(&store).await;
    let strong = key(&store, create(new_key("acme", &["memory:admin"]))).await;
    let wish = by(&maker, rotate_command(strong.id, HOUR));
    assert_eq!(reason(&store, wish).await, Reason::GrantExceeded);
}

pub(crate) async fn a_rotation_is_never_refused_for_the_plan(store: Shared) {
    with_account(&store, "free").await;
    let old = key(&store, create_reader()).await;
    done(&store, rotate(old.id, HOUR)).await;
}

pub(crate) async fn a_predecessor_does_not_count(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    done(&store, rotate(old.id, HOUR)).await;
    assert_eq!(counted(&store).await, 1);
}

pub(crate) async fn a_predecessors_life_is_not_lengthened(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    done(&store, rotate(old.id, HOUR)).await;
    for end in [None, Some(later(HOUR * 2))] {
        let change = KeyChange { expire_time: Some(end), ..KeyChange::default() };
        assert_eq!(reason(&store, update(old.id, change)).await, Reason::KeyRotated);
    }
}

pub(crate) async fn a_predecessors_life_may_be_shortened(store: Shared) {
    with_account(&store, "developer").await;
    let old = key(&store, create_reader()).await;
    done(&store, rotate(old.id, HOUR)).await;
    let change = KeyChange { expire_time: Some(Some(later(HOUR / 2))), ..KeyChange::default() };
    done(&store, update(old.id, change)).await;
}
