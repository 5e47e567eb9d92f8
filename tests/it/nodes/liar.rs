//! A Redis that lies to three nodes which have room for few keys, and a PostgreSQL that one of them reaches with trouble:
//! keys are revoked, and others paused for a while, while all are asked for, most often those that have just been changed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{Key, RevokeKeyRequest, UpdateKeyRequest};
use prost_types::FieldMask;
use tonic::Status;
use tonic::transport::Channel;

use self::judge::{Change, Verdict, Way};
use super::log::{Check, Client, Said, now};
use super::many_keys::ManyKeys;
use super::verdict::quantiles;
use super::{BOUND, Operator, asked};
use crate::redis::{looked, uses_redis};
use crate::support::cluster::Cluster;
use crate::support::liar::Liar;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::{Dice, Server, say};

mod judge;

const NODES: usize = 3;
/// So many ask each node at once.
const ASKING: usize = 8;
/// How many changes are under way at once.
const AT_ONCE: usize = 8;
/// Of so many revocations one comes with a key that is paused, and goes on after so many more.
const PER_PAUSED: usize = 10;
const PAUSED_FOR: usize = 25;
/// Half of the questions are about so many keys, of which so many are changed next and the others have just been.
const HOT: usize = 80;
const AHEAD: usize = 20;
/// Whoever got no answer asks again after this.
const PAUSE: Duration = Duration::from_millis(5);

/// What a node says of that it looked up in Redis.
const LOOKED: [&str; 11] = [
    "hit",
    "absent",
    "miss",
    "bad_mac",
    "unreadable",
    "ahead",
    "too_old",
    "another_tag",
    "changed",
    "doubted",
    "failed",
];

struct Stage {
    cluster: Cluster,
    keys: ManyKeys,
    channels: Vec<Channel>,
    operators: Vec<Operator>,
    liar: Liar,
    relay: Relay,
    revocations: usize,
    checks: usize,
    /// What is asked for most.
    hot: RwLock<VecDeque<usize>>,
    /// How many checks were decided.
    decided: AtomicUsize,
    dice: Dice,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_redis_says_nobody_is_allowed_or_denied_by_it() {
    let stage = Arc::new(Stage::set().await);
    let disturbing = stage.relay.disturb(stage.dice.apart(3));
    stage.liar.lie(true);
    let began = now();
    let (mut checks, changes) = stage.run().await;
    drop(disturbing);
    checks.extend(stage.ask_all().await);
    let took = now() - began;
    stage.liar.lie(false);

    let verdict = Verdict::of(&changes, &checks);
    say(format_args!(
        "SUMMARY {} checks in {took:.0?}, {} revocations and {} pauses: {} allowed, {} denied, {} of them marked; not \
         answered: {:?}\n  last allowed after the answer: {}\n  allowed wrongly: {}; denied wrongly: {}; denied after \
         it was given back for {:?} at most",
        verdict.allowed + verdict.denied,
        stage.revocations,
        stage.paused(),
        verdict.allowed,
        verdict.denied,
        verdict.marked,
        verdict.unanswered,
        quantiles(&verdict.spread),
        verdict.wrongly_allowed.len(),
        verdict.wrongly_denied.len(),
        verdict.longest_denied,
    ));
    let some = |of: usize| of.min(10);
    let Verdict { wrongly_allowed, wrongly_denied, .. } = &verdict;
    let (late, denied) = (some(wrongly_allowed.len()), some(wrongly_denied.len()));
    assert!(wrongly_allowed.is_empty(), "{:#?}", &wrongly_allowed[..late]);
    assert!(wrongly_denied.is_empty(), "{:#?}", &wrongly_denied[..denied]);
    assert!(verdict.spread.last().is_some_and(|last| *last <= BOUND));
    stage.demand_rejected();
}

impl Stage {
    async fn set() -> Self {
        let dice = Dice::new(asked("SEED", 1));
        let postgres = Postgres::start(&["shared_buffers=256MB", "max_wal_size=4GB"]).await;
        let mut cluster = Cluster::start_on(0, postgres, Some(Redis::start().await)).await;
        let revocations = usize::try_from(asked("REVOCATIONS", 60)).unwrap();
        let keys = ManyKeys::write(&cluster, revocations * 2).await;
        let liar = Liar::before(cluster.redis.as_ref().unwrap(), dice.apart(1));
        let relay = Relay::before(&cluster.postgres);
        for node in 0..NODES {
            let build = Server::build();
            let last = node + 1 == NODES;
            let node = if last { cluster.node_behind(&relay, build) } else { cluster.node(build) };
            let node = node.environment("LATCHKEY__REDIS__URL", &liar.url());
            let room = asked("ROOM", 10).to_string();
            cluster.nodes.push(node.environment("LATCHKEY__CACHE__KEYS_MAX", &room).start().await);
        }
        for node in &cluster.nodes {
            uses_redis(node).await;
        }
        let channels = cluster.channels().await;
        Self {
            operators: channels.iter().map(Operator::at).collect(),
            channels,
            keys,
            liar,
            relay,
            revocations,
            checks: asked("CHECKS", 6_000).try_into().unwrap(),
            hot: RwLock::new((0..AHEAD).collect()),
            decided: AtomicUsize::new(0),
            dice,
            cluster,
        }
    }

