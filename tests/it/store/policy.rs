//! Replacing the policy.

use latchkey::error::Reason;
use latchkey::key::{Expiry, NewKey};
use latchkey::policy::Policy;
use latchkey::store::{Command, Mutation};

use super::support::{
    HOUR, Shared, at, by, create, create_reader, done, key, later, mutation, new_key, reason,
    refused, revoke, scopes, seeded, tip, with_account,
};

fn command(policy: Policy) -> Command {
    Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: false }
}

fn apply(policy: Policy) -> Mutation {
    mutation(command(policy))
}

fn without_scope(name: &str) -> Policy {
    let mut policy = Policy::default();
    policy.scopes.retain(|scope| scope.name != name);
    policy
}

fn with_bound(bound_ms: u64) -> Policy {
    Policy { bound_ms, ..Policy::default() }
}

pub(crate) async fn a_new_policy_is_in_force(store: Shared) {
    let root = seeded(&store).await;
    let done = done(&store, by(&root, command(with_bound(500)))).await;
    let (policy, revision) = store.policy().await.unwrap();
    assert_eq!(policy.bound_ms, 500);
    assert_eq!(done.position, Some(revision));
    assert_eq!(done.policy, Some((policy, revision)));
}

pub(crate) async fn an_equal_policy_makes_no_change(store: Shared) {
    seeded(&store).await;
    let before = tip(&store).await;
    let done = done(&store, apply(Policy::default())).await;
    assert_eq!(done.position, None);
    assert_eq!(done.policy, Some(store.policy().await.unwrap()));
    assert_eq!(tip(&store).await, before);
}

pub(crate) async fn a_dry_run_writes_nothing(store: Shared) {
    seeded(&store).await;
    let dry = Command::ApplyPolicy {
        policy: with_bound(500),
        expected: None,
        is_dry_run: true,
        allow_orphans: false,
    };
    let done = done(&store, mutation(dry)).await;
    assert_eq!(done.position, None);
    assert_eq!(done.policy.unwrap().0, with_bound(500));
    assert_eq!(store.policy().await.unwrap().0, Policy::default());
}

pub(crate) async fn a_wrong_policy_names_its_fields(store: Shared) {
    seeded(&store).await;
    let error = refused(&store, apply(with_bound(1))).await;
    assert_eq!(error.violations[0].field, "policy.bound");
}

pub(crate) async fn another_revision_than_expected_is_refused(store: Shared) {
    seeded(&store).await;
    let (_, first) = store.policy().await.unwrap();
    done(&store, apply(with_bound(500))).await;
    let stale = Command::ApplyPolicy {
        policy: with_bound(600),
        expected: Some(first),
        is_dry_run: false,
        allow_orphans: false,
    };
    assert_eq!(reason(&store, mutation(stale)).await, Reason::RevisionMismatch);
}

pub(crate) async fn only_the_reserved_account_replaces_the_policy(store: Shared) {
    with_account(&store, "free").await;
    let new = new_key("acme", &["latchkey:policy.write"]);
    let maker = key(&store, create(new)).await;
    let wish = by(&maker, command(with_bound(500)));
    assert_eq!(reason(&store, wish).await, Reason::PermissionDenied);
}

pub(crate) async fn a_scope_that_keys_hold_is_not_dropped(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey {
        grantable_scopes: scopes(&["memory:readonly"]),
        ..new_key("acme", &["memory:readonly"])
    };
    done(&store, create(new)).await;
    let error = refused(&store, apply(without_scope("memory:readonly"))).await;
    assert_eq!(error.reason, Reason::ScopeInUse);
    let wanted = [("scope", "memory:readonly".to_owned()), ("count", "1".to_owned())];
    assert_eq!(error.metadata, wanted);
}

pub(crate) async fn a_scope_that_keys_may_hand_out_is_not_dropped(store: Shared) {
    with_account(&store, "developer").await;
    let new = NewKey {
        grantable_scopes: scopes(&["memory:readonly"]),
        ..new_key("acme", &["latchkey:keys.write"])
    };
    done(&store, create(new)).await;
    let wish = apply(without_scope("memory:readonly"));
    assert_eq!(reason(&store, wish).await, Reason::ScopeInUse);
}

pub(crate) async fn a_scope_is_dropped_when_told_to(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, create(new_key("acme", &["memory:readonly"]))).await;
    let told = Command::ApplyPolicy {
        policy: without_scope("memory:readonly"),
        expected: None,
        is_dry_run: false,
        allow_orphans: true,
    };
    let done = done(&store, mutation(told)).await;
    assert!(done.position.is_some());
    assert!(done.notices[0].contains("`memory:readonly` is held by 1 key"), "{:?}", done.notices);
}

pub(crate) async fn a_scope_of_revoked_and_expired_keys_is_dropped(store: Shared) {
    with_account(&store, "developer").await;
    let new = new_key("acme", &["memory:readonly"]);
    let first = key(&store, create(new.clone())).await;
    done(&store, create(NewKey { expiry: Expiry::In(HOUR), ..new })).await;
    done(&store, revoke(first.id)).await;
    done(&store, at(later(HOUR), apply(without_scope("memory:readonly")))).await;
}

pub(crate) async fn what_a_pattern_covers_or_a_scope_implies_counts_as_held(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, create(new_key("acme", &["memory:write"]))).await;
    done(&store, apply(without_scope("memory:readonly"))).await;
    done(&store, apply(Policy::default())).await;
    done(&store, create(new_key("acme", &["memory:*"]))).await;
    let dropped = refused(&store, apply(without_scope("memory:readonly"))).await;
    assert_eq!(dropped.metadata[0].1, "memory:*");
}

pub(crate) async fn a_plan_that_accounts_are_on_is_never_dropped(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, create_reader()).await;
    let mut policy = Policy::default();
    policy.plans.retain(|plan| plan.name != "developer");
    let wish =
        Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: true };
    assert_eq!(reason(&store, mutation(wish)).await, Reason::PlanInUse);
    let mut policy = Policy::default();
    policy.plans.retain(|plan| plan.name != "pro");
    done(&store, apply(policy)).await;
}
