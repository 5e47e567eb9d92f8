//! Verification: a store that only the door changed is whole, and every kind of tampering is found.

use std::time::Duration;

use latchkey::account::AccountChange;
use latchkey::key::{Actor, KeyChange, KeyId, NewKey};
use latchkey::policy::Policy;
use latchkey::store::{Checked, Command, Fault, Mutation, RequestMark, verify};

use super::support::place::{Place, on_postgres, on_sqlite};
use super::support::{
    HOUR, Shared, at, by_id, create_account, create_command, disable, done, id, key, later,
    mutation, new_key, rename, revoke_command, revoke_created, rotate_command, scopes, seeded, tip,
    update_command,
};

/// A generator of numbers (`SplitMix64`), so that a failing workload can be run again by its seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// A command of any kind, about one of the keys.
fn any_command(numbers: &mut Numbers, keys: &[KeyId]) -> Command {
    let key = numbers.one_of(keys);
    let account = numbers.one_of(&["acme", "other"]);
    match numbers.below(12) {
        0..3 => {
            let held = numbers.one_of(&["memory:read", "memory:write", "memory:*"]);
            let grantable_scopes = scopes(&["memory:read"]);
            create_command(NewKey { grantable_scopes, ..new_key(account, &[held]) })
        }
        3 => update_command(key, disable()),
        4 => update_command(key, rename(numbers.one_of(&["a", "b", "ü \"quoted\" \\"]))),
        5 => {
            let expire_time =
                Some(Some(later(HOUR * (2 + u32::try_from(numbers.below(9)).unwrap()))));
            let allowed_cidrs = Some(vec!["192.0.2.0/24".parse().unwrap()]);
            let labels = Some([("team".to_owned(), "a".to_owned())].into());
            let disabled = Some(false);
            let change =
                KeyChange { expire_time, allowed_cidrs, labels, disabled, ..KeyChange::default() };
            update_command(key, change)
        }
        6 => rotate_command(key, numbers.one_of(&[Duration::ZERO, HOUR])),
        7 => revoke_command(key),
        8 => revoke_created(key),
        9 | 10 => {
            let suspended = numbers.below(5) == 0;
            let change = AccountChange {
                suspended: Some(suspended),
                suspend_reason: Some(if suspended { "unpaid".into() } else { String::new() }),
                ..AccountChange::default()
            };
            Command::UpdateAccount { id: id(account), change, expected: None }
        }
        _ => {
            let mut policy = Policy::default();
            policy.scopes[0].cost = u32::try_from(numbers.below(5)).unwrap();
            policy.grace_ms = 60_000 + numbers.next() % 4;
            Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: true }
        }
    }
}

/// Has it sent with a request id, where it makes something.
fn mark(command: &mut Command, id: &str) {
    if let Command::CreateKey { request, .. } | Command::RotateKey { request, .. } = command {
        *request = Some(RequestMark { id: id.to_owned(), content: [7; 32] });
    }
}

/// Does all kinds of things to a store, some of which are refused.
async fn work(store: &Shared, seed: u64, steps: u32) {
    let mut numbers = Numbers(seed);
    // Hours, or days, in which requests are forgotten.
    let pace = if seed.is_multiple_of(2) { 60 } else { 3_600 };
    let root = seeded(store).await;
    for account in ["acme", "other"] {
        done(store, create_account(account, "enterprise")).await;
    }
    let mut keys =
        vec![key(store, mutation(create_command(new_key("acme", &["memory:read"])))).await.id];
    for step in 0..steps {
        let mut command = any_command(&mut numbers, &keys);
        if numbers.below(2) == 0 {
            mark(&mut command, &step.to_string());
        }
        let mutation =
            if numbers.below(3) == 0 { mutation(command) } else { by_id(root.id, command) };
        let mutation = Mutation { seed: [u8::try_from(step % 251).unwrap(); 32], ..mutation };
        let mutation = at(later(Duration::from_secs(u64::from(step) * pace)), mutation);
        if let Ok(done) = store.mutate(mutation).await.unwrap() {
            keys.extend(done.keys.iter().map(|key| key.id));
        }
    }
}

/// What a verification comes to.
async fn verified(place: &Place) -> (Checked, Vec<Fault>) {
    let mut faults = Vec::new();
    let checked = verify(&place.url(), |fault| faults.push(fault)).await.unwrap();
    assert_eq!(checked.faults, faults.len() as u64);
    (checked, faults)
}

