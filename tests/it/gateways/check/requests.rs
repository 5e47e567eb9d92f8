//! What clients send, and what they and the upstream get of it.

use latchkey::proto::v1::{
    CreateKeyRequest, Key, Restrictions, RevokeKeyRequest, UpdateKeyRequest,
    create_key_request::Expiration, revoke_key_request::Target,
};
use latchkey::proto::vendored::envoy::config::core::v3::address::Address as Kind;
use latchkey::proto::vendored::envoy::config::core::v3::{Address, Pipe};
use prost_types::value::Kind as Value;

use super::{Ask, Gateway, IDENTITY, UNKNOWN, ask, key};
use crate::support::Server;

#[tokio::test]
async fn an_allowed_request_goes_on_with_the_identity_and_without_the_key() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let live = server.live_key();
    let scope = || Ask::scope("memory:read");
    let bearer = format!("Bearer {live}");
    for (ask, held) in [
        (scope().key(&live), "authorization"),
        (scope().header("authorization", &format!("bEARER {live}")), "authorization"),
        (scope().header("x-api-key", &live), "x-api-key"),
        (scope().raw("authorization", bearer.as_bytes()), "authorization"),
        (scope().raw("x-api-key", live.as_bytes()).raw("accept", b"\xff"), "x-api-key"),
    ] {
        let answer = gateway.ask(ask).await;
        assert_eq!((answer.status, &answer.removed[..]), (200, &[held.to_owned()][..]));
        for (name, value) in [
            ("x-latchkey-account-id", "demo"),
            ("x-latchkey-environment", "live"),
            ("x-latchkey-scopes", "memory:readonly"),
            ("x-latchkey-plan", "developer"),
            ("x-latchkey-billable", "true"),
        ] {
            assert_eq!(answer.header(name), value, "{name}");
        }
        assert_eq!(answer.headers.len(), IDENTITY.len());
        let key_id = answer.header("x-latchkey-key-id");
        assert!(key_id.starts_with("key_"));
        for (name, value) in [
            ("decision", "allow"),
            ("reason", "ALLOWED"),
            ("key_id", key_id),
            ("account_id", "demo"),
            ("environment", "live"),
            ("plan", "developer"),
        ] {
            assert_eq!(answer.told_text(name), value, "{name}");
        }
        assert_eq!(answer.told("billable"), Some(&Value::BoolValue(true)));
        assert!(
            matches!(answer.told("scopes"), Some(Value::ListValue(list)) if list.values.len() == 1)
        );
        assert!(!answer.told_text("revision").is_empty());
        assert_eq!((answer.told("rule"), answer.told("observed_reason")), (None, None));
    }
}

#[tokio::test]
async fn what_a_client_says_of_its_identity_is_written_over_or_taken_out() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let bare = key(&server, CreateKeyRequest::default()).await.token;
    let asked = ask().extension("authenticate_only", "true").key(&bare);
    let spoofed = IDENTITY.iter().fold(asked, |ask, name| ask.header(name, "root"));
    let spoofed = spoofed
        .header("x_latchkey_account_id", "root")
        .header("X-Latchkey_Key-Id", "root")
        .header("x.latchkey.billable", "true")
        .header("x~latchkey-plan", "root")
        .header("x_latchkey_accountXid", "mine")
        .header("x-request-id", "1");
    let answer = gateway.ask(spoofed).await;
    assert_eq!(answer.status, 200);
    // It has no scopes, and what is empty cannot be set.
    assert!(!answer.headers.contains_key("x-latchkey-scopes"));
    assert_eq!(answer.headers.len(), IDENTITY.len() - 1);
    let mut removed = answer.removed.clone();
    removed.sort();
    let expected = [
        "X-Latchkey_Key-Id",
        "authorization",
        "x-latchkey-scopes",
        "x.latchkey.billable",
        "x_latchkey_account_id",
        "x~latchkey-plan",
    ];
    assert_eq!(removed, expected);
}

