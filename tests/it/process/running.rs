//! Stopping, starting again, the root key, the clock, and what is never written to the log.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use latchkey::proto::v1::{
    AuthorizeRequest, CreateKeyRequest, DecisionReason, GetKeyRequest, Key, ListKeysRequest,
    LookupKeyRequest, RevokeKeyRequest, UpdateKeyRequest, lookup_key_request::By,
    revoke_key_request::Target,
};
use rustix::process::Signal;
use tonic::Code;

use super::{files, make_account, make_key, run, sqlite};
use crate::support::{Folder, Server, eventually, reason_of};

/// A token as somebody might choose one.
const CHOSEN: &str = "hm_live_0000000000000000000000000000002dlYSp";
const A_DAY_IN_MICROS: i64 = 86_400_000_000;

/// Waits until the log, which is read beside the test, says so.
async fn logged(server: &Server, words: &str) {
    let is_there = || server.log().contains(words).then_some(());
    eventually(Duration::from_secs(10), words, is_there).await;
}

async fn reason(server: &Server, token: &str) -> DecisionReason {
    server.authorize(token, "memory:read").await.reason()
}

#[tokio::test]
async fn a_signal_to_stop_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start().await;
        server.signal(signal);
        let status = server.wait_for_end(Duration::from_secs(10)).await;
        assert_eq!(status.code(), Some(0));
        logged(&server, "\"stopped\"").await;
        let files = files(PathBuf::from(server.database()).parent().unwrap());
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["latchkey.db", "latchkey.db.lock", "latchkey.db.root-token"]);
    }
}

#[tokio::test]
async fn a_server_that_serves_is_alive_and_ready() {
    let server = Server::start().await;
    for path in ["livez", "readyz"] {
        let url = format!("http://{}/{path}", server.operations());
        let curl = std::process::Command::new("curl").args(["-sSf", &url]).status().unwrap();
        assert!(curl.success(), "{path}");
    }
    let health = server.grpcurl_json("", "grpc.health.v1.Health/Check", "{}");
    assert_eq!(health["status"], "SERVING");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start().await;
    // A call that never comes to its end.
    let tcp = tokio::net::TcpStream::connect(server.grpc()).await.unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let request = http::Request::post("http://localhost/latchkey.v1.KeyService/GetKey")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {}", server.root_token()))
        .body(())
        .unwrap();
    let (_answer, mut stream) = send.send_request(request, false).unwrap();
    stream.send_data(bytes::Bytes::from_static(&[0]), false).unwrap();
    // The server has taken the call up when it answers another one on the same connection.
    let other = http::Request::post("http://localhost/none").body(()).unwrap();
    send.ready().await.unwrap().send_request(other, true).unwrap().0.await.unwrap();

    server.signal(Signal::TERM);
    logged(&server, "stopping").await;
    assert!(server.ended().is_none(), "the call in flight may end");
    server.signal(Signal::TERM);
    let status = server.wait_for_end(Duration::from_secs(3)).await;
    assert_eq!(status.code(), Some(1));
    connection.abort();
}

#[tokio::test]
async fn a_restart_keeps_keys_revocations_and_the_policy() {
    let mut server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let kept = make_key(&server, &root, "acme").await.unwrap();
    let revoked = make_key(&server, &root, "acme").await.unwrap();
    let target = Some(Target::Token(revoked.token.clone()));
    let revoke = RevokeKeyRequest { target, ..Default::default() };
    server.keys(&root).await.revoke_key(revoke).await.unwrap();
    let mut policies = server.policies(&root).await;
    let mut policy = policies.get_policy(latchkey::proto::v1::GetPolicyRequest {}).await.unwrap();
    let mut policy = policy.get_mut().policy.take().unwrap();
    policy.accepted_prefixes.push("older".into());
    let apply =
        latchkey::proto::v1::ApplyPolicyRequest { policy: Some(policy), ..Default::default() };
    let applied = policies.apply_policy(apply).await.unwrap().into_inner().policy;
    let revision = server.authorize(&kept.token, "memory:read").await.revision;

    for is_killed in [false, true] {
        if is_killed {
            server.signal(Signal::KILL);
            server.wait_for_end(Duration::from_secs(10)).await;
        } else {
            server.stop().await;
        }
        server = server.again().start().await;
        let said = server.authorize(&kept.token, "memory:read").await;
        assert_eq!((said.allowed, &said.revision), (true, &revision), "{said:?}");
        assert_eq!(reason(&server, &revoked.token).await, DecisionReason::KeyRevoked);
        let mut policies = server.policies(&root).await;
        let policy = policies.get_policy(latchkey::proto::v1::GetPolicyRequest {}).await.unwrap();
        assert_eq!(policy.into_inner().policy, applied);
    }
}

