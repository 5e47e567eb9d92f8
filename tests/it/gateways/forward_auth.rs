//! Forward-auth as a proxy sees it, by the real curl.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use latchkey::proto::v1::{
    CreateKeyRequest, Environment, Key, Restrictions, RevokeKeyRequest, UpdateKeyRequest,
    create_key_request::Expiration, revoke_key_request::Target,
};

use crate::process::{make_account, make_key};
use crate::support::cluster::{Cluster, ROOT};
use crate::support::relay::Relay;
use crate::support::{Server, eventually};

pub(super) const UNKNOWN: &str = "hm_live_0000000000000000000000000000002dlYSp";

/// An answer: its status, its headers by lower-case names and without the date, and its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn problem(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        problem
    }
}

/// Asks about a request with these headers.
pub(crate) fn ask(server: &Server, query: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut arguments = Vec::new();
    for header in &headers {
        arguments.extend(["-H", header]);
    }
    curl(server, &format!("/v1/forward-auth?{query}"), &arguments)
}

pub(crate) fn curl(server: &Server, path: &str, arguments: &[&str]) -> Answer {
    curl_at(server.http(), path, arguments)
}

/// The same of any server.
pub(super) fn curl_at(address: SocketAddr, path: &str, arguments: &[&str]) -> Answer {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--globoff", "--path-as-is", "--max-time", "10"]).args(arguments);
    let output = command.arg(format!("http://{address}{path}")).output().unwrap();
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .filter(|(name, _)| name != "date")
        .collect();
    Answer { status, headers, body: body.to_owned() }
}

pub(super) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn an_allowed_request_is_200_and_says_whose_it_is() {
    let server = Server::start_dev().await;
    for (name, value) in [
        ("authorization", bearer(&server.live_key())),
        ("Authorization", format!("bEARER {}", server.live_key())),
        ("x-api-key", server.live_key()),
    ] {
        let answer = ask(&server, "scope=memory:read", &[(name, &value)]);
        assert_eq!(answer.status, 200, "{answer:?}");
        for (name, value) in [
            ("x-latchkey-account-id", "demo"),
            ("x-latchkey-environment", "live"),
            ("x-latchkey-scopes", "memory:readonly"),
            ("x-latchkey-plan", "developer"),
            ("x-latchkey-billable", "true"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), value, "{name}");
        }
        assert!(answer.header("x-latchkey-key-id").starts_with("key_"));
        assert!(answer.body.is_empty());
    }
    let test = bearer(&server.test_key());
    let answer =
        ask(&server, "scope=memory%3Awrite+or%20memory:admin", &[("authorization", &test)]);
    assert_eq!((answer.status, answer.header("x-latchkey-billable")), (200, "false"));
    let who = ask(&server, "authenticate_only=true&environment=test", &[("authorization", &test)]);
    assert_eq!(who.status, 200);
}

#[tokio::test]
async fn every_method_is_asked_about_alike() {
    let server = Server::start_dev().await;
    let live = format!("authorization: {}", bearer(&server.live_key()));
    let path = "/v1/forward-auth?scope=memory:read";
    for method in [&["-I"][..], &["-X", "POST", "-d", "a=b"], &["-X", "DELETE"], &["-X", "BREW"]] {
        let answer = curl(&server, path, &[method, &["-H", &live]].concat());
        assert_eq!((answer.status, &*answer.body), (200, ""), "{method:?}");
        assert_eq!(curl(&server, path, method).status, 401, "{method:?}");
    }
    // HEAD has the headers of GET, and no body.
    let head = curl(&server, path, &["-I"]);
    let get = curl(&server, path, &[]);
    assert_eq!(
        (head.body.len(), head.header("www-authenticate")),
        (0, get.header("www-authenticate"))
    );
}

