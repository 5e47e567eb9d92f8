//! The audit trail as administration reads it.

use std::time::Duration;

use latchkey::audit::{Entry, Kind};
use latchkey::key::{Actor, KeyId, KeyRecord, NewKey};
use latchkey::policy::{Policy, ScopeDefinition};
use latchkey::store::{AUDIT_PAGE_BYTES, AuditQuery, Command, Maker, Mutation, RequestMark};

use super::support::{
    HOUR, NOW, Shared, at, by, create, create_account, create_command, create_reader, disable,
    done, first_read, id, key, later, mark, mutation, new_account, new_key, operator, rename,
    revoke, revoke_created, rotate, rotate_command, secret, seed, suspend, update, update_command,
    with_account,
};

fn all() -> AuditQuery {
    AuditQuery { limit: 1_000, ..AuditQuery::default() }
}

async fn entries(store: &Shared, query: AuditQuery) -> Vec<Entry> {
    store.audit(&query).await.unwrap().entries
}

/// The numbers of the changes that a query finds.
async fn numbers(store: &Shared, query: AuditQuery) -> Vec<u64> {
    entries(store, query).await.iter().map(|entry| entry.revision.n).collect()
}

fn with_scope(name: &str, description: &str) -> Policy {
    let mut policy = Policy::default();
    policy.scopes.push(ScopeDefinition {
        name: name.into(),
        description: description.into(),
        implies: Vec::new(),
        strict: false,
        cost: 1,
    });
    policy
}

fn apply(policy: Policy) -> Command {
    Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: true }
}

pub(crate) async fn entries_tell_the_changes_of_the_feed_the_latest_first(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    done(&store, rotate(made.id, HOUR)).await;
    let mut revisions: Vec<_> =
        first_read(&store).await.changes.iter().map(|change| change.position).collect();
    revisions.reverse();
    let told: Vec<_> = entries(&store, all()).await.iter().map(|entry| entry.revision).collect();
    assert_eq!(told, revisions);
}

pub(crate) async fn pages_bring_every_entry_once_while_changes_are_made(store: Shared) {
    with_account(&store, "enterprise").await;
    for _ in 0..20 {
        done(&store, create_reader()).await;
    }
    let wanted = numbers(&store, all()).await;
    let mut told = Vec::new();
    loop {
        let before = told.last().copied();
        let page = store.audit(&AuditQuery { before, limit: 3, ..all() }).await.unwrap();
        assert!(page.entries.len() <= 3);
        told.extend(page.entries.iter().map(|entry| entry.revision.n));
        if !page.has_more {
            break;
        }
        done(&store, create_reader()).await;
    }
    assert_eq!(told, wanted);
}

pub(crate) async fn entries_are_listed_by_key_account_actor_and_kind(store: Shared) {
    let root = with_account(&store, "developer").await; // 1 account, 2 policy, 3 root, 4 acme
    let made = key(&store, by(&root, create_command(new_key("acme", &["memory:read"])))).await; // 5
    done(&store, update(made.id, disable())).await; // 6
    done(&store, create_account("other", "free")).await; // 7
    suspend(&store, "acme").await; // 8
    done(&store, by(&root, apply(with_scope("orders:read", "")))).await; // 9

    let of_key = AuditQuery { key: Some(made.id), ..all() };
    assert_eq!(numbers(&store, of_key.clone()).await, [6, 5]);
    let of_account = AuditQuery { account: Some(id("acme")), ..all() };
    assert_eq!(numbers(&store, of_account.clone()).await, [8, 6, 5, 4]);
    let actor = Some(Actor::Key(root.id));
    let of_actor = AuditQuery { actor: actor.clone(), ..all() };
    assert_eq!(numbers(&store, of_actor).await, [9, 5]);

    let kind = |kind| AuditQuery { kind: Some(kind), ..all() };
    assert_eq!(numbers(&store, kind(Kind::Key)).await, [6, 5, 3]);
    assert_eq!(numbers(&store, kind(Kind::Account)).await, [8, 7, 4, 1]);
    assert_eq!(numbers(&store, kind(Kind::Policy)).await, [9, 2]);

    // What is given together narrows together.
    let itself = AuditQuery { kind: Some(Kind::Account), ..of_account.clone() };
    assert_eq!(numbers(&store, itself).await, [8, 4]);
    let its_keys = AuditQuery { kind: Some(Kind::Key), ..of_account.clone() };
    assert_eq!(numbers(&store, its_keys).await, [6, 5]);
    let by_root = AuditQuery { actor: actor.clone(), ..of_account.clone() };
    assert_eq!(numbers(&store, by_root).await, [5]);
    let of_both = AuditQuery { actor: actor.clone(), key: Some(made.id), ..of_account.clone() };
    assert_eq!(numbers(&store, of_both).await, [5]);
    let policy_by_root = AuditQuery { actor, ..kind(Kind::Policy) };
    assert_eq!(numbers(&store, policy_by_root).await, [9]);
    let nowhere = AuditQuery { kind: Some(Kind::Policy), ..of_account };
    assert_eq!(numbers(&store, nowhere).await, [0; 0]);
    let of_another = AuditQuery { account: Some(id("other")), ..of_key };
    assert_eq!(numbers(&store, of_another).await, [0; 0]);
}

