//! What gateways are configured to ask, and who they are.

use std::time::Duration;

use latchkey::proto::v1::{CreateKeyRequest, Environment};
use latchkey::proto::vendored::envoy::service::auth::v3::CheckRequest;
use latchkey::proto::vendored::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::json;
use tonic::Code;

use super::{Answer, Ask, Gateway, UNKNOWN, ask, demo, key};
use crate::gateways::forward_auth::{ASKED_WRONGLY, logged_as_wrong};
use crate::support::{Caller, Server, eventually};

const CHECK: &str = "envoy.service.auth.v3.Authorization/Check";

#[tokio::test]
async fn a_gateway_that_asks_wrongly_is_told_500_and_never_lets_anybody_through() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let live = server.live_key();
    for (extensions, told) in [
        (vec![("require_scope", "memory:read")], "`require_scope`, which is not known"),
        (vec![("required_scope", "memory:read"), ("tier", "gold")], "`tier`, which is not known"),
        (vec![("Required_Scope", "memory:read")], "not known"),
        (vec![("", "")], "not known"),
        (vec![("required_scope", "")], "required_scope: is empty"),
        (vec![("required_scope", "memory:reed")], "memory:read"),
        (vec![("required_scope", "memory:read or")], "required_scope: "),
        (vec![("required_scope", "memory:read"), ("authenticate_only", "true")], "one of them"),
        (vec![("authenticate_only", "false")], "only be `true`"),
        (vec![("authenticate_only", "")], "only be `true`"),
        (vec![("authenticate_only", "true"), ("required_environment", "prod")], "`live` or `test`"),
        (vec![("authenticate_only", "true"), ("cost", "-1")], "a number"),
        (vec![("authenticate_only", "true"), ("cost", "+1")], "a number"),
        (vec![("authenticate_only", "true"), ("cost", "1000001")], "a number"),
        (vec![("authenticate_only", "true"), ("cost", "")], "a number"),
        (vec![("authenticate_only", "true"), ("realm", "a\"b")], "`realm`"),
        (vec![("authenticate_only", "true"), ("realm", "")], "`realm`"),
        (vec![("cost", "x")], "a number"),
    ] {
        for key in [Some(&live), None] {
            let asked =
                extensions.iter().fold(ask(), |ask, (name, value)| ask.extension(name, value));
            let asked = key.into_iter().fold(asked, |ask, key| ask.key(key));
            let answer = gateway.ask(asked).await;
            assert_eq!((answer.status, answer.told_text("decision")), (500, "error"), "{told}");
            assert_eq!(answer.problem()["detail"], ASKED_WRONGLY);
            logged_as_wrong(&server, told).await;
            assert_eq!(answer.problem()["reason"], "INVALID_FIELD");
            assert_eq!(answer.header("www-authenticate"), "");
        }
    }
}

#[tokio::test]
async fn a_mistake_of_a_gateway_is_told_in_the_log_once() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    for _ in 0..3 {
        gateway.ask(ask().extension("require_scope", "memory:read")).await;
        gateway.ask(Ask::scope("memory:reed")).await;
    }
    let told = || {
        let log = server.log();
        let warned = log.lines().filter(|line| line.contains("a gateway asks wrongly"));
        let warned: Vec<_> = warned.map(str::to_owned).collect();
        (warned.len() >= 2).then_some(warned)
    };
    let warned = eventually(Duration::from_secs(5), "both are told", told).await;
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned.iter().all(|line| line.contains("\"WARN\"")));
    assert!(warned[0].contains("`require_scope`") && warned[1].contains("memory:read"));
    // Each is counted.
    let counted = "{surface=\"ext_authz\",decision=\"error\",reason=\"INVALID_FIELD\"} 6";
    let metrics = scrape(&server);
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn clients_with_large_requests_do_not_keep_mistakes_out_of_the_log() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    for more in 0..65 {
        let large = Ask::scope("memory:read").header("cookie", &"x".repeat(256 * 1024 + more));
        assert_eq!(gateway.ask(large).await.status, 500);
    }
    gateway.ask(ask().extension("require_scope", "memory:read")).await;
    let warned = || {
        let log = server.log();
        let warned = log.lines().filter(|line| line.contains("a gateway asks wrongly"));
        let warned: Vec<_> = warned.map(str::to_owned).collect();
        warned.iter().any(|line| line.contains("`require_scope`")).then_some(warned)
    };
    let warned = eventually(Duration::from_secs(5), "the mistake is told", warned).await;
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned[0].contains("MESSAGE_TOO_LARGE"), "{warned:?}");
}

