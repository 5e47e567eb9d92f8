//! What the cache makes of a reader's batches: order, completeness, room, doubts and fences.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::account::Account;
use crate::key::{Actor, KeyRecord, Revocation, RevokeReason};
use crate::policy::{Policy, ScopeDefinition};
use crate::scope::ScopePattern;
use crate::store::{Change, Lost, MacKey, MacKeys, PageEnd, Unreadable};
use crate::token::Environment;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn position(n: u64) -> Position {
    Position { epoch: 1, n, tag: n * 100 }
}

fn digest(number: u64) -> Digest {
    Digest::of(&number.to_be_bytes())
}

fn account(id: &str) -> Account {
    Account {
        id: AccountId::parse(id).unwrap(),
        display_name: String::new(),
        plan: "free".into(),
        suspended: false,
        suspend_reason: String::new(),
        labels: BTreeMap::new(),
        create_time: NOW,
        update_time: NOW,
        revision: position(1),
        version: 1,
    }
}

fn key(number: u64) -> KeyRecord {
    KeyRecord {
        id: KeyId::new(NOW, number, 0),
        account: AccountId::parse("a").unwrap(),
        display_name: "k".into(),
        environment: Environment::Live,
        scopes: vec![ScopePattern::parse("memory:read").unwrap()],
        grantable_scopes: Vec::new(),
        digest: digest(number),
        hint: String::new(),
        create_time: NOW,
        update_time: NOW,
        expire_time: None,
        revocation: None,
        disabled: false,
        allowed_cidrs: Vec::new(),
        labels: BTreeMap::new(),
        rotated_from: None,
        rotated_to: None,
        created_by: Actor::System("test".into()),
        revision: position(1),
        version: 1,
    }
}

fn changed(n: u64, number: u64) -> Change {
    Change {
        position: position(n),
        subject: Subject::Key(key(number).id),
        digest: Some(digest(number)),
    }
}

/// What a read brings at `n` when nothing changed since `after`.
fn batch(after: u64, n: u64) -> ReadBatch {
    ReadBatch {
        is_renewed: false,
        position: position(n),
        is_behind: false,
        found: Some(position(after)),
        changes: Vec::new(),
        keys: Vec::new(),
        accounts: vec![account("a")],
        policy: None,
        absent: Vec::new(),
        listed: Vec::new(),
        unreadable: Vec::new(),
        page: None,
        mac_keys: MacKeys { current: MacKey::new([7; 32].into()), previous: None },
    }
}

/// A cache that loaded keys 1 to `keys` at position 5, with room for `keys_max`.
fn loaded(keys: u64, keys_max: usize) -> Cache {
    let cache = Cache::new(keys_max);
    let ask = cache.begin_read(Vec::new(), 0);
    assert!(ask.after.is_none() && ask.page.is_some());
    cache
        .apply(
            ReadBatch {
                policy: Some(Policy::default()),
                keys: (1..=keys).map(key).collect(),
                page: Some(PageEnd::Last),
                ..batch(5, 5)
            },
            &[],
            Some(Lease::Held),
        )
        .unwrap();
    cache
}

fn lost(of: Lost) -> Vec<Unreadable> {
    vec![Unreadable { of, why: String::new() }]
}

fn apply(cache: &Cache, batch: ReadBatch) -> Result<(), Fence> {
    cache.begin_read(Vec::new(), 0);
    cache.apply(batch, &[], Some(Lease::Held))
}

fn seen(cache: &Cache, number: u64) -> &'static str {
    cache
        .view(NOW, |view| match view.find(&digest(number)) {
            Found::Key(key) if key.facts().revoked => "revoked",
            Found::Key(_) => "key",
            Found::Absent => "absent",
            Found::Miss => "miss",
            Found::Doubtful => "doubtful",
        })
        .unwrap_or("nothing")
}

#[test]
fn nothing_is_known_before_the_first_read() {
    assert_eq!(seen(&Cache::new(9), 1), "nothing");
}

#[test]
fn absence_is_final_only_when_every_page_is_in() {
    let cache = Cache::new(9);
    cache.begin_read(Vec::new(), 0);
    let first = ReadBatch {
        policy: Some(Policy::default()),
        keys: vec![key(1)],
        page: Some(PageEnd::At(key(1).id)),
        ..batch(5, 5)
    };
    cache.apply(first, &[], Some(Lease::Held)).unwrap();
    assert_eq!((seen(&cache, 1), seen(&cache, 2), cache.is_complete()), ("key", "miss", false));
    let ask = cache.begin_read(Vec::new(), 0);
    assert_eq!(ask.page.unwrap().after, Some(key(1).id));
    cache
        .apply(ReadBatch { page: Some(PageEnd::Last), ..batch(5, 5) }, &[], Some(Lease::Held))
        .unwrap();
    assert_eq!((seen(&cache, 2), cache.is_complete()), ("absent", true));
}

