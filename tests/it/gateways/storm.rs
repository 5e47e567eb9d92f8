//! Many thousands of hostile requests, through the real Envoy with the shipped examples and straight at `Check`: whatever gets
//! through must have brought the one key that may.
//!
//! `LATCHKEY_STORM_REQUESTS=50000`, which `tests/storm/run` sets, makes so many in each part and prints a table;
//! `LATCHKEY_STORM_SEED` says which. Without them each part is short. Number and seed make a request, so that what went wrong
//! can be sent again; it is then made as small as it can be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use self::attacks::{IDENTITY, PATHS, PLAIN, TOOLS};
use self::cast::{By, Cast, RULES};
use self::client::{CLOSED, NO_ANSWER, send};
use self::judge::{Judge, Wrong};
use self::shot::Shot;
use self::upstream::Upstream;
use super::proxies::program::{Example, Program, Proxy};
use crate::support::{Server, eventually, say};
use crate::telemetry::metric;

mod at_check;
mod attacks;
mod cast;
mod client;
mod judge;
mod places;
mod shot;
mod tools;
mod upstream;

const SHORT: u64 = 1_200;
/// How many are under way at once.
const CLIENTS: u64 = 16;
/// For an answer that has to come, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// For one that may not come: the end of the request has not, for some readers.
const LITTLE_PATIENCE: Duration = Duration::from_millis(150);
/// How many causes are told.
const CAUSES_MAX: usize = 12;
/// Examples of `deploy/envoy`, how a right is found there, and the one kind of request that goes there, if not all.
const EXAMPLES: [(&str, By, Option<&str>); 3] = [
    ("scopes.yaml", By::Scopes, None),
    ("rules.yaml", By::Rules, None),
    ("mcp.yaml", By::Rules, Some(TOOLS)),
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_gets_through_envoy_without_the_key_that_may() {
    let (requests, seed) = (told("LATCHKEY_STORM_REQUESTS", SHORT), told("LATCHKEY_STORM_SEED", 1));
    let mut wrong = String::new();
    for (file, by, only) in EXAMPLES {
        let example = Example::read(Program::Envoy, &[file]);
        let stage = Stage::set(&example, by, only, seed).await;
        let statuses = stage.storm(requests.div_ceil(3), usize::MAX).await;
        stage.settle().await;
        let (hits, allowed) = (stage.judge.hits(), stage.allowed());
        assert!(hits > 0, "nothing at all got through");
        assert!(hits <= allowed, "{hits} requests got through, and latchkey allowed {allowed}");
        say(format!("{file}, seed {seed}\n{}", table(&statuses, &stage.judge.passed())));
        wrong += &stage.wrong().await;
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_finds_what_an_open_gateway_lets_through() {
    let without = |example: &Example, line: &str| {
        let mut example = example.clone();
        let text = &mut example.files[0].text;
        let kept: Vec<_> = text.lines().filter(|it| !it.contains(line)).collect();
        assert!(kept.len() < text.lines().count(), "no line with {line}");
        *text = kept.join("\n");
        example
    };
    let scopes = Example::read(Program::Envoy, &["scopes.yaml"]);
    for (line, kind) in [
        ("path_with_escaped_slashes_action", PATHS),
        ("direct_response: { status: 400 }", PATHS),
        ("latchkey[^a-z0-9]", IDENTITY),
    ] {
        let stage = Stage::set(&without(&scopes, line), By::Scopes, Some(kind), 1).await;
        stage.storm(SHORT, 1).await;
        let wrong = stage.wrong().await;
        say(format!("without `{line}`\n{wrong}"));
        assert!(!wrong.is_empty(), "nothing goes wrong without {line}");
    }
}

/// A development server with these rules.
async fn with_policy(rules: &str) -> Server {
    let builder = Server::build().dev();
    let path = builder.folder().join("policy.toml");
    let policy = latchkey::policy::Policy::default().to_toml();
    std::fs::write(&path, format!("{policy}\n{rules}")).unwrap();
    builder.environment("LATCHKEY__POLICY__FILE", &path.display().to_string()).start().await
}

fn told(name: &str, otherwise: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the length of a test is said from outside")]
    let told = std::env::var(name).ok();
    told.map_or(otherwise, |told| told.parse().unwrap())
}

/// latchkey, Envoy before it, and an upstream that has everything judged.
struct Stage {
    server: Server,
    _proxy: Proxy,
    address: SocketAddr,
    _upstream: Upstream,
    judge: Arc<Judge>,
    /// Good requests that were refused, and how.
    refused: Mutex<Vec<(u64, u16)>>,
}

/// Answers by kind and status.
type Statuses = BTreeMap<&'static str, BTreeMap<u16, u64>>;

impl Stage {
    async fn set(example: &Example, by: By, only: Option<&'static str>, seed: u64) -> Arc<Self> {
        let server = with_policy(RULES).await;
        let judge = Arc::new(Judge::new(seed, by, Cast::gather(&server).await, only));
        let judging = Arc::clone(&judge);
        let upstream = Upstream::start(move |hit| judging.judge(&hit)).await;
        let servers = [("50051", server.grpc()), ("3000", upstream.address())];
        let proxy = Proxy::start(example, &servers).await.unwrap();
        let address = proxy.address();
        let refused = Mutex::default();
        Arc::new(Self { server, _proxy: proxy, address, _upstream: upstream, judge, refused })
    }

    /// Sends requests until there are so many, or so many of them got through without a right.
    async fn storm(self: &Arc<Self>, requests: u64, wrong_max: usize) -> Statuses {
        let next = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (stage, next) = (Arc::clone(self), Arc::clone(&next));
            clients.spawn(async move {
                let mut statuses = Statuses::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= requests || stage.judge.wrong().len() >= wrong_max {
                        return statuses;
                    }
                    let (kind, status) = stage.send(number).await;
                    *statuses.entry(kind).or_default().entry(status).or_default() += 1;
                }
            });
        }
        sum(clients.join_all().await)
    }

    async fn send(&self, number: u64) -> (&'static str, u16) {
        let shot = self.judge.shot(number);
        let is_good = self.judge.is_good(&shot);
        let is_answered = shot.kind == PLAIN;
        let patience = if is_answered { PATIENCE } else { LITTLE_PATIENCE };
        let status = send(self.address, &shot, patience).await;
        // Envoy asks for no longer than 250 ms, which a busy machine may take.
        if is_good && !matches!(status, 200 | 503) {
            self.refused.lock().unwrap().push((number, status));
        }
        (shot.kind, status)
    }

    /// What went wrong, each cause once and as small as it can be; nothing is under way any more.
    async fn wrong(&self) -> String {
        let mut text = String::new();
        let refused = self.refused.lock().unwrap().clone();
        for (number, status) in refused.into_iter().take(CAUSES_MAX) {
            let shot = self.judge.shot(number).shown();
            writeln!(text, "number {number} is good, and answered with {status}: {shot}").unwrap();
        }
        let mut causes = BTreeMap::new();
        for Wrong { number, why, hit } in self.judge.wrong() {
            let kind = if number == u64::MAX { "" } else { self.judge.shot(number).kind };
            causes.entry((why, kind)).or_insert((number, hit));
        }
        for ((why, kind), (number, hit)) in causes.into_iter().take(CAUSES_MAX) {
            writeln!(text, "number {number} ({kind}): {why}\n    the upstream saw {hit}").unwrap();
            if number != u64::MAX {
                let shot = self.smallest(self.judge.shot(number), why).await;
                writeln!(text, "  by {}", shot.shown()).unwrap();
            }
        }
        text
    }

    /// The request without whatever can be left out.
    async fn smallest(&self, mut shot: Shot, why: &str) -> Shot {
        let mut at = 0;
        while at < shot.pieces.len() {
            let less = shot.without(at);
            if self.is_still_wrong(&less, why).await { shot = less } else { at += 1 }
        }
        shot
    }

    async fn is_still_wrong(&self, shot: &Shot, why: &str) -> bool {
        self.judge.instead(Some(shot.clone()));
        send(self.address, shot, LITTLE_PATIENCE).await;
        self.judge.wrong().iter().any(|wrong| wrong.why == why)
    }

    /// How many requests latchkey has allowed.
    fn allowed(&self) -> u64 {
        let allowed = "latchkey_authorize_decisions_total{surface=\"ext_authz\",decision=\"allow\",reason=\"ALLOWED\"}";
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let allowed = metric(&self.server, allowed) as u64;
        allowed
    }

    /// Waits until Envoy has nothing under way.
    async fn settle(&self) {
        let mut seen = vec![];
        eventually(PATIENCE, "nothing is under way", || {
            seen.push(self.judge.passed().values().sum::<u64>());
            seen.iter()
                .rev()
                .take(50)
                .all(|it| Some(it) == seen.last())
                .then_some(())
                .filter(|()| seen.len() > 50)
        })
        .await;
    }
}

fn sum(parts: Vec<Statuses>) -> Statuses {
    let mut all = Statuses::default();
    for (kind, statuses) in parts.into_iter().flatten() {
        for (status, count) in statuses {
            *all.entry(kind).or_default().entry(status).or_default() += count;
        }
    }
    all
}

fn table(statuses: &Statuses, passed: &BTreeMap<&'static str, u64>) -> String {
    let told = |(status, count): (&u16, &u64)| match *status {
        NO_ANSWER => format!("none {count}"),
        CLOSED => format!("closed {count}"),
        status => format!("{status} {count}"),
    };
    let mut table =
        "| kind of request | requests | answers | got through, rightly |\n|---|---|---|---|\n"
            .to_owned();
    let (mut requests, mut rightly) = (0, 0);
    for (kind, statuses) in statuses {
        let count: u64 = statuses.values().sum();
        let passed = passed.get(kind).copied().unwrap_or_default();
        let answers = statuses.iter().map(told).collect::<Vec<_>>().join(", ");
        writeln!(table, "| {kind} | {count} | {answers} | {passed} |").unwrap();
        (requests, rightly) = (requests + count, rightly + passed);
    }
    writeln!(table, "| together | {requests} | | {rightly} |").unwrap();
    table
}
