//! How many keys a node that does not have them at hand finds out each second, and how long their callers wait, by how
//! many wait at once: from the store alone, and with Redis before it.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tonic::Code;
use tonic::transport::Channel;

use super::asked;
use super::counts::Counts;
use super::log::{Client, Said, now};
use super::many_keys::ManyKeys;
use super::verdict::quantile;
use crate::redis::uses_redis;
use crate::support::cluster::Cluster;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::{Server, say};
use crate::telemetry::IN_TIME;

/// A connection carries so many calls at once.
const CALLS_OF_A_CONNECTION: usize = 200;
/// For how long a caller waits that is told to try again.
const PAUSE: Duration = Duration::from_millis(100);
const TRIES: usize = 50;
/// There is room for one key in so many, so that none is at hand when its turn comes again.
const KEYS_PER_ROOM: usize = 5;

/// A node, and where it is asked next.
struct Stage<'a> {
    node: &'a Server,
    keys: &'a ManyKeys,
    next: usize,
}

/// A caller, once he was answered.
struct Filled {
    took: Duration,
    tries: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_not_at_hand_are_found_however_many_are_waited_for() {
    let postgres = Postgres::start(&["shared_buffers=256MB", "max_wal_size=4GB"]).await;
    let mut cluster = Cluster::start_on(0, postgres, None).await;
    let keys = ManyKeys::write(&cluster, asked("KEYS", 2_500).try_into().unwrap()).await;
    let room = (keys.len() / KEYS_PER_ROOM).to_string();
    let node = || Server::build().environment("LATCHKEY__CACHE__KEYS_MAX", &room);
    cluster.nodes.push(cluster.node(node()).start().await);
    cluster.redis = Some(Redis::start().await);
    cluster.nodes.push(cluster.node(node()).start().await);
    let [without, with] = &cluster.nodes[..] else { unreachable!("there are two") };
    uses_redis(with).await;
    let rounds = [("WAITING_1", 1, 100), ("WAITING_2", 20, 400), ("WAITING_3", 200, 800)];

    say(
        "SUMMARY where from | waiting | keys/s | p50, ms | p99, ms | told to try again | found in Redis",
    );
    let mut stage = Stage { node: without, keys: &keys, next: keys.len() / 2 };
    for (name, waiting, fills) in rounds {
        stage.show("store", name, waiting, fills).await;
    }
    let mut stage = Stage { node: with, keys: &keys, next: 0 };
    stage.fill_redis(cluster.redis.as_ref().unwrap()).await;
    for (name, waiting, fills) in rounds {
        stage.show("Redis", name, waiting, fills).await;
    }
}

impl Stage<'_> {
    /// So many callers, each with another key after each answer, until so many keys were found.
    async fn show(&mut self, what: &str, name: &str, waiting: u64, fills: u64) {
        let waiting = usize::try_from(asked(name, waiting)).unwrap();
        let fills = usize::try_from(asked(&format!("{name}_FILLS"), fills)).unwrap();
        let before = Counts::of(self.node);
        let began = now();
        let filled = self.ask(waiting, fills).await;
        let seconds = (now() - began).as_secs_f64();
        let counted = Counts::of(self.node).since(&before);
        let mut took: Vec<_> = filled.iter().map(|filled| filled.took).collect();
        took.sort_unstable();
        let count = |count: usize| f64::from(u32::try_from(count).unwrap());
        let again = filled.iter().filter(|filled| filled.tries > 1).count();
        let millis = |thousandths| quantile(&took, thousandths).as_secs_f64() * 1e3;
        say(format_args!(
            "  {what} | {waiting} | {:.0} | {:.1} | {:.1} | {:.1} % | {:.1} %",
            count(fills) / seconds,
            millis(500),
            millis(990),
            100.0 * count(again) / count(fills),
            100.0 * counted.redis_hits / count(fills),
        ));
        let found = counted.fills + counted.redis_hits;
        assert!(found * 2.0 > count(fills), "most were at hand: {counted:?}");
    }

    async fn ask(&mut self, waiting: usize, fills: usize) -> Vec<Filled> {
        let channels = self.channels(waiting).await;
        let first = self.next;
        self.next += fills;
        stream::iter(first..self.next)
            .map(|turn| {
                let number = turn % self.keys.len();
                let client = Client::of(0, &channels[turn % channels.len()]);
                // The node says when it has waited for long enough.
                let client = client.waiting(IN_TIME);
                self.find(client, number)
            })
            .buffer_unordered(waiting)
            .collect()
            .await
    }

    async fn channels(&self, waiting: usize) -> Vec<Channel> {
        let mut channels = Vec::new();
        for _ in 0..waiting.div_ceil(CALLS_OF_A_CONNECTION) {
            channels.push(self.node.channel().await);
        }
        channels
    }

    /// Until the key is allowed, as clients do that are told to try again.
    async fn find(&self, mut client: Client, number: usize) -> Filled {
        let question = self.keys.question(number);
        let began = now();
        for tries in 1..=TRIES {
            let check = client.ask(number, &question).await;
            match check.said {
                Said::Allowed | Said::Stale => {
                    return Filled { took: check.answered - began, tries };
                }
                Said::Failed(Code::Unavailable) | Said::Nothing => {}
                said => panic!("of a key that is there: {said:?}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("a key is not found out, however often it is asked for")
    }

    /// Everything is asked for until Redis has most of it: a record that does not come in time is not written.
    async fn fill_redis(&mut self, redis: &Redis) {
        let is_filled = async {
            while redis.ask::<usize>(&["DBSIZE"]) * 10 < self.keys.len() * 9 {
                self.ask(50, self.keys.len()).await;
            }
        };
        tokio::time::timeout(IN_TIME * 10, is_filled).await.expect("Redis is filled");
    }
}
