//! What is kept in Redis: found again, by whom it may be, and holding nothing that is secret.

use super::*;
use crate::support::redis::command_of;

#[tokio::test]
async fn a_key_that_was_dropped_or_forgotten_is_found_in_redis() {
    let redis = Redis::start().await;
    let mut server = forgetful(Server::build(), &redis.url()).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    finds_in_redis(&server, &keys).await;
    // A new process remembers the positions of what was kept before it was started.
    let stopped = server.stop().await;
    assert!(stopped.success());
    let server = forgetful(server.again(), &redis.url()).start().await;
    uses_redis(&server).await;
    finds_in_redis(&server, &keys).await;
    assert!(looked(&server, "bad_mac") < 1.0);
}

#[tokio::test]
async fn absence_is_found_in_redis_until_the_key_is_made() {
    let redis = Redis::start().await;
    let mut server = forgetful(Server::build(), &redis.url()).start().await;
    uses_redis(&server).await;
    make_keys(&server, "acme", KEYS).await;
    // A write that did not come in time is not made again, so that it is another token's turn.
    let kept = async {
        loop {
            let unknown = nobodys();
            let said = ask(&server, unknown.expose()).await;
            assert_eq!(said.reason(), DecisionReason::UnknownKey);
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Some(name) = record_of(&redis, unknown.expose()) {
                break (unknown, name);
            }
        }
    };
    let kept = tokio::time::timeout(IN_TIME, kept).await;
    let (unknown, name) = kept.expect("an absence is kept");
    let left: i64 = redis.ask(&["PTTL", &name]);
    assert!(left <= 10_000, "{left}");
    assert_eq!(redis.ask::<i64>(&["PERSIST", &name]), 1);
    let found = async {
        // Nobody remembers it but Redis; an answer that did not come in time is not waited for.
        while looked(&server, "absent") < 1.0 {
            server.stop().await;
            server = forgetful(server.again(), &redis.url()).start().await;
            uses_redis(&server).await;
            let said = ask(&server, unknown.expose()).await;
            assert_eq!(said.reason(), DecisionReason::UnknownKey);
        }
    };
    tokio::time::timeout(IN_TIME, found).await.expect("the absence is found in Redis");
}

#[tokio::test]
async fn a_record_is_kept_for_about_an_hour() {
    let redis = Redis::start().await;
    let server = forgetful(Server::build(), &redis.url()).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    finds_in_redis(&server, &keys).await;
    let spans: Vec<i64> =
        redis.records().iter().map(|name| redis.ask(&["TTL", name.as_str()])).collect();
    assert!(
        spans.len() >= 2 && spans.iter().all(|span| (2_800..=4_320).contains(span)),
        "{spans:?}"
    );
    assert!(spans.iter().any(|span| *span != spans[0]), "{spans:?}");
}

#[tokio::test]
async fn nothing_of_a_token_is_in_redis() {
    let redis = Redis::start_with(&["--port", "0", "--rdbcompression", "no"]).await;
    let server = forgetful(Server::build(), &redis.url()).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    let unknown = nobodys();
    ask(&server, unknown.expose()).await;
    finds_in_redis(&server, &keys).await;
    is_kept(&server, &keys, || (redis.records().len() > KEYS).then_some(())).await;
    redis.ask::<()>(&["SAVE"]);
    let dump = std::fs::read(redis.folder().join("dump.rdb")).unwrap();
    let stands = |text: &str| dump.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(stands("latchkey:") && stands("memory:read") && stands(&keys[0].1));
    let root = server.root_token();
    let tokens = keys.iter().map(|(token, _)| token.as_str());
    for token in tokens.chain([root.as_str(), unknown.expose()]) {
        let secret = token.rsplit_once('_').unwrap().1;
        // Any eight characters in a row; what people are shown of a token has four and four.
        for from in 0..=secret.len() - 8 {
            assert!(!stands(&secret[from..from + 8]), "{secret}");
        }
        assert!(!stands(&secret[secret.len() - 4..]) || secret.len() < 4, "{secret}");
    }
    assert!(!stands("a name for people"));
}

#[tokio::test]
async fn a_new_key_ends_what_the_one_before_the_last_authenticated() {
    let redis = Redis::start().await;
    let mut server = forgetful(Server::build(), &redis.url()).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    all_are_kept(&server, &keys, &redis).await;
    for is_still_good in [true, false] {
        if server.ended().is_none() {
            server.stop().await;
        }
        let url = format!("sqlite://{}", server.database());
        let made = std::process::Command::new(crate::support::latchkey())
            .args(["redis", "new-key", "--store-url", &url])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server = forgetful(server.again(), &redis.url()).start().await;
        uses_redis(&server).await;
        if is_still_good {
            // What was kept under the first key; nothing is kept anew, so that it is that still.
            let mut connection = redis.connect();
            let records = redis.records();
            let before: Vec<(String, Vec<u8>)> = records
                .into_iter()
                .map(|name| {
                    let value = command_of(&["GET", &name]).query(&mut connection).unwrap();
                    (name, value)
                })
                .collect();
            finds_in_redis(&server, &keys).await;
            assert!(looked(&server, "bad_mac") < 1.0);
            server.stop().await;
            for (name, value) in before {
                redis::cmd("SET").arg(name).arg(value).exec(&mut connection).unwrap();
            }
        } else {
            let refused = async {
                while looked(&server, "bad_mac") < 1.0 {
                    ask_all(&server, &keys).await;
                }
            };
            tokio::time::timeout(IN_TIME, refused).await.expect("the first key is of no use");
        }
    }
}
