//! When what somebody else kept is used: by its position, judged in the step that installs it.

use super::*;
use crate::key::KeyRecord;

/// What was true of a key at `n`.
fn hint(n: u64, number: u64) -> Hint {
    let said = Said::Key(Box::new((key(number).into(), AccountEntry::from(&account("a")))));
    Hint { digest: digest(number), position: position(n), said }
}

fn absence(n: u64, number: u64) -> Hint {
    Hint { said: Said::Absent, ..hint(n, number) }
}

/// A cache that began at position 5, with the changes 4 (of key 8) and 5 (of key 9) in mind, without any key, and
/// reads no more pages: all but what it is told is a miss.
fn partial() -> Cache {
    let cache = Cache::new(1);
    cache.begin_read(Vec::new(), 0);
    let first = ReadBatch {
        policy: Some(Policy::default()),
        changes: vec![changed(4, 8), changed(5, 9)],
        keys: vec![key(1), key(2)],
        page: Some(PageEnd::At(key(2).id)),
        ..batch(5, 5)
    };
    cache.apply(first, &[], Some(Lease::Held)).unwrap();
    cache
}

fn with_room() -> Cache {
    let cache = Cache::new(9);
    cache.begin_read(Vec::new(), 0);
    let first = ReadBatch {
        policy: Some(Policy::default()),
        changes: vec![changed(4, 8), changed(5, 9)],
        page: Some(PageEnd::At(key(1).id)),
        ..batch(5, 5)
    };
    cache.apply(first, &[], Some(Lease::Held)).unwrap();
    cache
}

/// What became of a hint, and what is known of its digest then.
fn installed(cache: &Cache, hint: Hint, number: u64) -> (Result<(), Unusable>, &'static str) {
    (cache.install_hint(hint), seen(cache, number))
}

fn refused(cache: &Cache, hint: Hint, number: u64) -> Unusable {
    let (result, seen) = installed(cache, hint, number);
    assert!(matches!(seen, "miss" | "doubtful"), "{seen}");
    result.unwrap_err()
}

#[test]
fn what_is_true_still_is_used() {
    for n in [4, 5] {
        assert_eq!(installed(&with_room(), hint(n, 3), 3), (Ok(()), "key"));
        assert_eq!(installed(&with_room(), absence(n, 3), 3), (Ok(()), "absent"));
    }
    // As of the very change that made it what it is.
    assert_eq!(installed(&with_room(), hint(5, 9), 9), (Ok(()), "key"));
}

#[test]
fn what_is_told_of_a_key_decides() {
    let cache = with_room();
    let mut told = hint(5, 3);
    let Said::Key(of) = &mut told.said else { panic!("it is of a key") };
    (of.0.is_revoked, of.1.is_suspended) = (true, true);
    assert_eq!(installed(&cache, told, 3), (Ok(()), "revoked"));
    cache.view(NOW, |view| {
        let Found::Key(key) = view.find(&digest(3)) else { panic!("the key is here") };
        assert!(key.facts().suspended && key.facts().held == &view.catalogue().held(key_scopes()));
    });
}

fn key_scopes() -> impl Iterator<Item = &'static ScopePattern> {
    static KEY: std::sync::OnceLock<KeyRecord> = std::sync::OnceLock::new();
    KEY.get_or_init(|| key(3)).scopes.iter()
}

#[test]
fn another_epoch_is_not_used() {
    let mut other = hint(5, 3);
    other.position.epoch = 2;
    assert_eq!(refused(&with_room(), other.clone(), 3), Unusable::AnotherEpoch);
    assert_eq!(Cache::new(9).install_hint(hint(5, 3)), Err(Unusable::AnotherEpoch));
}

#[test]
fn what_is_ahead_is_not_used() {
    for hint in [hint(6, 3), absence(6, 3)] {
        assert_eq!(refused(&with_room(), hint, 3), Unusable::Ahead);
    }
}

#[test]
fn what_is_older_than_the_memory_of_changes_is_not_used() {
    for hint in [hint(3, 3), absence(3, 3), hint(0, 3)] {
        assert_eq!(refused(&with_room(), hint, 3), Unusable::TooOld);
    }
}

#[test]
fn what_is_of_a_history_that_was_left_is_not_used() {
    for n in [4, 5] {
        let mut other = hint(n, 3);
        other.position.tag = 1;
        assert_eq!(refused(&with_room(), other, 3), Unusable::AnotherTag);
    }
}

