//! The program as a process: how it starts, refuses to start, stops, and what it leaves behind.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use latchkey::proto::v1::{CreateAccountRequest, CreateKeyRequest, CreateKeyResponse, Environment};
use tonic::Status;

use crate::support::{Folder, Server, eventually, latchkey};

mod commands;
mod development;
mod disk;
mod running;
mod starting;

/// How a start that was refused ended.
#[derive(Debug)]
struct Refused {
    code: Option<i32>,
    told: String,
}

/// Starts `latchkey` and waits for its end; one that goes on is killed, and fails the test.
async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Refused {
    let mut child = Command::new(latchkey())
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        eventually(Duration::from_mins(1), "its end", || child.try_wait().unwrap()).await
    });
    let Ok(status) = ended.await else {
        child.kill().unwrap();
        panic!("it went on: {arguments:?}");
    };
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    Refused { code: status.code(), told }
}

/// `latchkey serve` on this store and on free ports.
async fn serve(store: &Path, more: &[&str], environment: &[(&str, &str)]) -> Refused {
    let url = format!("sqlite://{}", store.display());
    let mut arguments = vec!["serve", "--store-url", &url];
    for flag in ["--grpc-listen", "--http-listen", "--operations-listen"] {
        if !more.contains(&flag) {
            arguments.extend([flag, "127.0.0.1:0"]);
        }
    }
    arguments.extend(more);
    run(&arguments, environment).await
}

/// Fails unless it ended with an error and said all of this, and a remedy.
fn assert_refused(refused: &Refused, told: &[&str]) {
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in told.iter().chain(&["error: "]) {
        assert!(refused.told.contains(part), "{part} is not in {}", refused.told);
    }
    assert!(!refused.told.contains("panicked"), "{}", refused.told);
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.map(|path| (name(&path), std::fs::read(&path).unwrap())).collect()
}