#[tokio::test]
async fn a_request_without_one_well_formed_key_is_401() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let live = server.live_key();
    let bearer = format!("Bearer {live}");
    let scope = || Ask::scope("memory:read");

    let missing = gateway.ask(scope()).await;
    assert_eq!((missing.status, &missing.problem()["reason"]), (401, &"MISSING_CREDENTIAL".into()));
    assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"latchkey\"");
    assert_eq!(missing.header("cache-control"), "no-store");
    assert_eq!(missing.told_text("reason"), "MISSING_CREDENTIAL");

    let raw = |name: &str, value: &[u8]| scope().raw(name, value);
    for ask in [
        scope().header("authorization", "Basic eDp4"),
        scope().header("authorization", &live),
        scope().header("authorization", ""),
        scope().header("x-api-key", ""),
        scope().header("x-api-key", &bearer),
        scope().key(&live).key(&live),
        scope().key(&live).header("x-api-key", &live),
        scope().key(&live).header("x-api-key", ""),
        scope().key(&live).header("X-API-Key", &live),
        scope().header("x-api-key", &live).header("x-api-key", &live),
        scope().header("x-api-key", &live).header("x-api-key", "x"),
        scope().header("authorization", &format!("{bearer},")),
        scope().header("authorization", &bearer.replace("live", "li!e")),
        scope().header("x-api-key", &format!("{live}\n")),
        scope().header("x-api-key", &format!("\t{live}")),
        scope().header("x-api-key", &"x".repeat(60 * 1024)),
        raw("authorization", bearer.as_bytes()).raw("authorization", bearer.as_bytes()),
        raw("authorization", bearer.as_bytes()).raw("x-api-key", live.as_bytes()),
        raw("authorization", format!("{bearer}\0").as_bytes()),
        raw("authorization", b"Bearer \xff\xfe"),
        raw("x-api-key", b""),
        // The headers as they came are the only ones looked at where there are any.
        raw("x-api-key", b"x").key(&live),
    ] {
        let answer = gateway.ask(ask.clone()).await;
        let reason = answer.told_text("reason").to_owned();
        assert_eq!(
            (answer.status, &*reason),
            (401, "MALFORMED_CREDENTIAL"),
            "{:?}",
            ask.http.headers
        );
        assert!(answer.header("www-authenticate").contains("error=\"invalid_request\""));
        assert!(!format!("{answer:?}").contains(&live["hm_live_".len()..]));
    }
    let elsewhere = raw("accept", b"*/*").key(&live);
    assert_eq!(gateway.ask(elsewhere).await.told_text("reason"), "MISSING_CREDENTIAL");
}

#[tokio::test]
async fn only_the_gateway_can_tell_why_a_key_is_not_valid() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let mut keys = server.keys(&server.root_token()).await;
    let revoked = key(&server, CreateKeyRequest::default()).await.token;
    let target = Some(Target::Token(revoked.clone()));
    keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await.unwrap();
    let disabled = key(&server, CreateKeyRequest::default()).await;
    let key_id = disabled.key.unwrap().key_id;
    let pause = UpdateKeyRequest {
        key: Some(Key { key_id: key_id.clone(), disabled: true, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["disabled".to_owned()] }),
        ..Default::default()
    };
    keys.update_key(pause).await.unwrap();
    let expiration = Some(Expiration::Ttl(prost_types::Duration { seconds: 0, nanos: 1_000 }));
    let expired = CreateKeyRequest { expiration, ..Default::default() };
    let expired = key(&server, expired).await.token;

    let mut of = async |token: &str| {
        let answer = gateway.ask(Ask::scope("memory:read").key(token)).await;
        let reason = answer.told_text("reason").to_owned();
        ((answer.status, answer.headers.clone(), answer.body.clone()), reason, answer)
    };
    let (unknown, reason, answer) = of(UNKNOWN).await;
    assert_eq!((&*reason, answer.told("key_id")), ("UNKNOWN_KEY", None));
    assert_eq!((unknown.0, &answer.problem()["reason"]), (401, &"INVALID_KEY".into()));
    assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
    for (token, reason) in
        [(&revoked, "KEY_REVOKED"), (&disabled.token, "KEY_DISABLED"), (&expired, "KEY_EXPIRED")]
    {
        let (told, exact, answer) = of(token).await;
        assert_eq!((&told, &*exact), (&unknown, reason));
        assert!(answer.told_text("key_id").starts_with("key_"));
    }
    assert_eq!(of(&disabled.token).await.2.told_text("key_id"), key_id);
}

