//! What only the PostgreSQL store can go wrong at: a server that ends, stands still or is another than it was, other
//! nodes, and what is set up wrongly.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use latchkey::clock::Timestamp;
use latchkey::error::Reason;
use latchkey::lease::Bounds;
use latchkey::revision::Position;
use latchkey::store::{
    Command, Lost, Mutation, NodeQuery, NodeRow, PageAsk, ReadAsk, RequestMark, Schema, StoreError,
    open, open_with, verify,
};
use sqlx::{AssertSqlSafe, Row as _};

use super::support::place::{Place, on_postgres};
use super::support::{
    HOUR, Shared, counted, create_account, create_reader, done, first_read, found, is_lost, key,
    mutation, new_key, reason, revoke, rotate, secret, seed, tip, with_account,
};
use crate::support::Server;
use crate::support::pki::Authority;
use crate::support::postgres::Postgres;

const SOON: Duration = Duration::from_secs(30);
/// How long a look-up may take.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a store of this URL cannot be opened.
async fn fault(url: &str) -> String {
    match open(url).await {
        Ok(_) => panic!("{url} was opened"),
        Err(error) => error.to_string(),
    }
}

/// The key that a request makes, as often as it is sent.
fn wish(number: usize) -> Mutation {
    mutation(Command::CreateKey {
        new: new_key("acme", &["memory:read"]),
        secret: secret(),
        request: Some(RequestMark { id: format!("request-{number}"), content: [1; 32] }),
    })
}

/// One number that SQL below the store gives.
async fn number(place: &Place, sql: &str) -> u64 {
    place.sql(&format!("SELECT ({sql})::text")).await[0][0].parse().unwrap()
}

/// The process of the server that has the connection which waits in, or has just done, what is like this.
async fn backend(server: &Postgres, database: &str, like: &str) -> Option<i32> {
    let mut connection = server.connect(database).await;
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid() \
         AND query LIKE '{like}'"
    );
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_optional(&mut connection).await.unwrap();
    row.map(|row| row.get(0))
}

// === Many nodes ===

#[tokio::test]
async fn changes_of_many_nodes_are_numbered_without_a_gap() {
    let place = on_postgres().await;
    let nodes = join_all((0..4).map(|_| place.open())).await;
    with_account(&nodes[0], "enterprise").await;
    let writers = (0..8).map(|writer| {
        let store = nodes[writer % 4].clone();
        tokio::spawn(async move {
            let mut told = Vec::new();
            for _ in 0..25 {
                told.push(done(&store, create_reader()).await.position.unwrap());
            }
            told
        })
    });
    let mut told: Vec<_> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    told.sort_by_key(|position| position.n);
    let batch = first_read(&nodes[3]).await;
    let kept: Vec<_> = batch.changes.iter().map(|change| change.position).collect();
    assert!(kept.iter().map(|position| position.n).eq(1..=batch.position.n));
    assert_eq!(kept[kept.len() - 200..], told);
    assert_eq!(kept.iter().map(|position| position.tag).collect::<HashSet<_>>().len(), kept.len());
    let checked = verify(&place.url(), |fault| panic!("{fault}")).await.unwrap();
    assert_eq!((checked.changes, checked.keys), (204, 201));
}

#[tokio::test]
async fn whoever_reads_a_number_reads_every_change_up_to_it() {
    let place = on_postgres().await;
    let nodes = join_all((0..3).map(|_| place.open())).await;
    with_account(&nodes[0], "enterprise").await;
    let writers = (0..6).map(|writer| {
        let store = nodes[writer % 2].clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                done(&store, create_reader()).await;
            }
        })
    });
    let writers = tokio::spawn(join_all(writers));
    let mut at = first_read(&nodes[2]).await.position;
    while !writers.is_finished() || tip(&nodes[2]).await > at.n {
        let ask = ReadAsk { after: Some(at), changes_max: 1_000, ..ReadAsk::default() };
        let batch = nodes[2].read(&ask).await.unwrap();
        let numbers = batch.changes.iter().map(|change| change.position.n);
        assert!(numbers.eq(at.n + 1..=batch.position.n), "from {at:?}");
        assert_eq!(batch.keys.len(), batch.changes.len());
        at = batch.position;
    }
    writers.await.unwrap().into_iter().for_each(Result::unwrap);
    assert_eq!(at.n, 124);
}

