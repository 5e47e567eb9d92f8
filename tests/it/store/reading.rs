//! The reader's read.

use std::collections::BTreeSet;
use std::future::{Future as _, poll_fn};
use std::task::Poll;

use latchkey::key::KeyId;
use latchkey::policy::Policy;
use latchkey::revision::Position;
use latchkey::store::{Command, PageAsk, PageEnd, ReadAsk, ReadBatch, Subject};
use latchkey::token::Digest;

use super::support::{
    Shared, create_account, create_reader, done, first_read, id, key, mutation, rename, revoke,
    secret, suspend, update, with_account,
};

fn after(position: Position) -> ReadAsk {
    ReadAsk { after: Some(position), changes_max: 100, ..ReadAsk::default() }
}

async fn read(store: &Shared, ask: &ReadAsk) -> ReadBatch {
    store.read(ask).await.unwrap()
}

pub(crate) async fn the_first_read_brings_the_window_and_the_policy(store: Shared) {
    let root = with_account(&store, "developer").await;
    let batch = first_read(&store).await;
    let subjects: Vec<_> = batch.changes.iter().map(|change| change.subject.clone()).collect();
    let wanted = [
        Subject::Account(id("latchkey")),
        Subject::Policy,
        Subject::Key(root.id),
        Subject::Account(id("acme")),
    ];
    assert_eq!(subjects, wanted);
    assert_eq!(batch.changes[2].digest, Some(root.digest));
    assert_eq!(batch.changes[3].position, batch.position);
    assert_eq!(batch.policy, Some(Policy::default()));
    assert!(batch.keys.is_empty() && batch.accounts.is_empty() && !batch.is_behind);
    assert_eq!(batch.found, None);
}

pub(crate) async fn a_later_read_brings_what_changed_as_it_is_now(store: Shared) {
    with_account(&store, "developer").await;
    let start = first_read(&store).await.position;
    let made = key(&store, create_reader()).await;
    done(&store, update(made.id, rename("another"))).await;
    let revoked = key(&store, revoke(made.id)).await;
    let account = suspend(&store, "acme").await;
    let batch = read(&store, &after(start)).await;
    assert_eq!(batch.found, Some(start));
    assert_eq!(batch.changes.len(), 4);
    assert_eq!(batch.keys, [revoked]);
    assert_eq!(batch.accounts, [account]);
    assert_eq!(batch.policy, None);
    assert_eq!(batch.position.n, start.n + 4);
}

pub(crate) async fn a_read_with_nothing_new_brings_nothing(store: Shared) {
    with_account(&store, "developer").await;
    let start = first_read(&store).await.position;
    let batch = read(&store, &after(start)).await;
    assert_eq!((batch.position, batch.found), (start, Some(start)));
    assert!(batch.changes.is_empty() && batch.keys.is_empty() && batch.accounts.is_empty());
    assert!(batch.page.is_none() && batch.absent.is_empty() && batch.unreadable.is_empty());
}

pub(crate) async fn a_read_that_is_behind_says_so_and_goes_on(store: Shared) {
    with_account(&store, "developer").await;
    let mut at = first_read(&store).await.position;
    let mut made = BTreeSet::new();
    for _ in 0..5 {
        made.insert(key(&store, create_reader()).await.id);
    }
    let end = first_read(&store).await.position;
    let mut seen = BTreeSet::new();
    for is_behind in [true, true, false] {
        let page = Some(PageAsk { after: None, keys_max: 10, of_digests: false });
        let wanted = vec![secret().digest];
        let ask = ReadAsk { wanted, page, changes_max: 2, ..after(at) };
        let batch = read(&store, &ask).await;
        assert_eq!(batch.is_behind, is_behind);
        assert_eq!((batch.page.is_none(), batch.absent.is_empty()), (is_behind, is_behind));
        assert_eq!(batch.changes.last().unwrap().position, batch.position);
        seen.extend(batch.changes.into_iter().filter_map(|change| match change.subject {
            Subject::Key(id) => Some(id),
            Subject::Account(_) | Subject::Policy => None,
        }));
        at = batch.position;
    }
    assert_eq!((at, seen), (end, made));
}