pub(crate) async fn entries_are_listed_by_time(store: Shared) {
    with_account(&store, "enterprise").await; // 1 to 4, at NOW
    for minutes in [1, 2, 2, 3] {
        done(&store, at(later(Duration::from_mins(minutes)), create_reader())).await;
    }
    let minute = |minutes| Some(later(Duration::from_mins(minutes)));
    let span = |start, end| AuditQuery { start, end, ..all() };
    assert_eq!(numbers(&store, span(minute(2), None)).await, [8, 7, 6]);
    assert_eq!(numbers(&store, span(None, minute(2))).await, [5, 4, 3, 2, 1]);
    assert_eq!(numbers(&store, span(minute(1), minute(3))).await, [7, 6, 5]);
    assert_eq!(numbers(&store, span(minute(4), None)).await, [0; 0]);
    assert_eq!(numbers(&store, span(None, Some(NOW))).await, [0; 0]);
    assert_eq!(numbers(&store, span(None, minute(4))).await.len(), 8);
    let page = AuditQuery { before: Some(7), ..span(minute(1), minute(3)) };
    assert_eq!(numbers(&store, page).await, [6, 5]);
    let of_account = AuditQuery { account: Some(id("acme")), ..span(minute(2), minute(3)) };
    assert_eq!(numbers(&store, of_account).await, [7, 6]);
}

pub(crate) async fn a_reach_is_an_account_with_its_keys_and_the_policy(store: Shared) {
    let root = with_account(&store, "developer").await; // 1 account, 2 policy, 3 root, 4 acme
    done(&store, create_account("other", "free")).await; // 5
    done(&store, create_reader()).await; // 6
    let foreign = key(&store, create(new_key("other", &["memory:read"]))).await; // 7
    done(&store, apply_as(&root, "a:b")).await; // 8
    let reach = AuditQuery { reach: Some(id("acme")), ..all() };
    assert_eq!(numbers(&store, reach.clone()).await, [8, 6, 4, 2]);
    let page = AuditQuery { before: Some(6), limit: 1, ..reach.clone() };
    assert_eq!(numbers(&store, page).await, [4]);
    let by_root = AuditQuery { actor: Some(Actor::Key(root.id)), ..reach.clone() };
    assert_eq!(numbers(&store, by_root).await, [8]);
    let policy = AuditQuery { kind: Some(Kind::Policy), ..reach.clone() };
    assert_eq!(numbers(&store, policy).await, [8, 2]);
    for beyond in [
        AuditQuery { key: Some(foreign.id), ..reach.clone() },
        AuditQuery { account: Some(id("other")), ..reach },
    ] {
        assert_eq!(numbers(&store, beyond).await, [0; 0]);
    }
}

fn apply_as(maker: &KeyRecord, scope: &str) -> Mutation {
    by(maker, apply(with_scope(scope, "")))
}

pub(crate) async fn a_page_of_large_changes_is_cut_short(store: Shared) {
    let root = with_account(&store, "developer").await;
    let large = "x".repeat(500);
    let scopes = (0..900)
        .map(|number| ScopeDefinition {
            name: format!("scope:number{number}"),
            description: large.clone(),
            implies: Vec::new(),
            strict: false,
            cost: 1,
        })
        .collect();
    let mut policy = Policy { scopes, ..Policy::default() };
    for cost in [2, 3, 4] {
        policy.scopes[0].cost = cost;
        done(&store, by(&root, apply(policy.clone()))).await;
    }
    let page = store.audit(&all()).await.unwrap();
    let bytes = |entry: &Entry| serde_json::to_string(&entry.change).unwrap().len();
    let sum: usize = page.entries.iter().map(bytes).sum();
    assert!(page.has_more && (1..7).contains(&page.entries.len()), "{}", page.entries.len());
    assert!(page.entries.len() == 1 || sum <= AUDIT_PAGE_BYTES, "{sum}");
    let before = page.entries.last().map(|entry| entry.revision.n);
    let rest = store.audit(&AuditQuery { before, ..all() }).await.unwrap();
    assert!(!rest.entries.is_empty());
}

/// Who made a change, by which call, to what, from where and with which request id.
type Told = (String, String, Option<String>, Option<KeyId>, String, Option<String>);

fn told(entry: Entry) -> Told {
    let Entry { actor, action, account, key, peer, request_id, .. } = entry;
    (actor.to_string(), action, account.map(|id| id.to_string()), key, peer, request_id)
}

/// What the last changes tell, the first first.
async fn last(store: &Shared, limit: u32) -> Vec<Told> {
    let mut entries = entries(store, AuditQuery { limit, ..all() }).await;
    entries.reverse();
    entries.into_iter().map(told).collect()
}

