//! Peers that abuse the protocol, beside one that does not.
//!
//! `LATCHKEY_HOSTILE_SECONDS=20`, which `tests/hostile/run` sets, makes one attack after the other for so long and
//! prints a table. Without it all of them are made at once, until each has been ended once, and nothing is
//! asserted that depends on how busy the machine is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use latchkey::proto::v1::AuthorizeRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::attacks::{Attack, End, Flood, Listener, Reads};
use crate::support::frames::{GOAWAY, HEADERS, RST_STREAM};
use crate::support::{Server, eventually};

mod attacks;

/// Longer than any attack may last, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1024 * 1024;

// === The short form ===

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_is_ended_and_good_calls_go_on() {
    let Some(seconds) = campaign_seconds() else { return all_at_once().await };
    campaign(Duration::from_secs(seconds)).await;
}

#[expect(clippy::print_stdout, reason = "what was measured is shown")]
async fn all_at_once() {
    let mut server = Server::start_dev().await;
    let good = Good::begin(&server, 200);
    let before = memory(&server);
    let mut attacks = JoinSet::new();
    for attack in attacks::all() {
        let address = address(&server, attack.listener);
        attacks.spawn(async move {
            let attack = Arc::new(attack);
            let ended = (0..attack.connections).map(|nth| {
                let attack = Arc::clone(&attack);
                async move {
                    stagger(nth).await;
                    once(attack, address).await
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
    let during = memory(&server);
    eventually(PATIENCE, "what the attacks took is given back", || {
        let grown = memory(&server).saturating_sub(before) * 1024;
        (grown < 128 * MIB).then_some(())
    })
    .await;
    let latencies = good.end().await;
    assert_eq!(latencies.failures, 0, "of {} good calls", latencies.sorted.len());
    assert!(!latencies.sorted.is_empty());
    assert!(server.ended().is_none(), "it lives");
    println!("memory: {before} KiB before, {during} KiB after the attacks");
    assert_eq!(server.stop().await.code(), Some(0));
}

// === The long form ===

/// What came of one attack.
struct Row {
    name: &'static str,
    good: Latencies,
    before_kib: u64,
    peak_kib: u64,
    after_kib: u64,
    connections: usize,
    longest: Duration,
}

#[expect(clippy::print_stdout, reason = "this is what a campaign is for")]
async fn campaign(span: Duration) {
    let mut server = Server::start_dev().await;
    let mut missed = vec![];
    println!(
        "{:32} {:>6} {:>5} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>8}",
        "attack",
        "good",
        "fail",
        "p50 ms",
        "p99 ms",
        "max ms",
        "before",
        "peak",
        "after",
        "conns",
        "ended s"
    );
    for attack in attacks::all() {
        let row = attack_for(&server, attack, span).await;
        assert!(server.ended().is_none(), "{}: the process has ended", row.name);
        println!("{}", row.line());
        missed.extend(row.missed());
    }
    assert_eq!(server.stop().await.code(), Some(0));
    assert!(missed.is_empty(), "limits were missed:\n{}", missed.join("\n"));
    println!("all limits were kept");
}

async fn attack_for(server: &Server, attack: Attack, span: Duration) -> Row {
    let before_kib = memory(server);
    let good = Good::begin(server, 1_000);
    let (attack, until) = (Arc::new(attack), now() + span);
    let (longest, count) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = address(server, attack.listener);
    let mut attackers = JoinSet::new();
    for nth in 0..attack.connections {
        let (attack, longest, count) =
            (Arc::clone(&attack), Arc::clone(&longest), Arc::clone(&count));
        attackers.spawn(async move {
            stagger(nth).await;
            while now() < until {
                let lasted = once(Arc::clone(&attack), address).await;
                longest.fetch_max(u64::try_from(lasted.as_millis()).unwrap(), Ordering::Relaxed);
                count.fetch_add(1, Ordering::Relaxed);
                // Somebody far away takes this long to connect anew.
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let mut peak_kib = before_kib;
    while now() < until {
        peak_kib = peak_kib.max(memory(server));
        sleep(Duration::from_millis(100)).await;
    }
    let good = good.end().await;
    while attackers.join_next().await.is_some() {}
    let settled = now() + Duration::from_secs(10);
    let mut after_kib = memory(server);
    while after_kib > before_kib + 16 * 1024 && now() < settled {
        sleep(Duration::from_millis(100)).await;
        after_kib = memory(server);
    }
    Row {
        name: attack.name,
        good,
        before_kib,
        peak_kib,
        after_kib,
        connections: count.load(Ordering::Relaxed),
        longest: Duration::from_millis(longest.load(Ordering::Relaxed)),
    }
}

impl Row {
    fn line(&self) -> String {
        let mib = |kib: u64| format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024);
        let ms = |at: Duration| format!("{:.2}", at.as_secs_f64() * 1_000.0);
        let Latencies { sorted, failures } = &self.good;
        format!(
            "{:32} {:>6} {failures:>5} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>8.2}",
            self.name,
            sorted.len(),
            ms(self.good.at(50)),
            ms(self.good.at(99)),
            ms(self.good.at(100)),
            mib(self.before_kib),
            mib(self.peak_kib),
            mib(self.after_kib),
            self.connections,
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

#[expect(clippy::disallowed_methods, reason = "the one place where the tests are told how long")]
fn campaign_seconds() -> Option<u64> {
    std::env::var("LATCHKEY_HOSTILE_SECONDS").ok().map(|seconds| seconds.parse().unwrap())
}

// === An attacker ===

/// A kernel whose queue of the listener is full drops connections that their makers take for open.
async fn stagger(nth: usize) {
    sleep(Duration::from_millis(2) * u32::try_from(nth).unwrap()).await;
}

/// Attacks over one connection; how long until it was ended, `PATIENCE` at most.
async fn once(attack: Arc<Attack>, address: SocketAddr) -> Duration {
    let Ok(stream) = TcpStream::connect(address).await else { return Duration::ZERO };
    let since = now();
    stream.set_nodelay(true).unwrap();
    let (reader, writer) = stream.into_split();
    let ended = async {
        tokio::select! {
            () = listen(reader, attack.reads, attack.end) => {}
            () = send(&attack, writer) => {}
        }
    };
    let _ = timeout(PATIENCE, ended).await;
    since.elapsed()
}

/// Returns when the other side has gone.
async fn send(attack: &Attack, mut writer: OwnedWriteHalf) {
    if writer.write_all(&attack.opening).await.is_err() {
        return;
    }
    match &attack.flood {
        Flood::Silence => {}
        Flood::Same(bytes) => while writer.write_all(bytes).await.is_ok() {},
        Flood::Streams(make) => {
            for call in 1.. {
                if writer.write_all(&make(2 * call - 1)).await.is_err() {
                    return;
                }
            }
        }
        Flood::Drip(bytes) => {
            for byte in bytes.iter().cycle() {
                if writer.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Returns at the end of the stream; or, if it is that which is waited for, at the answer to the call.
async fn listen(mut reader: OwnedReadHalf, reads: Reads, end: End) {
    if reads == Reads::Nothing {
        return until_gone(reader).await;
    }
    if end == End::Closed {
        let mut buffer = vec![0; 64 * 1024];
        while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
        return;
    }
    let mut header = [0; 9];
    while reader.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        if [HEADERS, RST_STREAM, GOAWAY].contains(&header[3]) {
            return;
        }
    }
}

/// Waits for the end of a connection from which nothing is read, as its kernel knows it.
async fn until_gone(reader: OwnedReadHalf) {
    while reader.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
        sleep(Duration::from_millis(20)).await;
    }
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
    fn begin(server: &Server, per_second: u32) -> Self {
        let (grpc, token) = (server.grpc(), server.live_key());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(call_until(grpc, token, per_second, stopped))
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
    grpc: SocketAddr,
    token: String,
    per_second: u32,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> Latencies {
    let client =
        latchkey::proto::v1::authorization_service_client::AuthorizationServiceClient::connect(
            format!("http://{grpc}"),
        );
    let client = client.await.unwrap();
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

fn address(server: &Server, listener: Listener) -> SocketAddr {
    match listener {
        Listener::Grpc => server.grpc(),
        Listener::Http => server.http(),
        Listener::Operations => server.operations(),
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