pub(crate) async fn a_store_is_whole_whatever_was_done_to_it(place: Place) {
    for seed in 0..12 {
        let place = place.another().await;
        let store = place.open().await;
        work(&store, seed, 120).await;
        // Beside the store that is in use, and without it.
        let (checked, faults) = verified(&place).await;
        assert_eq!(faults, [], "seed {seed}");
        assert_eq!(checked.changes, tip(&store).await);
        assert!(checked.changes > 30 && checked.keys > 10, "{checked:?}");
        assert_eq!((checked.accounts, checked.policies), (3, 1));
        store.close().await;
        let before = place.contents().await;
        assert_eq!(verified(&place).await, (checked, Vec::new()), "seed {seed}");
        assert_eq!(place.contents().await, before, "it only reads");
        place.open().await.close().await;
    }
}

pub(crate) async fn an_empty_store_is_whole(place: Place) {
    let store = place.open().await;
    assert_eq!(verified(&place).await, (Checked::default(), Vec::new()));
    store.close().await;
}

pub(crate) async fn a_store_is_whole_at_every_moment_while_it_is_written_to(place: Place) {
    let store = place.open().await;
    let root = seeded(&store).await;
    done(&store, create_account("acme", "enterprise")).await;
    let writing = store.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..200 {
            let made =
                key(&writing, by_id(root.id, create_command(new_key("acme", &["memory:read"]))))
                    .await;
            done(&writing, by_id(root.id, rotate_command(made.id, HOUR))).await;
        }
    });
    let mut seen = Vec::new();
    while !writer.is_finished() {
        let (checked, faults) = verified(&place).await;
        assert_eq!(faults, []);
        seen.push(checked.changes);
    }
    writer.await.unwrap();
    assert_eq!(verified(&place).await.0.changes, tip(&store).await);
    assert!(seen.is_sorted() && !seen.is_empty());
    store.close().await;
}

