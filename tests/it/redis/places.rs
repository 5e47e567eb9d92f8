//! Every place where Redis can be: with an ACL, over TLS, behind Sentinel, as a cluster.

use std::fs;
use std::path::Path;

use super::*;
use crate::support::pki::{self, Authority};
use crate::support::redis::{command_of, free_port};
use crate::telemetry::logged;

/// The commands of the page that make the smallest ACL.
fn acl_of_the_page() -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md"));
    let page = page.unwrap();
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER latchkey "));
    line.expect("the page has the ACL").split_whitespace().map(str::to_owned).collect()
}

/// Makes the user of the page, with what the page adds for this place; its password.
fn make_user(redis: &Redis, more: &[&str]) -> String {
    let acl = acl_of_the_page();
    let words: Vec<_> = acl.iter().map(String::as_str).chain(more.iter().copied()).collect();
    redis.ask::<()>(&words);
    acl.iter().find_map(|word| word.strip_prefix('>')).unwrap().to_owned()
}

/// Nothing that is needed was refused.
fn nothing_was_refused(redis: &Redis) {
    assert_eq!(redis.ask::<Vec<redis::Value>>(&["ACL", "LOG"]), []);
}

#[tokio::test]
async fn the_smallest_acl_is_enough() {
    let port = free_port().to_string();
    let redis = Redis::start_with(&["--port", &port]).await;
    let password = &make_user(&redis, &[]);
    let url = format!("redis://latchkey:{password}@localhost:{port}");
    let server = forgetful(Server::build(), &url).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    finds_in_redis(&server, &keys).await;
    eventually(IN_TIME, "it listens", || {
        let listeners: Vec<(String, i64)> = redis.ask(&["PUBSUB", "NUMSUB", "latchkey:changes"]);
        (listeners[0].1 == 1).then_some(())
    })
    .await;
    nothing_was_refused(&redis);
    // And nothing more is allowed.
    let mut connection = redis.connect();
    command_of(&["AUTH", "latchkey", password]).exec(&mut connection).unwrap();
    for refused in [&["KEYS", "*"][..], &["GET", "other"], &["DEL", "latchkey:x"], &["FLUSHALL"]] {
        let answer = command_of(refused).exec(&mut connection);
        assert_eq!(answer.unwrap_err().code(), Some("NOPERM"), "{refused:?}");
    }
    assert!(!server.log().contains(password));
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it() {
    let redis = Redis::start_with(&["--port", "0", "--requirepass", "right"]).await;
    let url = format!("redis+unix://:hunter2@{}", redis.socket().display());
    let server = forgetful(Server::build(), &url).start().await;
    logged(&server, &["Redis cannot be used"]).await;
    assert!(!server.log().contains("hunter2"), "{}", server.log());
    let keys = make_keys(&server, "acme", 2).await;
    ask_all(&server, &keys).await;
}

#[tokio::test]
async fn over_tls_the_certificate_is_looked_at() {
    let (authority, port) = (Authority::new("the CA of Redis"), free_port().to_string());
    let folder = crate::support::Folder::new();
    let (certificate, key) = authority.server().write(folder.path(), "redis");
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let ca = pki::write(folder.path(), "ca.crt", &authority.pem()).display().to_string();
    let other = Authority::new("another CA").pem();
    let other = pki::write(folder.path(), "other.crt", &other).display().to_string();
    let tls = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let more = ["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"];
    let _redis = Redis::start_with(&[&tls[..], &more[..]].concat()).await;

    let url = format!("rediss://localhost:{port}");
    let trusting =
        |ca: &str| forgetful(Server::build(), &url).environment("LATCHKEY__REDIS__CA_FILE", ca);
    let server = trusting(&ca).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    finds_in_redis(&server, &keys).await;

    let wary = trusting(&other).start().await;
    logged(&wary, &["Redis cannot be used"]).await;
    assert!(metric(&wary, "latchkey_redis_up") < 1.0);
}

#[tokio::test]
async fn behind_sentinel_the_new_master_is_used_after_a_failover() {
    let ports: [u16; 3] = std::array::from_fn(|_| free_port());
    let [first, second, sentinel] = ports.map(|port| port.to_string());
    let one = Redis::start_with(&["--port", &first]).await;
    let other = Redis::start_with(&["--port", &second, "--replicaof", "127.0.0.1", &first]).await;
    let configuration = format!(
        "sentinel monitor primary 127.0.0.1 {first} 1\nsentinel down-after-milliseconds primary 500\n\
         sentinel failover-timeout primary 2000\n"
    );
    let watch = Redis::start_sentinel(ports[2], &configuration).await;
    let is_replicated = || {
        let told: String = other.ask(&["INFO", "replication"]);
        told.contains("master_link_status:up").then_some(())
    };
    eventually(IN_TIME, "the replica follows", is_replicated).await;

    let password = make_user(&one, &["+role"]);
    make_user(&other, &["+role"]);
    let sentinels = format!("127.0.0.1:1,127.0.0.1:{sentinel}");
    let url = format!("redis+sentinel://latchkey:{password}@{sentinels}/primary");
    let server = forgetful(Server::build(), &url).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", KEYS).await;
    finds_in_redis(&server, &keys).await;
    let knows_the_other = || {
        let known: Vec<redis::Value> = watch.ask(&["SENTINEL", "REPLICAS", "primary"]);
        (!known.is_empty()).then_some(())
    };
    eventually(IN_TIME, "Sentinel knows the replica", knows_the_other).await;

    drop(one);
    ask_all(&server, &keys).await;
    let is_master = || {
        let told: String = other.try_ask(&["INFO", "replication"])?;
        told.contains("role:master").then_some(())
    };
    eventually(IN_TIME, "the replica takes its place", is_master).await;
    uses_redis(&server).await;
    finds_in_redis(&server, &keys).await;
    let (token, _) = make_key(&server, "acme").await;
    assert!(ask(&server, &token).await.allowed);
    nothing_was_refused(&other);
}

#[tokio::test]
async fn a_cluster_is_used_as_one() {
    let ports: [u16; 3] = std::array::from_fn(|_| free_port());
    // Without a port of its own for the others it would be this one's plus 10,000, and there may be none.
    let for_others: [u16; 3] = std::array::from_fn(|_| free_port());
    let mut nodes = Vec::new();
    for (port, bus) in ports.iter().zip(for_others) {
        let (port, bus) = (port.to_string(), bus.to_string());
        let own = ["--port", &port, "--cluster-port", &bus];
        let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        nodes.push(Redis::start_with(&[own, more].concat()).await);
    }
    for (node, (from, to)) in nodes.iter().zip([(0, 5_460), (5_461, 10_922), (10_923, 16_383)]) {
        let (from, to) = (from.to_string(), to.to_string());
        node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &from, &to]);
    }
    for (port, bus) in ports.iter().zip(for_others).skip(1) {
        let (port, bus) = (port.to_string(), bus.to_string());
        nodes[0].ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    for node in &nodes {
        let is_whole = || {
            let told: String = node.ask(&["CLUSTER", "INFO"]);
            let whole = ["cluster_state:ok", "cluster_known_nodes:3"];
            whole.iter().all(|part| told.contains(part)).then_some(())
        };
        eventually(IN_TIME, "the cluster is whole", is_whole).await;
    }

    // One of them tells of the others.
    let make = |node: &Redis| make_user(node, &["+cluster|slots"]);
    let passwords: Vec<_> = nodes.iter().map(make).collect();
    let url = format!("redis+cluster://latchkey:{}@127.0.0.1:{}", passwords[0], ports[0]);
    let server = forgetful(Server::build(), &url).start().await;
    uses_redis(&server).await;
    let keys = make_keys(&server, "acme", 3 * KEYS).await;
    finds_in_redis(&server, &keys).await;
    let spread = || nodes.iter().all(|node| !node.records().is_empty()).then_some(());
    eventually(IN_TIME, "records are on every node", spread).await;
    eventually(IN_TIME, "it hears of its own changes", || {
        let known = "latchkey_redis_pushes_total{result=\"known\"}";
        let ahead = "latchkey_redis_pushes_total{result=\"ahead\"}";
        (metric(&server, known) + metric(&server, ahead) > 0.0).then_some(())
    })
    .await;
    for node in &nodes {
        nothing_was_refused(node);
    }
    drop(nodes.pop());
    ask_all(&server, &keys).await;
}
