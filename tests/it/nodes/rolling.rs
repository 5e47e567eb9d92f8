//! Nodes behind the real Envoy, restarted one after the other under load: nobody is turned away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::log::{Client, Question};
use super::{Operator, asked};
use crate::gateways::proxies::program::{Example, Program, Proxy};
use crate::support::cluster::Cluster;
use crate::support::{Echo, eventually, say};

const NODES: usize = 3;
const CLIENTS: usize = 6;
const IN_TIME: Duration = Duration::from_mins(1);
/// How long a client waits, with some for a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between an answer and the next request of a client.
const PAUSE: Duration = Duration::from_millis(5);
/// Envoy asks for their health each second.
const NOTICE: (&str, &str) = ("SERVE__NOTICE_SECONDS", "2");

/// What keeps requests from failing while a node goes.
#[derive(PartialEq, Eq)]
pub(super) enum By {
    /// Envoy asks another node, as the example has it; nodes go without notice.
    Retries,
    /// Nodes go on answering until Envoy's health checks have noticed; it asks nobody twice.
    Notice,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_envoy_turns_nobody_away() {
    restart_each(By::Retries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_envoy_turns_nobody_away_that_is_asked_about_once() {
    restart_each(By::Notice).await;
}

async fn restart_each(by: By) {
    let mut cluster = match by {
        By::Retries => Cluster::start(NODES).await,
        By::Notice => Cluster::start_with(NODES, &[NOTICE]).await,
    };
    let mut operator = Operator::at(&cluster.nodes[0].channel().await);
    operator.make_account("acme").await;
    let key = operator.make_key("acme", "memory:read").await;
    let question = Question { token: key.token.clone().into(), scope: "memory:read".into() };
    for (node, channel) in cluster.channels().await.iter().enumerate() {
        Client::of(node, channel).until_allowed(0, &question).await;
    }
    let echo = Echo::start();
    let proxy = in_front_of(&cluster.addresses(), echo.address(), &by).await;
    are_all_healthy(&proxy).await;

    let is_over = Arc::new(AtomicBool::new(false));
    let clients = (0..CLIENTS).map(|_| {
        let (to, token, is_over) = (proxy.address(), key.token.clone(), Arc::clone(&is_over));
        tokio::spawn(async move { ask(to, &token, &is_over).await })
    });
    let clients: Vec<_> = clients.collect();
    for _ in 0..asked("ROUNDS", 1) {
        for node in 0..NODES {
            cluster.nodes[node].stop().await;
            cluster.start_again(node).await;
            are_all_healthy(&proxy).await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let mut told: BTreeMap<u16, u64> = BTreeMap::new();
    for (status, times) in join_all(clients).await.into_iter().flat_map(Result::unwrap) {
        *told.entry(status).or_default() += times;
    }
    say(format_args!("SUMMARY answers by status: {told:?}"));
    assert!(told.keys().eq([&200]), "{told:?}");
}

/// The shipped example, with all nodes in the place of one.
pub(super) async fn in_front_of(nodes: &[SocketAddr], upstream: SocketAddr, by: &By) -> Proxy {
    let endpoint = |port: usize| {
        format!(
            "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}"
        )
    };
    let ports = 50_051..50_051 + nodes.len();
    let all: Vec<_> = ports.clone().map(endpoint).collect();
    let mut example =
        Example::read(Program::Envoy, &["scopes.yaml"]).with(&endpoint(50_051), &all.join(", "));
    if *by == By::Notice {
        let text = &mut example.files[0].text;
        let retries =
            text.find("retry_policy:").unwrap()..text.find("failure_mode_allow:").unwrap();
        text.replace_range(retries, "\n                      ");
    }
    let ports: Vec<_> = ports.map(|port| port.to_string()).collect();
    let servers = ports.iter().map(String::as_str).zip(nodes.iter().copied());
    let servers: Vec<_> = servers.chain([("3000", upstream)]).collect();
    Proxy::start(&example, &servers).await.unwrap()
}

/// Waits until Envoy sends requests to each.
pub(super) async fn are_all_healthy(proxy: &Proxy) {
    let stats =
        format!("http://{}/stats?filter=latchkey.membership_healthy", proxy.administration());
    let healthy = format!("cluster.latchkey.membership_healthy: {NODES}");
    let are = || {
        let output = std::process::Command::new("curl").args(["-s", &stats]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains(&healthy).then_some(())
    };
    eventually(IN_TIME, "Envoy finds all nodes healthy", are).await;
}

/// Sends one request after the other; how often there was each status, 0 where there was none.
pub(crate) async fn ask(to: SocketAddr, token: &str, is_over: &AtomicBool) -> BTreeMap<u16, u64> {
    let mut told = BTreeMap::new();
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    while !is_over.load(Ordering::Relaxed) {
        let request = Request::get("/items/7")
            .header("host", "api.example.com")
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answered = async {
            let answer = sender.send_request(request).await.ok()?;
            let status = answer.status().as_u16();
            answer.into_body().collect().await.ok().map(|_| status)
        };
        let status = tokio::time::timeout(PATIENCE, answered).await.ok().flatten();
        *told.entry(status.unwrap_or(0)).or_default() += 1;
        tokio::time::sleep(PAUSE).await;
    }
    told
}