/// Runs SQL on a database by the real sqlite3.
pub(crate) fn sqlite(database: &str, sql: &str) -> String {
    let output = Command::new("sqlite3").args([database, sql]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) async fn make_account(server: &Server, root: &str, id: &str) {
    let request = CreateAccountRequest {
        account_id: id.into(),
        display_name: id.into(),
        plan: "enterprise".into(),
        ..Default::default()
    };
    server.accounts(root).await.create_account(request).await.unwrap();
}

pub(crate) async fn make_key(
    server: &Server,
    root: &str,
    account: &str,
) -> Result<CreateKeyResponse, Status> {
    let request = CreateKeyRequest {
        account_id: account.into(),
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    };
    Ok(server.keys(root).await.create_key(request).await?.into_inner())
}

// === Starts that are refused ===

#[tokio::test]
async fn a_port_that_is_taken_is_named_before_anything_is_made() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--grpc-listen", "--http-listen", "--operations-listen"] {
        let refused = serve(&folder.path().join("a.db"), &[flag, &address], &[]).await;
        let field = format!("{}.listen: ", flag.trim_matches('-').trim_end_matches("-listen"));
        assert_refused(&refused, &[&field, &address, "choose another port", "stop the program"]);
    }
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn a_store_that_cannot_be_written_says_what_to_do() {
    let folder = Folder::new();
    let missing = folder.path().join("none/latchkey.db");
    assert_refused(&serve(&missing, &[], &[]).await, &["make the folder first", "mkdir -p"]);
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let is_folder = serve(&other, &[], &[]).await;
    assert_refused(&is_folder, &["it is a folder; name a file in it"]);
    // Nobody makes files there, root included.
    let refused = serve(Path::new("/sys/latchkey.db"), &[], &[]).await;
    assert_refused(&refused, &["give this user the right to write"]);
    assert!(!folder.path().join("none").exists());
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_left_as_it_is() {
    let mut server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    for _ in 0..50 {
        make_key(&server, &root, "acme").await.unwrap();
    }
    server.stop().await;
    let database = server.database();
    let whole = std::fs::read(&database).unwrap();
    assert!(whole.len() > 8 * 4096, "{}", whole.len());
    let mut holed = whole.clone();
    for page in 2..whole.len() / 4096 {
        holed[page * 4096..page * 4096 + 64].fill(0xa5);
    }
    for (content, told) in [
        (holed, "it is damaged; move it away and put a backup in its place"),
        (whole[..whole.len() / 2].to_vec(), "it is damaged; move it away"),
        (vec![b'x'; 8192], "it is not an SQLite database"),
    ] {
        std::fs::write(&database, &content).unwrap();
        let refused = serve(Path::new(&database), &[], &[]).await;
        assert_refused(&refused, &[told, &database]);
        assert!(std::fs::read(&database).unwrap() == content, "the file was changed");
    }
}

#[tokio::test]
async fn the_database_of_a_newer_version_is_refused_and_left_as_it_is() {
    for (newer, told) in [
        (
            "INSERT INTO _sqlx_migrations SELECT 99, description, installed_on, success, checksum, \
             execution_time FROM _sqlx_migrations LIMIT 1",
            "was written by a newer latchkey",
        ),
        ("UPDATE feed SET least_format = 99", "start a newer version"),
    ] {
        let mut server = Server::start().await;
        server.stop().await;
        sqlite(&server.database(), newer);
        let dump = sqlite(&server.database(), ".dump");
        let refused = serve(Path::new(&server.database()), &[], &[]).await;
        assert_refused(&refused, &[told]);
        assert_eq!(sqlite(&server.database(), ".dump"), dump);
    }
}

#[tokio::test]
async fn the_database_of_another_program_is_left_alone() {
    let folder = Folder::new();
    let path = folder.path().join("other.db");
    sqlite(path.to_str().unwrap(), "CREATE TABLE theirs (a)");
    let before = std::fs::read(&path).unwrap();
    assert_refused(&serve(&path, &[], &[]).await, &["belongs to another program"]);
    assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
    assert!(files(folder.path()).keys().all(|name| !name.contains("-wal")));
}

#[tokio::test]
async fn a_second_process_on_the_same_store_is_refused() {
    let server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let refused = serve(Path::new(&server.database()), &[], &[]).await;
    assert_refused(&refused, &["is in use", "Stop that process first"]);
    let folder = Folder::new();
    let file = folder.path().join("token").display().to_string();
    let url = format!("sqlite://{}", server.database());
    let reset = ["root", "reset", "--store-url", &url, "--token-file", &file];
    assert_refused(&run(&reset, &[]).await, &["is in use"]);
    assert!(files(folder.path()).is_empty());
    make_key(&server, &root, "acme").await.unwrap();
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_word_on_callers_and_plaintext() {
    let folder = Folder::new();
    let store = folder.path().join("latchkey.db");
    let open = ["--grpc-listen", "0.0.0.0:0"];
    let both = serve(&store, &open, &[]).await;
    assert_refused(
        &both,
        &["who may ask", "`callers = \"key\"`", "plaintext", "`insecure = true`"],
    );
    let callers = [("LATCHKEY__GRPC__CALLERS", "key")];
    let plaintext = serve(&store, &open, &callers).await;
    assert_refused(&plaintext, &["in plaintext", "`insecure = true`"]);
    let insecure = [open[0], open[1], "--insecure"];
    assert_refused(&serve(&store, &insecure, &[]).await, &["`callers = \"key\"`"]);
    let http = ["--http-listen", "[::]:0"];
    assert_refused(&serve(&store, &http, &[]).await, &["http.listen", "`insecure = true`"]);
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_refused_before_anything_is_made() {
    let folder = Folder::new();
    let store = folder.path().join("latchkey.db");
    let beside = Folder::new();
    let file = beside.path().join("latchkey.toml");
    for (toml, environment, told) in [
        ("[grpc]\nlistn = 1\n", ("A", "b"), "did you mean `grpc.listen`?"),
        ("", ("LATCHKEY__GRPC__LISTN", "off"), "did you mean `LATCHKEY__GRPC__LISTEN`?"),
        ("", ("LATCHKEY__ROOT_TOKEN", "hm_live_x"), "root_token is no token"),
        ("", ("LATCHKEY__ROOT_TOKEN_FILE", "/nowhere/token"), "cannot read /nowhere/token"),
        ("", ("LATCHKEY__POLICY__FILE", "/nowhere/policy"), "cannot read the policy"),
        ("", ("LATCHKEY__GRPC__CALLERS", "mtls"), "needs grpc.tls_client_ca"),
        ("", ("LATCHKEY__TOKEN__PREFIX", "Bad"), "a letter first"),
        ("", ("LATCHKEY__SERVE__THREADS", "5000"), "from 0 to 1024"),
    ] {
        std::fs::write(&file, toml).unwrap();
        let config = ["--config", file.to_str().unwrap()];
        assert_refused(&serve(&store, &config, &[environment]).await, &[told]);
    }
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named() {
    let url = [("LATCHKEY__STORE__URL", "postgres://user:hunter2@127.0.0.1:1/keys")];
    let refused = run(&["serve"], &url).await;
    assert_refused(&refused, &["the database `keys` at 127.0.0.1:1: it cannot be reached"]);
    assert!(!refused.told.contains("hunter2"), "{}", refused.told);
}
