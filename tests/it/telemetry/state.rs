//! Readiness with its reasons, and gRPC health in step with it.

use std::process::Command;
use std::time::Duration;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;

use super::{IN_TIME, metric, operations};
use crate::support::postgres::Postgres;
use crate::support::{Server, eventually};

/// Calls in flight have ten seconds.
const SOONER_THAN_A_DRAIN: Duration = Duration::from_secs(8);

#[tokio::test]
async fn readiness_tells_of_every_check() {
    let server = Server::start().await;
    let (status, told) = operations(&server, "readyz", &[]);
    let names: Vec<_> = told.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(
        (status, names),
        (200, vec!["ready", "serving ok", "feed ok", "lease ok", "store ok", "durability ok"])
    );
}

#[tokio::test]
async fn health_and_readiness_follow_a_store_that_went_back_in_time() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel().await);
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let statuses = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&statuses);
    tokio::spawn(async move {
        let mut watched = watched;
        while let Ok(Some(answer)) = watched.message().await {
            seen.lock().unwrap().push(answer.status());
        }
    });
    let is_told = |wanted: &'static [ServingStatus]| {
        let statuses = std::sync::Arc::clone(&statuses);
        move || {
            let statuses = statuses.lock().unwrap();
            let mut told = statuses.iter();
            wanted.iter().all(|wanted| told.any(|status| status == wanted)).then_some(())
        }
    };
    eventually(IN_TIME, "it serves", is_told(&[Serving])).await;

    // As if another store had been put in the place of this one.
    let sql = "PRAGMA busy_timeout = 5000; UPDATE feed SET epoch = epoch + 1";
    let sqlite = Command::new("sqlite3").args([&server.database(), sql]).output().unwrap();
    assert!(sqlite.status.success(), "{}", String::from_utf8_lossy(&sqlite.stderr));
    let request = latchkey::proto::v1::CreateAccountRequest {
        account_id: "acme".into(),
        display_name: "Acme".into(),
        ..Default::default()
    };
    let root = server.root_token();
    let changed = tokio::spawn({
        let mut accounts = server.accounts(&root).await;
        async move { accounts.create_account(request).await }
    });
    eventually(IN_TIME, "it does not serve", is_told(&[Serving, NotServing])).await;
    let (status, told) = operations(&server, "readyz", &[]);
    // It starts over soon, so it may be ready again by now.
    if status == 503 {
        assert!(told.starts_with("not ready\n") && told.contains("feed failed: "), "{told}");
    }
    eventually(IN_TIME, "it serves again", is_told(&[Serving, NotServing, Serving])).await;
    assert!(metric(&server, "latchkey_feed_fences_total") >= 1.0);
    assert_eq!(operations(&server, "readyz", &[]).0, 200);
    drop(changed.await);
}

#[tokio::test]
async fn a_server_that_stops_says_so_before_it_ends() {
    let mut server = Server::start().await;
    // A stream that is open would keep it from ending.
    let channel = server.channel().await;
    let mut health = HealthClient::new(channel.clone());
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), Serving);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(watched.message().await.unwrap().unwrap().status(), NotServing);
    assert!(matches!(watched.message().await, Ok(None)), "it ends when it has told the last");
    assert_eq!(server.wait_for_end(SOONER_THAN_A_DRAIN).await.code(), Some(0));
}

#[tokio::test]
async fn a_database_that_could_lose_what_was_acknowledged_is_told() {
    let postgres = Postgres::start(&[]).await;
    let database = postgres.database().await;
    let _standby = postgres.standby().await;
    let server = Server::build().store(&postgres.url(&database)).start().await;
    let told = || {
        let (status, told) = operations(&server, "readyz", &[]);
        let line = told.lines().find(|line| line.starts_with("durability degraded: "))?.to_owned();
        Some((status, line))
    };
    let (status, line) = eventually(IN_TIME, "it is told", told).await;
    assert_eq!(status, 200);
    assert!(line.contains("synchronous_standby_names = 'ANY 1 (*)'"), "{line}");
}
