//! The real Envoy with the shipped examples: what its clients are told, by each protocol, with latchkey there and away, and
//! what its access log tells. What the upstream gets is tested for all proxies alike, in `proxies`.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use latchkey::policy::Policy;
use latchkey::proto::v1::authorization_service_client::AuthorizationServiceClient;
use latchkey::proto::v1::{
    Account, AuthorizeRequest, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse,
    Environment, Key, Restrictions, RevokeKeyRequest, UpdateAccountRequest, UpdateKeyRequest,
    create_key_request::Expiration, revoke_key_request::Target,
};
use serde_json::Value;
use tonic::Code;
use tonic::transport::Channel;

use super::forward_auth::{Answer, UNKNOWN, curl_at};
use super::proxies::program::{Example, Program, Proxy};
use super::{with_policy, with_rules};
use crate::cli::Run;
use crate::process::{make_account, make_key};
use crate::support::{Caller, Echo, Server, eventually};

const RULES: &str = r#"
[[rules]]
name = "items"
hosts = ["api.example.com"]
path = "/items/{*rest}"
required_scope = "memory:read"

[[rules]]
name = "decide"
methods = ["POST"]
path = "/latchkey.v1.AuthorizationService/Authorize"
required_scope = "memory:read"
required_environment = "live"

[[rules]]
name = "health"
path = "/health"
public = true
"#;

fn example(name: &'static str) -> Example {
    Example::read(Program::Envoy, &[name])
}

async fn start(example: &Example, server: &Server, upstream: SocketAddr) -> Proxy {
    let servers = [("50051", server.grpc()), ("3000", upstream)];
    Proxy::start(example, &servers).await.unwrap()
}

/// One `GET` with more arguments for curl.
fn get(proxy: &Proxy, path: &str, arguments: &[&str]) -> Answer {
    curl_at(proxy.address(), path, &[&["-H", "host: api.example.com"], arguments].concat())
}

fn with_key(proxy: &Proxy, path: &str, key: &str) -> Answer {
    get(proxy, path, &["-H", &format!("authorization: Bearer {key}")])
}

async fn key(server: &Server, key: CreateKeyRequest) -> CreateKeyResponse {
    let account_id = if key.account_id.is_empty() { "demo".to_owned() } else { key.account_id };
    let request = CreateKeyRequest {
        account_id,
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..key
    };
    server.keys(&server.root_token()).await.create_key(request).await.unwrap().into_inner()
}

// === What clients are told ===

/// Keys that are none any more.
async fn dead_keys(server: &Server) -> [String; 3] {
    let mut keys = server.keys(&server.root_token()).await;
    let revoked = key(server, CreateKeyRequest::default()).await.token;
    let target = Some(Target::Token(revoked.clone()));
    keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await.unwrap();
    let disabled = key(server, CreateKeyRequest::default()).await;
    let key_id = disabled.key.unwrap().key_id;
    let pause = UpdateKeyRequest {
        key: Some(Key { key_id, disabled: true, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["disabled".to_owned()] }),
        ..Default::default()
    };
    keys.update_key(pause).await.unwrap();
    let expiration = Some(Expiration::Ttl(prost_types::Duration { seconds: 0, nanos: 1_000 }));
    let expired = key(server, CreateKeyRequest { expiration, ..Default::default() }).await.token;
    [revoked, disabled.token, expired]
}

async fn key_of_a_suspended_account(server: &Server) -> String {
    let mut accounts = server.accounts(&server.root_token()).await;
    let create = CreateAccountRequest {
        account_id: "acme".into(),
        display_name: "acme".into(),
        plan: "enterprise".into(),
        ..Default::default()
    };
    accounts.create_account(create).await.unwrap();
    let of_acme = CreateKeyRequest { account_id: "acme".into(), ..Default::default() };
    let token = key(server, of_acme).await.token;
    let suspend = UpdateAccountRequest {
        account: Some(Account { account_id: "acme".into(), suspended: true, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["suspended".to_owned()] }),
        ..Default::default()
    };
    accounts.update_account(suspend).await.unwrap();
    token
}

