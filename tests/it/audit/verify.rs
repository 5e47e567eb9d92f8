//! `latchkey audit verify`, beside a server and without one.

use rustix::process::Signal;
use serde_json::Value;

use super::{Office, create, id_of};
use crate::cli::latchkey;

#[tokio::test]
async fn a_store_is_verified_in_use_stopped_and_after_a_crash() {
    let mut office = Office::open().await;
    create(&office.server, &office.root, "acme", &["memory:read"]).await;
    let url = format!("sqlite://{}", office.server.database());
    let verify = |form| latchkey(&["audit", "verify", "--store-url", &url, "--output", form]);
    let whole = "The store is whole: 7 changes with their entries, 3 keys, 3 accounts and 1 policy \
                 compared.\n";
    let ended = verify("table");
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), whole), "{ended:?}");
    office.server.signal(Signal::KILL);
    office.server.wait_for_end(std::time::Duration::from_secs(20)).await;
    assert_eq!(verify("table").out, whole, "what it wrote is in its log");
    office.server = office.server.again().start().await;
    assert_eq!(verify("table").out, whole);
    office.server.stop().await;
    assert_eq!(verify("table").out, whole);
    let told: Value = serde_json::from_str(&verify("json").out).unwrap();
    assert_eq!(
        (&told["whole"], &told["changes"], &told["faultCount"]),
        (&true.into(), &7.into(), &0.into())
    );
    office.server = office.server.again().start().await;
}

#[tokio::test]
async fn a_fault_is_a_line_of_its_own_and_an_exit_code() {
    let mut office = Office::open().await;
    let made = create(&office.server, &office.root, "acme", &["memory:read"]).await;
    office.server.stop().await;
    let tampering = format!(
        "DROP TRIGGER audit_stays; DELETE FROM audit WHERE n = 5; \
         UPDATE keys SET scopes = '[\"memory:admin\"]' WHERE id = '{}'",
        id_of(&made)
    );
    let done = std::process::Command::new("sqlite3")
        .arg(office.server.database())
        .arg(tampering)
        .status()
        .unwrap_or_else(|error| {
            panic!("sqlite3 cannot be started ({error}); `./check` installs it")
        });
    assert!(done.success());
    let url = format!("sqlite://{}", office.server.database());
    let ended = latchkey(&["audit", "verify", "--store-url", &url]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let scopes = format!(
        "fault: key {}: scopes: expected [\"memory:read\"], found [\"memory:admin\"]",
        id_of(&made)
    );
    let lines: Vec<_> = ended.out.lines().collect();
    assert!(
        lines.contains(&"fault: change 5: audit entry: expected one, found none"),
        "{lines:#?}"
    );
    assert!(lines.contains(&scopes.as_str()), "{lines:#?}");
    let trigger = "fault: schema: trigger audit_stays: expected one, found none";
    assert!(lines.contains(&trigger), "{lines:#?}");
    assert!(
        lines.last().unwrap().starts_with("The store is not whole, with 4 faults"),
        "{lines:#?}"
    );
    let json = latchkey(&["audit", "verify", "--store-url", &url, "-o", "json"]);
    assert_eq!(json.code, Some(1));
    let told: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(told["faults"][0]["place"], "change 5");
    assert_eq!(told["faults"].as_array().unwrap().len(), 4);
}

#[test]
fn a_store_that_is_not_there_is_said_so_and_not_made() {
    let path = std::env::temp_dir().join("latchkey-nowhere.db");
    let url = format!("sqlite://{}", path.display());
    let ended = latchkey(&["audit", "verify", "--store-url", &url]);
    assert_eq!(ended.code, Some(1));
    for part in ["there is no `", "latchkey-nowhere.db", "store.url"] {
        assert!(ended.err.contains(part), "{ended:?}");
    }
    assert!(!path.exists());
}
