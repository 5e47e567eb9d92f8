//! The shipped examples for proxies, run by the real proxies beside the real program; only ports are others.
//!
//! Each is sent the same requests, good ones and attacks. Then every line that an example calls one of security is taken
//! out in turn, and something among the same requests has to come out wrong, or the proxy refuses to start.

mod program;
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

/// Where the example can say how long to wait, it does.
async fn is_closed_in_time_while_latchkey_hangs(example: &Example) {
    let stage = Stage::set(By::Scopes).await;
    let proxy = stage.start(example).await.unwrap();
    let wrong = stage.ask_while_latchkey_hangs(&proxy).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A line that several examples share counts where it counts for one of them.
async fn no_line_of_security_can_be_deleted(examples: [(Example, By); 2]) {
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
async fn nginx_with_scopes_does_all_that_it_has_to() {
    does_all_that_it_has_to(&nginx("scopes.conf"), By::Scopes).await;
}

#[tokio::test]
async fn nginx_with_rules_does_all_that_it_has_to() {
    does_all_that_it_has_to(&nginx("rules.conf"), By::Rules).await;
}

#[tokio::test]
async fn nginx_is_closed_in_time_while_latchkey_hangs() {
    is_closed_in_time_while_latchkey_hangs(&nginx("scopes.conf")).await;
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
    is_closed_in_time_while_latchkey_hangs(&haproxy("scopes.cfg")).await;
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
    is_closed_in_time_while_latchkey_hangs(&caddy("scopes.caddy")).await;
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