// === The root key ===

#[tokio::test]
async fn the_root_key_is_made_once_and_its_token_is_for_its_owner_alone() {
    let mut server = Server::build().argument("--log-level").argument("trace").start().await;
    let root = server.root_token();
    let path = format!("{}.root-token", server.database());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let database = std::fs::metadata(server.database()).unwrap().permissions().mode();
    assert_eq!(database & 0o777, 0o600);
    assert!(!server.log().contains(&root[12..]) && server.printed().is_empty());
    assert!(server.log().contains(&path), "the log says where it is");

    server.stop().await;
    std::fs::remove_file(&path).unwrap();
    let server = server.again().start().await;
    assert!(!std::path::Path::new(&path).exists(), "it is not made again");
    let mut keys = server.keys(&root).await;
    let keys = keys.list_keys(ListKeysRequest::default()).await.unwrap().into_inner().keys;
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].scopes, ["latchkey:admin"]);
}

#[tokio::test]
async fn a_root_token_can_be_given_in_a_file() {
    let folder = Folder::new();
    let file = folder.path().join("root");
    std::fs::write(&file, format!("{CHOSEN}\n")).unwrap();
    let path = file.to_str().unwrap();
    let server = Server::build().environment("LATCHKEY__ROOT_TOKEN_FILE", path).start().await;
    make_account(&server, CHOSEN, "acme").await;
    assert!(!std::path::Path::new(&format!("{}.root-token", server.database())).exists());
    assert!(!server.log().contains(&CHOSEN[30..]));
}

#[tokio::test]
async fn a_root_token_that_was_given_must_be_one_of_ours() {
    let mut server = Server::build()
        .environment("LATCHKEY__ROOT_TOKEN", "hm_test_abcdefghijklmnopqrstuvwxyzABCD4Sf8P8")
        .launch();
    let status = server.wait_for_end(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(1));
    logged(&server, "it must begin with `hm_live_`").await;
    assert!(!server.log().contains("abcdefghijkl"));
}

#[tokio::test]
async fn resetting_the_root_key_revokes_the_old_one() {
    let mut server = Server::start().await;
    let old = server.root_token();
    make_account(&server, &old, "acme").await;
    server.stop().await;
    let url = format!("sqlite://{}", server.database());
    let file = format!("{}.new-token", server.database());
    let reset = ["root", "reset", "--store-url", &url, "--token-file", &file];
    let ended = run(&reset, &[]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let new = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!ended.told.contains(&new));
    // The file is there already, and is not written over.
    let again = run(&reset, &[]).await;
    super::assert_refused(&again, &["name a file that does not exist yet"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), new);

    let server = server.again().start().await;
    make_key(&server, &new, "acme").await.unwrap();
    let refused = make_key(&server, &old, "acme").await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason_of(&refused)),
        (Code::Unauthenticated, "INVALID_CREDENTIAL")
    );
    assert_eq!(reason(&server, &old).await, DecisionReason::KeyRevoked);
    let audited =
        sqlite(&server.database(), "SELECT DISTINCT actor FROM audit WHERE action = 'ResetRoot'");
    assert_eq!(audited, "system:root-reset");
}

#[tokio::test]
async fn an_empty_store_has_no_root_key_to_reset() {
    let folder = Folder::new();
    let url = format!("sqlite://{}/latchkey.db", folder.path().display());
    latchkey::store::open(&url).await.unwrap().close().await;
    let file = folder.path().join("token").display().to_string();
    let ended = run(&["root", "reset", "--store-url", &url, "--token-file", &file], &[]).await;
    super::assert_refused(&ended, &["start the service once; it makes one"]);
    let names: Vec<_> = files(folder.path()).into_keys().collect();
    assert_eq!(names, ["latchkey.db", "latchkey.db.lock"]);
}

// === The clock ===

