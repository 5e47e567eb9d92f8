//! The audit trail beside the changes.

use latchkey::key::KeyChange;

use super::support::place::Place;
use super::support::{
    HOUR, Shared, by, create_command, create_reader, done, first_read, key, new_key, rename,
    revoke, rotate, tip, update, update_command, with_account,
};

async fn busy(place: &Place) -> Shared {
    let store = place.open().await;
    let root = with_account(&store, "developer").await;
    let made = key(&store, by(&root, create_command(new_key("acme", &["memory:read"])))).await;
    done(&store, update(made.id, rename("another"))).await;
    let new = key(&store, rotate(made.id, HOUR)).await;
    done(&store, revoke(new.id)).await;
    store
}

pub(crate) async fn each_change_has_one_row_in_the_audit_trail(place: Place) {
    let store = busy(&place).await;
    let changes = first_read(&store).await.changes;
    let numbers: Vec<_> = changes.iter().map(|change| change.position.n.to_string()).collect();
    assert_eq!(numbers, (1..=tip(&store).await).map(|n| n.to_string()).collect::<Vec<_>>());
    let rows = place.sql("SELECT CAST(n AS TEXT) FROM audit ORDER BY n").await;
    assert_eq!(rows.concat(), numbers);
    let times = place.sql("SELECT CAST(at AS TEXT) FROM changes ORDER BY n").await.concat();
    assert!(times.is_sorted());
    store.close().await;
}

pub(crate) async fn the_audit_trail_tells_what_changed_and_no_secret(place: Place) {
    let store = place.open().await;
    let root = with_account(&store, "developer").await;
    let made = key(&store, by(&root, create_command(new_key("acme", &["memory:read"])))).await;
    let change = KeyChange { disabled: Some(true), ..rename("another") };
    done(&store, by(&root, update_command(made.id, change))).await;
    let rows = place
        .sql("SELECT actor, action, account_id, key_id, change, peer FROM audit ORDER BY n DESC")
        .await;
    let wanted = [
        format!("key:{}", root.id),
        "UpdateKey".into(),
        "acme".into(),
        made.id.to_string(),
        r#"{"after":{"disabled":true,"display_name":"another"},"before":{"disabled":false,"display_name":"a key"}}"#
            .into(),
        "192.0.2.1:5".into(),
    ];
    assert_eq!(rows[0], wanted);
    assert!(rows[1][4].starts_with(r#"{"after":{"#) && !rows[1][4].contains("digest"));
    assert_eq!(rows.last().unwrap()[0], "system:root");
    store.close().await;
}

pub(crate) async fn rows_that_change_together_have_a_change_each(place: Place) {
    let store = place.open().await;
    with_account(&store, "developer").await;
    let made = key(&store, create_reader()).await;
    done(&store, rotate(made.id, HOUR)).await;
    let rows = place.sql("SELECT action, key_id FROM audit ORDER BY n DESC LIMIT 2").await;
    assert_eq!((rows[0][0].as_str(), rows[1][0].as_str()), ("RotateKey", "RotateKey"));
    assert_eq!(rows[0][1], made.id.to_string());
    store.close().await;
}
