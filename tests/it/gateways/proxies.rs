//! The shipped examples for proxies, run by the real proxies beside the real program; only ports are others.
//!
//! Each is sent the same requests, good ones and attacks. Then every line that an example calls one of security is taken
//! out in turn, and something among the same requests has to come out wrong, or the proxy refuses to start.

mod envoy;
pub(crate) mod program;
mod requests;
mod stage;
mod wire;

use std::collections::BTreeSet;

use self::program::{Example, Program};
use self::stage::{By, Stage};
use crate::support::say;

/// How many wrong answers are told.
const WRONG_MAX: usize = 20;
const NGINX_PARTS: [&str; 3] = ["latchkey-ask.conf", "latchkey-pass.conf", "latchkey-answers.conf"];

fn envoy(main: &'static str) -> Example {
    Example::read(Program::Envoy, &[main])
}

fn nginx(main: &'static str) -> Example {
    Example::read(Program::Nginx, &[&[main], &NGINX_PARTS[..]].concat())
}

fn haproxy(main: &'static str) -> Example {
    Example::read(Program::Haproxy, &[main, "latchkey.lua"])
}

fn caddy(main: &'static str) -> Example {
    Example::read(Program::Caddy, &[main, "latchkey.caddy"])
}

fn traefik(main: &'static str) -> Example {
    Example::read(Program::Traefik, &[main, "traefik.yaml"])
}