#[tokio::test]
async fn a_request_without_one_well_formed_key_is_401() {
    let server = Server::start_dev().await;
    let missing = ask(&server, "scope=memory:read", &[]);
    assert_eq!(missing.status, 401);
    assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"latchkey\"");
    assert_eq!(missing.header("cache-control"), "no-store");
    assert_eq!(missing.problem()["reason"], "MISSING_CREDENTIAL");
    let key = server.live_key();
    let (key, twice) = (bearer(&key), key);
    for headers in [
        vec![("authorization", "Basic eDp4")],
        vec![("authorization", "Bearer x")],
        vec![("authorization", &*twice)],
        vec![("authorization", &*key), ("authorization", &*key)],
        vec![("authorization", &*key), ("x-api-key", &*twice)],
        vec![("x-api-key", &*twice), ("x-api-key", &*twice)],
        vec![("x-api-key", &*key)],
    ] {
        let answer = ask(&server, "scope=memory:read", &headers);
        assert_eq!(answer.status, 401, "{headers:?}");
        assert_eq!(answer.problem()["reason"], "MALFORMED_CREDENTIAL");
        let challenge = answer.header("www-authenticate");
        assert!(challenge.contains("error=\"invalid_request\""), "{challenge}");
        assert!(!answer.body.contains(&twice[12..]));
    }
}

#[tokio::test]
async fn nobody_outside_can_tell_why_a_key_is_not_valid() {
    let server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let mut keys = server.keys(&root).await;
    let revoked = make_key(&server, &root, "acme").await.unwrap().token;
    let target = Some(Target::Token(revoked.clone()));
    keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await.unwrap();
    let disabled = make_key(&server, &root, "acme").await.unwrap();
    let key_id = disabled.key.unwrap().key_id;
    let paths = vec!["disabled".to_owned()];
    let pause = UpdateKeyRequest {
        key: Some(Key { key_id, disabled: true, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths }),
        ..Default::default()
    };
    keys.update_key(pause).await.unwrap();
    let ttl = prost_types::Duration { seconds: 0, nanos: 1_000 };
    let short = CreateKeyRequest {
        account_id: "acme".into(),
        display_name: "k".into(),
        environment: Environment::Live.into(),
        expiration: Some(Expiration::Ttl(ttl)),
        ..Default::default()
    };
    let expired = keys.create_key(short).await.unwrap().into_inner().token;

    let unknown = ask(&server, "scope=memory:read", &[("x-api-key", UNKNOWN)]);
    assert_eq!((unknown.status, &unknown.problem()["reason"]), (401, &"INVALID_KEY".into()));
    assert!(unknown.header("www-authenticate").contains("error=\"invalid_token\""));
    for token in [&revoked, &disabled.token, &expired] {
        assert_eq!(ask(&server, "scope=memory:read", &[("x-api-key", token)]), unknown);
    }
}

#[tokio::test]
async fn a_key_that_may_not_is_403_and_told_what_it_lacks() {
    let server = Server::start_dev().await;
    let live = server.live_key();
    let live = [("x-api-key", &*live)];
    let lacks = ask(&server, "scope=memory:write%20or%20memory:admin", &live);
    assert_eq!((lacks.status, &lacks.problem()["reason"]), (403, &"INSUFFICIENT_SCOPE".into()));
    assert_eq!(
        lacks.header("www-authenticate"),
        "Bearer realm=\"latchkey\", error=\"insufficient_scope\", scope=\"memory:write memory:admin\""
    );
    let wrong = ask(&server, "scope=memory:read&environment=test", &live);
    assert_eq!((wrong.status, &wrong.problem()["reason"]), (403, &"WRONG_ENVIRONMENT".into()));

    // No proxy is trusted to tell the client's address, so it is not known.
    let restrictions = Some(Restrictions { allowed_cidrs: vec!["127.0.0.0/8".into()] });
    let restricted = CreateKeyRequest {
        account_id: "demo".into(),
        display_name: "k".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        restrictions,
        ..Default::default()
    };
    let mut keys = server.keys(&server.root_token()).await;
    let token = keys.create_key(restricted).await.unwrap().into_inner().token;
    let headers = [("x-api-key", &*token), ("x-forwarded-for", "127.0.0.1")];
    let elsewhere = ask(&server, "scope=memory:read", &headers);
    assert_eq!(
        (elsewhere.status, &elsewhere.problem()["reason"]),
        (403, &"ADDRESS_NOT_ALLOWED".into())
    );
}

/// What a client is told of its gateway's mistake, whatever it is.
pub(crate) const ASKED_WRONGLY: &str = "the gateway's question is wrong; latchkey's log says why";