/// The status, the reason in the body, and what the challenge says beside the realm.
fn told(answer: &Answer) -> (u16, String, String) {
    let problem = answer.problem();
    assert_eq!(answer.header("cache-control"), "no-store");
    let challenge = answer.header("www-authenticate").replacen("Bearer realm=\"latchkey\"", "", 1);
    let challenge = challenge.split(", error_description=").next().unwrap();
    (answer.status, problem["reason"].as_str().unwrap().to_owned(), challenge.to_owned())
}

fn refusal(status: u16, reason: &str, challenge: &str) -> (u16, String, String) {
    (status, reason.to_owned(), challenge.to_owned())
}

#[tokio::test]
async fn every_reason_has_its_status_its_challenge_and_its_body() {
    let server = with_rules("").await;
    let echo = Echo::start();
    let of_tests = "required_scope: \"memory:read\", required_environment: test";
    let shipped = example("scopes.yaml");
    let of_tests = shipped.clone().with("required_scope: \"memory:admin\"", of_tests);
    let (proxy, sandbox) = (
        start(&shipped, &server, echo.address()).await,
        start(&of_tests, &server, echo.address()).await,
    );
    let live = server.live_key();
    let restrictions = Some(Restrictions { allowed_cidrs: vec!["192.0.2.0/24".into()] });
    let elsewhere = key(&server, CreateKeyRequest { restrictions, ..Default::default() }).await;
    let suspended = key_of_a_suspended_account(&server).await;

    let missing = get(&proxy, "/items/7", &[]);
    assert_eq!(told(&missing), refusal(401, "MISSING_CREDENTIAL", ""));
    let malformed = with_key(&proxy, "/items/7", "nonsense");
    let told_malformed = refusal(401, "MALFORMED_CREDENTIAL", ", error=\"invalid_request\"");
    assert_eq!(told(&malformed), told_malformed);
    let unknown = with_key(&proxy, "/items/7", UNKNOWN);
    assert_eq!(told(&unknown), refusal(401, "INVALID_KEY", ", error=\"invalid_token\""));
    for dead in dead_keys(&server).await {
        assert_eq!(with_key(&proxy, "/items/7", &dead), unknown, "they can be told apart");
    }
    let scope = ", error=\"insufficient_scope\", scope=\"memory:admin\"";
    for (proxy, path, key, expected) in [
        (&proxy, "/admin/7", &live, refusal(403, "INSUFFICIENT_SCOPE", scope)),
        (&proxy, "/items/7", &suspended, refusal(403, "ACCOUNT_SUSPENDED", "")),
        (&proxy, "/items/7", &elsewhere.token, refusal(403, "ADDRESS_NOT_ALLOWED", "")),
        (&sandbox, "/admin/7", &live, refusal(403, "WRONG_ENVIRONMENT", "")),
        (&proxy, "/items/;", &live, refusal(403, "ROUTE_DENIED", "")),
    ] {
        assert_eq!(told(&with_key(proxy, path, key)), expected);
    }
    let head = get(&proxy, "/items/7", &["-I"]);
    assert_eq!((head.status, &*head.body), (401, ""));
    assert_eq!(head.header("www-authenticate"), missing.header("www-authenticate"));
    assert_eq!(echo.take(), []);
}

#[tokio::test]
async fn a_mistake_in_a_route_opens_nothing_and_is_told_in_the_log() {
    let server = with_rules("").await;
    let echo = Echo::start();
    let wrong = example("scopes.yaml")
        .with("required_scope: \"memory:read\"", "required_scope: \"memory:reed\"")
        .with("required_scope: \"memory:admin\"", "require_scope: \"memory:admin\"");
    let proxy = start(&wrong, &server, echo.address()).await;
    for (path, word) in [("/items/7", "memory:reed"), ("/admin/7", "`require_scope`")] {
        for key in [&server.live_key(), UNKNOWN] {
            let answer = with_key(&proxy, path, key);
            assert_eq!(told(&answer), refusal(500, "INVALID_FIELD", ""), "{path}");
        }
        let log = server.log();
        let mut warnings = log.lines().filter(|line| line.contains("a gateway asks wrongly"));
        assert!(warnings.any(|line| line.contains(word)), "{word}");
    }
    assert_eq!(echo.take(), []);
}