#[tokio::test]
async fn nodes_that_start_at_once_on_an_empty_database_make_one_schema_and_one_root_key() {
    let place = on_postgres().await;
    let root = "hm_live_0000000000000000000000000000002dlYSp";
    let start = || {
        let server = Server::build().store(&place.url()).environment("LATCHKEY__ROOT_TOKEN", root);
        server.start()
    };
    let _servers = join_all((0..3).map(|_| start())).await;
    assert_eq!(number(&place, "SELECT count(*) FROM _sqlx_migrations").await, 1);
    assert_eq!(number(&place, "SELECT count(*) FROM keys").await, 1);
    assert_eq!(number(&place, "SELECT n FROM feed").await, 3);
}

#[tokio::test]
async fn stores_opened_at_once_make_one_feed_and_seed_it_once() {
    let place = on_postgres().await;
    let nodes = join_all((0..8).map(|_| place.open())).await;
    let seeds = join_all(nodes.iter().map(|store| store.mutate(seed()))).await;
    let made =
        seeds.into_iter().filter(|done| !done.as_ref().unwrap().as_ref().unwrap().keys.is_empty());
    assert_eq!(made.count(), 1);
    let epochs: HashSet<_> = join_all(nodes.iter().map(first_read))
        .await
        .iter()
        .map(|batch| batch.position.epoch)
        .collect();
    assert_eq!(epochs.len(), 1);
}

#[tokio::test]
async fn a_node_that_stands_still_with_the_lock_does_not_hold_up_the_others_for_long() {
    let place = on_postgres().await;
    let Place::Postgres(server, database) = &place else { unreachable!() };
    let store = place.open().await;
    with_account(&store, "enterprise").await;
    // As a node does that is paused between its first statement and its commit.
    let mut paused = server.connect(database).await;
    let begin = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '1s'; SELECT n FROM feed FOR UPDATE";
    sqlx::raw_sql(begin).execute(&mut paused).await.unwrap();
    let mut refused = 0;
    while let Err(error) = store.mutate(create_reader()).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        refused += 1;
    }
    assert!((1..20).contains(&refused), "{refused}");
}

// === A server that ends ===

