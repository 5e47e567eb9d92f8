//! Starts under unusual names, after starts that failed, and with settings that are not looked at.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{assert_refused, files, make_account, run, serve, sqlite};
use crate::support::{Folder, Server, eventually};

/// Tokens as somebody might choose them.
const CHOSEN: &str = "hm_live_0000000000000000000000000000002dlYSp";
const FOR_TESTS: &str = "hm_test_abcdefghijklmnopqrstuvwxyzABCD4Sf8P8";

fn folder_of(server: &Server) -> PathBuf {
    Path::new(&server.database()).parent().unwrap().to_owned()
}

/// A database with its tables and nothing in them, as a start leaves it that was interrupted.
async fn unseeded(folder: &Path) -> PathBuf {
    let path = folder.join("latchkey.db");
    let url = format!("sqlite://{}", path.display());
    latchkey::store::open(&url).await.unwrap().close().await;
    path
}

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_keys().collect()
}

async fn logged(server: &Server, words: &str) {
    let is_there = || server.log().contains(words).then_some(());
    eventually(std::time::Duration::from_secs(10), words, is_there).await;
}

// === Names of the database ===

#[tokio::test]
async fn a_second_process_is_refused_by_whatever_name_it_is_given() {
    let server = Server::start().await;
    let database = PathBuf::from(server.database());
    let elsewhere = Folder::new();
    let link = elsewhere.path().join("link.db");
    symlink(&database, &link).unwrap();
    let to_folder = elsewhere.path().join("folder");
    symlink(folder_of(&server), &to_folder).unwrap();
    let around = folder_of(&server).join(".").join("latchkey.db");
    for name in [&link, &to_folder.join("latchkey.db"), &around] {
        assert_refused(&serve(name, &[], &[]).await, &["is in use", "Stop that process first"]);
    }
}

#[tokio::test]
async fn a_second_process_is_refused_by_a_hard_link_too() {
    let mut server = Server::start().await;
    let hard = folder_of(&server).join("hard.db");
    std::fs::hard_link(server.database(), &hard).unwrap();
    let told = ["2 names (hard links)", "Remove all but one", "symbolic link"];
    assert_refused(&serve(&hard, &[], &[]).await, &told);
    // Nor by the first name, once nobody holds it.
    server.stop().await;
    assert_refused(&serve(Path::new(&server.database()), &[], &[]).await, &told);
    std::fs::remove_file(&hard).unwrap();
    server.again().start().await;
}

#[tokio::test]
async fn a_link_to_a_database_that_is_not_there_yet_makes_it() {
    let mut server = Server::start().await;
    server.stop().await;
    std::fs::remove_file(server.database()).unwrap();
    let elsewhere = Folder::new();
    symlink(elsewhere.path().join("real.db"), server.database()).unwrap();
    let mut server = server.again().start().await;
    server.stop().await;
    assert_eq!(names(elsewhere.path()), ["real.db", "real.db.lock"]);
}

