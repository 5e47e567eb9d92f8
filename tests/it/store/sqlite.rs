//! What only the SQLite store can go wrong at.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use latchkey::key::KeyState;
use latchkey::store::{Lost, PageAsk, ReadAsk, StoreError, open};

use super::support::place::on_sqlite;
use super::support::{
    HOUR, NOW, create_account, create_reader, done, first_read, found, is_lost, key, new_key,
    with_account,
};

/// Why a store of this path cannot be opened.
async fn fault(path: &Path) -> String {
    let url = format!("sqlite://{}", path.display());
    match open(&url).await {
        Ok(_) => panic!("{url} was opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_why() {
    let place = on_sqlite().await;
    let store = place.open().await;
    let fault = fault(&place.file()).await;
    assert!(fault.contains("in use") && fault.contains("latchkey.db.lock"), "{fault}");
    store.close().await;
    place.open().await.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let place = on_sqlite().await;
    std::fs::write(place.file(), "nothing that SQLite would know, and long enough".repeat(50))
        .unwrap();
    let fault = fault(&place.file()).await;
    assert!(fault.contains("not an SQLite database") && fault.contains("latchkey.db"), "{fault}");
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let place = on_sqlite().await;
    let store = place.open().await;
    with_account(&store, "enterprise").await;
    for _ in 0..50 {
        done(&store, create_reader()).await;
    }
    store.close().await;
    let mut bytes = std::fs::read(place.file()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xa5);
    std::fs::write(place.file(), bytes).unwrap();
    let fault = fault(&place.file()).await;
    assert!(fault.contains("is damaged") && fault.contains("backup"), "{fault}");
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let place = on_sqlite().await;
    place.open().await.close().await;
    place
        .sql(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'later', TRUE, x'00', 0)",
        )
        .await;
    let fault = fault(&place.file()).await;
    assert!(fault.contains("newer latchkey"), "{fault}");
}

#[tokio::test]
async fn records_of_a_newer_format_are_refused_at_the_start_when_they_must_be_known() {
    let place = on_sqlite().await;
    place.open().await.close().await;
    place.sql("UPDATE feed SET least_format = 2").await;
    let fault = fault(&place.file()).await;
    assert!(fault.contains("format 2"), "{fault}");
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let place = on_sqlite().await;
    std::fs::write(place.file(), "").unwrap();
    place.sql("CREATE TABLE recipes (name TEXT)").await;
    let fault = fault(&place.file()).await;
    assert!(fault.contains("another program"), "{fault}");
}

#[tokio::test]
async fn a_missing_folder_is_told_with_the_remedy() {
    let place = on_sqlite().await;
    let fault = fault(&place.file().with_file_name("none").join("latchkey.db")).await;
    assert!(fault.contains("mkdir -p"), "{fault}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told() {
    // The tests may run as root, who may write anywhere but below a file and into the kernel's.
    let place = on_sqlite().await;
    std::fs::write(place.file(), "").unwrap();
    let below_a_file = fault(&place.file().join("latchkey.db")).await;
    assert!(below_a_file.contains("is not a folder"), "{below_a_file}");
    let in_the_kernel = fault(Path::new("/proc/latchkey.db")).await;
    assert!(in_the_kernel.contains("/proc/latchkey.db"), "{in_the_kernel}");
}

#[tokio::test]
async fn a_folder_is_no_database() {
    let place = on_sqlite().await;
    std::fs::create_dir(place.file()).unwrap();
    let fault = fault(&place.file()).await;
    assert!(fault.contains("it is a folder"), "{fault}");
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    for path in [":memory:", ""] {
        let fault = fault(Path::new(path)).await;
        assert!(fault.contains("must name a file"), "{fault}");
    }
}

#[tokio::test]
async fn only_its_owner_may_read_the_files() {
    let place = on_sqlite().await;
    let store = place.open().await;
    with_account(&store, "free").await;
    for file in std::fs::read_dir(place.file().parent().unwrap()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.file_name());
    }
    store.close().await;
}

#[tokio::test]
async fn closing_leaves_one_database_file() {
    let place = on_sqlite().await;
    let store = place.open().await;
    with_account(&store, "free").await;
    first_read(&store).await;
    store.close().await;
    let log = place.file().with_file_name("latchkey.db-wal");
    assert!(std::fs::metadata(log).map_or(0, |log| log.len()) == 0);
}

#[tokio::test]
async fn one_key_that_makes_no_sense_is_unreadable_and_stops_no_other() {
    let place = on_sqlite().await;
    let store = place.open().await;
    with_account(&store, "developer").await;
    let bad = key(&store, create_reader()).await;
    let newer = key(&store, create_reader()).await;
    let garbled = key(&store, create_reader()).await;
    let good = key(&store, create_reader()).await;
    place
        .sql(
            "UPDATE keys SET scopes = '[\"no scope\"]' WHERE id = (SELECT id FROM keys \
             WHERE account_id = 'acme' ORDER BY id LIMIT 1); \
             UPDATE keys SET format = 2 WHERE id = (SELECT id FROM keys \
             WHERE account_id = 'acme' ORDER BY id LIMIT 1 OFFSET 1); \
             UPDATE keys SET display_name = CAST(x'6bff' AS TEXT) WHERE id = (SELECT id FROM keys \
             WHERE account_id = 'acme' ORDER BY id LIMIT 1 OFFSET 2)",
        )
        .await;
    let wanted = vec![bad.digest, newer.digest, garbled.digest, good.digest];
    let page = Some(PageAsk { after: None, keys_max: 100, of_digests: false });
    let ask = ReadAsk { wanted, page, ..ReadAsk::default() };
    let batch = store.read(&ask).await.unwrap();
    assert!(batch.keys.contains(&good) && batch.keys.len() == 2);
    assert!(batch.absent.is_empty());
    // Each as wanted, and as on the page.
    assert_eq!(batch.unreadable.len(), 6);
    for key in [&bad, &newer, &garbled] {
        assert!(is_lost(&batch, &Lost::Key(Some(key.digest))));
    }
    let error = store.key(bad.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { table: "keys", .. }), "{error}");
    store.close().await;
}

