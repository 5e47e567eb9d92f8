//! A pause between what a node read and its use: first an answer of Redis is held up, then one of the store, and meanwhile
//! another node revokes the keys that it tells of. Once the node has applied that, nothing of what it had read before may
//! count, however late it comes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{DecisionReason, RevokeKeyRequest};
use latchkey::token::Token;
use tonic::transport::Channel;

use super::log::{Check, Client, Said, now};
use super::many_keys::ManyKeys;
use super::{BOUND, Operator, asked};
use crate::redis::uses_redis;
use crate::support::cluster::Cluster;
use crate::support::liar::{Liar, hold::Held};
use crate::support::redis::Redis;
use crate::support::relay::{Hold, Relay};
use crate::support::{Dice, Server, say};
use crate::telemetry::IN_TIME;

/// How many keys are revoked at once: they were made by the first of them.
const AT_ONCE: usize = 50;
/// There is room for so many, so that most of them have to be found out anew.
const ROOM: usize = 16;
/// For how long a node waits for Redis; what takes longer is not used at all.
const REDIS_TIME_MAX: Duration = Duration::from_millis(17);
/// The node that is held back, and the other.
const HELD_BACK: usize = 0;
const OTHER: usize = 1;
/// How long each answer of the store takes to the node that is held back.
const SLOW: Duration = Duration::from_millis(20);
/// After so many that are fast reads ask for more.
const GOOD_READS: usize = 17;
/// How often a key is asked for when the pause is over.
const TIMES: usize = 3;
/// Of so many pauses one is shorter than what a read may take.
const PER_SHORT: usize = 3;

const REVOKED: Said = Said::Denied(DecisionReason::KeyRevoked);