async fn does_all_that_it_has_to(example: &Example, by: By) {
    let stage = Stage::set(by).await;
    let proxy = stage.start(example).await.unwrap();
    let wrong = stage.ask_everything(&proxy, WRONG_MAX).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The example says how long to wait, and nothing but that ends the waiting in time.
async fn is_closed_in_time_while_latchkey_hangs(example: &Example, limit: &str) {
    let unlimited = example.clone().with(limit, "");
    let (wrong, without) = tokio::join!(hang(example), hang(&unlimited));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(!without.is_empty(), "nothing goes wrong without {limit}");
}

async fn hang(example: &Example) -> Vec<String> {
    let stage = Stage::set(By::Scopes).await;
    let proxy = stage.start(example).await.unwrap();
    stage.ask_while_latchkey_hangs(&proxy).await
}

/// A line that several examples share counts where it counts for one of them.
async fn no_line_of_security_can_be_deleted(examples: impl IntoIterator<Item = (Example, By)>) {
    let (mut noticed, mut unnoticed) = (BTreeSet::new(), BTreeSet::new());
    for (example, by) in examples {
        let stage = Stage::set(by).await;
        let whole = stage.start(&example).await.unwrap();
        assert_eq!(stage.ask_everything(&whole, 1).await, [""; 0]);
        let without = example.without_each_security_line();
        assert!(without.len() >= 5, "the example marks no line as one of security");
        for (line, changed) in without {
            let wrong = match stage.start(&changed).await {
                Ok(proxy) => stage.ask_everything(&proxy, 1).await.pop(),
                Err(refusal) => Some(refusal),
            };
            say(format!("{line}\n    {}", wrong.as_deref().unwrap_or("nothing goes wrong")));
            if wrong.is_some() { &mut noticed } else { &mut unnoticed }.insert(line);
        }
    }
    let lost: Vec<_> = unnoticed.difference(&noticed).map(String::as_str).collect();
    assert!(lost.is_empty(), "nothing goes wrong without\n{}", lost.join("\n"));
}

#[tokio::test]
async fn envoy_with_scopes_does_all_that_it_has_to() {
    does_all_that_it_has_to(&envoy("scopes.yaml"), By::Scopes).await;
}

#[tokio::test]
async fn envoy_with_rules_does_all_that_it_has_to() {
    does_all_that_it_has_to(&envoy("rules.yaml"), By::Rules).await;
}

#[tokio::test]
async fn envoy_with_tools_does_all_that_it_has_to() {
    does_all_that_it_has_to(&envoy("mcp.yaml"), By::Mcp).await;
}

#[tokio::test]
async fn envoy_with_a_sandbox_does_all_that_it_has_to() {
    does_all_that_it_has_to(&envoy("sandbox.yaml"), By::Sandbox).await;
}

#[tokio::test]
async fn no_line_of_security_can_be_deleted_from_envoy() {
    let examples = [
        ("scopes.yaml", By::Scopes),
        ("rules.yaml", By::Rules),
        ("mcp.yaml", By::Mcp),
        ("sandbox.yaml", By::Sandbox),
    ];
    no_line_of_security_can_be_deleted(examples.map(|(name, by)| (envoy(name), by))).await;
}

/// Where the line that guards is what Envoy does anyway, deleting it changes nothing; writing the opposite does.
#[tokio::test]
async fn no_guard_of_envoy_can_be_turned_round() {
    for (name, by, guard, opposite) in [
        ("scopes.yaml", By::Scopes, "failure_mode_allow: false", "failure_mode_allow: true"),
        ("sandbox.yaml", By::Sandbox, "clear_route_cache: false", "clear_route_cache: true"),
    ] {
        let stage = Stage::set(by).await;
        let proxy = stage.start(&envoy(name).with(guard, opposite)).await.unwrap();
        let wrong = stage.ask_everything(&proxy, 1).await;
        assert!(!wrong.is_empty(), "nothing goes wrong with {opposite}");
        say(format!("{name}: {opposite}\n    {}", wrong[0]));
    }
}

#[tokio::test]
async fn envoy_may_tell_headers_joined_or_as_they_came() {
    for (name, by) in [("scopes.yaml", By::Scopes), ("rules.yaml", By::Rules)] {
        let joined = envoy(name).with("encode_raw_headers: true", "encode_raw_headers: false");
        does_all_that_it_has_to(&joined, by).await;
    }
}

#[test]
fn the_sidecar_of_envoy_is_what_is_tested_as_rules_but_for_the_socket() {
    let rules = envoy("rules.yaml")
        .with(
            "      type: STRICT_DNS\n      connect_timeout: 0.25s",
            "      connect_timeout: 0.25s",
        )
        .with(
            "socket_address: { address: 127.0.0.1, port_value: 50051 }",
            "pipe: { path: /run/latchkey/grpc.sock }",
        );
    let [sidecar, rules] = [envoy("sidecar.yaml"), rules].map(|example| {
        let text = example.files[0].text.clone();
        text[text.find("static_resources").unwrap()..].to_owned()
    });
    assert_eq!(sidecar, rules);
}

#[tokio::test]
async fn nginx_with_scopes_does_all_that_it_has_to() {
    does_all_that_it_has_to(&nginx("scopes.conf"), By::Scopes).await;
}

#[tokio::test]
async fn nginx_with_rules_does_all_that_it_has_to() {
    does_all_that_it_has_to(&nginx("rules.conf"), By::Rules).await;
}

#[tokio::test]
async fn nginx_is_closed_in_time_while_latchkey_hangs() {
    is_closed_in_time_while_latchkey_hangs(&nginx("scopes.conf"), "proxy_read_timeout 1s;").await;
}

#[tokio::test]
async fn no_line_of_security_can_be_deleted_from_nginx() {
    let (scopes, rules) = (nginx("scopes.conf"), nginx("rules.conf"));
    no_line_of_security_can_be_deleted([(scopes, By::Scopes), (rules, By::Rules)]).await;
}

#[tokio::test]
async fn haproxy_with_scopes_does_all_that_it_has_to() {
    does_all_that_it_has_to(&haproxy("scopes.cfg"), By::Scopes).await;
}

#[tokio::test]
async fn haproxy_with_rules_does_all_that_it_has_to() {
    does_all_that_it_has_to(&haproxy("rules.cfg"), By::Rules).await;
}

#[tokio::test]
async fn haproxy_is_closed_in_time_while_latchkey_hangs() {
    is_closed_in_time_while_latchkey_hangs(&haproxy("scopes.cfg"), ", timeout = timeout_ms").await;
}

#[tokio::test]
async fn no_line_of_security_can_be_deleted_from_haproxy() {
    let (scopes, rules) = (haproxy("scopes.cfg"), haproxy("rules.cfg"));
    no_line_of_security_can_be_deleted([(scopes, By::Scopes), (rules, By::Rules)]).await;
}

#[tokio::test]
async fn caddy_with_scopes_does_all_that_it_has_to() {
    does_all_that_it_has_to(&caddy("scopes.caddy"), By::Scopes).await;
}

#[tokio::test]
async fn caddy_with_rules_does_all_that_it_has_to() {
    does_all_that_it_has_to(&caddy("rules.caddy"), By::Rules).await;
}

#[tokio::test]
async fn caddy_is_closed_in_time_while_latchkey_hangs() {
    is_closed_in_time_while_latchkey_hangs(&caddy("scopes.caddy"), "response_header_timeout 1s")
        .await;
}

#[tokio::test]
async fn no_line_of_security_can_be_deleted_from_caddy() {
    let (scopes, rules) = (caddy("scopes.caddy"), caddy("rules.caddy"));
    no_line_of_security_can_be_deleted([(scopes, By::Scopes), (rules, By::Rules)]).await;
}

#[tokio::test]
async fn traefik_with_scopes_does_all_that_it_has_to() {
    does_all_that_it_has_to(&traefik("scopes.yaml"), By::Scopes).await;
}

#[tokio::test]
async fn traefik_with_rules_does_all_that_it_has_to() {
    does_all_that_it_has_to(&traefik("rules.yaml"), By::Rules).await;
}

#[tokio::test]
async fn no_line_of_security_can_be_deleted_from_traefik() {
    let (scopes, rules) = (traefik("scopes.yaml"), traefik("rules.yaml"));
    no_line_of_security_can_be_deleted([(scopes, By::Scopes), (rules, By::Rules)]).await;
}