#[tokio::test]
async fn envoy_can_bring_a_key_of_its_own() {
    let server = Server::build().environment("LATCHKEY__GRPC__CALLERS", "key").start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let token = make_key(&server, &root, "acme").await.unwrap().token;
    let asks = CreateKeyRequest {
        account_id: latchkey::account::RESERVED_ACCOUNT.into(),
        display_name: "envoy".into(),
        environment: Environment::Live.into(),
        scopes: vec!["latchkey:authorize".into()],
        ..Default::default()
    };
    let asks = server.keys(&root).await.create_key(asks).await.unwrap().into_inner().token;
    let echo = Echo::start();
    let shipped = example("scopes.yaml");
    let cluster = "envoy_grpc: { cluster_name: latchkey }";
    let indent = " ".repeat(24);
    let own = format!("{{ key: authorization, value: \"Bearer {asks}\" }}");
    let with_own = format!("{cluster}\n{indent}initial_metadata: [{own}]");
    let without = start(&shipped, &server, echo.address()).await;
    assert_eq!(with_key(&without, "/items/7", &token).status, 500);
    assert_eq!(echo.take(), []);
    let proxy = start(&shipped.with(cluster, &with_own), &server, echo.address()).await;
    assert_eq!(with_key(&proxy, "/items/7", &token).status, 200);
    assert_eq!(with_key(&proxy, "/items/7", UNKNOWN).status, 401);
    assert!(!format!("{:?}", echo.take()).contains(&asks));
}

// === Protocols ===

#[tokio::test]
async fn clients_of_http_1_and_of_http_2_are_told_the_same() {
    let server = with_rules(RULES).await;
    let echo = Echo::start();
    let proxy = start(&example("rules.yaml"), &server, echo.address()).await;
    let live = format!("authorization: Bearer {}", server.live_key());
    let spoofed = ["-H", "x-latchkey-account-id: evil", "-H", "X-LATCHKEY-Plan: evil"];
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let passed = get(&proxy, "/items/7?a", &[&[version, "-H", &live][..], &spoofed].concat());
        assert_eq!(passed.status, 200, "{version}: {passed:?}");
        let received = echo.take().remove(0);
        assert_eq!(received.target, "/items/7?a");
        assert_eq!(received.alike("x-latchkey-account-id"), ["demo"]);
        assert_eq!(received.alike("x-latchkey-plan"), ["developer"]);
        assert_eq!(received.alike("authorization"), [""; 0]);
        let underscore = ["-H", &live, "-H", "x_latchkey_plan: evil", version];
        let turned_away = curl_status(&proxy, &underscore);
        assert_ne!(turned_away, "200", "{version}");
        assert_eq!(told(&get(&proxy, "/items/7", &[version])).0, 401);
        assert_eq!(told(&get(&proxy, "/nowhere", &[version, "-H", &live])).0, 403);
        assert_eq!(echo.take(), []);
    }
}

/// The status alone, where HTTP/2 may have none: Envoy ends the stream.
fn curl_status(proxy: &Proxy, arguments: &[&str]) -> String {
    let url = format!("http://{}/items/7", proxy.address());
    let written = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "host: api.example.com"];
    let output = Command::new("curl").args(written).args(arguments).arg(url).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn clients_of_grpc_are_served_and_told_by_a_status() {
    let mut server = with_rules(RULES).await;
    let upstream = Server::start_dev().await;
    let speaks_grpc = example("rules.yaml").with("# typed_extension", "typed_extension");
    let proxy = start(&speaks_grpc, &server, upstream.grpc()).await;
    let address = format!("http://{}", proxy.address());
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let ask = async |key: &str| {
        let mut client =
            AuthorizationServiceClient::with_interceptor(channel.clone(), Caller::new(key));
        let token = upstream.live_key();
        let request = AuthorizeRequest { token, authenticate_only: true, ..Default::default() };
        match client.authorize(request).await {
            Ok(answer) => Ok(answer.into_inner().allowed),
            Err(status) => Err(status.code()),
        }
    };
    assert_eq!(ask(&server.live_key()).await, Ok(true));
    assert_eq!(ask(&server.test_key()).await, Err(Code::PermissionDenied));
    assert_eq!(ask(UNKNOWN).await, Err(Code::Unauthenticated));
    assert_eq!(ask("nonsense").await, Err(Code::Unauthenticated));
    let live = server.live_key();
    server.kill().await;
    assert_eq!(ask(&live).await, Err(Code::Unavailable));
}

