//! What happens to nodes in the course of time, again and again for as long as is asked: Redis and PostgreSQL are killed
//! and started again, certificates are replaced, nodes are restarted behind Envoy. Meanwhile a key is asked for all the
//! time, and something is taken from others. Nobody is turned away, nothing is decided wrongly, no verifier finds
//! anything, and a node that goes on all the while needs no more than before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::log::{Client, Question, now};
use super::rolling::{By, are_all_healthy, ask, in_front_of};
use super::taking::{Plan, Taking};
use super::verdict::{Moment, Verdict};
use super::{Operator, asked, plot};
use crate::gateways::proxies::program::Proxy;
use crate::redis::uses_redis;
use crate::support::cluster::Cluster;
use crate::support::pki::Authority;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::{Dice, Echo, Folder, Server, eventually, say};
use crate::telemetry::{IN_TIME, metric};

const NODES: usize = 3;
/// The node that goes on all the while.
const STAYS: usize = 0;
/// Each asks again some milliseconds after it was answered.
const CLIENTS: u64 = 6;
/// Most keys that something was taken from have to go, so that memory has no reason to grow for long.
const ROOM: &str = "2000";
/// With fewer samples nothing is said of growth.
const SAMPLES_MIN: usize = 20;
/// By so much the memory may grow, of what it was, and how many more descriptors there may be.
const GROWTH: f64 = 1.1;
const DESCRIPTORS: f64 = 8.0;

/// What happens, one after the other.
#[derive(Debug, Clone, Copy)]
enum Event {
    RedisKilled,
    PostgresKilled,
    CertificateReplaced,
    NodeRestarted(usize),
}

const EVENTS: [Event; 5] = [
    Event::RedisKilled,
    Event::NodeRestarted(1),
    Event::PostgresKilled,
    Event::CertificateReplaced,
    Event::NodeRestarted(2),
];

/// What the node that stays needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) after: Duration,
    pub(super) bytes: f64,
    pub(super) descriptors: f64,
}

/// Nodes behind Envoy, and whoever signs their certificates.
struct Stage {
    cluster: Cluster,
    proxy: Proxy,
    _echo: Echo,
    folder: Folder,
    authority: Authority,
    token: String,
    replaced: f64,
    began: Instant,
    samples: Vec<Sample>,
}

/// What was seen in all rounds.
#[derive(Debug, Default)]
struct Seen {
    rounds: u64,
    changes: usize,
    tried_receipts: usize,
    agreements: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_in_the_course_of_time_nobody_is_turned_away_and_nothing_grows() {
    let mut stage = Stage::set().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..asked("CLIENTS", CLIENTS) {
        let (to, token, is_over) =
            (stage.proxy.address(), stage.token.clone(), Arc::clone(&is_over));
        clients.spawn(async move { ask(to, &token, &is_over).await });
    }
    let mut dice = Dice::new(asked("SEED", 1));
    let (mut seen, lasts) = (Seen::default(), Duration::from_secs(asked("SECONDS", 0)));
    loop {
        stage.play_round(&mut dice.apart(seen.rounds), &mut seen).await;
        say(format_args!("{:?}: {seen:?}", stage.samples.last().unwrap()));
        if stage.began.elapsed() >= lasts {
            break;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(1_000))).await;
    }
    is_over.store(true, Ordering::Relaxed);
    let mut told: BTreeMap<u16, u64> = BTreeMap::new();
    for (status, times) in clients.join_all().await.into_iter().flatten() {
        *told.entry(status).or_default() += times;
    }
    let (first, last) = (stage.samples[0], stage.samples[stage.samples.len() - 1]);
    say(format_args!("SUMMARY {seen:?}; answers by status: {told:?}; from {first:?} to {last:?}"));
    plot::write_growth_if_asked(&stage.samples);
    assert!(told.keys().eq([&200]), "{told:?}");
    assert!(seen.tried_receipts > 0 && seen.agreements > 0.0, "nothing was shown: {seen:?}");
    demand_flat(&stage.samples);
}

impl Stage {
    async fn set() -> Self {
        let (folder, authority) = (Folder::new(), Authority::new("the nodes' authority"));
        authority.server().write(folder.path(), "server");
        crate::support::pki::write(folder.path(), "authority.crt", &authority.pem());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let settings = [
            ("HTTP__TLS_CERTIFICATE", &*path("server.crt")),
            ("HTTP__TLS_KEY", &*path("server.key")),
            ("CACHE__KEYS_MAX", ROOM),
        ];
        let (postgres, redis) = (Postgres::start(&[]).await, Redis::start().await);
        let cluster = Cluster::start_all(NODES, postgres, Some(redis), &settings).await;
        let mut operator = Operator::at(&cluster.nodes[STAYS].channel().await);
        for account in ["common", "taken"] {
            operator.make_account(account).await;
        }
        let token = operator.make_key("common", "memory:read").await.token;
        let question = Question { token: token.clone().into(), scope: "memory:read".into() };
        for (node, channel) in cluster.channels().await.iter().enumerate() {
            Client::of(node, channel).until_allowed(0, &question).await;
        }
        let echo = Echo::start();
        let proxy = in_front_of(&cluster.addresses(), echo.address(), &By::Retries).await;
        let stage = Self {
            cluster,
            proxy,
            _echo: echo,
            folder,
            authority,
            token,
            replaced: 0.0,
            began: now(),
            samples: Vec::new(),
        };
        stage.until_well().await;
        stage
    }

