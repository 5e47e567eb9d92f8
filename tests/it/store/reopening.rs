//! What is left after the store was closed.

use latchkey::error::Reason;
use latchkey::store::{Command, ReadAsk, StoreError};

use super::support::place::Place;
use super::support::{
    HOUR, create_reader, done, first_read, found, key, mark, mutation, new_key, reason, revoke,
    rotate, secret, seed, with_account,
};

pub(crate) async fn everything_is_there_after_reopening(place: Place) {
    let store = place.open().await;
    let root = with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let kept = done(&store, rotate(made.id, HOUR)).await.keys;
    let revoked = key(&store, revoke(kept[0].id)).await;
    let before = first_read(&store).await;
    let policy = store.policy().await.unwrap();
    store.close().await;

    let store = place.open().await;
    for record in [root, revoked, kept[1].clone()] {
        assert_eq!(found(&store, record.id).await, record);
    }
    let after = first_read(&store).await;
    assert_eq!((after.position, after.changes), (before.position, before.changes));
    assert_eq!(store.policy().await.unwrap(), policy);
    assert_eq!(*store.commits().borrow(), before.position.n);
    assert!(done(&store, seed()).await.keys.is_empty());
    store.close().await;
}

pub(crate) async fn a_repeat_after_reopening_is_recognised(place: Place) {
    let wish = || {
        mutation(Command::CreateKey {
            new: new_key("acme", &["memory:read"]),
            secret: secret(),
            request: Some(mark("6f1d7a52-9a35-4c53-8f63-0c0a37a1b001", 1)),
        })
    };
    let store = place.open().await;
    with_account(&store, "developer").await;
    done(&store, wish()).await;
    store.close().await;

    let store = place.open().await;
    assert_eq!(reason(&store, wish()).await, Reason::AlreadyCreated);
    store.close().await;
}

pub(crate) async fn a_closed_store_refuses_politely(place: Place) {
    let store = place.open().await;
    let root = with_account(&store, "developer").await;
    store.close().await;
    store.close().await;
    let is_told = |error| matches!(error, StoreError::Unavailable(_));
    assert!(is_told(store.mutate(create_reader()).await.unwrap_err()));
    assert!(is_told(store.read(&ReadAsk::default()).await.unwrap_err()));
    assert!(is_told(store.key(root.id).await.unwrap_err()));
}

pub(crate) async fn what_was_queued_is_done_before_it_closes(place: Place) {
    let store = place.open().await;
    with_account(&store, "enterprise").await;
    let wishes = futures_util::future::join_all((0..100).map(|_| store.mutate(create_reader())));
    let (all, ()) = futures_util::future::join(wishes, store.close()).await;
    let made = all.iter().flatten().flatten().count();
    let store = place.open().await;
    assert_eq!(super::support::counted(&store).await as usize, made);
    store.close().await;
}
