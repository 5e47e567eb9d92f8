//! What latchkey makes by itself.

use latchkey::account::AccountId;
use latchkey::error::Reason;
use latchkey::key::{Actor, KeyState, NewKey};
use latchkey::policy::Policy;
use latchkey::store::{Command, Maker, Mutation, StoreError};

use super::support::{
    HOUR, NOW, Shared, by, counted, create, create_account, create_command, done, found, id, key,
    mutation, new_account, new_key, reason, rotate_command, scopes, secret, seed, seeded, tip,
};

fn reset() -> Mutation {
    let command = Command::ResetRoot { secret: secret() };
    Mutation { maker: Maker::System("root-reset"), ..mutation(command) }
}

fn demo(policy: Option<Policy>) -> Mutation {
    demo_of(3, policy)
}

fn demo_of(keys: u8, policy: Option<Policy>) -> Mutation {
    let new = NewKey { account: AccountId::reserved(), ..new_key("acme", &["memory:read"]) };
    let keys = (0..keys).map(|_| (new.clone(), secret())).collect();
    let account = new_account("acme", "developer");
    let command = Command::SeedDemo { account, keys, policy };
    Mutation { maker: Maker::System("dev"), ..mutation(command) }
}

pub(crate) async fn a_seeded_store_has_account_policy_and_root_key(store: Shared) {
    let root = seeded(&store).await;
    assert_eq!(root.account, AccountId::reserved());
    assert_eq!(root.scopes, scopes(&["latchkey:admin"]));
    assert_eq!(root.created_by, Actor::System("root".into()));
    assert_eq!(found(&store, root.id).await, root);
    assert_eq!(store.policy().await.unwrap().0, Policy::default());
    let (account, _) = store.account(&AccountId::reserved(), NOW).await.unwrap().unwrap();
    assert_eq!(account.plan, "enterprise");
}

pub(crate) async fn seeding_again_changes_nothing(store: Shared) {
    seeded(&store).await;
    let before = tip(&store).await;
    let again = done(&store, seed()).await;
    assert!(again.keys.is_empty() && again.position.is_none());
    assert_eq!(tip(&store).await, before);
}

pub(crate) async fn seeding_at_once_makes_one_root_key(store: Shared) {
    let all = futures_util::future::join_all((0..10).map(|_| store.mutate(seed()))).await;
    let roots: usize = all.into_iter().map(|done| done.unwrap().unwrap().keys.len()).sum();
    assert_eq!(roots, 1);
}

pub(crate) async fn an_empty_store_refuses_everything_else(store: Shared) {
    let error = store.mutate(create_account("acme", "free")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unusable(_)), "{error}");
    assert!(matches!(store.policy().await.unwrap_err(), StoreError::Unusable(_)));
}

pub(crate) async fn no_key_may_seed_or_reset(store: Shared) {
    let root = seeded(&store).await;
    for command in [seed().command, reset().command, demo(None).command] {
        assert_eq!(reason(&store, by(&root, command)).await, Reason::PermissionDenied);
    }
}

pub(crate) async fn a_reset_makes_a_new_root_key_and_revokes_the_old(store: Shared) {
    let first = seeded(&store).await;
    let second = key(&store, reset()).await;
    assert_eq!(found(&store, first.id).await.state(NOW), KeyState::Revoked);
    assert_eq!(found(&store, second.id).await.state(NOW), KeyState::Active);
    let third = done(&store, reset()).await.keys;
    assert_eq!(third.iter().map(|key| key.id).skip(1).collect::<Vec<_>>(), [second.id]);
}

pub(crate) async fn a_reset_follows_rotations(store: Shared) {
    let root = seeded(&store).await;
    let next = key(&store, by(&root, rotate_command(root.id, HOUR))).await;
    let operator =
        key(&store, by(&next, create_command(new_key("latchkey", &["latchkey:authorize"]))));
    let operator = operator.await;
    done(&store, reset()).await;
    for old in [root.id, next.id] {
        assert_eq!(found(&store, old).await.state(NOW), KeyState::Revoked);
    }
    assert_eq!(found(&store, operator.id).await.state(NOW), KeyState::Active);
}

pub(crate) async fn a_demo_is_made_anew_within_its_plan(store: Shared) {
    seeded(&store).await;
    let first = done(&store, demo(None)).await.keys;
    let own = key(&store, create(new_key("acme", &["memory:read"]))).await;
    let second = done(&store, demo(None)).await;
    assert_eq!(second.keys.len(), 3);
    assert!(second.keys.iter().all(|key| key.created_by == Actor::System("dev".into())));
    for old in first {
        assert_eq!(found(&store, old.id).await.state(NOW), KeyState::Revoked);
    }
    assert_eq!(found(&store, own.id).await, own);
    assert_eq!(counted(&store).await, 4);
}

pub(crate) async fn a_demo_refused_half_way_leaves_nothing(store: Shared) {
    seeded(&store).await;
    let before = tip(&store).await;
    assert_eq!(reason(&store, demo_of(6, None)).await, Reason::PlanLimitReached);
    assert_eq!(store.account(&id("acme"), NOW).await.unwrap(), None);
    assert_eq!(tip(&store).await, before);
}

pub(crate) async fn a_demo_brings_its_policy(store: Shared) {
    seeded(&store).await;
    let policy = Policy { bound_ms: 500, ..Policy::default() };
    done(&store, demo(Some(policy.clone()))).await;
    let (now, revision) = store.policy().await.unwrap();
    assert_eq!(now, policy);
    done(&store, demo(Some(policy))).await;
    assert_eq!(store.policy().await.unwrap().1, revision);
}
