//! Promise 6: a token is in no log, metric, span, error, cache, dump or process argument.
//!
//! Canaries go through every call of the API, every listener and every command, in their place and in every other, with
//! the log at its most talkative. Then all that was written is searched for any twelve characters of any of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use latchkey::proto::v1::lookup_key_request::By;
use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{
    Account, AuthorizeRequest, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse,
    Environment, LookupKeyRequest, RevokeKeyRequest, RotateKeyRequest, UpdateAccountRequest,
};
use prost::Message as _;
use prost_types::FieldMask;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::canary::{Canaries, nearly, token};
use self::messages::Api;
use crate::support::frames::grpc_message;
use crate::support::{Folder, Server};
use crate::telemetry::collector::{Collector, Manner};

pub(crate) mod canary;
mod commands;
mod messages;

/// All that was written somewhere, by where it was.
#[derive(Default)]
struct Written(BTreeMap<String, Vec<u8>>);

impl Written {
    fn add(&mut self, place: impl Into<String>, bytes: impl AsRef<[u8]>) {
        self.0.entry(place.into()).or_default().extend_from_slice(bytes.as_ref());
    }

    /// What lies in a folder, links and folders in it aside.
    fn add_files(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                self.add(format!("the file {}", path.display()), std::fs::read(&path).unwrap());
            }
        }
    }

    /// What the machine shows of a process.
    fn add_process(&mut self, id: i32) {
        for name in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
            self.add(format!("/proc/PID/{name}"), bytes);
        }
    }

    fn demand_none_of(&self, canaries: &Canaries) {
        let found: Vec<_> = self
            .0
            .iter()
            .filter_map(|(place, bytes)| Some(format!("in {place}: {}", canaries.find(bytes)?)))
            .collect();
        assert!(found.is_empty(), "tokens were written:\n{}", found.join("\n\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_written_anywhere() {
    let (mut canaries, mut written) = (Canaries::default(), Written::default());
    let (root, unknown) = (token(), token());
    let nearly = nearly(&unknown);
    for canary in nearly.iter().chain([&root, &unknown]) {
        canaries.watch(canary);
    }
    let secrets = Folder::new();
    let root_file = secrets.path().join("root");
    std::fs::write(&root_file, &root).unwrap();
    let collector = Collector::start(Manner::Takes).await;
    let mut server = Server::build()
        .environment("LATCHKEY__ROOT_TOKEN_FILE", root_file.to_str().unwrap())
        .environment("LATCHKEY__LOG__LEVEL", "trace")
        .environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .environment("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .environment("LATCHKEY__TELEMETRY__SAMPLER", "always_on")
        .start()
        .await;
    let known = live_through(&server, &root, &mut canaries, &mut written).await;

    for canary in nearly.iter().chain([&known, &unknown]) {
        everywhere_in_the_api(&server, &root, canary, &mut written).await;
        everywhere_in_headers(&server, &root, canary, &mut written).await;
        everywhere_in_http1(&server, canary, &mut written).await;
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        written.add(path, http1(server.operations(), request.as_bytes()).await);
    }
    written.add_process(server.process_id());
    let folder = Path::new(&server.database()).parent().unwrap().to_owned();
    written.add_files(&folder);
    assert_eq!(server.stop().await.code(), Some(0));
    written.add_files(&folder);
    let log = server.log();
    assert!(log.contains("\"TRACE\"") || log.contains("\"DEBUG\""), "the log is talkative");
    written.add("the log", log);
    written.add("stdout", server.printed());
    let spans = collector.spans();
    assert!(spans.len() > 100, "only {} spans", spans.len());
    written.add("spans", format!("{spans:?}"));
    written.demand_none_of(&canaries);
}

/// A key's life with all that is meant to hold a token; the token of the key that is left at the end.
async fn live_through(
    server: &Server,
    root: &str,
    canaries: &mut Canaries,
    written: &mut Written,
) -> String {
    let account = CreateAccountRequest {
        account_id: "acme".into(),
        display_name: "Acme".into(),
        plan: "pro".into(),
        ..Default::default()
    };
    server.accounts(root).await.create_account(account).await.unwrap();
    let mut keys = server.keys(root).await;
    let new = CreateKeyRequest {
        account_id: "acme".into(),
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    };
    let first = keys.create_key(new.clone()).await.unwrap().into_inner();
    let second = keys.create_key(new).await.unwrap().into_inner();
    let rotate = RotateKeyRequest {
        key_id: first.key.clone().unwrap().key_id,
        overlap: None,
        ..Default::default()
    };
    let rotated = keys.rotate_key(rotate).await.unwrap().into_inner();
    for token in [&first.token, &second.token, &rotated.token] {
        canaries.watch(token);
        written.add("Authorize", format!("{:?}", server.authorize(token, "memory:read").await));
    }
    // The one place where a token is answered is the field that is for it.
    let mut answer = CreateKeyResponse { token: String::new(), ..first.clone() }.encode_to_vec();
    answer.extend(CreateKeyResponse { token: String::new(), ..second.clone() }.encode_to_vec());
    written.add("CreateKey", answer);
    let mut rotated = rotated;
    let left = std::mem::take(&mut rotated.token);
    written.add("RotateKey", rotated.encode_to_vec());
    let lookup = LookupKeyRequest { by: Some(By::Token(second.token.clone())) };
    written.add("LookupKey", keys.lookup_key(lookup).await.unwrap().into_inner().encode_to_vec());
    let target = Some(Target::Token(second.token));
    let revoke =
        RevokeKeyRequest { target, comment: "found in a log".into(), ..Default::default() };
    written.add("RevokeKey", keys.revoke_key(revoke).await.unwrap().into_inner().encode_to_vec());
    left
}

/// The canary in each field of each message, of an operator and of a stranger.
async fn everywhere_in_the_api(server: &Server, root: &str, canary: &str, written: &mut Written) {
    for (path, messages) in Api::load().calls(canary) {
        for message in messages {
            for bearer in [root, canary] {
                let authorization = format!("Bearer {bearer}");
                let headers = [("authorization", authorization.as_str())];
                let answer = call(server, &path, &headers, &message).await;
                written.add(format!("the answer of {path}"), answer);
            }
        }
    }
}

/// The canary in headers, paths and names of hosts.
async fn everywhere_in_headers(server: &Server, root: &str, canary: &str, written: &mut Written) {
    let (bearer, basic) = (format!("Bearer {canary}"), format!("Basic {canary}"));
    let (two, long) =
        (format!("Bearer {canary} {canary}"), format!("Bearer {}", canary.repeat(50)));
    let root = format!("Bearer {root}");
    let path = "/latchkey.v1.KeyService/ListKeys";
    let authorize = AuthorizeRequest {
        token: canary.to_owned(),
        required_scope: "memory:read".into(),
        ..Default::default()
    };
    for headers in [
        vec![("authorization", bearer.as_str())],
        vec![("authorization", basic.as_str())],
        vec![("authorization", canary)],
        vec![("authorization", two.as_str())],
        vec![("authorization", long.as_str())],
        vec![("authorization", bearer.as_str()), ("authorization", bearer.as_str())],
        vec![("x-api-key", canary), ("cookie", canary)],
        vec![("authorization", root.as_str()), ("x-request-id", canary), ("traceparent", canary)],
        vec![("authorization", root.as_str()), ("grpc-timeout", canary), ("user-agent", canary)],
        vec![("authorization", root.as_str()), ("grpc-encoding", canary)],
        vec![("authorization", root.as_str()), ("content-type", canary)],
    ] {
        written.add("an answer to headers", call(server, path, &headers, &[]).await);
        let health = "/grpc.health.v1.Health/Check";
        written.add("an answer to headers", call(server, health, &headers, &[]).await);
        let question = "/latchkey.v1.AuthorizationService/Authorize";
        let answer = call(server, question, &headers, &authorize.encode_to_vec()).await;
        written.add("an answer to headers", answer);
    }
    for path in [
        format!("/{canary}"),
        format!("/latchkey.v1.KeyService/{canary}"),
        format!("/{canary}/ListKeys"),
        format!("{path}?key={canary}"),
    ] {
        written.add("an answer to a path", call(server, &path, &[], &[]).await);
    }
    // Two fields of the reflection and health services that take names.
    let named = [&[0x0a, u8::try_from(canary.len()).unwrap()], canary.as_bytes()].concat();
    let symbol = [&[0x22, u8::try_from(canary.len()).unwrap()], canary.as_bytes()].concat();
    let health = call(server, "/grpc.health.v1.Health/Check", &[], &named).await;
    written.add("health", health);
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    // It answers with the request, and whoever sent that has it.
    drop(call(server, reflection, &[], &symbol).await);
}

/// The canary in each part of a request over HTTP/1.
async fn everywhere_in_http1(server: &Server, canary: &str, written: &mut Written) {
    let forward_auth = "/v1/forward-auth?scope=memory:read";
    let head = |line: &str, headers: &str| {
        format!("{line}\r\nhost: a\r\nconnection: close\r\n{headers}\r\n")
    };
    let get = |path: &str| head(&format!("GET {path} HTTP/1.1"), "");
    let with = |headers: &str| head(&format!("GET {forward_auth} HTTP/1.1"), headers);
    for request in [
        get(&format!("/{canary}")),
        get(&format!("/livez?{canary}")),
        get(&format!("/v1/forward-auth?scope={canary}")),
        get(&format!("/v1/forward-auth?{canary}=1&scope=memory:read")),
        get(&format!("{forward_auth}&scope={canary}")),
        get(&format!("{forward_auth}&environment={canary}")),
        get(&format!("/v1/forward-auth?authenticate_only={canary}")),
        get(&format!("/v1/forward-auth?scope=(memory:read%20and%20{canary}")),
        get(&format!("http://{canary}/v1/forward-auth?scope=memory:read")),
        with(&format!("authorization: Bearer {canary}\r\n")),
        with(&format!("authorization: Basic {canary}\r\n")),
        with(&format!("authorization: {canary}\r\n")),
        with(&format!("authorization: Bearer {canary}\r\nauthorization: Bearer {canary}\r\n")),
        with(&format!("authorization: Bearer {canary}, Bearer {canary}\r\n")),
        with(&format!("x-api-key: {canary}\r\n")),
        with(&format!("x-api-key: {canary}\r\nx-api-key: {canary}\r\n")),
        with(&format!("x-api-key: {}\r\n", canary.repeat(50))),
        with(&format!("{canary}: {canary}\r\ncookie: k={canary}\r\ntraceparent: {canary}\r\n")),
        with(&format!("no-colon {canary}\r\n")),
        head(&format!("{canary} / HTTP/1.1"), ""),
        head(&format!("GET / {canary}"), ""),
        format!("GET /v1/forward-auth?scope=memory:read HTTP/1.1\r\nhost: {canary}\r\n\r\n"),
        format!("{canary}\r\n\r\n"),
    ] {
        for address in [server.http(), server.operations()] {
            written.add("an answer over HTTP/1", http1(address, request.as_bytes()).await);
        }
    }
}

/// Sends a call by hand; all that was answered: headers, body, trailers.
async fn call(server: &Server, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Vec<u8> {
    let tcp = TcpStream::connect(server.grpc()).await.unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let mut request = http::Request::post(format!("http://localhost{path}"));
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
    // The server may have refused it by its head.
    let _ = body.send_data(Bytes::from(grpc_message(0, message)), true);
    let mut all = Vec::new();
    let read = async {
        let (head, mut body) = answer.await?.into_parts();
        all.extend(format!("{:?}", head.headers).into_bytes());
        while let Some(data) = body.data().await {
            all.extend_from_slice(&data?);
        }
        all.extend(format!("{:?}", body.trailers().await?).into_bytes());
        Ok::<_, h2::Error>(())
    };
    // A call that is broken off is an answer as well.
    drop(timeout(Duration::from_secs(10), read).await);
    connection.abort();
    all
}

async fn http1(address: std::net::SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    drop(timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await);
    answer
}

#[tokio::test]
async fn a_crash_of_the_service_leaves_no_dump() {
    let server = Server::start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.process_id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let [soft, hard] = core.split_whitespace().skip(4).take(2).collect::<Vec<_>>()[..] else {
        panic!("{core}");
    };
    assert_eq!((soft, hard), ("0", "0"));
}

#[tokio::test]
async fn a_root_token_in_the_environment_is_warned_of() {
    let root = token();
    let server = Server::build().environment("LATCHKEY__ROOT_TOKEN", &root).start().await;
    let log = server.log();
    assert!(log.contains("name a file that holds the token in LATCHKEY__ROOT_TOKEN_FILE"), "{log}");
    assert!(!log.contains(&root), "the token itself is not told");
}

/// What the types that hold tokens show when they are printed, as a panic would.
#[test]
fn a_panic_with_a_token_in_hand_does_not_tell_it() {
    let text = token();
    let mut canaries = Canaries::default();
    canaries.watch(&text);
    let token = latchkey::token::Token::from_text(&text).unwrap();
    let digest = token.digest();
    let secret = secrecy::SecretString::from(text.as_str());
    let panicked = std::panic::catch_unwind(|| panic!("{token:?} {digest:?} {secret:?}"));
    let told = panicked.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(canaries.find(told.as_bytes()), None, "{told}");
}

/// Names that may hold what people write hold no tokens.
#[tokio::test]
async fn a_token_is_refused_where_everybody_can_read_it() {
    let server = Server::start().await;
    let root = server.root_token();
    let canary = token();
    let mut accounts = server.accounts(&root).await;
    let account = CreateAccountRequest {
        account_id: "acme".into(),
        display_name: "Acme".into(),
        plan: "pro".into(),
        ..Default::default()
    };
    let told = CreateAccountRequest { display_name: format!("our {canary}"), ..account.clone() };
    let refused = accounts.create_account(told).await.unwrap_err();
    assert!(crate::support::message_of(&refused).contains("holds a token"), "{refused:?}");
    accounts.create_account(account).await.unwrap();
    let account = Account {
        account_id: "acme".into(),
        labels: BTreeMap::from([("note".to_owned(), canary)]),
        ..Default::default()
    };
    let update_mask = Some(FieldMask { paths: vec!["labels".to_owned()] });
    let update = UpdateAccountRequest { account: Some(account), update_mask, ..Default::default() };
    let refused = accounts.update_account(update).await.unwrap_err();
    assert!(crate::support::message_of(&refused).contains("holds a token"), "{refused:?}");
}
