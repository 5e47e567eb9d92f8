//! The one order of changes.

use latchkey::clock::Timestamp;

use super::support::{
    HOUR, NOW, Shared, at, create_account, create_reader, done, key, later, refused, rename, tip,
    update, with_account,
};

pub(crate) async fn time_never_goes_back_along_the_changes(store: Shared) {
    with_account(&store, "developer").await;
    let first = key(&store, at(later(HOUR), create_reader())).await;
    let second = key(&store, create_reader()).await;
    assert_eq!(first.create_time, later(HOUR));
    assert_eq!(second.create_time, later(HOUR));
    assert_eq!(store.kept_time().await.unwrap(), later(HOUR));
}

pub(crate) async fn a_refusal_leaves_no_trace(store: Shared) {
    with_account(&store, "free").await;
    done(&store, create_reader()).await;
    let before = tip(&store).await;
    let change = rename("x");
    refused(&store, create_reader()).await;
    refused(&store, create_account("acme", "free")).await;
    refused(&store, update(latchkey::key::KeyId::new(NOW, 1, 1), change)).await;
    assert_eq!(tip(&store).await, before);
}

pub(crate) async fn commits_are_announced_before_they_are_answered(store: Shared) {
    let mut commits = store.commits();
    with_account(&store, "free").await;
    assert!(commits.has_changed().unwrap());
    assert_eq!(*commits.borrow_and_update(), tip(&store).await);
    refused(&store, create_account("acme", "free")).await;
    assert!(!commits.has_changed().unwrap());
}

pub(crate) async fn kept_time_only_rises(store: Shared) {
    assert_eq!(store.kept_time().await.unwrap(), Timestamp::EPOCH);
    store.keep_time(NOW).await.unwrap();
    store.keep_time(Timestamp::EPOCH).await.unwrap();
    assert_eq!(store.kept_time().await.unwrap(), NOW);
    with_account(&store, "free").await;
    store.keep_time(later(HOUR)).await.unwrap();
    assert_eq!(store.kept_time().await.unwrap(), later(HOUR));
}
