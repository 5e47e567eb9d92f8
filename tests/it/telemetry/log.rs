//! The log: a line for each call at debug, and what is written can be changed while it runs.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use latchkey::proto::v1::AuthorizeRequest;
use latchkey::revision::Position;

use super::{logged, metric, operations, question};
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

/// Asks so often, and is always answered.
async fn ask(server: &Server, times: usize) {
    let (decisions, token) = (server.decisions().await, server.live_key());
    let answers: FuturesUnordered<_> = (0..times)
        .map(|_| {
            let (mut decisions, asked) = (decisions.clone(), question(&token, "memory:read", ""));
            async move { decisions.authorize(asked).await.unwrap().into_inner().allowed }
        })
        .collect();
    assert!(answers.all(std::future::ready).await);
}

/// Asks until lines of the log are dropped.
async fn ask_until_lines_are_dropped(server: &Server) {
    let dropped = || metric(server, "latchkey_log_lines_dropped_total");
    let before = dropped();
    let asking = async {
        while dropped() <= before {
            ask(server, 500).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), asking).await.unwrap();
}

#[tokio::test]
async fn decisions_and_the_end_do_not_wait_for_whoever_reads_the_log() {
    let mut server = Server::build().dev().argument("--log-level").argument("trace").start().await;
    let unread = server.leave_log_unread().await;
    ask_until_lines_are_dropped(&server).await;
    ask(&server, 10).await;
    drop(unread);
    let told = logged(&server, &["lines of the log were dropped"]).await;
    assert!(told["lines"].as_u64().unwrap() > 0 && told["level"] == "WARN", "{told}");

    let _unread = server.leave_log_unread().await;
    ask_until_lines_are_dropped(&server).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn no_line_is_lost_when_it_ends() {
    let mut server = Server::build().dev().argument("--log-level").argument("debug").start().await;
    ask(&server, 1_000).await;
    assert_eq!(server.stop().await.code(), Some(0));
    logged(&server, &["\"stopped\""]).await;
    let log = server.log();
    assert_eq!(log.matches("\"decided\"").count(), 1_000);
    assert!(log.trim_end().lines().last().unwrap().contains("\"stopped\""), "{log}");
}