fn entry(
    actor: &str,
    action: &str,
    account: Option<&str>,
    key: Option<KeyId>,
    request_id: Option<&RequestMark>,
) -> Told {
    // The peer that all mutations of the tests come from.
    let peer = "192.0.2.1:5".to_owned();
    let request_id = request_id.map(|mark| mark.id.clone());
    (actor.to_owned(), action.to_owned(), account.map(str::to_owned), key, peer, request_id)
}

pub(crate) async fn each_change_of_each_call_says_who_made_it_from_where(store: Shared) {
    let root = key(&store, seed()).await;
    let root_made = [
        entry("system:root", "Seed", Some("latchkey"), None, None),
        entry("system:root", "Seed", None, None, None),
        entry("system:root", "Seed", Some("latchkey"), Some(root.id), None),
    ];
    assert_eq!(last(&store, 10).await, root_made);
    let me = format!("key:{}", root.id);

    let request = mark("c0ffee00-1234-4abc-8def-0123456789ab", 1);
    let new = new_account("acme", "enterprise");
    let command = Command::CreateAccount { new, request: Some(request.clone()) };
    done(&store, by(&root, command)).await;
    let wanted = entry(&me, "CreateAccount", Some("acme"), None, Some(&request));
    assert_eq!(last(&store, 1).await, [wanted]);

    let new = new_key("acme", &["memory:read"]);
    let command = Command::CreateKey { new, secret: secret(), request: Some(request.clone()) };
    let made = key(&store, by(&root, command)).await;
    let wanted = entry(&me, "CreateKey", Some("acme"), Some(made.id), Some(&request));
    assert_eq!(last(&store, 1).await, [wanted]);

    // By an operator of the account itself.
    let own = operator(&store).await;
    done(&store, by(&own, update_command(made.id, rename("another")))).await;
    let by_own = format!("key:{}", own.id);
    let wanted = entry(&by_own, "UpdateKey", Some("acme"), Some(made.id), None);
    assert_eq!(last(&store, 1).await, [wanted]);

    let mut command = rotate_command(made.id, HOUR);
    if let Command::RotateKey { request: asked, .. } = &mut command {
        *asked = Some(request.clone());
    }
    let heir = key(&store, by(&root, command)).await;
    let rotated = |id| entry(&me, "RotateKey", Some("acme"), Some(id), Some(&request));
    assert_eq!(last(&store, 2).await, [rotated(heir.id), rotated(made.id)]);

    let change = latchkey::account::AccountChange {
        display_name: Some("Acme".into()),
        ..Default::default()
    };
    let command = Command::UpdateAccount { id: id("acme"), change, expected: None };
    done(&store, by(&root, command)).await;
    let wanted = entry(&me, "UpdateAccount", Some("acme"), None, None);
    assert_eq!(last(&store, 1).await, [wanted]);

    done(&store, apply_as(&root, "orders:read")).await;
    assert_eq!(last(&store, 1).await, [entry(&me, "ApplyPolicy", None, None, None)]);
}

pub(crate) async fn keys_that_go_together_are_told_each(store: Shared) {
    let root = with_account(&store, "enterprise").await;
    let maker = operator(&store).await;
    let child = key(&store, by(&maker, create_command(new_key("acme", &["memory:read"])))).await;
    done(&store, by(&root, revoke_created(maker.id))).await;
    let me = format!("key:{}", root.id);
    let revoked = |id| entry(&me, "RevokeKey", Some("acme"), Some(id), None);
    assert_eq!(last(&store, 2).await, [revoked(maker.id), revoked(child.id)]);
    // A repeat changes nothing, and so there is nothing to tell.
    let before = numbers(&store, all()).await.len();
    done(&store, by(&root, revoke_created(maker.id))).await;
    done(&store, revoke(maker.id)).await;
    assert_eq!(numbers(&store, all()).await.len(), before);
}

pub(crate) async fn what_latchkey_does_itself_is_told_by_its_occasion(store: Shared) {
    let root = with_account(&store, "developer").await;
    let as_system = |occasion, command| Mutation {
        maker: Maker::System(occasion),
        peer: String::new(),
        ..mutation(command)
    };
    let reset = as_system("root-reset", Command::ResetRoot { secret: secret() });
    let new_root = key(&store, reset).await;
    let from_within = |actor: &str, action: &str, account: Option<&str>, key| {
        let (actor, action, account, key, _, request_id) = entry(actor, action, account, key, None);
        (actor, action, account, key, String::new(), request_id)
    };
    let told = |key| from_within("system:root-reset", "ResetRoot", Some("latchkey"), Some(key));
    assert_eq!(last(&store, 2).await, [told(new_root.id), told(root.id)]);

    let demo = Command::SeedDemo {
        account: new_account("demo", "enterprise"),
        keys: vec![(NewKey { account: id("demo"), ..new_key("demo", &["memory:read"]) }, secret())],
        policy: Some(with_scope("orders:read", "")),
    };
    let made = key(&store, as_system("dev", demo)).await;
    let told = |account, key| from_within("system:dev", "SeedDemo", account, key);
    let wanted = [told(None, None), told(Some("demo"), None), told(Some("demo"), Some(made.id))];
    assert_eq!(last(&store, 3).await, wanted);
}