#[test]
fn a_change_replaces_what_was_known() {
    let cache = loaded(2, 9);
    let revocation = Revocation { time: NOW, reason: RevokeReason::Unused, comment: String::new() };
    let revoked = KeyRecord { revocation: Some(revocation), ..key(1) };
    let read = ReadBatch { changes: vec![changed(6, 1)], keys: vec![revoked], ..batch(5, 6) };
    apply(&cache, read).unwrap();
    assert_eq!((seen(&cache, 1), seen(&cache, 2)), ("revoked", "key"));
    assert!(cache.shows(position(6)) && !cache.shows(position(7)));
    assert!(!cache.shows(Position { tag: 1, ..position(6) }));
}

#[test]
fn a_changed_key_whose_record_did_not_come_must_be_fetched() {
    let cache = loaded(1, 9);
    apply(&cache, ReadBatch { changes: vec![changed(6, 1)], ..batch(5, 6) }).unwrap();
    assert_eq!(seen(&cache, 1), "doubtful");
    apply(&cache, ReadBatch { keys: vec![key(1)], ..batch(6, 6) }).unwrap();
    assert_eq!(seen(&cache, 1), "key");
}

#[test]
fn a_key_that_cannot_be_read_is_neither_there_nor_absent() {
    let cache = loaded(1, 9);
    apply(&cache, ReadBatch { unreadable: lost(Lost::Key(Some(digest(1)))), ..batch(5, 5) })
        .unwrap();
    assert_eq!((seen(&cache, 1), cache.is_complete()), ("doubtful", true));
    // To one without a digest no token leads.
    apply(&cache, ReadBatch { unreadable: lost(Lost::Key(None)), ..batch(5, 5) }).unwrap();
    assert_eq!((seen(&cache, 2), cache.is_complete()), ("absent", true));
}

#[test]
fn a_change_that_cannot_be_read_drops_everything() {
    let cache = loaded(1, 9);
    let read = ReadBatch { unreadable: lost(Lost::Change), ..batch(5, 6) };
    assert_eq!(apply(&cache, read), Err(Fence::Unreadable { n: 5 }));
    assert!(cache.applied().is_none());
}

#[test]
fn a_changed_account_that_did_not_come_leaves_its_keys_in_doubt() {
    let cache = loaded(1, 9);
    let subject = Subject::Account(account("a").id);
    let changes = vec![Change { subject, digest: None, ..changed(6, 1) }];
    apply(&cache, ReadBatch { changes, accounts: Vec::new(), ..batch(5, 6) }).unwrap();
    assert_eq!(seen(&cache, 1), "doubtful");
    apply(&cache, batch(6, 6)).unwrap();
    assert_eq!(seen(&cache, 1), "key");
}

#[test]
fn a_changed_key_that_has_another_digest_now_is_gone_by_the_old_one() {
    let cache = loaded(1, 9);
    let moved = KeyRecord { digest: digest(2), ..key(1) };
    let read = ReadBatch { changes: vec![changed(6, 1)], keys: vec![moved], ..batch(5, 6) };
    apply(&cache, read).unwrap();
    assert_eq!((seen(&cache, 1), seen(&cache, 2)), ("doubtful", "key"));
}

#[test]
fn a_list_of_scopes_that_came_while_a_policy_was_worked_out_is_judged_by_it() {
    let cache = loaded(1, 9);
    let policy = Policy {
        scopes: vec![ScopeDefinition {
            name: "memory:read".into(),
            description: String::new(),
            implies: Vec::new(),
            strict: true,
            cost: 1,
        }],
        ..Policy::default()
    };
    let mut compiled = cache.compile(policy).unwrap();
    let other = KeyRecord { scopes: vec![ScopePattern::parse("memory:*").unwrap()], ..key(2) };
    apply(&cache, ReadBatch { keys: vec![other], ..batch(5, 5) }).unwrap();
    cache.state.write().unwrap().known.as_mut().unwrap().install_policy(&mut compiled);
    for number in [1, 2] {
        let is_strict = |view: &View<'_>| match view.find(&digest(number)) {
            Found::Key(key) => key.is_strict(),
            _ => panic!("{number} is not there"),
        };
        assert!(cache.view(NOW, is_strict).unwrap(), "{number}");
    }
}