#[tokio::test]
async fn whatever_end_a_connection_comes_to_no_acknowledged_change_is_lost_and_none_is_made_twice()
{
    let place = on_postgres().await;
    let store = place.open().await;
    with_account(&store, "enterprise").await;
    let ending = {
        let Place::Postgres(server, database) = &place else { unreachable!() };
        let (server, database) = (*server, database.clone());
        tokio::spawn(async move {
            let mut connection = server.connect(&database).await;
            let sql = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' \
                 AND pid <> pg_backend_pid()"
            );
            for pause in 0..60 {
                tokio::time::sleep(Duration::from_millis(10 + pause * 7 % 40)).await;
                sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut connection).await.unwrap();
            }
        })
    };
    let mut number = 0;
    let (mut made, mut unavailable, mut unknown) = (0, 0, 0);
    while !ending.is_finished() {
        number += 1;
        match store.mutate(wish(number)).await {
            Ok(done) => {
                done.unwrap();
                made += 1;
            }
            Err(StoreError::Unavailable(_)) => {
                unavailable += 1;
                make(&store, number).await;
            }
            Err(StoreError::OutcomeUnknown(_)) => {
                unknown += 1;
                settle(&store, number).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    ending.await.unwrap();
    assert!(made > 0 && unavailable + unknown > 0, "{made}, {unavailable}, {unknown}");
    // Every request made one key, whether it was told or not.
    assert_eq!(counted(&store).await as usize, number);
    let checked = verify(&place.url(), |fault| panic!("{fault}")).await.unwrap();
    assert_eq!(checked.changes, tip(&store).await);
}

/// Sends a request that made nothing so far until it is made.
async fn make(store: &Shared, number: usize) {
    loop {
        match store.mutate(wish(number)).await {
            Ok(done) => return drop(done.unwrap()),
            Err(StoreError::Unavailable(_)) => {}
            Err(_) => return settle(store, number).await,
        }
    }
}

/// Waits until the store can be written to.
async fn until_written_to(store: &Shared) {
    while store.keep_time(super::support::NOW).await.is_err() {}
}

/// Sends a request until its outcome is known: made by now, or before.
async fn settle(store: &Shared, number: usize) {
    loop {
        match store.mutate(wish(number)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => return assert_eq!(error.reason, Reason::AlreadyCreated),
            Err(_) => {}
        }
    }
}

#[tokio::test]
async fn a_server_that_stands_still_is_unavailable_and_serves_again_when_it_goes_on() {
    let place = on_postgres().await;
    let Place::Postgres(server, database) = &place else { unreachable!() };
    let store = place.open().await;
    with_account(&store, "enterprise").await;
    let writer = backend(server, database, "%COMMIT%").await.unwrap();
    signal(writer, rustix::process::Signal::STOP);
    let errors = join_all((0..5).map(|_| store.mutate(create_reader())));
    let errors = tokio::time::timeout(SOON, errors).await.unwrap();
    assert!(errors.iter().all(|error| matches!(error, Err(StoreError::Unavailable(_)))));
    signal(writer, rustix::process::Signal::CONT);
    until_written_to(&store).await;
    assert_eq!(counted(&store).await, 0);
    done(&store, create_reader()).await;
}

fn signal(process: i32, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
}

#[tokio::test]
async fn who_asks_about_nodes_waits_no_longer_for_a_server_that_stands_still_than_who_looks_up() {
    let server = Postgres::start(&[]).await;
    let database = server.database().await;
    let store = open(&server.url(&database)).await.unwrap();
    let _frozen = server.freeze().await;
    let asking = tokio::time::timeout(LOOKUP_TIME_MAX * 3, store.nodes(NodeQuery::default()));
    let told = asking.await.expect("an answer in time").unwrap_err();
    assert!(matches!(told, StoreError::Unavailable(_)), "{told}");
}

#[tokio::test]
async fn what_is_set_up_is_looked_at() {
    let server = Postgres::start(&[]).await;
    let database = server.database().await;
    let store = open(&server.url(&database)).await.unwrap();
    with_account(&store, "enterprise").await;
    assert_eq!(store.caveat().await.unwrap(), None);

    // A standby: it may be behind, and a failover to it may lose what it has not.
    let standby = server.standby().await;
    let told = fault(&standby.url(&database)).await;
    assert!(told.contains("standby") && told.contains("primary"), "{told}");
    assert!(store.caveat().await.unwrap().unwrap().contains("synchronous_standby_names"));

    // Nodes are not asked about where the past is shown.
    let head = store.nodes(NodeQuery::default()).await.unwrap().unwrap().head;
    let shown = |shown| NodeQuery { shown: Some(shown), with_policy: true };
    assert!(store.nodes(shown(head)).await.unwrap().unwrap().policy.is_some());
    for past in [Position { n: head.n + 1, ..head }, Position { tag: !head.tag, ..head }] {
        let refused = store.nodes(shown(past)).await.unwrap_err();
        assert!(refused.to_string().contains("the past"), "{refused}");
    }

    // A commit that waits for a standby which never comes is not acknowledged.
    server.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    server.sql("postgres", "SELECT pg_reload_conf()").await;
    let mut number = 0;
    let unknown = tokio::time::timeout(SOON, async {
        loop {
            number += 1;
            if let Err(error) = store.mutate(wish(number)).await {
                return error;
            }
        }
    });
    let unknown = unknown.await.unwrap();
    assert!(matches!(unknown, StoreError::OutcomeUnknown(_)), "{unknown}");
    assert_eq!(store.caveat().await.unwrap(), None);
    let before = tip(&store).await;
    server.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names").await;
    server.sql("postgres", "SELECT pg_reload_conf()").await;
    settle(&store, number).await;
    assert_eq!(tip(&store).await, before + 1);
    assert_eq!(counted(&store).await as usize, number);

    // What it committed, it must keep.
    server.sql("postgres", "ALTER SYSTEM SET fsync = off").await;
    server.sql("postgres", "SELECT pg_reload_conf()").await;
    let is_refused = async || {
        let opened = open(&server.url(&database)).await;
        opened.is_err_and(|error| error.to_string().contains("fsync = off"))
    };
    let refused = async { while !is_refused().await {} };
    tokio::time::timeout(SOON, refused).await.unwrap();
}

// === Connecting ===

#[tokio::test]
async fn a_server_that_cannot_be_used_is_told_without_the_password() {
    let place = on_postgres().await;
    let url = place.url();
    let with = |from: &str, to: &str| url.replace(from, to).replace("keeper@", "keeper:hunter2@");
    let Place::Postgres(_, database) = &place else { unreachable!() };
    for (url, told) in [
        (with(&format!("/{database}?"), "/nothing?"), "there is no such database"),
        (with("keeper", "nobody"), "it does not let this user in"),
        (with("host=", "host=/nowhere"), "it cannot be reached"),
        ("postgres://keeper:hunter2@127.0.0.1:1/d".to_owned(), "it cannot be reached"),
        ("postgres://keeper:hunter2@127.0.0.1:x/d".to_owned(), "invalid port number"),
    ] {
        let fault = fault(&url).await;
        assert!(fault.contains(told) && !fault.contains("hunter2"), "{url}: {fault}");
    }
}

#[tokio::test]
async fn tls_is_checked_by_authority_and_name() {
    let folder = crate::support::Folder::new();
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, other) = (write("ca.pem", &authority.pem()), write("other.pem", &other.pem()));
    let server = Postgres::start_with_tls(&authority.server()).await;
    let database = server.database().await;
    let url = |host: &str, rest: &str| {
        format!("postgres://keeper@{host}:{}/{database}?{rest}", server.port())
    };
    for right in [
        url("localhost", &format!("sslmode=verify-full&sslrootcert={ca}")),
        url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={ca}")),
        url("127.0.0.2", &format!("sslmode=verify-ca&sslrootcert={ca}")),
        url("127.0.0.2", "sslmode=require"),
    ] {
        let store = open(&right).await.unwrap_or_else(|error| panic!("{right}: {error}"));
        let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                         WHERE ssl AND application_name = 'latchkey'";
        store.keep_time(super::support::NOW).await.unwrap();
        let mut connection = server.connect(&database).await;
        let row = sqlx::raw_sql(encrypted).fetch_one(&mut connection).await.unwrap();
        assert!(row.get::<i64, _>(0) > 0, "{right}");
        store.close().await;
    }
    for wrong in [
        url("127.0.0.2", &format!("sslmode=verify-full&sslrootcert={ca}")),
        url("localhost", &format!("sslmode=verify-full&sslrootcert={other}")),
        url("localhost", "sslmode=verify-full"),
    ] {
        let told = fault(&wrong).await;
        assert!(told.contains("TLS") || told.contains("certificate"), "{wrong}: {told}");
    }
}

// === The schema ===

#[tokio::test]
async fn a_schema_is_left_as_it_is_when_told_to() {
    let place = on_postgres().await;
    let refused = async || {
        let opened = open_with(&place.url(), Schema::LeaveAsItIs).await;
        opened.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused().await.contains("latchkey migrate"));
    for _ in 0..2 {
        let mut migrate = std::process::Command::new(crate::support::latchkey());
        let done = migrate.args(["migrate", "--store-url", &place.url()]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    assert_eq!(refused().await, "");
    place.sql("UPDATE _sqlx_migrations SET version = 0").await;
    let told = refused().await;
    assert!(told.contains("is 0") && told.contains("latchkey migrate"), "{told}");
}

#[tokio::test]
async fn a_newer_schema_is_used_unless_it_says_that_it_must_be_known() {
    let place = on_postgres().await;
    place.open().await.close().await;
    place
        .sql(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'later', TRUE, '', 0)",
        )
        .await;
    place.open().await.close().await;
    place.sql("UPDATE feed SET least_schema = 9999").await;
    assert!(fault(&place.url()).await.contains("newer latchkey"));
    place.sql("UPDATE feed SET least_schema = 1, least_format = 2").await;
    assert!(fault(&place.url()).await.contains("format 2"));
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let place = on_postgres().await;
    place.sql("CREATE TABLE keys (name TEXT)").await;
    let told = fault(&place.url()).await;
    assert!(told.contains("another program"), "{told}");
    assert_eq!(
        place.sql("SELECT relname::text FROM pg_class WHERE relname = 'feed'").await.len(),
        0
    );
}

#[tokio::test]
async fn the_database_itself_refuses_to_forget() {
    let place = on_postgres().await;
    let store = place.open().await;
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    done(&store, revoke(made.id)).await;
    done(&store, rotate(key(&store, create_reader()).await.id, HOUR)).await;
    for (sql, told) in [
        ("DELETE FROM keys", "keys are never deleted"),
        ("TRUNCATE keys CASCADE", "keys are never deleted"),
        ("DELETE FROM accounts", "accounts are never deleted"),
        ("TRUNCATE accounts CASCADE", "are never deleted"),
        (
            "UPDATE keys SET revoke_time = NULL, revoke_reason = NULL, revoke_comment = NULL",
            "a revoked key is never changed",
        ),
        ("UPDATE audit SET actor = 'system:nobody'", "the audit trail is never rewritten"),
        ("DELETE FROM audit", "the audit trail is never deleted from"),
        ("TRUNCATE audit", "the audit trail is never deleted from"),
        ("UPDATE changes SET tag = 0", "changes are never rewritten"),
        ("DELETE FROM changes", "changes are never deleted"),
        ("TRUNCATE changes", "changes are never deleted"),
        ("UPDATE feed SET n = n - 1", "changes are numbered without a gap"),
    ] {
        let error = place.try_sql(sql).await.unwrap_err().to_string();
        assert!(error.contains(told), "{sql}: {error}");
    }
    assert!(found(&store, made.id).await.revocation.is_some());
}

#[tokio::test]
async fn the_rows_of_nodes_that_were_killed_go_when_another_starts() {
    let place = on_postgres().await;
    let store = place.open().await;
    with_account(&store, "developer").await;
    // Of nodes that could go on for a second and for a day.
    let row = |boot_id: u64, grace: Duration| NodeRow {
        boot_id,
        name: "a".into(),
        version: "1".into(),
        started: Timestamp::EPOCH,
        applied: None,
        bounds: Bounds { bound: Duration::from_secs(1), grace },
    };
    let renew = async |row: NodeRow| {
        let ask = ReadAsk { node: Some(row), must_renew: true, ..ReadAsk::default() };
        store.read(&ask).await.unwrap();
    };
    let rows = async || {
        let nodes = store.nodes(NodeQuery::default()).await.unwrap().unwrap().nodes;
        let mut rows: Vec<_> = nodes.iter().map(|node| node.row.boot_id).collect();
        rows.sort_unstable();
        rows
    };
    renew(row(1, Duration::ZERO)).await;
    renew(row(2, 24 * HOUR)).await;
    place.sql("UPDATE nodes SET renewed = renewed - 3700000000").await;
    // It has begun already.
    let goes_on = row(3, Duration::ZERO);
    let applied = Some(first_read(&store).await.position);
    renew(NodeRow { applied, ..goes_on }).await;
    assert_eq!(rows().await, [1, 2, 3]);
    renew(row(4, Duration::ZERO)).await;
    assert_eq!(rows().await, [2, 3, 4]);
}

// === Rows that make no sense ===

#[tokio::test]
async fn rows_that_make_no_sense_are_unreadable_and_stop_no_others() {
    let place = on_postgres().await;
    let store = place.open().await;
    with_account(&store, "developer").await;
    done(&store, create_account("other", "free")).await;
    let bad = key(&store, create_reader()).await;
    let newer = key(&store, create_reader()).await;
    let good = key(&store, create_reader()).await;
    place.sql(&format!("UPDATE keys SET scopes = '[\"no scope\"]' WHERE id = '{}'", bad.id)).await;
    place.sql(&format!("UPDATE keys SET format = 2 WHERE id = '{}'", newer.id)).await;
    let wanted = vec![bad.digest, newer.digest, good.digest];
    let page = Some(PageAsk { after: None, keys_max: 100, of_digests: false });
    let batch = store.read(&ReadAsk { wanted, page, ..ReadAsk::default() }).await.unwrap();
    assert!(batch.keys.contains(&good) && batch.keys.len() == 2 && batch.absent.is_empty());
    for key in [&bad, &newer] {
        assert!(is_lost(&batch, &Lost::Key(Some(key.digest))));
    }
    let error = store.key(bad.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { table: "keys", .. }), "{error}");
    place.sql("UPDATE policy SET document = '{\"what\":1}', tag = tag + 1").await;
    let batch = first_read(&store).await;
    assert!(batch.policy.is_none() && is_lost(&batch, &Lost::Policy));
    assert!(matches!(store.mutate(create_reader()).await, Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn a_connection_that_was_lost_while_nobody_used_it_is_not_missed() {
    let place = on_postgres().await;
    let Place::Postgres(server, database) = &place else { unreachable!() };
    let store = place.open().await;
    let root = with_account(&store, "developer").await;
    first_read(&store).await;
    found(&store, root.id).await;
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' \
         AND pid <> pg_backend_pid()"
    );
    server.sql(database, &end).await;
    done(&store, create_reader()).await;
    first_read(&store).await;
    found(&store, root.id).await;
    assert_eq!(reason(&store, create_account("acme", "free")).await, Reason::AccountExists);
}
