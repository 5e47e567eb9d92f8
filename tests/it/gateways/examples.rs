//! The services of `examples/`, run as they are beside the real program.

use std::time::Duration;

use latchkey::proto::v1::{CreateKeyRequest, Environment, Restrictions};

use self::front::{Front, Instead};
use self::service::{Example, Service};
use super::forward_auth::{Answer, UNKNOWN, bearer, curl_at};
use crate::process::{make_account, make_key};
use crate::support::{Server, eventually};

mod client;
mod front;
mod service;

/// How long a service may take to see that latchkey is back.
const IN_TIME: Duration = Duration::from_secs(20);

/// Each behaviour as a test of each service.
macro_rules! of_each_service {
    ($($name:ident = $example:ident),*) => {$(
        mod $name {
            use super::Example::$example as EXAMPLE;

            #[tokio::test]
            async fn answers_as_latchkey_decides_and_knows_whose_key_it_is() {
                super::answers_as_latchkey_decides_and_knows_whose_key_it_is(EXAMPLE).await;
            }

            #[tokio::test]
            async fn tells_from_where_the_client_comes() {
                super::tells_from_where_the_client_comes(EXAMPLE).await;
            }

            #[tokio::test]
            async fn is_closed_while_latchkey_does_not_answer() {
                super::is_closed_while_latchkey_does_not_answer(EXAMPLE).await;
            }

            #[tokio::test]
            async fn asks_once_more_when_latchkey_is_unavailable() {
                super::asks_once_more_when_latchkey_is_unavailable(EXAMPLE).await;
            }

            #[tokio::test]
            async fn shows_a_key_of_its_own_where_that_is_demanded() {
                super::shows_a_key_of_its_own_where_that_is_demanded(EXAMPLE).await;
            }
        }
    )*};
}

of_each_service!(fastapi = FastApi, express = Express, go = Go, tower = Tower);

/// Asks the service for a page with these headers.
fn ask(service: &Service, method: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut arguments = vec!["-X", method];
    for header in &headers {
        arguments.extend(["-H", header]);
    }
    curl_at(service.address(), "/memories", &arguments)
}

fn status(service: &Service, key: &str) -> u16 {
    ask(service, "GET", &[("x-api-key", key)]).status
}

async fn answers_as_latchkey_decides_and_knows_whose_key_it_is(example: Example) {
    let server = Server::start_dev().await;
    let service = Service::start(example, example.asks(&server), None).await;
    let (key, test) = (server.live_key(), server.test_key());
    let live = bearer(&key);
    for (method, name, value) in [
        ("GET", "authorization", &live),
        ("GET", "authorization", &format!("bEARER {key}")),
        ("GET", "x-api-key", &key),
        ("POST", "x-api-key", &test),
    ] {
        let answer = ask(&service, method, &[(name, value)]);
        assert_eq!(answer.status, 200, "{method} {name}: {answer:?}");
        let whose: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(whose["account"], "demo");
        assert!(whose["key"].as_str().unwrap().starts_with("key_"), "{whose}");
    }

    let missing = ask(&service, "GET", &[]);
    assert_eq!(
        (missing.status, missing.header("www-authenticate")),
        (401, "Bearer realm=\"latchkey\"")
    );
    assert_refused(
        &ask(&service, "GET", &[("x-api-key", UNKNOWN)]),
        401,
        "error=\"invalid_token\"",
    );
    assert_refused(&ask(&service, "POST", &[("x-api-key", &key)]), 403, "scope=\"memory:write\"");

    let (spaced, joined, overlong) =
        (format!("Bearer  {key}"), format!("{key}, {key}"), "x".repeat(6_000));
    for headers in [
        vec![("authorization", "Basic eDp4")],
        vec![("authorization", "Bearer x")],
        vec![("authorization", &*key)],
        vec![("authorization", &*spaced)],
        vec![("authorization", &*live), ("authorization", &*live)],
        vec![("authorization", &*live), ("x-api-key", &*key)],
        vec![("x-api-key", &*key), ("x-api-key", &*key)],
        vec![("x-api-key", &*joined)],
        vec![("x-api-key", &*live)],
        vec![("x-api-key", "é")],
        vec![("x-api-key", &*overlong)],
    ] {
        let answer = ask(&service, "GET", &headers);
        assert_eq!(answer.status, 401, "{headers:?}: {answer:?}");
        assert_refused(&answer, 401, "error=\"invalid_request\"");
    }
    let log = service.log();
    for key in [&key, &test, UNKNOWN] {
        assert!(!log.contains(&key[8..]), "a key is in the log:\n{log}");
    }
}