#[test]
fn completeness_ends_before_a_key_is_dropped_for_room() {
    let cache = loaded(3, 3);
    assert!(cache.is_complete());
    let read = ReadBatch { changes: vec![changed(6, 4)], keys: vec![key(4)], ..batch(5, 6) };
    apply(&cache, read).unwrap();
    assert_eq!((cache.len(), cache.is_complete()), (3, false));
    let missing = (1..=4).filter(|number| seen(&cache, *number) == "miss").count();
    assert_eq!(missing, 1, "the dropped key is to be read again, and is not said to be absent");
}

#[test]
fn keys_that_were_read_for_somebody_are_there_when_he_looks() {
    let cache = loaded(300, 300);
    // All are in use.
    assert!((1..=300).all(|number| seen(&cache, number) == "key"));
    apply(&cache, ReadBatch { keys: (1_000..1_100).map(key).collect(), ..batch(5, 5) }).unwrap();
    let there = (1_000..1_100).filter(|number| seen(&cache, *number) == "key").count();
    assert!(there > 65, "{there} of 100");
}

#[test]
fn a_first_load_that_does_not_fit_goes_on_with_digests_alone() {
    let cache = Cache::new(2);
    cache.begin_read(Vec::new(), 0);
    let first = ReadBatch {
        policy: Some(Policy::default()),
        keys: (1..=3).map(key).collect(),
        page: Some(PageEnd::At(key(3).id)),
        ..batch(5, 5)
    };
    cache.apply(first, &[], Some(Lease::Held)).unwrap();
    let page = cache.begin_read(Vec::new(), 0).page.unwrap();
    assert!(page.of_digests && page.after == Some(key(3).id) && !cache.is_complete());
    assert!((1..=3).all(|number| cache.is_listed(&digest(number))), "the dropped one too");
    let last = ReadBatch { listed: vec![digest(4)], page: Some(PageEnd::Last), ..batch(5, 5) };
    cache.apply(last, &[], Some(Lease::Held)).unwrap();
    assert!(!cache.is_loading() && !cache.is_complete());
    assert!(cache.begin_read(Vec::new(), 0).page.is_none());
    assert_eq!((cache.is_listed(&digest(4)), cache.is_listed(&digest(5))), (true, false));
    // Listed is not known: only a read can tell.
    assert_eq!((seen(&cache, 4), seen(&cache, 5)), ("miss", "miss"));
    apply(&cache, ReadBatch { changes: vec![changed(6, 5)], ..batch(5, 6) }).unwrap();
    assert!(cache.is_listed(&digest(5)));
}

#[test]
fn remembered_absence_dies_by_the_change_that_ends_it() {
    let cache = loaded(3, 3);
    let read = ReadBatch { changes: vec![changed(6, 4)], keys: vec![key(4)], ..batch(5, 6) };
    apply(&cache, read).unwrap();
    apply(&cache, ReadBatch { absent: vec![digest(9)], ..batch(6, 6) }).unwrap();
    assert_eq!(seen(&cache, 9), "absent");
    apply(&cache, ReadBatch { changes: vec![changed(7, 9)], ..batch(6, 7) }).unwrap();
    assert_eq!(seen(&cache, 9), "doubtful");
}

#[test]
fn a_suspended_account_and_a_new_policy_count_at_once() {
    let cache = loaded(1, 9);
    let suspended = Account { suspended: true, ..account("a") };
    let change = Change {
        position: position(6),
        subject: Subject::Account(suspended.id.clone()),
        digest: None,
    };
    apply(&cache, ReadBatch { changes: vec![change], accounts: vec![suspended], ..batch(5, 6) })
        .unwrap();
    let mut policy = Policy::default();
    policy.scopes.retain(|scope| scope.name == "memory:write");
    policy.scopes[0].implies.clear();
    let change = Change { position: position(7), subject: Subject::Policy, digest: None };
    let read = ReadBatch {
        changes: vec![change],
        policy: Some(policy),
        accounts: Vec::new(),
        ..batch(6, 7)
    };
    apply(&cache, read).unwrap();
    cache.view(NOW, |view| {
        let Found::Key(key) = view.find(&digest(1)) else { panic!("the key is here") };
        let write = view.catalogue().expression("memory:write").unwrap();
        assert!(key.facts().suspended && !write.is_met_by(key.facts().held));
        assert!(view.catalogue().expression("memory:read").is_err());
    });
}