    /// Each event once, while something is taken from keys; demands that all was as it should be.
    async fn play_round(&mut self, dice: &mut Dice, seen: &mut Seen) {
        let plan = Plan {
            tellers: (0..NODES).collect(),
            every: Duration::from_millis(200),
            pause: Duration::from_millis(50),
            asked_for: Duration::from_secs(20),
        };
        let moment = Moment::now();
        let taking = Taking::begin(&self.cluster.addresses(), &Arc::default(), &plan, dice);
        for event in EVENTS {
            tokio::time::sleep(Duration::from_millis(dice.below(2_000))).await;
            self.happen(event, seen).await;
            self.until_well().await;
        }
        let (made, checks) = taking.end().await;
        let verdict = Verdict::of(&made, &checks, NODES, moment);
        verdict.demand_no_wrong_answer();
        seen.rounds += 1;
        seen.changes += made.len();
        seen.tried_receipts += verdict.tried_receipts;
        self.samples.push(self.sample());
        self.demand_no_violation(STAYS);
    }

    async fn happen(&mut self, event: Event, seen: &mut Seen) {
        match event {
            Event::RedisKilled => {
                let redis = self.cluster.redis.as_mut().unwrap();
                redis.kill();
                redis.start_again().await;
            }
            Event::PostgresKilled => {
                self.cluster.postgres.kill().await;
                self.cluster.postgres.start_again().await;
            }
            Event::CertificateReplaced => self.replace_certificate().await,
            Event::NodeRestarted(node) => {
                // What it has counted goes with it.
                seen.agreements += self.demand_no_violation(node);
                self.cluster.nodes[node].stop().await;
                self.cluster.start_again(node).await;
            }
        }
    }

    /// Waits until the node that stays serves with the new one, and somebody who trusts it was answered by each.
    async fn replace_certificate(&mut self) {
        self.authority.server().write(self.folder.path(), "server");
        let node = &self.cluster.nodes[STAYS];
        let before = self.replaced;
        let is_taken = || {
            let count =
                metric(node, "latchkey_tls_reloads_total{listener=\"http\",result=\"taken\"}");
            (count > before).then_some(count)
        };
        self.replaced = eventually(IN_TIME, "the new certificate is served", is_taken).await;
        for node in &self.cluster.nodes {
            self.demand_answer_over_tls(node.http());
        }
    }

    fn demand_answer_over_tls(&self, node: SocketAddr) {
        let url = format!("https://localhost:{}/v1/forward-auth?scope=memory:read", node.port());
        let authority = self.folder.path().join("authority.crt");
        let output = Command::new("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--cacert"])
            .arg(authority)
            .args(["-H", &format!("authorization: Bearer {}", self.token), &url])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{output:?}");
    }

    async fn until_well(&self) {
        are_all_healthy(&self.proxy).await;
        for node in &self.cluster.nodes {
            uses_redis(node).await;
            let is_fresh = || (metric(node, "latchkey_lease_age_seconds") < 0.5).then_some(());
            eventually(IN_TIME, "its lease is renewed", is_fresh).await;
        }
    }

    /// How many looks of its verifier have found agreement.
    fn demand_no_violation(&self, node: usize) -> f64 {
        let looks = |result: &str| {
            let name = format!("latchkey_verifier_looks_total{{result=\"{result}\"}}");
            metric(&self.cluster.nodes[node], &name)
        };
        assert!(looks("violation") < 1.0, "{}", self.cluster.nodes[node].log());
        looks("agree")
    }

    fn sample(&self) -> Sample {
        let of = |name| metric(self.stays(), name);
        Sample {
            after: self.began.elapsed(),
            bytes: of("process_resident_memory_bytes"),
            descriptors: of("process_open_fds"),
        }
    }

    fn stays(&self) -> &Server {
        &self.cluster.nodes[STAYS]
    }
}

/// Compares the second quarter, when all that has a bound has reached it, with the last.
fn demand_flat(samples: &[Sample]) {
    if samples.len() < SAMPLES_MIN {
        return;
    }
    let quarter = samples.len() / 4;
    let median = |part: &[Sample], of: fn(&Sample) -> f64| {
        let mut values: Vec<_> = part.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let parts = [&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]];
    let [bytes, later_bytes] = parts.map(|part| median(part, |it| it.bytes));
    let [open, later_open] = parts.map(|part| median(part, |it| it.descriptors));
    say(format_args!(
        "SUMMARY of the second quarter and the last: {:.1} and {:.1} MiB, {open} and {later_open} descriptors",
        bytes / 1_048_576.0,
        later_bytes / 1_048_576.0
    ));
    assert!(later_bytes <= bytes * GROWTH, "memory grows: {bytes}, then {later_bytes} bytes");
    assert!(later_open <= open + DESCRIPTORS, "descriptors grow: {open}, then {later_open}");
}