#[tokio::test]
async fn time_does_not_go_back_across_a_restart() {
    let mut server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let key = make_key(&server, &root, "acme").await.unwrap().key.unwrap();
    server.stop().await;
    let micros = |time: Option<prost_types::Timestamp>| {
        let time = time.unwrap();
        time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
    };
    // As if the machine's clock had been set back by a day since.
    let tomorrow = micros(key.create_time) + A_DAY_IN_MICROS;
    sqlite(&server.database(), &format!("UPDATE feed SET kept_time = {tomorrow}"));
    let mut last = tomorrow;
    for _ in 0..2 {
        server = server.again().start().await;
        logged(&server, "clock is behind the time that was kept").await;
        let key = make_key(&server, &root, "acme").await.unwrap().key.unwrap();
        let made = micros(key.create_time);
        assert!(made >= last, "{made} is before {last}");
        last = made;
        server.stop().await;
    }
}

// === The log ===

#[tokio::test]
async fn no_token_is_in_the_log_at_any_level() {
    let mut server = Server::build().argument("--log-level").argument("trace").start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let token = make_key(&server, &root, "acme").await.unwrap().token;
    let bent = format!("{}x", &token[..token.len() - 1]);
    for secret in [&root, &token, &bent, &format!("Bearer {token}")] {
        send_everywhere(&server, &root, secret).await;
    }
    let target = Some(Target::Token(token.clone()));
    let revoke = RevokeKeyRequest { target, ..Default::default() };
    server.keys(&root).await.revoke_key(revoke).await.unwrap();
    assert_eq!(reason(&server, &token).await, DecisionReason::KeyRevoked);
    server.stop().await;
    logged(&server, "\"stopped\"").await;
    assert!(server.log().contains("DEBUG"), "the log was written at that level");
    for token in [&root, &token] {
        // What a hint does not show.
        let secret = &token[12..token.len() - 4];
        let text = [server.log(), server.printed()].concat();
        let line = text.lines().find(|line| line.contains(&secret[..16]));
        assert_eq!(line, None, "{secret} is in the log");
    }
}

/// Sends a token where it belongs, and in every field that a caller may take for the right one.
async fn send_everywhere(server: &Server, root: &str, secret: &str) {
    let mut keys = server.keys(root).await;
    let mut decisions = server.decisions().await;
    let secret_text = || secret.to_owned();
    let only_who = AuthorizeRequest { authenticate_only: true, ..Default::default() };
    let with_scope =
        AuthorizeRequest { required_scope: "memory:write".into(), ..Default::default() };
    for question in [
        AuthorizeRequest { token: secret_text(), ..with_scope },
        AuthorizeRequest { required_scope: secret_text(), ..Default::default() },
        AuthorizeRequest { client_address: secret_text(), ..only_who.clone() },
        AuthorizeRequest { min_revision: secret_text(), ..only_who },
    ] {
        drop(decisions.authorize(question).await);
    }
    for by in [By::Token(secret_text()), By::Hint(secret_text())] {
        drop(keys.lookup_key(LookupKeyRequest { by: Some(by) }).await);
    }
    drop(keys.get_key(GetKeyRequest { key_id: secret_text() }).await);
    let page_token = secret_text();
    drop(keys.list_keys(ListKeysRequest { page_token, ..Default::default() }).await);
    let scopes = vec![secret_text()];
    let new = CreateKeyRequest { account_id: "acme".into(), scopes, ..Default::default() };
    drop(keys.create_key(new).await);
    let paths = vec![secret_text()];
    let update_mask = Some(prost_types::FieldMask { paths });
    let key = Some(Key::default());
    drop(keys.update_key(UpdateKeyRequest { key, update_mask, ..Default::default() }).await);
    drop(make_key(server, secret, "acme").await);
    drop(make_key(server, root, secret).await);
    let bearer = format!("Bearer {secret}");
    for header in [("authorization", &*bearer), ("authorization", secret), ("x-api-key", secret)] {
        crate::gateways::forward_auth::ask(server, "scope=memory:write", &[header]);
    }
    let in_query = secret.replace(' ', "+");
    for query in [format!("{in_query}=1"), format!("scope={in_query}"), format!("token={in_query}")]
    {
        crate::gateways::forward_auth::ask(server, &query, &[]);
    }
}
