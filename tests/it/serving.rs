//! How connections are treated: silent ones, many, old ones, and those open when the program stops.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use latchkey::serve::{self, Bound, Limits, Protocol, Workers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use self::client::{
    Client, EMPTY_SETTINGS, PREFACE, is_goaway, say, silent_greetings, until_closed,
};
use self::program::{Program, now};

mod client;
mod notice;
mod program;

// --- Stopping -----------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn stopping_completes_the_calls_in_flight_and_does_not_wait_for_silent_peers() {
    let mut program = Program::start(&[]);
    let mut silent = Vec::new();
    for greeting in silent_greetings().iter().cycle().take(500) {
        silent.push(say(program.grpc(), greeting).await);
    }
    let mut clients = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(program.grpc()).await;
        for _ in 0..100 {
            calls.push(client.begin_stream().await);
        }
        // When this one is answered, all those begun before it have been read.
        assert_eq!(client.call().await, Ok(()));
        clients.push(client);
    }

    let stopping = program.stop();
    program.refuses_connections().await;
    sleep(Duration::from_secs(2)).await; // longer than a peer is waited for with nothing in flight
    let mut completed = 0;
    for call in calls {
        assert_eq!(call.finish().await, Ok(()), "after {completed} that completed");
        completed += 1;
    }
    for client in clients {
        client.closed().await;
    }
    let exited = program.exited(Duration::from_secs(5)).await;
    println!("{completed} calls completed, exit {:?} after the signal", stopping.elapsed());
    assert_eq!(completed, 500);
    assert!(exited, "500 silent peers do not hold it up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_ends_is_dropped_at_the_end_of_the_drain() {
    let mut program = Program::start(&[]);
    let mut client = Client::connect(program.grpc()).await;
    let call = client.begin_stream().await;
    assert_eq!(client.call().await, Ok(()));
    let stopping = program.stop();
    assert!(program.exited(Duration::from_secs(15)).await);
    let drain = stopping.elapsed();
    assert!(drain > Duration::from_secs(9), "it had the whole drain, not {drain:?}");
    assert!(call.failed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_hold_up_the_exit() {
    let mut program = Program::start(&[]);
    let mut client = Client::connect(program.grpc()).await;
    assert_eq!(client.call().await, Ok(()));
    let mut http1 = say(program.http(), b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(http1.read_u8().await.unwrap(), b'H');
    program.stop();
    client.closed().await;
    until_closed(&mut http1).await;
    assert!(program.exited(Duration::from_secs(2)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_http1_completes_when_stopping() {
    let (entered, mut is_entered) = tokio::sync::mpsc::channel(1);
    let slow = get(async move || {
        entered.send(()).await.unwrap();
        sleep(Duration::from_millis(1_500)).await;
    });
    let server = Server::start(Limits::default(), Router::new().route("/slow", slow)).await;
    let mut busy = say(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    is_entered.recv().await.unwrap();
    let stopped = tokio::spawn(server.stop());
    let mut response = Vec::new();
    busy.read_to_end(&mut response).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"));
    stopped.await.unwrap();
}

// --- Limits -------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_complete_the_handshake_is_dropped_after_four_seconds() {
    let program = Program::start(&[]);
    let [incomplete @ .., complete] = silent_greetings();
    let mut waiting = Vec::new();
    for greeting in &incomplete {
        waiting.push(say(program.grpc(), greeting).await);
    }
    for greeting in [
        &b""[..],
        b"PRI * HT",
        PREFACE,
        b"GET / HTTP/1.1\r\nhost: a\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n",
    ] {
        waiting.push(say(program.http(), greeting).await);
    }
    let mut complete = say(program.grpc(), &complete).await;
    let since = now();
    for (index, stream) in waiting.iter_mut().enumerate() {
        let closed = timeout(Duration::from_secs(8), until_closed(stream)).await;
        let age = since.elapsed();
        assert!(closed.is_ok() && age > Duration::from_millis(3_500), "{index}: {age:?}");
    }
    let still_open = timeout(Duration::from_secs(1), until_closed(&mut complete)).await;
    assert!(still_open.is_err(), "an idle peer that has completed it stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_file_descriptors_neither_spins_nor_disturbs_open_connections() {
    let program = Program::start_with_files(64);
    let mut client = Client::connect(program.grpc()).await;
    assert_eq!(client.call().await, Ok(()));
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(say(program.grpc(), b"").await);
    }
    let (cpu, since) = (program.cpu_time(), now());
    while since.elapsed() < Duration::from_secs(10) {
        assert_eq!(client.call().await, Ok(()));
        sleep(Duration::from_millis(100)).await;
    }
    let used = program.cpu_time().saturating_sub(cpu);
    println!("{used:?} of processor time in {:?} without descriptors", since.elapsed());
    assert!(used * 20 <= since.elapsed(), "more than 5 % of a core: {used:?}");

    drop(idle);
    let relieved = now();
    let mut late = Client::connect(program.grpc()).await;
    assert_eq!(late.call().await, Ok(()));
    println!("accepted again after {:?}", relieved.elapsed());
    assert!(relieved.elapsed() < Duration::from_secs(1));

    let log = program.log().await;
    assert_eq!(log.matches("cannot accept connections now").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let program = Program::start(&[("SERVE__CONNECTIONS_MAX", "2")]);
    let first = Client::connect(program.grpc()).await;
    let _second = Client::connect(program.grpc()).await;
    let mut third = TcpStream::connect(program.grpc()).await.unwrap();
    let nothing = timeout(Duration::from_millis(500), third.read_u8()).await;
    assert!(nothing.is_err(), "it is not accepted, nor closed");
    drop(first);
    timeout(Duration::from_secs(1), third.read_u8()).await.expect("it is accepted now").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_of_a_large_answer_keeps_its_connection() {
    let server = Server::start(Limits::default(), large_answer()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap(); // else its kernel reads ahead for it
    let mut slow = socket.connect(server.address).await.unwrap();
    // With more to read the end of the connection is a reset, which takes back what the kernel holds.
    slow.write_all(&GET_LARGE.repeat(2_000)).await.unwrap();
    let mut piece = vec![0; 32 * 1024];
    // 128 KiB a second, for twice as long as a piece of 16 KiB may take.
    for step in 0..32 {
        let read = slow.read_exact(&mut piece).await;
        assert!(read.is_ok(), "after {step} steps: {read:?}");
        sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_does_not_take_is_not_gathered_by_the_kernel() {
    let server = Server::start(Limits::default(), large_answer()).await;
    let idle = say(server.address, GET_LARGE).await;
    let (mut held_bytes, since) = (0, now());
    while let Some(held) = unsent_bytes(server.address, idle.local_addr().unwrap()) {
        held_bytes = held_bytes.max(held);
        assert!(since.elapsed() < Duration::from_secs(20), "it is ended");
        sleep(Duration::from_millis(50)).await;
    }
    assert!((1..256 * 1024).contains(&held_bytes), "the kernel held {held_bytes} bytes");
}

const GET_LARGE: &[u8] = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n";

fn large_answer() -> Router {
    Router::new().route("/large", get(async || vec![b'a'; 32 << 20]))
}

/// What the kernel holds for the peer of an IPv4 connection, which it has not confirmed; `None` when the connection
/// has ended.
fn unsent_bytes(here: SocketAddr, peer: SocketAddr) -> Option<u64> {
    let ports = |line: &str| -> Option<(u16, u16, u64)> {
        let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
        let fields: Vec<_> = line.split_whitespace().collect();
        let queues = fields.get(4)?.split_once(':')?;
        (*fields.get(3)? == "01").then_some(())?; // established
        Some((port(fields[1])?, port(fields[2])?, u64::from_str_radix(queues.0, 16).ok()?))
    };
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().filter_map(ports);
    rows.find(|row| (row.0, row.1) == (here.port(), peer.port())).map(|row| row.2)
}

#[tokio::test]
async fn limits_are_announced_to_the_client() {
    let program = Program::start(&[]);
    let mut stream = say(program.grpc(), &[PREFACE, &EMPTY_SETTINGS].concat()).await;
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[3..], [4, 0, 0, 0, 0, 0], "SETTINGS");
    let mut payload = vec![0; usize::from(header[2])];
    stream.read_exact(&mut payload).await.unwrap();
    let settings: BTreeMap<u8, u32> = payload
        .chunks(6)
        .map(|setting| (setting[1], u32::from_be_bytes(setting[2..].try_into().unwrap())))
        .collect();
    assert_eq!(settings[&3], 256, "MAX_CONCURRENT_STREAMS");
    assert_eq!(settings[&5], 16_384, "MAX_FRAME_SIZE");
    assert_eq!(settings[&6], 16_384, "MAX_HEADER_LIST_SIZE");
}

// --- Age ----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_is_sent_away_without_failing_a_call() {
    let program = Program::start(&[("SERVE__CONNECTION_AGE_SECONDS", "1")]);
    let clients: Vec<_> =
        (0..200).map(|_| tokio::spawn(outlive_connections(program.grpc(), 5))).collect();
    let mut calls = 0;
    for client in clients {
        calls += client.await.unwrap();
    }
    println!("{calls} calls over 1,000 connections, none failed");
}

/// Begins calls, some at once, until the GOAWAY is there; over and over again. Each of them is
/// answered, however late it was begun.
async fn outlive_connections(grpc: SocketAddr, connections: usize) -> usize {
    let mut count = 0;
    for _ in 0..connections {
        let mut client = Client::connect(grpc).await;
        let mut calls = JoinSet::new();
        let end = loop {
            match client.try_begin_call().await {
                Ok(call) => calls.spawn(call.finish()),
                Err(end) => break end,
            };
            count += 1;
            if calls.len() == 5 {
                assert_eq!(calls.join_next().await.unwrap().unwrap(), Ok(()));
            }
        };
        assert!(is_goaway(&end), "{end}");
        while let Some(call) = calls.join_next().await {
            assert_eq!(call.unwrap(), Ok(()));
        }
        client.closed().await;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_loses_no_call_that_it_has_sent() {
    let program = Program::start(&[("SERVE__CONNECTION_AGE_SECONDS", "1")]);
    let channel = Endpoint::from_shared(format!("http://{}", program.grpc())).unwrap();
    let client = HealthClient::new(channel.connect_lazy());
    let until = now() + Duration::from_secs(6);
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let mut client = client.clone();
        callers.spawn(async move {
            let (mut answered, mut unsent) = (0, 0);
            while now() < until {
                match client.check(HealthCheckRequest::default()).await {
                    Ok(_) => answered += 1,
                    Err(status) if was_never_sent(&status) => unsent += 1,
                    Err(status) => panic!("after {answered} calls: {status:?}"),
                }
            }
            (answered, unsent)
        });
    }
    let (mut answered, mut unsent) = (0, 0);
    while let Some(counts) = callers.join_next().await {
        let counts = counts.unwrap();
        answered += counts.0;
        unsent += counts.1;
    }
    println!("{answered} calls answered, {unsent} not sent by tonic");
    assert!(unsent * 1_000 < answered, "{unsent} of {answered}");
}

/// tonic hands a call to the task of a connection. When a GOAWAY comes in between, it gives the call
/// back unsent instead of taking it to the next connection, whatever the server does.
fn was_never_sent(status: &tonic::Status) -> bool {
    let mut error: Option<&(dyn Error + 'static)> = Some(status);
    while let Some(cause) = error {
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        error = cause.source();
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_on_an_old_connection_have_a_grace_to_end() {
    let age = Duration::from_millis(200);
    let grace = Duration::from_secs(2);
    let limits = Limits { max_age: age, max_age_grace: grace, ..Limits::default() };
    let routes = tonic::service::Routes::new(tonic_health::server::health_reporter().1);
    let server = Server::start(limits, routes.into_axum_router()).await;
    let mut client = Client::connect(server.address).await;
    let (call, never_ending) = (client.begin_call().await, client.begin_call().await);
    let goaway = loop {
        match client.try_begin_call().await {
            Ok(call) => assert_eq!(call.finish().await, Ok(())),
            Err(goaway) => break goaway,
        }
    };
    assert!(is_goaway(&goaway), "{goaway}");
    let since = now();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(call.finish().await, Ok(()));
    assert!(never_ending.failed().await);
    let lasted = since.elapsed();
    assert!(lasted > grace && lasted < grace * 2, "{lasted:?}");
}

// --- Threads ------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_are_served_by_two_threads() {
    let program = Program::start(&[("SERVE__THREADS", "2")]);
    let mut clients =
        [Client::connect(program.grpc()).await, Client::connect(program.grpc()).await];
    for client in &mut clients {
        assert_eq!(client.call().await, Ok(()));
    }
    let before = program.wakeups_of_workers();
    for _ in 0..500 {
        for client in &mut clients {
            assert_eq!(client.call().await, Ok(()));
        }
    }
    let after = program.wakeups_of_workers();
    assert_eq!(after.len(), 2);
    for (thread, wakeups) in after {
        let more = wakeups - before[&thread];
        assert!(more > 250, "{thread} was woken {more} times for 500 calls");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_call_leaves_the_other_calls_alone() {
    let router = Router::new()
        .route("/", get(async || "fine"))
        .route("/panic", get(async || -> () { panic!("on purpose") }));
    let server = Server::start(Limits::default(), router).await;
    let mut client = Client::connect(server.address).await;
    for _ in 0..3 {
        assert!(client.get("/panic").await.is_err());
        assert_eq!(client.get("/").await.unwrap(), 200, "the same connection goes on");
        let mut http1 = say(server.address, b"GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
        until_closed(&mut http1).await;
    }
    assert_eq!(client.get("/").await.unwrap(), 200);
    drop(client);
    server.stop().await;
}

// --- Addresses ----------------------------------------------------------------------------------

#[tokio::test]
async fn a_unix_socket_left_by_a_killed_process_is_replaced_and_a_live_one_is_not() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{}.sock", std::process::id()));
    let listen = format!("unix:{}", path.display());
    let settings = [("GRPC__LISTEN", listen.as_str())];

    drop(Program::start(&settings)); // SIGKILL leaves the file
    assert!(path.exists());
    let mut program = Program::start(&settings);
    UnixStream::connect(&path).await.unwrap();

    let second = Program::fails_to_start(&settings).await;
    assert!(second.contains("the grpc listener cannot listen on unix:"), "{second}");
    assert!(second.contains("stop the program that listens there"), "{second}");
    UnixStream::connect(&path).await.unwrap();

    program.stop();
    assert!(program.exited(Duration::from_secs(5)).await);
    assert!(!path.exists(), "removed on exit");

    fs::write(&path, "precious").unwrap();
    Program::fails_to_start(&settings).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious", "a file that is no socket stays");
    fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_the_listener() {
    let program = Program::start(&[]);
    let taken = program.grpc().to_string();
    let error = Program::fails_to_start(&[("HTTP__LISTEN", &taken)]).await;
    assert!(error.contains(&format!("the http listener cannot listen on {taken}")), "{error}");
    assert!(error.contains("choose another port"), "{error}");
}

// --- The serving loop alone ---------------------------------------------------------------------

/// The serving loop in this process, for limits that cannot be configured and routes that latchkey
/// does not have.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits, router: Router) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let bound = Bound::bind("test", &listen).await.unwrap().unwrap().listen().unwrap();
        let address = bound.address().to_string().parse().unwrap();
        let workers = Workers::start(std::num::NonZeroUsize::new(1)).unwrap();
        let (stop, stopped) = oneshot::channel();
        let told = async { drop(stopped.await) };
        let task = tokio::spawn(serve::run(bound, workers, Protocol::Auto, limits, router, told));
        Self { address, stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(Duration::from_secs(5), self.task).await.expect("it drains").unwrap();
    }
}