/// What is done behind the door's back, after the triggers were dropped, and what must be said of it.
const TAMPERING: &[(&str, &[&str])] = &[
    ("DELETE FROM audit WHERE n = 5", &["change 5: audit entry: expected one, found none"]),
    (
        "DELETE FROM changes WHERE n = 5",
        &[
            "change 5: the feed: expected no gap",
            "change 5: the feed: expected a change, as in the trail",
        ],
    ),
    (
        "DELETE FROM changes WHERE n IN (5, 6); DELETE FROM audit WHERE n IN (5, 6)",
        &["changes 5 to 6: the feed: expected no gap"],
    ),
    (
        // The last of all, in both: the head knows of it.
        "DELETE FROM changes WHERE n = (SELECT n FROM feed); \
         DELETE FROM audit WHERE n = (SELECT n FROM feed)",
        &["feed: number of the last change: expected 8, found 9"],
    ),
    ("UPDATE feed SET n = 8", &["feed: number of the last change: expected 9, found 8"]),
    ("UPDATE feed SET tag = tag + 1", &["feed: tag of the last change"]),
    ("UPDATE feed SET at = at + 1", &["feed: time of the last change"]),
    ("UPDATE feed SET seeded = FALSE", &["feed: seeded: expected true, found false"]),
    (
        "DELETE FROM requests",
        &[
            "request request-7 (CreateKey at 20",
            "remembered: expected as the trail tells, found not there",
        ],
    ),
    (
        "UPDATE requests SET made_key_id = (SELECT key_id FROM audit WHERE n = 5)",
        &["request request-7 (CreateKey at 20", "an entry in the trail: expected one, found none"],
    ),
    (
        "UPDATE requests SET request_id = 'hm_live_0000000000000000000000000000002dlYSp'",
        &["(not repeated: it holds a token): an entry in the trail: expected one, found none"],
    ),
    ("SELECT 1", &["schema: trigger keys_stay: expected one, found none"]),
    ("UPDATE feed SET epoch = epoch + 1", &["policy: epoch", "account acme: epoch", ": epoch"]),
    ("UPDATE audit SET at = at + 1 WHERE n = 5", &["change 5: time in the trail"]),
    (
        "UPDATE changes SET at = at - 1 WHERE n = 5; UPDATE audit SET at = at - 1 WHERE n = 5",
        &["change 5: time: expected not before", "create_time: expected"],
    ),
    (
        "UPDATE audit SET key_id = (SELECT key_id FROM audit WHERE n = 3) WHERE n = 6",
        &["change 6: subject in the trail: expected key key_", "version: expected 2, found 1"],
    ),
    (
        "UPDATE audit SET account_id = 'latchkey' WHERE n = 6",
        &["account: expected latchkey, found acme"],
    ),
    (
        "UPDATE audit SET actor = 'key:key_00000000000000000000000000' WHERE n = 5",
        &["change 5: actor: expected a key that is there, found key:key_0000"],
    ),
    (
        "UPDATE audit SET actor = (SELECT 'key:' || key_id FROM audit WHERE n = 8) WHERE n = 5",
        &[
            "change 5: actor: expected key:key_",
            "change 5: actor: expected a key that was made before",
        ],
    ),
    (
        "UPDATE audit SET account_id = 'latchkey', actor = 'key:' || key_id WHERE n = 6",
        &["change 6: actor: expected a key of the same account, or of `latchkey`, found key:key_"],
    ),
    (
        "UPDATE keys SET revoke_time = create_time - 1, revoke_reason = 'unused', revoke_comment = '' \
         WHERE account_id = 'latchkey'",
        &["change 5: actor: expected a key that was not revoked before, found key:key_"],
    ),
    ("UPDATE audit SET actor = 'nobody' WHERE n = 5", &["change 5: actor: expected `key:ID` or"]),
    (
        "UPDATE audit SET peer = 'hm_live_0000000000000000000000000000002dlYSp' WHERE n = 5",
        &["change 5: peer: expected no token, found a token"],
    ),
    (
        "UPDATE audit SET change = replace(change, '\"a key\"', \
         '\"hm_live_0000000000000000000000000000002dlYSp\"') WHERE n = 5",
        &["change 5: change in the trail: expected no token", "(not repeated: it holds a token)"],
    ),
    (
        "UPDATE audit SET change = '{\"what\":1}' WHERE n = 5",
        &["change 5: change in the trail: expected before and after"],
    ),
    (
        "UPDATE audit SET change = replace(change, 'memory:read', 'memory:admin') WHERE n = 5",
        &["scopes: expected [\"memory:admin\"], found [\"memory:read\"]"],
    ),
    (
        "UPDATE audit SET change = replace(change, '\"disabled\":false', '\"disabled\":true') WHERE n = 6",
        &["disabled before the change (change 6): expected false, found true"],
    ),
    (
        "UPDATE keys SET scopes = '[\"memory:admin\"]' WHERE account_id = 'acme' AND revoke_time IS NULL",
        &["scopes: expected [\"memory:read\"], found [\"memory:admin\"]"],
    ),
    (
        "UPDATE keys SET revoke_time = NULL, revoke_reason = NULL, revoke_comment = NULL",
        &["revoked: expected {\"comment\":\"seen in a log\"", "found null"],
    ),
    (
        "UPDATE keys SET revoke_time = revoke_time + 1 WHERE revoke_time IS NOT NULL",
        &["revoked: expected {"],
    ),
    ("UPDATE keys SET disabled = FALSE WHERE disabled", &["disabled: expected true, found false"]),
    ("UPDATE keys SET tag = tag + 1 WHERE account_id = 'acme'", &["tag of that change: expected"]),
    (
        "UPDATE keys SET n = 1 WHERE disabled",
        &["change that made it what it is: expected 6, found 1"],
    ),
    ("UPDATE keys SET version = 9 WHERE disabled", &["version: expected 2, found 9"]),
    (
        "UPDATE keys SET digest = (SELECT content FROM requests) WHERE disabled",
        &["digest: expected that of its changes"],
    ),
    ("UPDATE keys SET create_time = create_time - 1", &["create_time: expected"]),
    ("UPDATE keys SET update_time = update_time + 1", &["update_time: expected"]),
    (
        "UPDATE keys SET account_id = 'latchkey' WHERE disabled",
        &["account: expected acme, found latchkey"],
    ),
    (
        "UPDATE keys SET scopes = '[\"no scope\"]' WHERE disabled",
        &["the record: expected one that can be read"],
    ),
    ("DELETE FROM keys WHERE disabled", &["the record: expected as its entries tell, found none"]),
    (
        "INSERT INTO keys SELECT 'key_00000000000000000000000000', format, version, epoch, n, tag, \
         account_id, display_name, environment, class, scopes, grantable_scopes, (SELECT content FROM requests), \
         digest_algorithm, hint, create_time, update_time, expire_time, revoke_time, revoke_reason, \
         revoke_comment, disabled, allowed_cidrs, labels, rotated_from, rotated_to, created_by \
         FROM keys WHERE disabled",
        &[
            "key key_00000000000000000000000000: the record: expected entries that tell of it, found none",
        ],
    ),
    (
        "UPDATE accounts SET plan = 'free' WHERE id = 'acme'",
        &["account acme: plan: expected \"enterprise\""],
    ),
    (
        "UPDATE accounts SET suspended = TRUE WHERE id = 'acme'",
        &["account acme: suspended: expected false"],
    ),
    (
        "UPDATE policy SET document = replace(document, '\"grace_ms\":600000', '\"grace_ms\":1')",
        &["policy: grace_ms: expected 600000, found 1"],
    ),
    ("UPDATE policy SET tag = tag + 1", &["policy: tag of that change"]),
    ("UPDATE policy SET version = 7", &["policy: version: expected 1, found 7"]),
    ("DELETE FROM policy", &["policy: the record: expected as its entries tell, found none"]),
    (
        // An un-revocation with an entry of its own, right in every other way.
        "UPDATE feed SET n = 10, tag = 77; \
         INSERT INTO changes SELECT 10, 77, kind, subject, digest, at FROM changes WHERE n = 9; \
         INSERT INTO audit SELECT 10, at, actor, 'UpdateKey', account_id, key_id, \
         replace(replace(replace(change, 'after', '?'), 'before', 'after'), '?', 'before'), peer, request_id \
         FROM audit WHERE n = 9; \
         UPDATE keys SET n = 10, tag = 77, version = version + 1, revoke_time = NULL, \
         revoke_reason = NULL, revoke_comment = NULL WHERE revoke_time IS NOT NULL",
        &["a revoked key (change 10): expected never changed, found changed"],
    ),
];