#[test]
fn what_was_changed_since_is_not_used() {
    // By its key and digest, on the first read and on a later one.
    assert_eq!(refused(&with_room(), hint(4, 9), 9), Unusable::Changed);
    let cache = partial();
    apply(&cache, ReadBatch { changes: vec![changed(6, 3)], keys: vec![], ..batch(5, 6) }).unwrap();
    assert_eq!(refused(&cache, hint(5, 3), 3), Unusable::Changed);
    assert_eq!(refused(&cache, absence(5, 3), 3), Unusable::Changed);
    // By its key alone, and by its digest alone.
    let mut other = hint(4, 3);
    let Said::Key(of) = &mut other.said else { panic!("it is of a key") };
    of.0.id = key(9).id;
    assert_eq!(refused(&with_room(), other, 3), Unusable::Changed);
    assert_eq!(refused(&with_room(), absence(4, 9), 9), Unusable::Changed);
    // By its account.
    let cache = with_room();
    let subject = Subject::Account(AccountId::parse("a").unwrap());
    let change = Change { position: position(6), subject, digest: None };
    apply(&cache, ReadBatch { changes: vec![change], ..batch(5, 6) }).unwrap();
    assert_eq!(refused(&cache, hint(5, 3), 3), Unusable::Changed);
    assert_eq!(installed(&cache, hint(6, 3), 3), (Ok(()), "key"));
    assert_eq!(installed(&cache, absence(5, 4), 4), (Ok(()), "absent"));
}

#[test]
fn what_is_in_doubt_is_not_used_until_a_later_read() {
    let account_a = AccountId::parse("a").unwrap();
    for doubt in [
        Doubt::Key(key(3).id),
        Doubt::Digest(digest(3)),
        Doubt::Account(account_a),
        Doubt::Everything,
    ] {
        let cache = with_room();
        cache.doubt(doubt);
        assert_eq!(cache.install_hint(hint(5, 3)), Err(Unusable::Doubted));
        apply(&cache, batch(5, 5)).unwrap();
        assert_eq!(installed(&cache, hint(5, 3), 3), (Ok(()), "key"));
    }
    let cache = with_room();
    cache.doubt(Doubt::Digest(digest(3)));
    assert_eq!(cache.install_hint(absence(5, 3)), Err(Unusable::Doubted));
}

#[test]
fn what_cannot_be_read_is_not_taken_from_others() {
    let cache = with_room();
    apply(&cache, ReadBatch { unreadable: lost(Lost::Key(Some(digest(3)))), ..batch(5, 5) })
        .unwrap();
    assert_eq!(refused(&cache, hint(5, 3), 3), Unusable::Doubted);
    assert_eq!(refused(&cache, absence(5, 3), 3), Unusable::Doubted);
}

#[test]
fn what_the_reader_brought_stands() {
    let cache = with_room();
    apply(&cache, ReadBatch { keys: vec![key(3)], absent: vec![digest(4)], ..batch(5, 5) })
        .unwrap();
    assert_eq!(installed(&cache, absence(5, 3), 3), (Ok(()), "key"));
    assert_eq!(installed(&cache, hint(5, 4), 4), (Ok(()), "absent"));
}

#[test]
fn a_hint_takes_the_room_of_one_key() {
    let cache = partial();
    assert_eq!(installed(&cache, hint(5, 3), 3), (Ok(()), "key"));
    assert_eq!((cache.len(), cache.is_complete()), (1, false));
}

#[test]
fn after_a_fence_nothing_earlier_is_used() {
    let cache = with_room();
    apply(&cache, ReadBatch { found: None, ..batch(4, 4) }).unwrap_err();
    assert_eq!(cache.install_hint(hint(5, 3)), Err(Unusable::AnotherEpoch));
    // The store has given 5 out again.
    cache.begin_read(Vec::new(), 0);
    let again = Position { tag: 1, ..position(5) };
    let policy = Some(Policy::default());
    cache
        .apply(ReadBatch { position: again, policy, ..batch(5, 5) }, &[], Some(Lease::Held))
        .unwrap();
    assert_eq!(refused(&cache, hint(5, 3), 3), Unusable::AnotherTag);
}

#[test]
fn what_a_read_showed_is_told_of_keys_that_were_wanted_or_had_changed() {
    let read = ReadBatch {
        changes: vec![changed(6, 1)],
        keys: vec![key(1), key(2), key(3)],
        absent: vec![digest(4)],
        ..batch(5, 6)
    };
    let wanted = vec![digest(2), digest(4)];
    let ask = ReadAsk { wanted, after: Some(position(5)), ..ReadAsk::default() };
    let told = Hint::of_read(&ask, &read);
    assert_eq!(told, [hint(6, 1), hint(6, 2), absence(6, 4)]);
    let first = ReadAsk { after: None, ..ask.clone() };
    assert_eq!(Hint::of_read(&first, &read), [hint(6, 2), absence(6, 4)]);
    let behind = ReadBatch { is_behind: true, ..read.clone() };
    assert_eq!(Hint::of_read(&ask, &behind), []);
    // Nothing can be said of a key whose account was not readable.
    assert_eq!(Hint::of_read(&ask, &ReadBatch { accounts: vec![], ..read }), [absence(6, 4)]);
}
