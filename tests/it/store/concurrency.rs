//! Many at once.

use futures_util::future::join_all;
use latchkey::error::Reason;
use latchkey::key::KeyState;
use latchkey::store::Command;

use super::support::{
    NOW, Shared, counted, create_reader, first_read, found, key, mark, mutation, new_key, rename,
    revoke, secret, update, with_account,
};

pub(crate) async fn a_hundred_at_once_make_as_many_keys_as_the_plan_allows(store: Shared) {
    with_account(&store, "developer").await;
    let all = join_all((0..100).map(|_| store.mutate(create_reader()))).await;
    let (made, refused): (Vec<_>, Vec<_>) =
        all.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!(made.len(), 5);
    for error in refused {
        assert_eq!(error.unwrap_err().reason, Reason::PlanLimitReached);
    }
    assert_eq!(counted(&store).await, 5);
}

pub(crate) async fn one_request_sent_a_hundred_times_at_once_makes_one_key(store: Shared) {
    with_account(&store, "enterprise").await;
    let wish = || {
        mutation(Command::CreateKey {
            new: new_key("acme", &["memory:read"]),
            secret: secret(),
            request: Some(mark("6f1d7a52-9a35-4c53-8f63-0c0a37a1b001", 1)),
        })
    };
    let all = join_all((0..100).map(|_| store.mutate(wish()))).await;
    let (made, refused): (Vec<_>, Vec<_>) =
        all.into_iter().map(Result::unwrap).partition(Result::is_ok);
    let [made] = made.try_into().unwrap();
    let id = made.unwrap().keys[0].id.to_string();
    for error in refused {
        assert_eq!(error.unwrap_err().metadata[0], ("key_id", id.clone()));
    }
    assert_eq!(counted(&store).await, 1);
}

pub(crate) async fn changes_made_at_once_are_numbered_without_a_gap(store: Shared) {
    with_account(&store, "enterprise").await;
    let all = join_all((0..100).map(|_| store.mutate(create_reader()))).await;
    let mut told: Vec<_> =
        all.into_iter().map(|done| done.unwrap().unwrap().position.unwrap()).collect();
    told.sort_by_key(|position| position.n);
    let batch = first_read(&store).await;
    let kept: Vec<_> = batch.changes.iter().map(|change| change.position).collect();
    assert!(kept.iter().map(|position| position.n).eq(1..=batch.position.n));
    assert_eq!(kept[kept.len() - 100..], told);
    let tags: std::collections::HashSet<_> = kept.iter().map(|position| position.tag).collect();
    assert_eq!(tags.len(), kept.len());
}

pub(crate) async fn revoking_and_changing_at_once_leaves_the_key_revoked(store: Shared) {
    with_account(&store, "enterprise").await;
    let made = key(&store, create_reader()).await;
    let all = (0..50).map(|number| {
        let name = format!("name {number}");
        let wish = if number == 25 { revoke(made.id) } else { update(made.id, rename(&name)) };
        store.mutate(wish)
    });
    let all = join_all(all).await;
    for (number, outcome) in all.into_iter().enumerate() {
        assert_eq!(outcome.unwrap().is_ok(), number <= 25, "{number}");
    }
    assert_eq!(found(&store, made.id).await.state(NOW), KeyState::Revoked);
}