#[tokio::test]
async fn a_key_that_may_not_is_403_and_told_what_it_lacks() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let (live, test) = (server.live_key(), server.test_key());
    let lacks = Ask::scope("memory:write or memory:admin").extension("realm", "Acme's API");
    let answer = gateway.ask(lacks.key(&live)).await;
    assert_eq!((answer.status, &answer.problem()["reason"]), (403, &"INSUFFICIENT_SCOPE".into()));
    assert_eq!(
        answer.header("www-authenticate"),
        "Bearer realm=\"Acme's API\", error=\"insufficient_scope\", scope=\"memory:write memory:admin\""
    );
    for (environment, live_status, test_status) in [("live", 200, 403), ("test", 403, 200)] {
        let wants = Ask::scope("memory:read").extension("required_environment", environment);
        let answer = gateway.ask(wants.clone().key(&live)).await;
        assert_eq!(answer.status, live_status, "{answer:?}");
        let answer = gateway.ask(wants.key(&test)).await;
        assert_eq!(answer.status, test_status, "{answer:?}");
        if test_status == 200 {
            assert_eq!(answer.header("x-latchkey-billable"), "false");
        }
    }
    let free = Ask::scope("memory:read").extension("cost", "0").key(&live);
    assert_eq!(gateway.ask(free).await.header("x-latchkey-billable"), "false");
    let costly = ask().extension("authenticate_only", "true").extension("cost", "2").key(&live);
    assert_eq!(gateway.ask(costly).await.header("x-latchkey-billable"), "true");
}

#[tokio::test]
async fn a_key_of_some_networks_is_taken_from_there_alone() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let restrictions =
        Some(Restrictions { allowed_cidrs: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()] });
    let restricted = CreateKeyRequest { restrictions, ..Default::default() };
    let token = key(&server, restricted).await.token;
    let who = || ask().extension("authenticate_only", "true").key(&token);
    for address in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7"] {
        assert_eq!(gateway.ask(who().from(address)).await.status, 200, "{address}");
    }
    let mut pipe = who();
    let path = Pipe { path: "/run/client.sock".into(), mode: 0 };
    pipe.source = Some(Address { address: Some(Kind::Pipe(path)) });
    let said = who().header("x-forwarded-for", "192.0.2.7").from("198.51.100.1");
    let others = ["198.51.100.1", "", "192.0.2.7:80", "192.0.2.7%eth0", "unix"];
    for ask in others.map(|address| who().from(address)).into_iter().chain([who(), pipe, said]) {
        let answer = gateway.ask(ask).await;
        assert_eq!((answer.status, answer.told_text("reason")), (403, "ADDRESS_NOT_ALLOWED"));
        assert_eq!(answer.problem()["reason"], "ADDRESS_NOT_ALLOWED");
    }
}

#[tokio::test]
async fn a_client_of_grpc_gets_no_body() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    for content_type in ["application/grpc", "application/grpc+proto", "Application/GRPC-web"] {
        let denied = Ask::scope("memory:read").header("content-type", content_type);
        let wrong =
            ask().extension("scope", "memory:read").raw("Content-Type", content_type.as_bytes());
        for (ask, status) in [(denied, 401), (wrong, 500)] {
            let answer = gateway.ask(ask).await;
            assert_eq!((answer.status, &*answer.body), (status, ""), "{content_type}");
            assert_eq!(answer.header("content-type"), "");
        }
    }
    let other = Ask::scope("memory:read").header("content-type", "application/json");
    assert_eq!(gateway.ask(other).await.problem()["reason"], "MISSING_CREDENTIAL");
}

#[tokio::test]
async fn a_request_without_method_host_or_path_is_refused_whatever_is_asked() {
    let server = Server::start_dev().await;
    let mut gateway = Gateway::of(&server).await;
    let live = server.live_key();
    for (method, host, path) in [("", "a", "/"), ("GET", "", "/"), ("GET", "a", ""), ("", "", "")] {
        for asked in
            [Ask::scope("memory:read"), ask().extension("authenticate_only", "true"), ask()]
        {
            let answer = gateway.ask(asked.key(&live).target(method, host, path)).await;
            assert_eq!((answer.status, answer.told_text("reason")), (403, "ROUTE_DENIED"));
        }
    }
}