#[tokio::test]
async fn one_account_that_makes_no_sense_is_unreadable_and_stops_no_other() {
    let place = on_sqlite().await;
    let store = place.open().await;
    with_account(&store, "developer").await;
    done(&store, create_account("other", "free")).await;
    let good = key(&store, super::support::create(new_key("other", &["memory:read"]))).await;
    done(&store, create_reader()).await;
    place.sql("UPDATE accounts SET format = 2 WHERE id = 'acme'").await;
    let page = Some(PageAsk { after: None, keys_max: 100, of_digests: false });
    let batch = store.read(&ReadAsk { page, ..ReadAsk::default() }).await.unwrap();
    assert_eq!(batch.unreadable.len(), 1);
    assert!(is_lost(&batch, &Lost::Account(super::support::id("acme"))));
    assert!(batch.accounts.iter().any(|account| account.id == good.account));
    store.close().await;
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_is_unreadable() {
    let place = on_sqlite().await;
    let store = place.open().await;
    with_account(&store, "developer").await;
    place.sql("UPDATE policy SET document = '{\"what\":1}'").await;
    let batch = first_read(&store).await;
    assert!(batch.policy.is_none() && is_lost(&batch, &Lost::Policy));
    assert!(matches!(store.mutate(create_reader()).await, Err(StoreError::Corrupt { .. })));
    store.close().await;
}

#[tokio::test]
async fn the_database_itself_refuses_to_forget() {
    let place = on_sqlite().await;
    let store = place.open().await;
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    done(&store, super::support::revoke(made.id)).await;
    done(&store, super::support::rotate(key(&store, create_reader()).await.id, HOUR)).await;
    for sql in [
        "DELETE FROM keys",
        "DELETE FROM accounts",
        "UPDATE keys SET revoke_time = NULL, revoke_reason = NULL, revoke_comment = NULL",
        "UPDATE audit SET actor = 'system:nobody'",
        "DELETE FROM audit",
        "UPDATE changes SET tag = 0",
        "DELETE FROM changes",
        "UPDATE feed SET n = n - 1",
    ] {
        let error = place.try_sql(sql).await.unwrap_err();
        assert!(error.to_string().contains("1811"), "{sql}: {error}");
    }
    assert_eq!(found(&store, made.id).await.state(NOW), KeyState::Revoked);
    store.close().await;
}
