//! Peers that abuse the protocol, beside one that does not.
//!
//! `LATCHKEY_HOSTILE_SECONDS=20`, which `tests/hostile/run` sets, makes one attack after the other for so long and
//! prints a table; `LATCHKEY_HOSTILE_ATTACK` names the one to make. Without them all of them are made at once, until each has been ended once, and nothing is
//! asserted that depends on how busy the machine is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use latchkey::proto::v1::AuthorizeRequest;
use latchkey::proto::v1::authorization_service_client::AuthorizationServiceClient;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::Endpoint;

use self::attacker::{Target, once, stagger};
use self::attacks::{Attack, Listener};
use self::tls::Site;
use crate::support::{Server, eventually};

mod attacker;
mod attacks;
mod tls;

/// Longer than any attack may last, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1024 * 1024;

// === The short form ===

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_is_ended_and_good_calls_go_on() {
    let Some(seconds) = told("LATCHKEY_HOSTILE_SECONDS") else { return all_at_once().await };
    let span = Duration::from_secs(seconds.parse().unwrap());
    campaign(span, told("LATCHKEY_HOSTILE_ATTACK")).await;
}

#[expect(clippy::print_stdout, reason = "what was measured is shown")]
async fn all_at_once() {
    let servers = Servers::start().await;
    let (good, before) = (servers.good(Listener::Grpc, 100), servers.memory());
    let good_over_tls = servers.good(Listener::TlsGrpc, 100);
    let mut attacks = JoinSet::new();
    for attack in servers.attacks() {
        let target = servers.target(&attack);
        attacks.spawn(async move {
            let attack = Arc::new(attack);
            let ended = (0..attack.connections).map(|nth| {
                let (attack, target) = (Arc::clone(&attack), target.clone());
                async move {
                    stagger(nth).await;
                    once(attack, target).await
                }
            });
            let ended = futures_util::future::join_all(ended).await;
            (attack.name, ended.into_iter().max().unwrap())
        });
    }
    let lasted = attacks.join_all().await;
    println!("{lasted:.1?}");
    let endless: Vec<_> = lasted.iter().filter(|(_, after)| *after >= PATIENCE).collect();
    assert!(endless.is_empty(), "not ended: {endless:?}");
    // Twice what is promised for one attack at a time: here all are under way at once, and nothing is optimised. On a
    // busy machine more of them meet, and what they took is given back a little later.
    let during = servers.memory();
    eventually(PATIENCE, "what the attacks took is given back", || {
        let mut grown = servers.memory().into_iter().zip(before);
        grown.all(|(now, before)| now.saturating_sub(before) * 1024 < 128 * MIB).then_some(())
    })
    .await;
    for good in [good, good_over_tls] {
        let latencies = good.end().await;
        assert_eq!(latencies.failures, 0, "of {} good calls", latencies.sorted.len());
        assert!(!latencies.sorted.is_empty());
    }
    println!("memory: {before:?} KiB before, {during:?} KiB after the attacks");
    servers.stop().await;
}

// === The long form ===

/// What came of one attack.
struct Row {
    name: &'static str,
    good: Latencies,
    before_kib: u64,
    peak_kib: u64,
    after_kib: u64,
    longest: Duration,
}

#[expect(clippy::print_stdout, reason = "this is what a campaign is for")]
async fn campaign(span: Duration, name: Option<String>) {
    let servers = Servers::start().await;
    let mut attacks = servers.attacks();
    attacks.retain(|attack| name.as_deref().is_none_or(|name| attack.name == name));
    let names: Vec<_> = servers.attacks().iter().map(|attack| attack.name).collect();
    assert!(!attacks.is_empty(), "no attack of that name; there are:\n{}", names.join("\n"));
    // A process that has served nobody yet grows with its first connections, whatever they do.
    for attack in servers.attacks() {
        if ["rapid reset", "TLS: handshakes made and left"].contains(&attack.name) {
            attack_for(&servers, attack, Duration::from_secs(2)).await;
        }
    }
    let mut missed = vec![];
    println!("| attack | good | failed | p50 ms | p99 ms | peak less before | ended after s |");
    println!("|---|---|---|---|---|---|---|");
    for attack in attacks {
        let row = attack_for(&servers, attack, span).await;
        println!("{}", row.line());
        missed.extend(row.missed());
    }
    servers.stop().await;
    assert!(missed.is_empty(), "limits were missed:\n{}", missed.join("\n"));
    println!("all limits were kept");
}

