//! How soon what one node was told is known to the others.
//!
//! While all keys are asked for at a steady pace on all nodes, one after the other loses something, by changing nodes;
//! meanwhile that one is asked for on each node without a pause. The latest check that was sent after the answer, and
//! allowed, says how long it took.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::sync::watch;

use super::change::{Made, Policies, Way};
use super::log::{Check, Client, Load, Question, Said};
use super::taking::latest;
use super::verdict::{Moment, Verdict, quantile};
use super::{BOUND, Held, Operator, asked, asked_at_most, plot};
use crate::support::cluster::Cluster;
use crate::support::say;
use tonic::transport::Channel;

const NODES: usize = 3;
/// How many changes are under way at once.
const AT_ONCE: usize = 3;
/// Of so many revocations, one comes with a change of each other way.
const REVOCATIONS_PER_OTHER: usize = 10;
/// A node has to deny a key so often before it is believed.
const DENIALS: usize = 5;
/// For how long it is asked, if it goes on allowing.
const ASKED_FOR: Duration = Duration::from_secs(20);
/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_micros(500);
/// How long keys are asked for before something happens.
const BEFORE: Duration = Duration::from_millis(300);

/// What there is between the nodes, beside the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Redis,
    NoRedisAnyMore,
    ARedisThatStandsStill,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_was_told_counts_on_all_within_the_bound() {
    demand_in_time(Between::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_counts_within_the_bound_after_redis_was_killed() {
    demand_in_time(Between::NoRedisAnyMore).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_counts_within_the_bound_while_redis_stands_still() {
    demand_in_time(Between::ARedisThatStandsStill).await;
}

async fn demand_in_time(between: Between) {
    let mut cluster = Cluster::start_with_redis(NODES).await;
    let stage = Stage::set(&cluster).await;
    let redis = cluster.redis.as_mut().unwrap();
    let (made, checks) = stage
        .run(asked("CHECKS", 200).try_into().unwrap(), || match between {
            Between::Redis => {}
            Between::NoRedisAnyMore => redis.kill(),
            Between::ARedisThatStandsStill => redis.pause(),
        })
        .await;
    let verdict = Verdict::of(&made, &checks, NODES, stage.moment);
    say(format_args!("SUMMARY {between:?}, {} changes\n{}", made.len(), verdict.summary()));
    if between == Between::Redis {
        plot::write_if_asked(&verdict.all());
    }
    verdict.demand_no_wrong_answer();
    verdict.demand_receipts_came_true();
    // On a machine so busy that a node is not fresh, it says so.
    let unmarked = latest(&made, &checks, |check| check.said == Said::Allowed);
    assert!(unmarked <= BOUND, "{:?}", verdict.spread);
    // In these a busy machine shows, and so only the long form demands them.
    let at_most = |name| Duration::from_millis(asked(name, 60_000));
    assert!(quantile(&verdict.all(), 990) <= at_most("P99_MS"), "{:?}", verdict.spread);
    let warm = quantile(&verdict.took, 990);
    assert!(warm <= at_most("WARM_P99_MS"), "{warm:?}");
    let unanswered: usize = verdict.unanswered.values().sum();
    assert!(unanswered <= asked_at_most("LATE_MAX"), "{:?}", verdict.unanswered);
}

/// Nodes with keys that all of them have at hand.
struct Stage {
    moment: Moment,
    channels: Vec<Channel>,
    operators: Vec<Operator>,
    questions: Arc<RwLock<Vec<Question>>>,
    keys: Vec<Held>,
    cases: Vec<(usize, Way)>,
    policies: Policies,
}

impl Stage {
    async fn set(cluster: &Cluster) -> Self {
        let channels = cluster.channels().await;
        // Of their own: where many questions are taken back, as on a busy machine, a connection is ended.
        let operators: Vec<_> = cluster.channels().await.iter().map(Operator::at).collect();
        let cases = cases(asked("REVOCATIONS", 40).try_into().unwrap());
        let keys_max = usize::try_from(asked("KEYS", 300)).unwrap().max(cases.len());
        let policies = Policies::default();
        let of_policies = cases.iter().filter(|(_, way)| *way == Way::Policy);
        let of_policies: Vec<_> = of_policies.map(|(number, _)| *number).collect();
        policies.prepare(&mut operators[0].clone(), &of_policies).await;
        operators[0].clone().make_account("common").await;
        let made = stream::iter(0..keys_max).map(|number| {
            let way = cases.get(number).map_or(Way::Revoke, |(_, way)| *way);
            let mut operator = operators[0].clone();
            async move {
                let (holds, scope) = way.scopes(number);
                let own = format!("account-{number}");
                let account = if way == Way::Suspend { &*own } else { "common" };
                if way == Way::Suspend {
                    operator.make_account(account).await;
                }
                let key = operator.make_key(account, &holds).await;
                let token = key.token.clone().into();
                (key, Question { token, scope: scope.into() })
            }
        });
        let (keys, questions): (Vec<_>, Vec<_>) =
            made.buffered(64).collect::<Vec<_>>().await.into_iter().unzip();
        let moment = Moment::now();
        let stage = Self {
            moment,
            channels,
            operators,
            questions: Arc::new(RwLock::new(questions)),
            keys,
            cases,
            policies,
        };
        stage.warm_up().await;
        stage
    }

    /// Every node has allowed every key once.
    async fn warm_up(&self) {
        let questions = self.questions.read().unwrap().clone();
        for (node, channel) in self.channels.iter().enumerate() {
            let warm = stream::iter(questions.iter().enumerate()).map(|(number, question)| {
                let mut client = Client::of(node, channel);
                async move { client.until_allowed(number, question).await }
            });
            warm.buffer_unordered(16).collect::<()>().await;
        }
    }

    /// All changes, after something happened amid the checks, and all that was noted meanwhile.
    async fn run(&self, checks_per_second: u32, happens: impl FnOnce()) -> (Vec<Made>, Vec<Check>) {
        let load = Load::begin(&self.channels, &self.questions, checks_per_second);
        tokio::time::sleep(BEFORE).await;
        happens();
        let changes =
            stream::iter(self.cases.iter()).map(|(number, way)| self.change(*number, *way));
        let done: Vec<_> = changes.buffer_unordered(AT_ONCE).collect().await;
        let mut checks = load.end().await;
        let (made, probed): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        checks.extend(probed.into_iter().flatten());
        (made, checks)
    }

    /// One change, while the key is asked for on every node.
    async fn change(&self, number: usize, way: Way) -> (Made, Vec<Check>) {
        let (tell, told) = watch::channel(false);
        let question = self.questions.read().unwrap()[number].clone();
        let probes = self.channels.iter().enumerate().map(|(node, channel)| {
            let client = Client::of(node, channel);
            tokio::spawn(probe(client, (number, way), question.clone(), told.clone()))
        });
        let probes: Vec<_> = probes.collect();
        let node = number % self.operators.len();
        let (mut operator, key) = (self.operators[node].clone(), &self.keys[number]);
        let made = operator.take_away(way, key, (number, node), &self.policies).await;
        tell.send_replace(true);
        let checks = join_all(probes).await.into_iter().flat_map(Result::unwrap).collect();
        (made, checks)
    }
}

/// Asks without a pause until it is denied, and has been for a while.
async fn probe(
    mut client: Client,
    (number, way): (usize, Way),
    question: Question,
    told: watch::Receiver<bool>,
) -> Vec<Check> {
    let (mut checks, mut denials, mut until) = (Vec::new(), 0, None);
    loop {
        // What is asked last is asked after the answer.
        let is_told = *told.borrow();
        let check = client.ask(number, &question).await;
        checks.push(check);
        denials = if check.said == Said::Denied(way.reason()) { denials + 1 } else { 0 };
        if is_told {
            let until = *until.get_or_insert(check.sent + ASKED_FOR);
            if denials >= DENIALS || check.sent > until {
                return checks;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Which key loses something in which way.
fn cases(revocations: usize) -> Vec<(usize, Way)> {
    let others = revocations.div_ceil(REVOCATIONS_PER_OTHER);
    let ways = (0..revocations).flat_map(|number| {
        let with_others =
            number % REVOCATIONS_PER_OTHER == 0 && number / REVOCATIONS_PER_OTHER < others;
        let others = if with_others { &Way::OTHERS[..] } else { &[] };
        [Way::Revoke].into_iter().chain(others.iter().copied())
    });
    ways.enumerate().collect()
}