#[test]
fn only_a_read_that_renewed_the_lease_and_is_not_behind_makes_anything_fresh() {
    let cache = loaded(2, 9);
    let bounds = Bounds { bound: Duration::from_secs(1), grace: Duration::ZERO };
    let lease = Lease::Since { from: NOW, bounds };
    let read = |batch, lease| {
        cache.begin_read(Vec::new(), 0);
        cache.apply(batch, &[], lease).unwrap();
        cache.standing().unwrap().lease
    };
    cache.doubt(Doubt::Everything);
    assert_eq!(read(batch(5, 5), None), Lease::Held);
    let behind = ReadBatch { changes: vec![changed(6, 1)], is_behind: true, ..batch(5, 6) };
    assert_eq!(read(behind, Some(lease)), Lease::Held);
    assert_eq!(seen(&cache, 2), "doubtful");
    assert_eq!(read(batch(6, 6), Some(lease)), lease);
    assert_eq!(seen(&cache, 2), "key");
}

#[test]
fn a_doubt_lasts_until_a_read_sent_later_is_applied() {
    let cache = loaded(2, 9);
    // This read is under way when the doubt arises, so it settles nothing.
    cache.begin_read(Vec::new(), 0);
    cache.doubt(Doubt::Key(key(1).id));
    cache.doubt(Doubt::Digest(digest(7)));
    cache.apply(batch(5, 5), &[], Some(Lease::Held)).unwrap();
    assert_eq!(
        (seen(&cache, 1), seen(&cache, 2), seen(&cache, 7)),
        ("doubtful", "key", "doubtful")
    );
    apply(&cache, batch(5, 5)).unwrap();
    assert_eq!((seen(&cache, 1), seen(&cache, 7)), ("key", "absent"));
    cache.doubt(Doubt::Account(AccountId::parse("a").unwrap()));
    assert_eq!((seen(&cache, 2), seen(&cache, 7)), ("doubtful", "absent"));
}

#[test]
fn a_store_that_went_back_or_broke_its_order_is_noticed() {
    let fence = |read: ReadBatch| apply(&loaded(1, 9), read).unwrap_err();
    let other = Position { epoch: 2, ..position(6) };
    assert_eq!(fence(ReadBatch { position: other, ..batch(5, 6) }), Fence::AnotherEpoch);
    let tag = Position { tag: 1, ..position(5) };
    assert_eq!(fence(ReadBatch { found: Some(tag), ..batch(5, 5) }), Fence::WentBack { n: 5 });
    assert_eq!(fence(ReadBatch { found: None, ..batch(4, 4) }), Fence::WentBack { n: 5 });
    let skipped = ReadBatch { changes: vec![changed(7, 1)], ..batch(5, 7) };
    assert_eq!(fence(skipped), Fence::Gap { n: 5, next: 7 });
    assert_eq!(fence(batch(5, 6)), Fence::Gap { n: 5, next: 6 });
    let bad = Policy { plans: Vec::new(), ..Policy::default() };
    assert!(matches!(fence(ReadBatch { policy: Some(bad), ..batch(5, 5) }), Fence::BadPolicy(_)));
}

#[test]
fn a_batch_that_is_refused_drops_everything_and_starts_over() {
    let cache = loaded(1, 9);
    let read = ReadBatch { changes: vec![changed(7, 1)], keys: vec![key(4)], ..batch(5, 7) };
    apply(&cache, read).unwrap_err();
    assert_eq!((seen(&cache, 1), cache.applied()), ("nothing", None));
    assert!(cache.begin_read(Vec::new(), 0).after.is_none());
}

#[test]
fn a_commit_of_this_node_that_a_later_read_does_not_show_is_noticed() {
    let cache = loaded(1, 9);
    cache.begin_read(Vec::new(), 0);
    cache.apply(batch(5, 5), &[position(5)], Some(Lease::Held)).unwrap();
    cache.begin_read(Vec::new(), 0);
    let fence = cache.apply(batch(5, 5), &[position(6)], Some(Lease::Held)).unwrap_err();
    assert_eq!(fence, Fence::OwnCommitMissing { n: 6 });
    assert_eq!(seen(&cache, 1), "nothing");
}

mod hints;