/// Waits until the log tells of a gateway's mistake in these words.
pub(crate) async fn logged_as_wrong(server: &Server, words: &str) {
    let told = || {
        let log = server.log();
        let mut warned = log.lines().filter(|line| line.contains("a gateway asks wrongly"));
        warned.any(|line| line.contains(words)).then_some(())
    };
    eventually(Duration::from_secs(5), words, told).await;
}

#[tokio::test]
async fn a_proxy_that_asks_wrongly_is_told_500_and_never_200() {
    let server = Server::start_dev().await;
    let live = server.live_key();
    for (query, told) in [
        ("", "gateway.trusted_proxies"),
        ("scope=", "scope"),
        ("scope=memory:read&scope=memory:read", "twice"),
        ("scope=memory:read&authenticate_only=true", "not both"),
        ("authenticate_only=1", "only be `true`"),
        ("authenticate_only=true&authenticate_only=true", "twice"),
        ("scope=memory:read&enviroment=live", "`enviroment` is not known"),
        ("scope=memory:read&environment=prod", "`live` or `test`"),
        ("required_scope=memory:read", "not known"),
        ("Scope=memory:read", "not known"),
        ("scope=memory:reed", "memory:read"),
        ("scope=memory:read%20or", "expected"),
        ("scope=%ff", ""),
        ("scope=memory:read&cost=1000001", "1,000,000"),
    ] {
        for headers in [&[("x-api-key", &*live)][..], &[]] {
            let answer = ask(&server, query, headers);
            assert_eq!(answer.status, 500, "{query}: {answer:?}");
            assert_eq!(answer.problem()["detail"], ASKED_WRONGLY, "{query}");
            assert!(answer.header("www-authenticate").is_empty());
            logged_as_wrong(&server, told).await;
        }
    }
    for path in
        ["/", "/v1/forward-auth/", "//v1/forward-auth", "/V1/forward-auth", "/v1/%66orward-auth"]
    {
        let key = format!("x-api-key: {live}");
        let answer = curl(&server, &format!("{path}?scope=memory:read"), &["-H", &key]);
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_mistake_of_a_proxy_is_told_once_and_loud() {
    let server = Server::start_dev().await;
    for query in ["scope=memory:reed", "scope=memory:reed", "", "scope=memory:reed"] {
        assert_eq!(ask(&server, query, &[]).status, 500);
    }
    // The log is written in order, so the last one comes when all have.
    curl(&server, "/v1/forward-auth?last=1", &[]);
    let told = || {
        let log = server.log();
        let warned = log.lines().filter(|line| line.contains("a gateway asks wrongly"));
        let warned: Vec<_> = warned.map(str::to_owned).collect();
        warned.last().is_some_and(|last| last.contains("`last`")).then_some(warned)
    };
    let warned = eventually(Duration::from_secs(5), "all are told", told).await;
    assert!(warned[0].contains("memory:reed") && warned[0].contains("\"WARN\""), "{warned:?}");
    assert!(warned[1].contains("gateway.trusted_proxies"), "{warned:?}");
    assert_eq!(warned.len(), 3, "{warned:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_may_be_too_old_says_so() {
    let mut cluster = Cluster::start(0).await;
    let relay = Relay::before(&cluster.postgres);
    cluster.start_behind(&relay, Duration::from_secs(2)).await;
    let node = &cluster.nodes[0];
    make_account(node, ROOT, "acme").await;
    let token = bearer(&make_key(node, ROOT, "acme").await.unwrap().token);
    let of = |scope: &str| ask(node, &format!("scope={scope}"), &[("authorization", &token)]);
    let marked = |answer: &Answer| answer.header("x-latchkey-stale") == "true";
    assert!(!marked(&of("memory:read")) && !marked(&of("memory:write")));
    relay.cut();
    let until = Duration::from_secs(20);
    let allowed =
        eventually(until, "an allow is marked", || Some(of("memory:read")).filter(marked)).await;
    assert_eq!((allowed.status, allowed.header("x-latchkey-account-id")), (200, "acme"));
    let denied = of("memory:write");
    assert!(denied.status == 403 && marked(&denied), "{denied:?}");
}