#[tokio::test]
async fn what_is_no_question_is_refused_by_an_answer() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let empty = gateway.0.check(CheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(Answer::read(empty).status, 403);
    let large = Ask::scope("memory:read").header("cookie", &"x".repeat(256 * 1024));
    let answer = gateway.ask(large.key(&server.live_key())).await;
    assert_eq!((answer.status, answer.told_text("reason")), (500, "MESSAGE_TOO_LARGE"));
    let fits = Ask::scope("memory:read").header("cookie", &"x".repeat(255 * 1024));
    assert_eq!(gateway.ask(fits.key(&server.live_key())).await.status, 200);
}

#[tokio::test]
async fn where_callers_must_have_a_key_a_gateway_without_one_opens_nothing() {
    let server = Server::build().environment("LATCHKEY__GRPC__CALLERS", "key").start().await;
    demo(&server).await;
    let scopes = vec!["memory:read".to_owned()];
    let live = key(&server, CreateKeyRequest { scopes, ..Default::default() }).await.token;
    let asked = || Ask::scope("memory:read").key(&live);
    let mut stranger = Gateway::of(&server).await;
    let refused = stranger.ask(asked()).await;
    assert_eq!((refused.status, refused.told_text("reason")), (500, "MISSING_CREDENTIAL"));
    let of = async |token: &str| {
        let channel = server.channel().await;
        let mut client = AuthorizationClient::with_interceptor(channel, Caller::new(token));
        Answer::read(client.check(asked().message()).await.unwrap().into_inner())
    };
    let other = of(&live).await;
    assert_eq!((other.status, other.told_text("reason")), (500, "PERMISSION_DENIED"));
    assert!(!other.body.contains("key_"));
    let scopes = vec!["latchkey:authorize".to_owned()];
    let own = CreateKeyRequest { scopes, ..Default::default() };
    let own = key(&server, own).await;
    assert_eq!(own.key.unwrap().environment, i32::from(Environment::Live));
    assert_eq!(of(&own.token).await.status, 200);
}

#[tokio::test]
async fn the_key_and_its_header_are_configured() {
    let server = Server::build()
        .environment("LATCHKEY__GATEWAY__CREDENTIAL_HEADERS", "api-key")
        .environment("LATCHKEY__GATEWAY__FORWARD_CREDENTIAL", "true")
        .environment("LATCHKEY__HTTP__REALM", "acme")
        .dev()
        .start()
        .await;
    let mut gateway = Gateway::of(&server).await;
    let live = server.live_key();
    let answer = gateway.ask(Ask::scope("memory:read").header("api-key", &live)).await;
    assert_eq!((answer.status, answer.removed.len()), (200, 0));
    let other = gateway.ask(Ask::scope("memory:read").header("x-api-key", &live)).await;
    assert_eq!(other.header("www-authenticate"), "Bearer realm=\"acme\"");
}

#[tokio::test]
async fn grpcurl_finds_the_service_and_asks_it() {
    let server = Server::start_dev().await;
    let described = std::process::Command::new("grpcurl")
        .env("PATH", crate::support::tools_path())
        .args(["-plaintext", &server.grpc().to_string()])
        .args(["describe", "envoy.service.auth.v3.Authorization"])
        .output()
        .unwrap();
    let described = String::from_utf8(described.stdout).unwrap();
    assert!(described.contains("rpc Check ( .envoy.service.auth.v3.CheckRequest )"), "{described}");
    let request = json!({"attributes": {
        "request": {"http": {
            "method": "GET", "host": "a", "path": "/",
            "headers": {"x-api-key": server.live_key()},
        }},
        "contextExtensions": {"required_scope": "memory:read"},
    }});
    let answer = server.grpcurl_json("", CHECK, &request.to_string());
    assert_eq!(answer["dynamicMetadata"]["decision"], "allow", "{answer}");
    assert_eq!(answer["okResponse"]["headersToRemove"], json!(["x-api-key"]));
    assert_eq!(answer["okResponse"]["headers"][0]["appendAction"], "OVERWRITE_IF_EXISTS_OR_ADD");
    assert_eq!(answer["okResponse"]["headers"][0]["append"], false);
}

#[tokio::test]
async fn gateways_ask_where_decisions_are_served_and_nowhere_else() {
    let server = Server::build()
        .environment("LATCHKEY__ADMINISTRATION__LISTEN", "127.0.0.1:0")
        .start()
        .await;
    let asked = || Ask::scope("memory:read").key(UNKNOWN);
    assert_eq!(Gateway::of(&server).await.ask(asked()).await.told_text("reason"), "UNKNOWN_KEY");
    let endpoint = format!("http://{}", server.listener("administration"));
    let mut elsewhere = AuthorizationClient::connect(endpoint).await.unwrap();
    let status = elsewhere.check(asked().message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

fn scrape(server: &Server) -> String {
    let url = format!("http://{}/metrics", server.operations());
    let output = std::process::Command::new("curl").args(["-sS", &url]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