// === Without latchkey ===

/// Stops it, ends it and starts it again; nothing passes in between.
async fn nothing_passes_without_latchkey(example: &Example, mut server: Server, listen: &str) {
    let echo = Echo::start();
    let servers = [("50051", listen.parse().unwrap_or(echo.address())), ("3000", echo.address())];
    let key = key(&server, CreateKeyRequest::default()).await.token;
    server.kill().await;
    let mut server = server.again().dev().listen("grpc", listen).start().await;
    let proxy = Proxy::start(example, &servers).await.unwrap();
    let ask = |key: &str| with_key(&proxy, "/items/7", key).status;
    assert_eq!((ask(&key), ask(UNKNOWN), echo.take().len()), (200, 401, 1));

    server.pause().await;
    let answer = with_key(&proxy, "/items/7", &key);
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{answer:?}");
    assert_eq!((ask(UNKNOWN), echo.take()), (503, vec![]));
    server.resume();
    let back = eventually(Duration::from_secs(20), "latchkey goes on", || {
        Some(ask(&key)).filter(|status| *status != 503)
    });
    assert_eq!((back.await, echo.take().len()), (200, 1));

    server.kill().await;
    assert_eq!((ask(&key), ask(UNKNOWN), echo.take()), (503, 503, vec![]));
    eventually(Duration::from_secs(20), "Envoy sees that it is down", || {
        is_down(&proxy).then_some(())
    })
    .await;
    assert_eq!((ask(&key), ask(UNKNOWN), echo.take()), (503, 503, vec![]));
    let _server = server.again().dev().listen("grpc", listen).start().await;
    let back = eventually(Duration::from_secs(20), "latchkey is back", || {
        Some(ask(&key)).filter(|status| *status != 503)
    });
    assert_eq!((back.await, ask(UNKNOWN)), (200, 401));
    eventually(Duration::from_secs(20), "Envoy sees that it is up", || {
        (!is_down(&proxy)).then_some(())
    })
    .await;
}

/// Whether latchkey's health checks fail.
fn is_down(proxy: &Proxy) -> bool {
    let clusters = curl_at(proxy.administration(), "/clusters", &[]).body;
    let mut lines = clusters.lines();
    let health = lines.find(|line| line.starts_with("latchkey::") && line.contains("health_flags"));
    health.unwrap().contains("failed_active_hc")
}

#[tokio::test]
async fn nothing_passes_while_latchkey_is_stopped_or_gone() {
    let server = with_rules(RULES).await;
    let address = server.grpc().to_string();
    nothing_passes_without_latchkey(&example("rules.yaml"), server, &address).await;
}

#[tokio::test]
async fn a_unix_socket_does_as_well() {
    let server = with_rules(RULES).await;
    let socket = server.folder().join("grpc.sock").display().to_string();
    let sidecar = example("sidecar.yaml").with("/run/latchkey/grpc.sock", &socket);
    nothing_passes_without_latchkey(&sidecar, server, &format!("unix:{socket}")).await;
}

// === The access log ===

