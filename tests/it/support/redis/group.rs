//! Several Redis that stand in for each other: a cluster of six, or two behind Sentinel; and what can happen to them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use redis::FromRedisValue;

use super::{Redis, command_of, free_port};
use crate::support::eventually_each;

/// How long it may take on a busy machine until all of them agree.
const AGREED_IN: Duration = Duration::from_mins(1);
/// Between a look at them and the next.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long one may take to answer.
const ANSWERED_IN: Duration = Duration::from_secs(10);
/// For how long one may be silent before the others take it for gone.
const SILENT_FOR: &str = "3000";
/// By what Sentinel knows them.
const NAME: &str = "primary";
const SLOTS: usize = 16_384;

/// They end when it is dropped.
pub(crate) struct Group {
    servers: Vec<Redis>,
    ports: Vec<u16>,
    /// None in a cluster.
    sentinels: Vec<Redis>,
    sentinel_ports: Vec<u16>,
}

impl Group {
    /// Three primaries, each with a replica.
    pub(crate) async fn cluster() -> Self {
        let (mut servers, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let (port, bus) = (free_port(), free_port().to_string());
            let own = ["--port", &port.to_string(), "--cluster-port", &bus];
            let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", SILENT_FOR];
            servers.push(Redis::start_with(&[own, more].concat()).await);
            ports.push(port);
        }
        let addresses = ports.iter().map(|port| format!("127.0.0.1:{port}"));
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { servers, ports, sentinels: Vec::new(), sentinel_ports: Vec::new() };
        cluster.until_whole().await;
        cluster
    }

    /// A primary and a replica, watched by three.
    pub(crate) async fn behind_sentinel() -> Self {
        let ports: Vec<_> = (0..2).map(|_| free_port()).collect();
        let [first, second] = [0, 1].map(|at| ports[at].to_string());
        let servers = vec![
            Redis::start_with(&["--port", &first]).await,
            Redis::start_with(&["--port", &second, "--replicaof", "127.0.0.1", &first]).await,
        ];
        let sentinel_ports: Vec<_> = (0..3).map(|_| free_port()).collect();
        let configuration = format!(
            "sentinel monitor {NAME} 127.0.0.1 {first} 2\nsentinel down-after-milliseconds {NAME} {SILENT_FOR}\n\
             sentinel failover-timeout {NAME} 1000\n"
        );
        let mut sentinels = Vec::new();
        for port in &sentinel_ports {
            sentinels.push(Redis::start_sentinel(*port, &configuration).await);
        }
        let group = Self { servers, ports, sentinels, sentinel_ports };
        group.until_whole().await;
        group
    }