/// A node that is held back, and another one that is not.
struct Stage {
    cluster: Cluster,
    keys: ManyKeys,
    channels: Vec<Channel>,
    operator: Operator,
    liar: Liar,
    /// The ways of both to the store.
    reads: Relay,
    commits: Relay,
    next: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_said_before_a_revocation_does_not_count_after_it() {
    let mut stage = Stage::set().await;
    let most = usize::try_from(asked("KEYS", 100)).unwrap();
    let (mut outdated, mut asked_for) = (0, 0);
    while outdated < most {
        let group = stage.next_group();
        asked_for += group.len();
        stage.keep_in_redis(&group).await;
        outdated += stage.revoke_while_redis_is_held_up(&group).await;
    }
    in_time(stage.demand_revoked()).await;
    say(format_args!(
        "SUMMARY Redis: {asked_for} keys asked for and revoked meanwhile; {outdated} records of before came when the \
         node had applied that: none was used"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_answered_before_a_revocation_does_not_count_after_it() {
    let mut stage = Stage::set().await;
    stage.reads.answers_take(SLOW);
    let most = usize::try_from(asked("KEYS", 100)).unwrap();
    let (mut outdated, mut rounds, mut longest) = (0, 0, Duration::ZERO);
    while outdated < most {
        let group = stage.next_group();
        rounds += 1;
        let is_short = rounds % PER_SHORT == 0;
        let (read, last) = stage.revoke_while_the_store_is_held_up(&group, is_short).await;
        outdated += read;
        longest = longest.max(last);
    }
    in_time(stage.demand_revoked()).await;
    say(format_args!(
        "SUMMARY the store: {outdated} keys were read and revoked before the answer came, in {rounds} pauses: after those \
         that were too long none was allowed; after those that were not, for {longest:?} at most"
    ));
    assert!(longest <= BOUND, "{longest:?}");
}

impl Stage {
    async fn set() -> Self {
        let mut cluster = Cluster::start_on(
            0,
            crate::support::postgres::Postgres::start(&[]).await,
            Some(Redis::start().await),
        )
        .await;
        // Some pauses come to nothing.
        let count = usize::try_from(asked("KEYS", 100)).unwrap() * 4 + 4_000;
        let keys = ManyKeys::write_in_groups(&cluster, count + AT_ONCE, AT_ONCE).await;
        let liar = Liar::before(cluster.redis.as_ref().unwrap(), Dice::new(asked("SEED", 1)));
        let (reads, commits) = (Relay::before(&cluster.postgres), Relay::before(&cluster.postgres));
        for relay in [&reads, &commits] {
            let node = cluster.node_behind(relay, Server::build());
            let node = node.environment("LATCHKEY__CACHE__KEYS_MAX", &ROOM.to_string());
            let is_held_back = cluster.nodes.len() == HELD_BACK;
            let redis = cluster.redis.as_ref().unwrap();
            let url = if is_held_back { liar.url() } else { redis.url() };
            cluster.nodes.push(node.environment("LATCHKEY__REDIS__URL", &url).start().await);
        }
        let channels = cluster.channels().await;
        let operator = Operator::at(&channels[OTHER]);
        // What comes first is at hand from the start.
        Self { cluster, keys, channels, operator, liar, reads, commits, next: AT_ONCE }
    }

    /// Keys that nobody has asked for yet.
    fn next_group(&mut self) -> Range<usize> {
        let group = self.next..self.next + AT_ONCE;
        assert!(group.end <= self.keys.len(), "nothing is shown: too many pauses came to nothing");
        self.next = group.end;
        group
    }

    async fn until_redis_is_used(&self) {
        for node in &self.cluster.nodes {
            uses_redis(node).await;
        }
    }

    /// The other node asks for these until all of them are kept in Redis.
    async fn keep_in_redis(&self, group: &Range<usize>) {
        self.until_redis_is_used().await;
        let redis = self.cluster.redis.as_ref().unwrap();
        redis.ask::<()>(&["FLUSHALL"]);
        let are_kept = async {
            let names = self.names(group);
            loop {
                self.ask(OTHER, group).await;
                let records = redis.records();
                let kept = records.iter().filter(|it| names.contains_key(&it[26..])).count();
                if kept == names.len() {
                    return;
                }
            }
        };
        tokio::time::timeout(IN_TIME, are_kept).await.expect("they are kept in Redis");
    }

    /// The revocation is written and not yet committed when the keys are asked for, and committed when Redis was asked. The
    /// node that is held back gets the old records when it has written the new ones; how many those were.
    async fn revoke_while_redis_is_held_up(&self, group: &Range<usize>) -> usize {
        self.until_redis_is_used().await;
        self.commits.hold(Hold::CommitOf(vec![self.keys.id(group.start).to_string()]));
        let revoking = tokio::spawn(revoke(self.operator.clone(), self.id(group)));
        in_time(self.commits.until_held()).await;
        self.liar.hold(REDIS_TIME_MAX);
        let asking = async {
            let asked = self.ask(HELD_BACK, group).await;
            (asked, self.liar.let_go())
        };
        let committing = async {
            // Some may be at hand.
            let all = self.liar.until_asked(group.len());
            let _ = tokio::time::timeout(REDIS_TIME_MAX / 2, all).await;
            self.commits.let_go();
            revoking.await.unwrap()
        };
        let ((asked, held), revoked) = join(asking, committing).await;
        let names = self.names(group);
        let outdated: Vec<_> = held
            .iter()
            .filter(|(_, held)| held.was_outdated())
            .map(|of| number(&names, of))
            .collect();
        let used: Vec<_> = asked
            .iter()
            .filter(|check| check.said.is_allow() && outdated.contains(&check.question))
            .collect();
        assert!(used.is_empty(), "allowed by what was of before the revocation: {used:#?}");
        for _ in 0..TIMES {
            for check in self.ask(HELD_BACK, group).await {
                let is_wrong = check.said.is_allow()
                    && (outdated.contains(&check.question) || check.sent > revoked + BOUND);
                assert!(!is_wrong, "{check:#?}, revoked at {revoked:?}");
            }
        }
        outdated.len()
    }

    /// The answer to the read that the node waits for is held up while the keys in it are revoked; how many those are, and
    /// for how long they were allowed after that.
    async fn revoke_while_the_store_is_held_up(
        &self,
        group: &Range<usize>,
        is_short: bool,
    ) -> (usize, Duration) {
        let gathered = group.start + 1..group.end;
        let ids: Vec<_> = gathered.clone().map(|it| self.keys.id(it).to_string()).collect();
        self.reads.hold(Hold::AnswerWith(ids.clone()));
        let asking = async {
            // On a busy machine they may be given up before they are read.
            while self.reads.is_to_hold() {
                // While one is read, the others are asked for, and read together.
                let others = async {
                    tokio::time::sleep(SLOW / 4).await;
                    self.ask(HELD_BACK, &gathered).await
                };
                join(self.ask_one(group.start), others).await;
            }
        };
        let revoking = async {
            let piece = in_time(self.reads.until_held()).await;
            let revoked = revoke(self.operator.clone(), self.id(group)).await;
            if !is_short {
                // The read is given up, and another one brings the revocation.
                in_time(self.until_revoked(group)).await;
            }
            self.reads.let_go();
            (piece, revoked)
        };
        let ((), (piece, revoked)) = join(asking, revoking).await;
        let mut longest = Duration::ZERO;
        let mut denied = HashMap::new();
        let is_over = async {
            for time in 0.. {
                let checks = self.ask(HELD_BACK, group).await;
                for check in &checks {
                    if check.said == REVOKED {
                        denied.entry(check.question).or_insert(check.answered);
                    } else if check.said.is_allow() {
                        longest = longest.max(check.sent - revoked);
                        let was_denied = denied.contains_key(&check.question);
                        assert!(is_short && !was_denied, "{check:#?}, revoked at {revoked:?}");
                    }
                }
                if time >= TIMES && denied.len() == group.len() {
                    return;
                }
            }
        };
        in_time(is_over).await;
        self.have_reads_ask_for_more().await;
        let is_in = |id: &String| piece.windows(id.len()).any(|part| part == id.as_bytes());
        (ids.iter().filter(|id| is_in(id)).count(), longest)
    }

    /// After a read that was given up reads ask for half as much, until enough of them were fast.
    async fn have_reads_ask_for_more(&self) {
        self.reads.answers_take(Duration::ZERO);
        let mut operator = Operator::at(&self.channels[HELD_BACK]);
        let made = async {
            for number in 0..GOOD_READS {
                let name = format!("account-of-{}-{number}", self.next);
                // It is shown by a read of its own; one that comes to nothing counts for nothing.
                let _ = operator.try_account(&name).await;
            }
        };
        in_time(made).await;
        self.reads.answers_take(SLOW);
    }

    /// Waits until the node that is held back denies all of these.
    async fn until_revoked(&self, group: &Range<usize>) {
        for number in group.clone() {
            while self.ask_one(number).await.said != REVOKED {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// Demands that it still does, for all that were ever asked for.
    async fn demand_revoked(&self) {
        for number in AT_ONCE..self.next {
            let mut check = self.ask_one(number).await;
            while check.said != REVOKED {
                assert!(matches!(check.said, Said::Failed(_) | Said::Nothing), "{check:#?}");
                check = self.ask_one(number).await;
            }
        }
    }

    async fn ask_one(&self, number: usize) -> Check {
        let mut client = Client::of(HELD_BACK, &self.channels[HELD_BACK]);
        client.ask(number, &self.keys.question(number)).await
    }

    /// Asks for all of them at once.
    async fn ask(&self, node: usize, group: &Range<usize>) -> Vec<Check> {
        join_all(group.clone().map(|number| {
            let mut client = Client::of(node, &self.channels[node]);
            let question = self.keys.question(number);
            async move { client.ask(number, &question).await }
        }))
        .await
    }

    /// The key that has made the others.
    fn id(&self, group: &Range<usize>) -> String {
        self.keys.id(group.start).to_string()
    }

    /// With what the names of their records end.
    fn names(&self, group: &Range<usize>) -> HashMap<String, usize> {
        let named = group.clone().map(|number| {
            let digest = Token::from_text(self.keys.token(number)).unwrap().digest();
            let mut hex = String::new();
            for byte in digest.as_bytes() {
                write!(hex, "{byte:02x}").unwrap();
            }
            (hex, number)
        });
        named.collect()
    }
}

/// Of whom a record was that was held up.
fn number(names: &HashMap<String, usize>, (name, _): (&Vec<u8>, &Held)) -> usize {
    names[std::str::from_utf8(&name[26..]).unwrap()]
}

/// Revokes it and all that it has made; when that was answered.
async fn revoke(mut operator: Operator, id: String) -> Instant {
    let target = Some(Target::KeyId(id));
    let request = RevokeKeyRequest { target, revoke_created: true, ..Default::default() };
    until_done!(operator.keys.revoke_key(request.clone()).await);
    now()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(IN_TIME * 5, work).await.expect("it comes in time")
}