#[tokio::test]
async fn the_access_log_tells_whose_key_it_was_and_can_be_replayed() {
    let server = with_rules(RULES).await;
    let echo = Echo::start();
    let proxy = start(&example("rules.yaml"), &server, echo.address()).await;
    let live = server.live_key();
    let spoofed = ["-H", "x-envoy-original-path: /health", "-H", &format!("x-api-key: {live}")];
    let answers = [
        with_key(&proxy, "/items/7?secret", &live),
        get(&proxy, "/items/8", &spoofed),
        get(&proxy, "/health", &[]),
        with_key(&proxy, "/items/7", UNKNOWN),
        with_key(&proxy, "/nowhere", &live),
    ];
    assert_eq!(answers.map(|answer| answer.status), [200, 200, 200, 401, 403]);
    let log = logged(&proxy, 5).await;
    // Each request is asked about once, so that nothing is counted twice.
    eventually(Duration::from_secs(10), "five decisions", || {
        let decided = server.log().matches("\"message\":\"decided\"").count();
        assert!(decided <= 5, "there are {decided}");
        (decided == 5).then_some(())
    })
    .await;
    assert!(!log.contains(&live) && !log.contains(&live[12..]));
    let key_id = echo.take()[0].alike("x-latchkey-key-id")[0].to_owned();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    let (id, none) = (Value::from(&*key_id), Value::Null);
    assert_eq!(of("key_id"), [&id, &id, &none, &none, &none].map(Clone::clone));
    assert_eq!(of("path"), ["/items/7?secret", "/items/8", "/health", "/items/7", "/nowhere"]);
    assert_eq!(of("reason"), ["ALLOWED", "ALLOWED", "ALLOWED", "UNKNOWN_KEY", "ROUTE_DENIED"]);
    assert_eq!(of("decision"), ["allow", "allow", "allow", "deny", "deny"]);
    assert!(lines.iter().all(|line| line["authority"] == "api.example.com"));

    let scope = RULES.replace("memory:read", "memory:write");
    let report = replayed(&server, &proxy, &format!("{}\n{scope}", Policy::default().to_toml()));
    let counts = ["lines", "passedBefore", "refusedBefore", "refused"];
    assert_eq!(counts.map(|name| report[name].as_u64().unwrap()), [5, 3, 2, 2], "{report}");
    let finding = &report["findings"][0];
    assert_eq!((&finding["keyId"], &finding["count"]), (&id, &2.into()), "{report}");
}

#[tokio::test]
async fn the_access_log_tells_the_tool_and_can_be_replayed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policy/hypermemory.toml");
    let policy = std::fs::read_to_string(path).unwrap();
    let server = with_policy(Server::build(), &policy).await;
    let echo = Echo::start();
    let proxy = start(&example("mcp.yaml"), &server, echo.address()).await;
    let message = |method: &str, params: &str| {
        let key = format!("x-api-key: {}", server.live_key());
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"{params}}}"#);
        let headers = [
            "-H",
            "content-type: application/json",
            "-H",
            "accept: application/json, text/event-stream",
        ];
        curl_at(proxy.address(), "/mcp", &[&headers[..], &["-H", &key, "-d", &body]].concat())
            .status
    };
    let call = |tool: &str| message("tools/call", &format!(r#","params":{{"name":"{tool}"}}"#));
    let statuses = [call("memory_recall"), call("memory_store"), message("tools/list", "")];
    assert_eq!(statuses, [200, 403, 200]);
    let log = logged(&proxy, 3).await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("mcp_method"), ["tools/call", "tools/call", "tools/list"]);
    let tools = ["memory_recall", "memory_store"].map(Value::from);
    assert_eq!(of("mcp_tool"), [&tools[..], &[Value::Null]].concat());

    let counts = |policy: &str| {
        let report = replayed(&server, &proxy, policy);
        ["lines", "passedBefore", "refused"].map(|name| report[name].as_u64().unwrap())
    };
    assert_eq!(counts(&policy), [3, 2, 0]);
    let stricter =
        policy.replace("required_scope = \"memory:read\"", "required_scope = \"memory:admin\"");
    assert_eq!(counts(&stricter), [3, 2, 1]);
}

/// The log, once it has so many lines.
async fn logged(proxy: &Proxy, lines: usize) -> String {
    eventually(Duration::from_secs(10), "the log is written", || {
        Some(proxy.printed()).filter(|log| log.lines().count() == lines)
    })
    .await
}

/// What `latchkey rules replay` makes of the log.
fn replayed(server: &Server, proxy: &Proxy, policy: &str) -> Value {
    let (log, file) = (proxy.folder().join("printed"), proxy.folder().join("policy.toml"));
    std::fs::write(&file, policy).unwrap();
    let [log, file] = [log, file].map(|path| path.display().to_string());
    let (address, root) = (server.grpc().to_string(), server.root_token());
    let environment = [("LATCHKEY_ADDRESS", &*address), ("LATCHKEY_TOKEN", &*root)];
    let arguments = ["rules", "replay", &log, "--file", &file, "-o", "json"];
    let ended = Run { environment: &environment, ..Run::default() }.latchkey(&arguments);
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}