pub(crate) async fn a_change_of_the_policy_is_brought(store: Shared) {
    with_account(&store, "developer").await;
    let start = first_read(&store).await.position;
    let policy = Policy { bound_ms: 500, ..Policy::default() };
    let apply = Command::ApplyPolicy {
        policy: policy.clone(),
        expected: None,
        is_dry_run: false,
        allow_orphans: false,
    };
    done(&store, mutation(apply)).await;
    assert_eq!(read(&store, &after(start)).await.policy, Some(policy));
}

pub(crate) async fn what_stands_at_the_position_asked_after_is_told(store: Shared) {
    let start = first_read(&store).await.position;
    assert_eq!((start.n, start.tag), (0, 0));
    assert_eq!(read(&store, &after(start)).await.found, Some(start));
    with_account(&store, "developer").await;
    let now = first_read(&store).await.position;
    let forged = Position { tag: now.tag ^ 1, ..now };
    assert_eq!(read(&store, &after(forged)).await.found, Some(now));
}

pub(crate) async fn a_position_ahead_of_the_store_is_not_found(store: Shared) {
    with_account(&store, "developer").await;
    let now = first_read(&store).await.position;
    let batch = read(&store, &after(Position { n: now.n + 1, ..now })).await;
    assert_eq!((batch.found, batch.position), (None, now));
    assert!(batch.changes.is_empty());
}

pub(crate) async fn wanted_keys_are_brought_or_absent(store: Shared) {
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    let position = first_read(&store).await.position;
    let nobody = secret().digest;
    let ask = ReadAsk { wanted: vec![made.digest, nobody, made.digest], ..after(position) };
    let batch = read(&store, &ask).await;
    assert_eq!(batch.keys, [made]);
    assert_eq!(batch.absent, [nobody]);
    assert_eq!(batch.accounts.len(), 1);
}

pub(crate) async fn pages_bring_every_key_once(store: Shared) {
    let root = with_account(&store, "enterprise").await;
    let mut wanted = vec![(root.id, root.digest)];
    for _ in 0..4 {
        let made = key(&store, create_reader()).await;
        wanted.push((made.id, made.digest));
    }
    let (keys, listed) = all_pages(&store, false).await;
    assert_eq!((keys, listed), (wanted.clone(), vec![]));
    let (keys, listed) = all_pages(&store, true).await;
    let digests: Vec<_> = wanted.iter().map(|(_, digest)| *digest).collect();
    assert_eq!((keys, listed), (vec![], digests));
}

async fn all_pages(store: &Shared, of_digests: bool) -> (Vec<(KeyId, Digest)>, Vec<Digest>) {
    let mut page = PageAsk { after: None, keys_max: 2, of_digests };
    let (mut keys, mut listed) = (Vec::new(), Vec::new());
    loop {
        let batch = read(store, &ReadAsk { page: Some(page), ..ReadAsk::default() }).await;
        keys.extend(batch.keys.iter().map(|key| (key.id, key.digest)));
        listed.extend(batch.listed);
        match batch.page.unwrap() {
            PageEnd::At(id) => page.after = Some(id),
            PageEnd::Last => return (keys, listed),
        }
    }
}

pub(crate) async fn an_account_is_brought_once_for_all_its_keys(store: Shared) {
    with_account(&store, "developer").await;
    done(&store, create_account("other", "free")).await;
    for _ in 0..3 {
        done(&store, create_reader()).await;
    }
    let page = Some(PageAsk { after: None, keys_max: 10, of_digests: false });
    let batch = read(&store, &ReadAsk { page, ..ReadAsk::default() }).await;
    let ids: Vec<_> = batch.accounts.iter().map(|account| account.id.as_str()).collect();
    assert_eq!(ids, ["acme", "latchkey"]);
}

pub(crate) async fn a_read_that_was_given_up_does_no_harm(store: Shared) {
    with_account(&store, "developer").await;
    let ask = ReadAsk::default();
    for polls in 0..20 {
        let mut read = Box::pin(store.read(&ask));
        for _ in 0..polls {
            let poll = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
            if poll.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(read);
    }
    done(&store, create_reader()).await;
    assert_eq!(first_read(&store).await.changes.len(), 5);
}
