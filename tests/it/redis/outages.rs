//! A Redis that is away, ends, stands still, forgets or comes back: decisions go on.

use super::*;
use crate::telemetry::logged;

#[tokio::test]
async fn decisions_go_on_whatever_becomes_of_redis() {
    let mut redis = Redis::start().await;
    let server = forgetful(Server::build(), &redis.url()).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    finds_in_redis(&server, &keys).await;

    redis.kill();
    for _ in 0..3 {
        ask_all(&server, &keys).await;
    }
    leaves_redis_alone(&server).await;
    ask_all(&server, &keys).await;
    let (status, told) = readiness(&server);
    assert_eq!(status, 200);
    assert!(told.contains("redis degraded: it is left alone"), "{told}");

    redis.start_again().await;
    uses_redis(&server).await;
    finds_in_redis(&server, &keys).await;

    redis.pause();
    ask_all(&server, &keys).await;
    ask_all(&server, &keys).await;
    leaves_redis_alone(&server).await;
    let asked = looked(&server, "skipped");
    ask_all(&server, &keys).await;
    assert!(looked(&server, "skipped") > asked, "nobody waits for it");
    redis.resume();
    uses_redis(&server).await;

    redis.ask::<()>(&["FLUSHALL"]);
    ask_all(&server, &keys).await;
    finds_in_redis(&server, &keys).await;
    let (_, told) = readiness(&server);
    assert!(told.contains("redis ok: it is used"), "{told}");
    assert!(metric(&server, "latchkey_redis_breaker_openings_total") >= 2.0);
    for line in server.log().lines() {
        assert!(!line.contains("panicked"), "{line}");
    }
}

#[tokio::test]
async fn a_node_starts_without_redis_and_uses_it_when_it_comes() {
    let mut redis = Redis::start().await;
    redis.kill();
    let server = forgetful(Server::build(), &redis.url()).start().await;
    let keys = make_keys(&server, "acme", KEYS).await;
    ask_all(&server, &keys).await;
    logged(&server, &["Redis cannot be used"]).await;
    redis.start_again().await;
    uses_redis(&server).await;
    finds_in_redis(&server, &keys).await;
}

#[tokio::test]
async fn a_revocation_holds_although_redis_was_away_for_it() {
    let redis = Redis::start().await;
    let server = forgetful(Server::build(), &redis.url()).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    all_are_kept(&server, &keys, &redis).await;
    redis.pause();
    for (_, id) in &keys {
        revoke(&server, id).await;
    }
    leaves_redis_alone(&server).await;
    redis.resume();
    uses_redis(&server).await;
    for (token, _) in keys.iter().chain(&keys) {
        assert_eq!(ask(&server, token).await.reason(), DecisionReason::KeyRevoked);
    }
}

#[tokio::test]
async fn a_redis_that_has_no_room_is_left_alone_and_the_log_says_why() {
    let redis = Redis::start().await;
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let server = forgetful(Server::build(), &redis.url()).start().await;
    logged(&server, &["Redis cannot be used", "OOM"]).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    ask_all(&server, &keys).await;
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    uses_redis(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_keys_is_rationed_and_no_key_becomes_unknown_by_it() {
    let server = Server::build().environment("LATCHKEY__CACHE__KEYS_MAX", "2").start().await;
    let keys = make_keys(&server, "acme", KEYS).await;
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut decisions = server.decisions().await;
        flood.spawn(async move {
            let mut answered = [0_u32; 2];
            for _ in 0..600 {
                let request = latchkey::proto::v1::AuthorizeRequest {
                    token: nobodys().expose().to_owned(),
                    required_scope: "memory:read".into(),
                    ..Default::default()
                };
                match decisions.authorize(request).await {
                    Ok(said) => {
                        assert_eq!(said.into_inner().reason(), DecisionReason::UnknownKey);
                        answered[0] += 1;
                    }
                    Err(status) => {
                        assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
                        answered[1] += 1;
                    }
                }
            }
            answered
        });
    }
    let answers = flood.join_all().await;
    let count = |at: usize| answers.iter().map(|answer| answer[at]).sum::<u32>();
    assert!(count(1) > 0 && count(0) >= 4_096, "{} unknown, {} refused", count(0), count(1));
    let refused = metric(&server, "latchkey_feed_fills_refused_total{cause=\"admission\"}");
    assert!((refused - f64::from(count(1))).abs() < 0.5, "{refused}");
    let all_are_found = async {
        for (token, _) in &keys {
            let mut decisions = server.decisions().await;
            loop {
                let request = latchkey::proto::v1::AuthorizeRequest {
                    token: token.clone(),
                    required_scope: "memory:read".into(),
                    ..Default::default()
                };
                match decisions.authorize(request).await {
                    Ok(said) => break assert!(said.into_inner().allowed),
                    Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable),
                }
            }
        }
    };
    tokio::time::timeout(IN_TIME, all_are_found).await.expect("every key is found again");
}

fn readiness(server: &Server) -> (u16, String) {
    crate::telemetry::operations(server, "readyz", &[])
}