    /// All changes, and all that was noted meanwhile.
    async fn run(self: &Arc<Self>) -> (Vec<Check>, Vec<Change>) {
        let asking = (0..NODES * ASKING).map(|number| {
            let stage = Arc::clone(self);
            tokio::spawn(async move { stage.ask(number).await })
        });
        let asking: Vec<_> = asking.collect();
        let changes = stream::iter(0..self.revocations).map(|turn| self.change(turn));
        let changes: Vec<_> = changes.buffer_unordered(AT_ONCE).collect().await;
        let checks = join_all(asking).await.into_iter().flat_map(Result::unwrap).collect();
        (checks, changes.into_iter().flatten().collect())
    }

    /// Asks one node after each answer, until there were enough of them everywhere.
    async fn ask(&self, number: usize) -> Vec<Check> {
        let node = number % NODES;
        let mut client = Client::of(node, &self.channels[node]);
        let mut dice = self.dice.apart(100 + number as u64);
        let mut checks = Vec::new();
        while self.decided.load(Ordering::Relaxed) < self.checks {
            let question = self.draw(&mut dice);
            let check = client.ask(question, &self.keys.question(question)).await;
            checks.push(check);
            if let Said::Failed(_) | Said::Nothing = check.said {
                tokio::time::sleep(PAUSE).await;
            } else {
                self.decided.fetch_add(1, Ordering::Relaxed);
            }
        }
        checks
    }

    fn draw(&self, dice: &mut Dice) -> usize {
        let of_all = usize::try_from(dice.below(self.keys.len() as u64)).unwrap();
        let hot = self.hot.read().unwrap();
        let of_hot = usize::try_from(dice.below(hot.len() as u64)).unwrap();
        if dice.is_one_of(1, 2) { of_all } else { hot[of_hot] }
    }

    /// Each key on each node once more, until it was told.
    async fn ask_all(&self) -> Vec<Check> {
        tokio::time::sleep(BOUND).await;
        let all = (0..NODES).flat_map(|node| (0..self.keys.len()).map(move |key| (node, key)));
        let asked = stream::iter(all).map(|(node, key)| {
            let mut client = Client::of(node, &self.channels[node]);
            async move {
                loop {
                    let check = client.ask(key, &self.keys.question(key)).await;
                    if !matches!(check.said, Said::Failed(_) | Said::Nothing) {
                        return check;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
        asked.buffer_unordered(NODES * ASKING).collect().await
    }

    /// Revokes a key when it is its turn; now and then pauses another for a while.
    async fn change(&self, turn: usize) -> Vec<Change> {
        self.until_turn(turn).await;
        self.heat(turn + AHEAD);
        let node = turn % NODES;
        let mut changes = vec![self.make(Way::Revoke, turn, node).await];
        if turn.is_multiple_of(PER_PAUSED) {
            let paused = self.revocations + turn / PER_PAUSED;
            self.heat(paused);
            changes.push(self.make(Way::Disable, paused, (node + 1) % NODES).await);
            self.until_turn((turn + PAUSED_FOR).min(self.revocations)).await;
            self.heat(paused);
            changes.push(self.make(Way::Enable, paused, (node + 2) % NODES).await);
        }
        changes
    }

    fn paused(&self) -> usize {
        self.revocations.div_ceil(PER_PAUSED)
    }

    /// Changes are as far apart in checks as there are checks for each.
    async fn until_turn(&self, turn: usize) {
        let due = self.checks / (self.revocations + PAUSED_FOR) * turn;
        while self.decided.load(Ordering::Relaxed) < due {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn heat(&self, key: usize) {
        let mut hot = self.hot.write().unwrap();
        hot.push_back(key);
        if hot.len() > HOT {
            hot.pop_front();
        }
    }

    async fn make(&self, way: Way, question: usize, node: usize) -> Change {
        let mut operator = self.operators[node].clone();
        let id = self.keys.id(question).to_string();
        let sent = now();
        until_done!(operator.make(way, &id).await);
        Change { way, question, node, sent, answered: now() }
    }

    /// Of what nobody wrote of this key, whatever came in time was rejected, and nothing else was.
    fn demand_rejected(&self) {
        let told = self.liar.told();
        let looked = LOOKED.map(|result| (result, self.looked(result)));
        let of = |result| looked.iter().find(|(name, _)| *name == result).unwrap().1;
        let (rejected, failed) = (of("bad_mac"), of("failed"));
        say(format_args!("  {told:?}\n  looked up: {looked:?}"));
        let returned = told.flipped + told.foreign;
        assert!(rejected <= returned, "{rejected} of {returned}");
        assert!(returned - rejected <= failed, "{rejected} of {returned}, {failed} not in time");
        assert!(rejected >= asked("FLIPPED", 1), "{rejected} of {returned}");
        assert!(of("changed") > 0 && of("hit") > 0, "Redis is hardly read");
    }

    fn looked(&self, result: &str) -> u64 {
        let sum: f64 = self.cluster.nodes.iter().map(|node| looked(node, result)).sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is a count"
        )]
        let count = sum as u64;
        count
    }
}

impl Operator {
    async fn make(&mut self, way: Way, id: &str) -> Result<(), Status> {
        if way == Way::Revoke {
            let target = Some(Target::KeyId(id.to_owned()));
            let request = RevokeKeyRequest { target, ..Default::default() };
            return self.keys.revoke_key(request).await.map(drop);
        }
        let disabled = way == Way::Disable;
        let request = UpdateKeyRequest {
            key: Some(Key { key_id: id.to_owned(), disabled, ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["disabled".to_owned()] }),
            ..Default::default()
        };
        self.keys.update_key(request).await.map(drop)
    }
}
