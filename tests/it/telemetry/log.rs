//! The log: a line for each call at debug, and what is written can be changed while it runs.

use latchkey::proto::v1::AuthorizeRequest;
use latchkey::revision::Position;

use super::{logged, operations, question};
use crate::process::sqlite;
use crate::support::Server;

#[tokio::test]
async fn the_log_level_is_changed_while_it_runs() {
    let server = Server::start_dev().await;
    assert_eq!(operations(&server, "log-level", &[]), (200, "info\n".into()));
    let mut decisions = server.decisions().await;
    let token = server.live_key();
    decisions.authorize(question(&token, "memory:read", "")).await.unwrap();

    let put = |body| operations(&server, "log-level", &["-X", "PUT", "-d", body]);
    assert_eq!(
        put("warn,latchkey::telemetry=debug"),
        (200, "warn,latchkey::telemetry=debug\n".into())
    );
    logged(&server, &["the log level is changed", "\"after\":\"warn,latchkey::telemetry=debug\""])
        .await;
    decisions.authorize(question(&token, "memory:write", "")).await.unwrap();
    let line = logged(&server, &["\"decided\""]).await;
    assert_eq!(line["reason"], "INSUFFICIENT_SCOPE", "the one before was not written: {line}");
    assert_eq!((&line["surface"], &line["decision"]), (&"grpc".into(), &"deny".into()));
    assert_eq!(line["account_id"], "demo");
    assert!(line["key_id"].as_str().unwrap().starts_with("key_"));
    assert!(line["duration_us"].is_number());
    assert!(!server.log().contains(&token[12..40]));

    assert_eq!(put("error"), (200, "error\n".into()));
    logged(&server, &["the log level is changed", "\"after\":\"error\""]).await;
    assert_eq!(put("info"), (200, "info\n".into()));
    logged(&server, &["the log level is changed", "\"before\":\"error\""]).await;
}

#[tokio::test]
async fn a_log_level_that_is_none_is_refused_with_what_would_be_right() {
    let server = Server::start().await;
    let put = |body| operations(&server, "log-level", &["-X", "PUT", "--data-binary", body]);
    let long = "x".repeat(2_000);
    for bad in ["", "loud", "info,h2=trace", "info,latchkey::feed", "debug\ninfo", &long] {
        let (status, told) = put(bad);
        assert_eq!(status, 400, "{bad}: {told}");
        let is_told = told.contains("info,latchkey::feed=debug") || told.contains("1024 bytes");
        assert!(is_told, "{bad}: {told}");
    }
    assert_eq!(operations(&server, "log-level", &[]), (200, "info\n".into()));
    assert!(!server.log().contains("the log level is changed"));
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_change_the_log_level() {
    let server = Server::start().await;
    let origin = ["-X", "PUT", "-d", "trace", "-H", "origin: https://example.com"];
    assert_eq!(operations(&server, "log-level", &origin).0, 403);
    let preflight = ["-i", "-X", "OPTIONS", "-H", "origin: https://example.com"];
    let (status, told) = operations(&server, "log-level", &preflight);
    assert_eq!(status, 405);
    assert!(!told.to_lowercase().contains("access-control"), "{told}");
    assert_eq!(operations(&server, "log-level", &[]), (200, "info\n".into()));
}

#[tokio::test]
async fn a_store_that_is_away_is_told_once_and_so_is_its_return() {
    let server = Server::build().dev().argument("--log-level").argument("debug").start().await;
    let mut decisions = server.decisions().await;
    let token = server.live_key();
    let answer = decisions.authorize(question(&token, "memory:read", "")).await.unwrap();
    let mut ahead = Position::from_revision(&answer.get_ref().revision, "revision").unwrap();
    ahead.n += 1_000;
    let ask = AuthorizeRequest {
        token,
        required_scope: "memory:read".into(),
        min_revision: ahead.to_revision(),
        ..Default::default()
    };

    sqlite(&server.database(), "ALTER TABLE feed RENAME TO away");
    while server.log().matches("failed again").count() < 3 {
        decisions.authorize(ask.clone()).await.unwrap_err();
    }
    sqlite(&server.database(), "ALTER TABLE away RENAME TO feed");
    logged(&server, &["the store is read again", "\"INFO\""]).await;
    let log = server.log();
    // On a busy machine a read may have been given up before.
    let told = log.matches("a read of the store failed;").count();
    assert_eq!(told, log.matches("the store is read again").count());
    // Nor is there a line above debug for each question that could not be answered.
    let refused: Vec<_> = log.lines().filter(|line| line.contains("REVISION_AHEAD")).collect();
    assert!(!refused.is_empty() && refused.iter().all(|line| line.contains("\"DEBUG\"")));
}