/// What is done to the schema, once the triggers are gone.
const TAMPERING_WITH_SQLITE: &[(&str, &[&str])] = &[(
    "CREATE TRIGGER keys_stay BEFORE DELETE ON keys BEGIN SELECT 1; END; \
     CREATE TRIGGER more AFTER INSERT ON keys BEGIN SELECT 1; END; DROP INDEX audit_by_time",
    &[
        "schema: trigger keys_stay: expected as released, found another",
        "schema: trigger more: expected none, found one",
        "schema: index audit_by_time: expected one, found none",
    ],
)];
const TAMPERING_WITH_POSTGRES: &[(&str, &[&str])] = &[
    (
        "CREATE TRIGGER keys_stay BEFORE DELETE ON keys FOR EACH ROW WHEN (FALSE) \
         EXECUTE FUNCTION latchkey_refuses('keys are never deleted'); \
         CREATE TRIGGER more AFTER INSERT ON keys FOR EACH ROW EXECUTE FUNCTION latchkey_refuses(''); \
         CREATE TRIGGER audit_stays BEFORE DELETE ON audit FOR EACH ROW \
         EXECUTE FUNCTION latchkey_refuses('the audit trail is never deleted from'); \
         ALTER TABLE audit DISABLE TRIGGER audit_stays; \
         CREATE RULE nothing AS ON UPDATE TO keys DO INSTEAD NOTHING; \
         ALTER TABLE accounts DROP CONSTRAINT accounts_check1; \
         ALTER TABLE keys ALTER COLUMN hint DROP NOT NULL; DROP INDEX audit_by_time",
        &[
            "schema: trigger keys_stay: expected as released, found another",
            "schema: trigger more: expected none, found one",
            "schema: trigger audit_stays: expected as released, found another",
            "schema: rule nothing: expected none, found one",
            "schema: constraint accounts accounts_check1: expected one, found none",
            "schema: table keys: expected as released, found another",
            "schema: index audit_by_time: expected one, found none",
        ],
    ),
    (
        "CREATE OR REPLACE FUNCTION latchkey_refuses() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN RETURN OLD; END'",
        &["schema: function latchkey_refuses: expected as released, found another"],
    ),
];

