//! Several nodes with one Redis.

use futures_util::future::join_all;

use latchkey::metrics::Stopwatch;

use super::*;
use crate::support::postgres;
use crate::telemetry::READS_OF_POSTGRES;

/// The shortest pause before a read that nobody asks for.
const POLLS_APART: Duration = Duration::from_millis(75);

/// A node on this database.
fn node(url: &str, redis: &Redis) -> Builder {
    Server::build()
        .store(url)
        .environment("LATCHKEY__REDIS__URL", &redis.url())
        .environment("LATCHKEY__LOG__LEVEL", "debug")
}

fn heard(server: &Server, result: &str) -> f64 {
    metric(server, &format!("latchkey_redis_pushes_total{{result=\"{result}\"}}"))
}

#[tokio::test]
async fn a_change_on_one_node_is_read_by_another_when_it_is_told() {
    let (redis, postgres) = (Redis::start().await, postgres::shared().await);
    let url = postgres.url(&postgres.database().await);
    let one = node(&url, &redis).start().await;
    let other = node(&url, &redis).start().await;
    uses_redis(&one).await;
    eventually(IN_TIME, "the other listens", || {
        let listeners: Vec<(String, i64)> = redis.ask(&["PUBSUB", "NUMSUB", "latchkey:changes"]);
        (listeners[0].1 == 2).then_some(())
    })
    .await;
    make_keys(&one, "acme", 0).await;
    let told = async {
        // Now and then the clock is quicker.
        while heard(&other, "ahead") < 3.0 {
            let (token, _) = make_key(&one, "acme").await;
            let seen = async { while !is_allowed(&other, &token).await {} };
            tokio::time::timeout(IN_TIME, seen).await.expect("the other node learns of it");
        }
    };
    tokio::time::timeout(IN_TIME, told).await.expect("it is told before it reads of itself");
    assert!(heard(&other, "foreign") < 1.0);

    // What makes no sense, or is of another store, changes nothing; what is far ahead only makes it read.
    for message in ["", "nonsense", "0000000000000000 7", "ffffffffffffffff 99999999999999999999"] {
        redis.ask::<i64>(&["PUBLISH", "latchkey:changes", message]);
    }
    eventually(IN_TIME, "all are heard", || (heard(&other, "foreign") >= 4.0).then_some(())).await;
    make_key(&one, "acme").await;
}

#[tokio::test]
async fn what_is_told_is_read_at_once_and_not_when_it_would_have_been_read_anyway() {
    let (redis, postgres) = (Redis::start().await, postgres::shared().await);
    let url = postgres.url(&postgres.database().await);
    let one = node(&url, &redis).start().await;
    let other = node(&url, &redis).start().await;
    make_keys(&one, "acme", 0).await;
    let reads = || metric(&other, READS_OF_POSTGRES);
    let hurries = async {
        loop {
            let (before, began) = (reads(), Stopwatch::start());
            let some = async |_| {
                for _ in 0..15 {
                    make_key(&one, "acme").await;
                }
            };
            join_all((0..4).map(some)).await;
            let of_itself = began.elapsed().as_secs_f64() / POLLS_APART.as_secs_f64();
            if reads() - before > of_itself + 2.0 {
                break;
            }
        }
    };
    tokio::time::timeout(IN_TIME, hurries).await.expect("it reads when it is told to");
}

async fn is_allowed(server: &Server, token: &str) -> bool {
    let mut decisions = server.decisions().await;
    let request = latchkey::proto::v1::AuthorizeRequest {
        token: token.to_owned(),
        required_scope: "memory:read".into(),
        ..Default::default()
    };
    decisions.authorize(request).await.is_ok_and(|said| said.into_inner().allowed)
}

#[tokio::test]
async fn what_one_node_read_another_finds_in_redis_also_under_a_new_key() {
    let (redis, postgres) = (Redis::start().await, postgres::shared().await);
    let url = postgres.url(&postgres.database().await);
    let one = forgetful(node(&url, &redis), &redis.url()).start().await;
    uses_redis(&one).await;
    let keys = make_keys(&one, "acme", KEYS).await;
    all_are_kept(&one, &keys, &redis).await;
    let other = node(&url, &redis).environment("LATCHKEY__CACHE__KEYS_MAX", "2").start().await;
    uses_redis(&other).await;
    finds_in_redis(&other, &keys).await;

    // While both serve.
    let made = std::process::Command::new(crate::support::latchkey())
        .args(["redis", "new-key", "--store-url", &url])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    finds_in_redis(&other, &keys).await;
    let more = make_key(&one, "acme").await;
    let keys: Vec<_> = keys.into_iter().chain([more]).collect();
    finds_in_redis(&other, &keys).await;
}
