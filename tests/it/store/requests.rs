//! Requests that must not be carried out twice.

use std::time::Duration;

use latchkey::error::Reason;
use latchkey::store::{Command, Mutation, RequestMark};

use super::support::{
    HOUR, Shared, at, counted, create_account, create_reader, done, found, key, later, mark,
    mutation, new_account, new_key, reason, refused, secret, seeded, with_account,
};

const ID: &str = "6f1d7a52-9a35-4c53-8f63-0c0a37a1b001";

fn create_once(account: &str, mark: RequestMark) -> Mutation {
    mutation(Command::CreateKey {
        new: new_key(account, &["memory:read"]),
        secret: secret(),
        request: Some(mark),
    })
}

pub(crate) async fn the_same_request_again_says_what_it_made(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_once("acme", mark(ID, 1))).await;
    let error = refused(&store, create_once("acme", mark(ID, 1))).await;
    assert_eq!(error.reason, Reason::AlreadyCreated);
    assert_eq!(error.metadata[0], ("key_id", made.id.to_string()));
    assert_eq!(counted(&store).await, 1);
}

pub(crate) async fn a_request_id_used_for_something_else_is_refused(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, create_once("acme", mark(ID, 1))).await;
    let error = refused(&store, create_once("acme", mark(ID, 2))).await;
    assert_eq!(error.reason, Reason::RequestIdReused);
    assert_eq!(error.violations[0].field, "request_id");
}

pub(crate) async fn a_request_is_looked_at_before_the_plan(store: Shared) {
    with_account(&store, "free").await;
    done(&store, create_once("acme", mark(ID, 1))).await;
    assert_eq!(reason(&store, create_once("acme", mark(ID, 1))).await, Reason::AlreadyCreated);
}

pub(crate) async fn a_request_is_told_apart_by_account_and_by_call(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, create_account("other", "free")).await;
    let made = key(&store, create_once("acme", mark(ID, 1))).await;
    done(&store, create_once("other", mark(ID, 1))).await;
    let rotate = Command::RotateKey {
        id: made.id,
        secret: secret(),
        overlap: HOUR,
        request: Some(mark(ID, 1)),
    };
    done(&store, mutation(rotate)).await;
}

pub(crate) async fn a_request_is_forgotten_after_two_days(store: Shared) {
    with_account(&store, "developer").await;
    let other = "6f1d7a52-9a35-4c53-8f63-0c0a37a1b002";
    done(&store, create_once("acme", mark(ID, 1))).await;
    let in_time = later(Duration::from_hours(48));
    assert_eq!(
        reason(&store, at(in_time, create_once("acme", mark(ID, 1)))).await,
        Reason::AlreadyCreated
    );
    let after = later(Duration::from_hours(49));
    done(&store, at(after, create_once("acme", mark(other, 1)))).await;
    done(&store, at(after, create_once("acme", mark(ID, 1)))).await;
}

pub(crate) async fn a_rotation_is_not_repeated(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let rotate = || {
        mutation(Command::RotateKey {
            id: made.id,
            secret: secret(),
            overlap: HOUR,
            request: Some(mark(ID, 1)),
        })
    };
    let new = key(&store, rotate()).await;
    let error = refused(&store, rotate()).await;
    assert_eq!(error.reason, Reason::AlreadyCreated);
    assert_eq!(error.metadata[0], ("key_id", new.id.to_string()));
    assert_eq!(found(&store, made.id).await.rotated_to, Some(new.id));
}

pub(crate) async fn an_account_is_not_made_twice_by_one_request(store: Shared) {
    seeded(&store).await;
    for id in ["acme", ""] {
        let wish = || {
            mutation(Command::CreateAccount {
                new: new_account(id, "free"),
                request: Some(mark(ID, 1)),
            })
        };
        let (made, _) = done(&store, wish()).await.account.unwrap();
        let error = refused(&store, wish()).await;
        assert_eq!(error.reason, Reason::AlreadyCreated);
        assert_eq!(error.metadata, [("account_id", made.id.to_string())]);
    }
}

pub(crate) async fn a_refused_request_may_be_sent_again(store: Shared) {
    with_account(&store, "free").await;
    let first = key(&store, create_reader()).await;
    let wish = || create_once("acme", mark(ID, 1));
    assert_eq!(reason(&store, wish()).await, Reason::PlanLimitReached);
    done(&store, super::support::revoke(first.id)).await;
    done(&store, wish()).await;
}