/// The triggers, and the tables that they hang on.
const TRIGGERS: [(&str, &str); 8] = [
    ("keys_stay", "keys"),
    ("accounts_stay", "accounts"),
    ("revocation_is_final", "keys"),
    ("audit_is_not_rewritten", "audit"),
    ("feed_goes_on", "feed"),
    ("audit_stays", "audit"),
    ("changes_stay", "changes"),
    ("changes_are_not_rewritten", "changes"),
];

fn drop_triggers(place: &Place) -> String {
    let drop = |(trigger, table): &(&str, &str)| match place {
        Place::Sqlite(_) => format!("DROP TRIGGER {trigger};"),
        Place::Postgres(..) => format!("DROP TRIGGER {trigger} ON {table};"),
    };
    let dropped: String = TRIGGERS.iter().map(drop).collect();
    match place {
        Place::Sqlite(_) => format!("{dropped} PRAGMA ignore_check_constraints = ON"),
        Place::Postgres(..) => dropped,
    }
}

/// 1 to 4 the first contents and `acme`, 5 and 6 a key that is made and disabled, 7 a key, 8 another, which
/// 9 revokes.
async fn a_small_store(place: &Place) {
    let store = place.open().await;
    let root = seeded(&store).await;
    done(&store, create_account("acme", "enterprise")).await;
    let create = || by_id(root.id, create_command(new_key("acme", &["memory:read"])));
    let first = key(&store, create()).await;
    done(&store, by_id(root.id, update_command(first.id, disable()))).await;
    let mut asked = create_command(new_key("acme", &["memory:read"]));
    mark(&mut asked, "request-7");
    done(&store, by_id(root.id, asked)).await;
    let last = key(&store, create()).await;
    done(&store, by_id(root.id, revoke_command(last.id))).await;
    assert_eq!(last.created_by, Actor::Key(root.id));
    store.close().await;
}

pub(crate) async fn each_kind_of_tampering_is_found_and_named(place: Place) {
    let sound = place;
    a_small_store(&sound).await;
    assert_eq!(verified(&sound).await.1, []);
    let of_schema = match sound {
        Place::Sqlite(_) => TAMPERING_WITH_SQLITE,
        Place::Postgres(..) => TAMPERING_WITH_POSTGRES,
    };
    for (tampering, told) in TAMPERING.iter().chain(of_schema) {
        let place = sound.copy().await;
        place.sql(&drop_triggers(&place)).await;
        place.sql(tampering).await;
        let faults: Vec<_> = verified(&place).await.1.iter().map(ToString::to_string).collect();
        for part in *told {
            assert!(
                faults.iter().any(|fault| fault.contains(part)),
                "{tampering}\n{part}\n{faults:#?}"
            );
        }
        assert!(!faults.concat().contains("hm_live_00000000000"), "{faults:#?}");
    }
}

#[tokio::test]
async fn what_is_no_store_is_not_verified() {
    let place = on_sqlite().await;
    let fault = async || verify(&place.url(), |_| ()).await.unwrap_err().to_string();
    assert!(fault().await.contains("latchkey.db"), "there is no file");
    assert!(!place.file().exists());
    std::fs::write(place.file(), "").unwrap();
    assert!(fault().await.contains("not one of latchkey's"));
    std::fs::write(place.file(), "nothing that SQLite would know ".repeat(50)).unwrap();
    assert!(fault().await.contains("not an SQLite database"));
    let other = verify("mysql://host/db", |_| ()).await.unwrap_err().to_string();
    assert!(other.contains("sqlite://PATH"), "{other}");
    let empty = verify(&on_postgres().await.url(), |_| ()).await.unwrap_err().to_string();
    assert!(empty.contains("no schema of latchkey's"), "{empty}");
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_left_to_it() {
    let place = on_sqlite().await;
    a_small_store(&place).await;
    place.sql("UPDATE _sqlx_migrations SET version = 99 WHERE version = 2").await;
    let error = verify(&place.url(), |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("newer latchkey"), "{error}");
    let place = on_postgres().await;
    a_small_store(&place).await;
    place.sql("UPDATE _sqlx_migrations SET version = 99").await;
    let error = verify(&place.url(), |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("newer latchkey"), "{error}");
}