/// With this in its challenge, and without a word on whose key it was.
fn assert_refused(answer: &Answer, status: u16, challenge: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.header("www-authenticate").contains(challenge), "{answer:?}");
    assert!(!answer.body.contains("key_"), "{answer:?}");
}

async fn tells_from_where_the_client_comes(example: Example) {
    let server = Server::start().await;
    let service = Service::start(example, example.asks(&server), None).await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    for (network, wanted) in [("127.0.0.0/8", 200), ("192.0.2.0/24", 403)] {
        let request = CreateKeyRequest {
            account_id: "acme".into(),
            display_name: "bound to a network".into(),
            environment: Environment::Live.into(),
            scopes: vec!["memory:read".into()],
            restrictions: Some(Restrictions { allowed_cidrs: vec![network.into()] }),
            ..Default::default()
        };
        let made = server.keys(&root).await.create_key(request).await.unwrap().into_inner();
        let answer = ask(&service, "GET", &[("x-api-key", &made.token)]);
        assert_eq!(
            (answer.status, answer.headers.contains_key("www-authenticate")),
            (wanted, false),
            "{network}: {answer:?}"
        );
    }
}

async fn is_closed_while_latchkey_does_not_answer(example: Example) {
    let mut server = Server::start().await;
    let service = Service::start(example, example.asks(&server), None).await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let key = make_key(&server, &root, "acme").await.unwrap().token;
    assert_eq!(status(&service, &key), 200);

    server.pause().await;
    assert_eq!(status(&service, &key), 503, "it hangs");
    server.resume();
    opens(&service, &key).await;

    let (grpc, http) = (server.grpc().to_string(), server.http().to_string());
    server.kill().await;
    let down = ask(&service, "GET", &[("x-api-key", &key)]);
    assert_eq!((down.status, down.header("www-authenticate")), (503, ""));
    let _server = server.again().listen("grpc", &grpc).listen("http", &http).start().await;
    opens(&service, &key).await;
    assert!(!service.log().contains(&key[8..]), "the key is in the log");
}

async fn opens(service: &Service, key: &str) {
    eventually(IN_TIME, "a 200", || (status(service, key) == 200).then_some(())).await;
}

async fn asks_once_more_when_latchkey_is_unavailable(example: Example) {
    use Instead::{Broken, Empty, Nonsense, Unavailable};
    let server = Server::start_dev().await;
    let front = Front::start(example.asks(&server)).await;
    let service = Service::start(example, front.address, None).await;
    let key = server.live_key();
    for (instead, wanted, asked) in [
        (&[][..], 200, 1),
        (&[Unavailable], 200, 2),
        (&[Unavailable, Unavailable, Unavailable], 503, 2),
        (&[Broken], 503, 1),
        (&[Unavailable, Broken], 503, 2),
        (&[Nonsense], 503, 1),
        (&[Empty], 503, 1),
    ] {
        front.answer_next(instead);
        front.asked();
        let service = ask_apart(&service, &key).await;
        assert_eq!((service, front.asked()), (wanted, asked), "{instead:?}");
    }
}

/// On another thread, so that what is in front can answer meanwhile.
async fn ask_apart(service: &Service, key: &str) -> u16 {
    let (address, key) = (service.address(), format!("x-api-key: {key}"));
    let asked = tokio::task::spawn_blocking(move || curl_at(address, "/memories", &["-H", &key]));
    asked.await.unwrap().status
}

async fn shows_a_key_of_its_own_where_that_is_demanded(example: Example) {
    let server = Server::build().environment("LATCHKEY__GRPC__CALLERS", "key").start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let key = make_key(&server, &root, "acme").await.unwrap().token;
    let request = CreateKeyRequest {
        account_id: "acme".into(),
        display_name: "the service's own".into(),
        environment: Environment::Live.into(),
        scopes: vec!["latchkey:authorize".into()],
        ..Default::default()
    };
    let own = server.keys(&root).await.create_key(request).await.unwrap().into_inner().token;
    for (shown, wanted) in
        [(Some(&*own), 200), (None, 503), (Some(UNKNOWN), 503), (Some(&*key), 503)]
    {
        let service = Service::start(example, example.asks(&server), shown).await;
        let answer = ask(&service, "GET", &[("x-api-key", &key)]);
        assert_eq!((answer.status, answer.header("www-authenticate")), (wanted, ""), "{answer:?}");
        let log = service.log();
        assert_eq!(log.contains("does not decide"), wanted == 503, "{log}");
        assert!(
            !log.contains(&own[8..]) && !log.contains(&key[8..]),
            "a key is in the log:\n{log}"
        );
    }
}