    /// How latchkey is told of them.
    pub(crate) fn url(&self) -> String {
        let list = |ports: &[u16]| {
            ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
        };
        if self.is_cluster() {
            format!("redis+cluster://{}", list(&self.ports))
        } else {
            format!("redis+sentinel://{}/{NAME}", list(&self.sentinel_ports))
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.sentinels.is_empty()
    }

    pub(crate) fn server(&mut self, server: usize) -> &mut Redis {
        &mut self.servers[server]
    }

    /// What one answers, if it does.
    pub(crate) fn ask<T: FromRedisValue>(&self, server: usize, command: &[&str]) -> Option<T> {
        ask(&self.servers[server], command)
    }

    /// Which of them take writes, and have others that follow.
    pub(crate) fn primaries(&self) -> Vec<usize> {
        let is_primary =
            |told: &BTreeMap<_, _>| told["role"] == "master" && told["connected_slaves"] != "0";
        let told = self.told();
        told.iter().filter(|(_, told)| is_primary(told)).map(|(server, _)| *server).collect()
    }

    /// Who follows this one.
    pub(crate) fn replica_of(&self, primary: usize) -> Option<usize> {
        let port = self.ports[primary].to_string();
        let follows = |told: &BTreeMap<_, _>| told.get("master_port") == Some(&port);
        self.told().iter().find(|(_, told)| follows(told)).map(|(server, _)| *server)
    }

    /// Waits until each primary has a replica that follows it, and all agree on that.
    pub(crate) async fn until_whole(&self) {
        let is_whole = || {
            let told = self.told();
            let count = |is_it: &dyn Fn(&BTreeMap<String, String>) -> bool| {
                told.values().filter(|told| is_it(told)).count()
            };
            let of = |told: &BTreeMap<String, String>, name: &str, value: &str| {
                told.get(name).is_some_and(|it| it == value)
            };
            let half = self.servers.len() / 2;
            let primaries =
                count(&|told| of(told, "role", "master") && of(told, "connected_slaves", "1"));
            let replicas = count(&|told| of(told, "master_link_status", "up"));
            (primaries == half && replicas == half && self.do_agree()).then_some(())
        };
        eventually_each(LOOK_EVERY, AGREED_IN, "each Redis has its place", is_whole).await;
    }

    fn do_agree(&self) -> bool {
        if self.is_cluster() {
            let known = format!("cluster_known_nodes:{}", self.servers.len());
            let covered = format!("cluster_slots_ok:{SLOTS}");
            let wanted = ["cluster_state:ok", &known, &covered];
            return self.servers.iter().all(|server| {
                let told: Option<String> = ask(server, &["CLUSTER", "INFO"]);
                told.is_some_and(|told| wanted.iter().all(|part| told.contains(part)))
            });
        }
        let [primary] = self.primaries()[..] else { return false };
        let port = self.ports[primary].to_string();
        self.sentinels.iter().all(|sentinel| {
            let named: Option<Vec<String>> =
                ask(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
            let is_named = named.is_some_and(|named| named.last() == Some(&port));
            let quorum: Option<String> = ask(sentinel, &["SENTINEL", "CKQUORUM", NAME]);
            let replicas: Option<Vec<BTreeMap<String, String>>> =
                ask(sentinel, &["SENTINEL", "REPLICAS", NAME]);
            let are_up = replicas
                .is_some_and(|all| all.len() == 1 && all.iter().all(|it| it["flags"] == "slave"));
            is_named && are_up && quorum.is_some_and(|told| told.starts_with("OK 3 "))
        })
    }

    /// Waits until another has taken the place of this one.
    pub(crate) async fn until_replaced(&self, primary: usize) {
        let is_replaced = || {
            let told = self.told();
            let others = told.iter().filter(|(server, _)| **server != primary);
            let primaries = others.filter(|(_, told)| told["role"] == "master").count();
            (primaries == self.servers.len() / 2).then_some(())
        };
        eventually_each(
            LOOK_EVERY,
            AGREED_IN,
            "the replica takes the place of its primary",
            is_replaced,
        )
        .await;
    }

    /// Has a replica take the place of its primary, in good order.
    pub(crate) fn hand_over(&self, replica: usize) {
        let told: Option<String> = if self.is_cluster() {
            self.ask(replica, &["CLUSTER", "FAILOVER"])
        } else {
            ask(&self.sentinels[0], &["SENTINEL", "FAILOVER", NAME])
        };
        assert_eq!(told.as_deref(), Some("OK"));
    }

    /// No longer sends what is written to the one who follows this one.
    pub(crate) fn cut_off_replica(&self, primary: usize) {
        let _: i64 = self.ask(primary, &["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
    }

    /// Moves the slot of something that is kept from one primary to another, with all that is in it; for a while it
    /// is with neither alone.
    pub(crate) async fn move_a_slot(&self, from: usize, to: usize, during: Duration) {
        let names = self.servers[from].records();
        let name = names.first().expect("something is kept on each primary");
        let slot: u64 = self.ask(from, &["CLUSTER", "KEYSLOT", name]).unwrap();
        let slot = slot.to_string();
        let id = |server| self.ask::<String>(server, &["CLUSTER", "MYID"]).unwrap();
        let (from_id, to_id) = (id(from), id(to));
        let set = |server, words: &[&str]| {
            let command = [&["CLUSTER", "SETSLOT", &slot], words].concat();
            let _: String = self.ask(server, &command).unwrap();
        };
        set(to, &["IMPORTING", &from_id]);
        set(from, &["MIGRATING", &to_id]);
        tokio::time::sleep(during).await;
        let names: Vec<String> =
            self.ask(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]).unwrap();
        if !names.is_empty() {
            let port = self.ports[to].to_string();
            let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "REPLACE", "KEYS"];
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let _: String = self.ask(from, &[&migrate[..], &names].concat()).unwrap();
        }
        for server in [to, from] {
            set(server, &["NODE", &to_id]);
        }
    }

    /// How often this one was asked for something that is kept.
    pub(crate) fn reads_of(&self, server: usize) -> u64 {
        let told: String = self.ask(server, &["INFO", "commandstats"]).unwrap_or_default();
        let calls = told.lines().find_map(|line| line.strip_prefix("cmdstat_getrange:calls="));
        let calls = calls.and_then(|calls| calls.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// What those say of their place who say anything.
    fn told(&self) -> BTreeMap<usize, BTreeMap<String, String>> {
        let of = |(at, server)| {
            let told: String = ask(server, &["INFO", "replication"])?;
            let words = told.lines().filter_map(|line| line.split_once(':'));
            Some((at, words.map(|(name, value)| (name.into(), value.into())).collect()))
        };
        self.servers.iter().enumerate().filter_map(of).collect()
    }
}

/// What a server answers, if it does, and soon.
fn ask<T: FromRedisValue>(server: &Redis, command: &[&str]) -> Option<T> {
    if server.is_paused() {
        return None;
    }
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection_with_timeout(ANSWERED_IN).ok()?;
    connection.set_read_timeout(Some(ANSWERED_IN)).unwrap();
    command_of(command).query(&mut connection).ok()
}
