//! Look-ups for administration.

use latchkey::key::{Expiry, KeyId, KeyState, NewKey};
use latchkey::store::{AccountQuery, Command, KeyQuery};
use latchkey::token::Environment;

use super::support::{
    HOUR, NOW, Shared, by, create, create_account, create_command, create_reader, disable, done,
    id, key, later, mutation, new_key, revoke, secret, seeded, update, with_account,
};

fn all() -> KeyQuery {
    KeyQuery {
        account: None,
        created_by: None,
        environment: None,
        hint: None,
        states: Vec::new(),
        now: NOW,
        after: None,
        limit: 100,
    }
}

async fn listed(store: &Shared, query: KeyQuery) -> Vec<KeyId> {
    store.list_keys(&query).await.unwrap().iter().map(|key| key.id).collect()
}

pub(crate) async fn keys_are_listed_in_order_of_creation_page_by_page(store: Shared) {
    let root = with_account(&store, "enterprise").await;
    let mut wanted = vec![root.id];
    for _ in 0..4 {
        wanted.push(key(&store, create_reader()).await.id);
    }
    assert_eq!(listed(&store, all()).await, wanted);
    let page = KeyQuery { after: Some(wanted[1]), limit: 2, ..all() };
    assert_eq!(listed(&store, page).await, wanted[2..4]);
    let page = KeyQuery { account: Some(id("acme")), after: Some(wanted[3]), ..all() };
    assert_eq!(listed(&store, page).await, wanted[4..]);
}

pub(crate) async fn keys_are_listed_by_account_maker_environment_and_hint(store: Shared) {
    let root = with_account(&store, "enterprise").await;
    let first = key(&store, by(&root, create_command(new_key("acme", &["memory:read"])))).await.id;
    let new = NewKey { environment: Environment::Test, ..new_key("acme", &["memory:read"]) };
    let mut hinted = secret();
    hinted.hint = "hm_test_1234..5678".into();
    let command = Command::CreateKey { new, secret: hinted, request: None };
    let second = key(&store, mutation(command)).await.id;
    let of_account = KeyQuery { account: Some(id("acme")), ..all() };
    assert_eq!(listed(&store, of_account.clone()).await, [first, second]);
    let by_root = KeyQuery { created_by: Some(format!("key:{}", root.id)), ..all() };
    assert_eq!(listed(&store, by_root).await, [first]);
    let of_test = KeyQuery { environment: Some(Environment::Test), ..of_account };
    assert_eq!(listed(&store, of_test.clone()).await, [second]);
    let hinted = KeyQuery { hint: Some("hm_test_1234..5678".into()), ..all() };
    assert_eq!(listed(&store, hinted.clone()).await, [second]);
    let none = KeyQuery { environment: Some(Environment::Live), ..hinted };
    assert_eq!(listed(&store, none).await, []);
}

pub(crate) async fn keys_are_listed_by_their_state(store: Shared) {
    with_account(&store, "enterprise").await;
    let active = key(&store, create_reader()).await.id;
    let disabled = key(&store, create_reader()).await.id;
    let new = NewKey { expiry: Expiry::In(HOUR), ..new_key("acme", &["memory:read"]) };
    let expired = key(&store, create(new.clone())).await.id;
    let revoked = key(&store, create(new)).await.id;
    done(&store, update(disabled, disable())).await;
    done(&store, update(revoked, disable())).await;
    done(&store, revoke(revoked)).await;
    let of = |states: &[KeyState]| KeyQuery {
        account: Some(id("acme")),
        states: states.to_vec(),
        now: later(HOUR),
        ..all()
    };
    for (state, key) in [
        (KeyState::Active, active),
        (KeyState::Disabled, disabled),
        (KeyState::Expired, expired),
        (KeyState::Revoked, revoked),
    ] {
        assert_eq!(listed(&store, of(&[state])).await, [key], "{state:?}");
    }
    let two = listed(&store, of(&[KeyState::Revoked, KeyState::Active])).await;
    assert_eq!(two, [active, revoked]);
}

pub(crate) async fn accounts_are_listed_by_id_and_plan_with_their_keys(store: Shared) {
    seeded(&store).await;
    for (account, plan) in [("b", "free"), ("a", "pro"), ("acme", "free")] {
        done(&store, create_account(account, plan)).await;
    }
    done(&store, create_reader()).await;
    let all = AccountQuery { only: None, plan: None, now: NOW, after: None, limit: 100 };
    let listed = async |query: AccountQuery| -> Vec<_> {
        let accounts = store.list_accounts(&query).await.unwrap();
        accounts.iter().map(|(account, keys)| (account.id.to_string(), *keys)).collect()
    };
    let wanted = [("a", 0), ("acme", 1), ("b", 0), ("latchkey", 0)]
        .map(|(account, keys)| (account.to_owned(), keys));
    assert_eq!(listed(all.clone()).await, wanted);
    let page = AccountQuery { after: Some(id("a")), limit: 2, ..all.clone() };
    assert_eq!(listed(page).await, wanted[1..3]);
    let free = AccountQuery { plan: Some("free".into()), ..all.clone() };
    assert_eq!(listed(free).await, wanted[1..3]);
    let only = AccountQuery { only: Some(id("b")), ..all };
    assert_eq!(listed(only).await, wanted[2..3]);
}