async fn attack_for(servers: &Servers, attack: Attack, span: Duration) -> Row {
    let (listener, target) = (attack.listener, servers.target(&attack));
    let before_kib = memory(servers.server(listener));
    let good = servers.good(listener, 1_000);
    let (attack, until) = (Arc::new(attack), now() + span);
    let longest = Arc::new(AtomicU64::new(0));
    let mut attackers = JoinSet::new();
    for nth in 0..attack.connections {
        let (attack, target) = (Arc::clone(&attack), target.clone());
        let longest = Arc::clone(&longest);
        attackers.spawn(async move {
            stagger(nth).await;
            while now() < until {
                let lasted = once(Arc::clone(&attack), target.clone()).await;
                longest.fetch_max(u64::try_from(lasted.as_millis()).unwrap(), Ordering::Relaxed);
                // Somebody far away takes this long to connect anew.
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let mut peak_kib = before_kib;
    while now() < until {
        peak_kib = peak_kib.max(memory(servers.server(listener)));
        sleep(Duration::from_millis(100)).await;
    }
    let good = good.end().await;
    while attackers.join_next().await.is_some() {}
    let settled = now() + Duration::from_secs(10);
    let mut after_kib = memory(servers.server(listener));
    while after_kib > before_kib + 16 * 1024 && now() < settled {
        sleep(Duration::from_millis(100)).await;
        after_kib = memory(servers.server(listener));
    }
    let longest = Duration::from_millis(longest.load(Ordering::Relaxed));
    Row { name: attack.name, good, before_kib, peak_kib, after_kib, longest }
}

impl Row {
    /// As the table in `docs/limits.md` has it.
    fn line(&self) -> String {
        let ms = |at: Duration| format!("{:.2}", at.as_secs_f64() * 1_000.0);
        let Latencies { sorted, failures } = &self.good;
        let grown = self.peak_kib.saturating_sub(self.before_kib);
        format!(
            "| {} | {} | {failures} | {} | {} | {}.{} | {:.2} |",
            self.name,
            sorted.len(),
            ms(self.good.at(50)),
            ms(self.good.at(99)),
            grown / 1024,
            grown % 1024 * 10 / 1024,
            self.longest.as_secs_f64(),
        )
    }

    fn missed(&self) -> Vec<String> {
        let mut missed = vec![];
        let mut demand = |is_kept: bool, what: String| {
            if !is_kept {
                missed.push(format!("{}: {what}", self.name));
            }
        };
        demand(self.good.failures == 0, format!("{} good calls failed", self.good.failures));
        let p99 = self.good.at(99);
        demand(p99 <= Duration::from_millis(20), format!("p99 of good calls is {p99:?}"));
        let grown = self.peak_kib.saturating_sub(self.before_kib) / 1024;
        demand(grown <= 64, format!("memory grew by {grown} MiB"));
        let kept = self.after_kib.saturating_sub(self.before_kib) / 1024;
        demand(kept <= 16, format!("{kept} MiB of memory were kept"));
        demand(self.longest <= Duration::from_secs(5), format!("ended after {:?}", self.longest));
        missed
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where this is told what to do")]
fn told(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

// === The good client ===

/// Calls at an even pace, over one connection, on a thread of its own.
struct Good {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<Latencies>,
}

struct Latencies {
    sorted: Vec<Duration>,
    failures: usize,
}

impl Good {
    fn begin(endpoint: Endpoint, token: String, per_second: u32) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(call_until(endpoint, token, per_second, stopped))
        });
        Self { stop, thread }
    }

    async fn end(self) -> Latencies {
        self.stop.send(()).unwrap();
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap()
    }
}

/// A call is late from when it was due, not from when it was sent.
async fn call_until(
    endpoint: Endpoint,
    token: String,
    per_second: u32,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> Latencies {
    let client = AuthorizationServiceClient::new(endpoint.connect().await.unwrap());
    let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut calls = JoinSet::new();
    let (mut sorted, mut failures) = (vec![], 0);
    let mut book = |outcome: Option<Duration>| match outcome {
        Some(latency) => sorted.push(latency),
        None => failures += 1,
    };
    loop {
        tokio::select! {
            due = pace.tick() => {
                let (mut client, token) = (client.clone(), token.clone());
                calls.spawn(async move {
                    let required_scope = "memory:read".to_owned();
                    let request = AuthorizeRequest { token, required_scope, ..Default::default() };
                    let answer = client.authorize(request).await.ok()?.into_inner();
                    answer.allowed.then(|| due.into_std().elapsed())
                });
            }
            Some(outcome) = calls.join_next() => book(outcome.unwrap()),
            _ = &mut stopped => break,
        }
    }
    while let Some(outcome) = calls.join_next().await {
        book(outcome.unwrap());
    }
    sorted.sort_unstable();
    Latencies { sorted, failures }
}

impl Latencies {
    fn at(&self, percent: usize) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get(last * percent / 100).copied().unwrap_or_default()
    }
}

// === The server ===

/// One in plaintext, one with TLS.
struct Servers {
    plain: Server,
    site: Site,
}

impl Servers {
    async fn start() -> Self {
        Self { plain: Server::start_dev().await, site: Site::start().await }
    }

    fn attacks(&self) -> Vec<Attack> {
        attacks::plain().into_iter().chain(self.site.attacks()).collect()
    }

    fn server(&self, listener: Listener) -> &Server {
        match listener {
            Listener::Grpc | Listener::Http | Listener::Operations => &self.plain,
            Listener::TlsGrpc | Listener::TlsHttp | Listener::TlsOperations => &self.site.server,
        }
    }

    fn target(&self, attack: &Attack) -> Target {
        let server = self.server(attack.listener);
        let address = match attack.listener {
            Listener::Grpc | Listener::TlsGrpc => server.grpc(),
            Listener::Http | Listener::TlsHttp => server.http(),
            Listener::Operations | Listener::TlsOperations => server.operations(),
        };
        Target { address, tls: self.site.client(attack.wrap) }
    }

    /// Good calls to the server of this listener.
    fn good(&self, listener: Listener, per_second: u32) -> Good {
        let (endpoint, live_key) = match listener {
            Listener::Grpc | Listener::Http | Listener::Operations => {
                let address = format!("http://{}", self.plain.grpc());
                (Endpoint::from_shared(address).unwrap(), self.plain.live_key())
            }
            Listener::TlsGrpc | Listener::TlsHttp | Listener::TlsOperations => {
                (self.site.endpoint(), self.site.live_key.clone())
            }
        };
        Good::begin(endpoint, live_key, per_second)
    }

    fn memory(&self) -> [u64; 2] {
        [memory(&self.plain), memory(&self.site.server)]
    }

    /// They live, and end as they should.
    async fn stop(mut self) {
        for server in [&mut self.plain, &mut self.site.server] {
            assert!(server.ended().is_none(), "it lives");
            assert_eq!(server.stop().await.code(), Some(0));
        }
    }
}

/// Memory that it has in use, in KiB.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "these tests measure how long things take")]
fn now() -> Instant {
    Instant::now()
}