#[tokio::test]
async fn a_path_with_parameters_is_refused_before_it_becomes_a_name() {
    let folder = Folder::new();
    for path in ["x.db?mode=ro", "x.db#1"] {
        let refused = serve(&folder.path().join(path), &[], &[]).await;
        assert_refused(&refused, &["--store-url: store.url: ", "parameters are not taken", "help"]);
    }
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn resetting_the_root_key_makes_no_database() {
    let folder = Folder::new();
    let url = format!("sqlite://{}/latchkye.db", folder.path().display());
    let file = folder.path().join("token").display().to_string();
    let reset = run(&["root", "reset", "--store-url", &url, "--token-file", &file], &[]).await;
    assert_refused(&reset, &["there is no database at", "latchkye.db", "help: name the one"]);
    assert!(files(folder.path()).is_empty());
}

// === First starts that failed ===

#[tokio::test]
async fn the_token_of_an_interrupted_start_is_kept_aside_and_does_not_stop_the_next() {
    let mut server = Server::start().await;
    for number in 1..=2 {
        let leftover = server.root_token();
        server.stop().await;
        std::fs::remove_file(server.database()).unwrap();
        server = server.again().start().await;
        let old = format!("{}.root-token.old-{number}", server.database());
        assert_eq!(std::fs::read_to_string(&old).unwrap().trim(), leftover);
        logged(&server, "opens nothing in this store").await;
        let root = server.root_token();
        assert_ne!(root, leftover);
        make_account(&server, &root, "acme").await;
    }
}

#[tokio::test]
async fn a_first_start_that_changed_nothing_leaves_neither_token_nor_log() {
    let folder = Folder::new();
    let store = unseeded(folder.path()).await;
    let path = store.to_str().unwrap();
    let full =
        "CREATE TRIGGER full BEFORE INSERT ON keys BEGIN SELECT RAISE(ABORT, 'no room'); END";
    sqlite(path, full);
    assert_refused(&serve(&store, &[], &[]).await, &["no room"]);
    assert_eq!(names(folder.path()), ["latchkey.db", "latchkey.db.lock"]);
}

#[tokio::test]
async fn a_reset_that_changed_nothing_leaves_no_token() {
    let mut server = Server::start().await;
    server.stop().await;
    let full =
        "CREATE TRIGGER full BEFORE INSERT ON keys BEGIN SELECT RAISE(ABORT, 'no room'); END";
    sqlite(&server.database(), full);
    let url = format!("sqlite://{}", server.database());
    let file = format!("{}.new-token", server.database());
    let reset = run(&["root", "reset", "--store-url", &url, "--token-file", &file], &[]).await;
    assert_refused(&reset, &["no room"]);
    let names = names(&folder_of(&server));
    assert_eq!(names, ["latchkey.db", "latchkey.db.lock", "latchkey.db.root-token"]);
}

// === Settings that a store makes superfluous ===

#[tokio::test]
async fn the_policy_file_is_looked_at_only_while_the_store_is_empty() {
    let nowhere = ("LATCHKEY__POLICY__FILE", "/nowhere/policy.toml");
    let folder = Folder::new();
    let store = unseeded(folder.path()).await;
    let refused = serve(&store, &[], &[nowhere]).await;
    assert_refused(
        &refused,
        &["policy.file: cannot read the policy /nowhere/policy.toml", "help: "],
    );
    assert_eq!(names(folder.path()), ["latchkey.db", "latchkey.db.lock"]);

    let wrong = folder.path().join("policy.toml");
    std::fs::write(&wrong, "[[plans]]\nnam = 1\n").unwrap();
    let wrong = ("LATCHKEY__POLICY__FILE", wrong.to_str().unwrap());
    let refused = serve(&store, &[], &[wrong]).await;
    assert_refused(&refused, &["policy.file: ", "help: mend it", "leave policy.file out"]);

    let mut server = Server::start().await;
    server.stop().await;
    server.again().environment(nowhere.0, nowhere.1).start().await;
}

#[tokio::test]
async fn a_root_token_that_is_not_looked_at_is_told() {
    let mut server = Server::start().await;
    assert!(!server.log().contains("is not looked at"));
    server.stop().await;
    let server = server.again().environment("LATCHKEY__ROOT_TOKEN", CHOSEN).start().await;
    logged(&server, "root_token is not looked at").await;
    assert!(!server.log().contains(&CHOSEN[12..]));
}

#[tokio::test]
async fn a_root_token_that_cannot_be_one_is_found_by_the_check() {
    for (name, prefix, told) in [
        (FOR_TESTS, "hm", "it must begin with `hm_live_`"),
        (CHOSEN, "acme", "it must begin with `acme_live_`"),
        ("hm_live_x", "hm", "root_token is no token"),
    ] {
        let environment = [("LATCHKEY__ROOT_TOKEN", name), ("LATCHKEY__TOKEN__PREFIX", prefix)];
        let refused = run(&["config", "check"], &environment).await;
        assert_refused(&refused, &["LATCHKEY__ROOT_TOKEN: ", told, "help: "]);
        assert!(!refused.told.contains(name), "{}", refused.told);
    }
}
