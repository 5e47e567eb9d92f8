//! The disk that loses power does: SQLite's own tool loses on it what it does not sync, and nothing else.

use std::process::Command;

use crate::support::{Dice, Disk, Folder, Survivors};

/// Makes a database on such a disk, lets the power go, and says what is there then.
fn rows_left(synchronous: &str, survivors: Survivors, seed: u64) -> String {
    let (folder, outside) = (Folder::new(), Folder::new());
    let path = folder.path().canonicalize().unwrap();
    let disk = Disk::of(&path, &outside.path().join("trace"));
    let database = path.join("a.db");
    let written = Command::new("sqlite3")
        .envs(disk.environment(None))
        .arg(&database)
        .arg(format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; CREATE TABLE t (n); \
             INSERT INTO t VALUES (1), (2); INSERT INTO t VALUES (3)"
        ))
        .output()
        .unwrap();
    assert!(written.status.success(), "{written:?}");
    let as_it_was = std::fs::read(&database).unwrap();
    disk.lose_power(survivors, &mut Dice::new(seed));
    if survivors == Survivors::All {
        assert!(std::fs::read(&database).unwrap() == as_it_was, "a call was not noticed");
    }
    let read = Command::new("sqlite3").arg(&database).arg("SELECT count(*) FROM t").output();
    String::from_utf8(read.unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn what_is_synced_outlives_the_loss_of_power() {
    assert_eq!(rows_left("FULL", Survivors::Synced, 0), "3");
    for seed in 0..10 {
        assert_eq!(rows_left("FULL", Survivors::Some, seed), "3", "seed {seed}");
    }
}

#[test]
fn what_is_not_synced_does_not() {
    assert_ne!(rows_left("OFF", Survivors::Synced, 0), "3");
    assert_eq!(rows_left("OFF", Survivors::All, 0), "3");
    let whole = (0..20).filter(|seed| rows_left("OFF", Survivors::Some, *seed) == "3").count();
    assert!(whole < 20, "nothing was ever lost");
}
