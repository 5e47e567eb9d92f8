//! A node that is stopped again and again, while the others take something from one key after the other: when it goes on,
//! it has missed what they were told, does not know that time has passed, and finds questions that have waited for it.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::log::{Check, Client, Load, Question, Said, now};
use super::taking::{Plan, Questions, STRICT, Taking, latest};
use super::verdict::{Moment, Verdict};
use super::{BOUND, Operator, asked, asked_at_most};
use crate::support::cluster::Cluster;
use crate::support::relay::Relay;
use crate::support::{Dice, Server, say};

const NODES: usize = 3;
/// The node that is stopped, the last. The others are told what is taken.
const STOPPED: usize = 2;
const GRACE: Duration = Duration::from_secs(3);
/// How long each answer of the store takes to it: often it stops while one is on its way, and finds it when it goes on.
const SLOW: Duration = Duration::from_millis(30);
/// The shortest stop.
const SHORTEST_MS: u64 = 200;
/// The longest time that it runs between two stops, once it is well again.
const RUNS_MS: u64 = 800;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_answers_by_nothing_that_is_too_old() {
    let mut cluster = Cluster::start(NODES - 1).await;
    let relay = Relay::before(&cluster.postgres);
    cluster.start_behind(&relay, Duration::from_secs(2)).await;
    relay.answers_take(SLOW);
    let channels = cluster.channels().await;
    let mut operator = Operator::at(&channels[0]);
    operator.set_grace(GRACE).await;
    let questions = questions(&mut operator).await;
    let mut client = Client::of(STOPPED, &channels[STOPPED]);
    until_well(&mut client, &questions).await;
    goes_on_by_what_it_read(&mut cluster.nodes[STOPPED], &relay, &mut client, &questions).await;
    tokio::time::sleep(BOUND).await;
    let longest = asked("STOPPED_MS", 2_500);
    let plan = Plan {
        tellers: (0..NODES).filter(|node| *node != STOPPED).collect(),
        every: Duration::from_millis(asked("TAKEN_MS", 250)),
        pause: Duration::from_millis(10),
        asked_for: Duration::from_millis(longest) + Duration::from_secs(20),
    };
    let moment = Moment::now();
    let mut dice = Dice::new(asked("SEED", 1));
    let load = Load::begin(&channels, &questions, asked("CHECKS", 200).try_into().unwrap());
    let taking = Taking::begin(&cluster.addresses(), &questions, &plan, &dice.apart(1));
    let rounds = asked("ROUNDS", 3);
    let (mut stopped_for, mut well_after) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(dice.below(RUNS_MS))).await;
        // Every other one is so long that the bound is passed meanwhile, if nothing else was.
        let bound = u64::try_from(BOUND.as_millis()).unwrap();
        let (least, most) = if round % 2 == 0 { (bound, longest) } else { (SHORTEST_MS, bound) };
        let stop = Duration::from_millis(least + dice.below(most - least + 1));
        cluster.nodes[STOPPED].pause().await;
        tokio::time::sleep(stop).await;
        cluster.nodes[STOPPED].resume();
        let resumed = now();
        until_well(&mut client, &questions).await;
        stopped_for.push(stop);
        well_after.push(now() - resumed);
    }
    let (made, mut checks) = taking.end().await;
    checks.extend(load.end().await);
    let verdict = Verdict::of(&made, &checks, NODES, moment);
    let questions = questions.read().unwrap();
    let is_strict = |check: &Check| questions[check.question].scope.as_ref() == STRICT;
    let of_stopped =
        |said: Said| latest(&made, &checks, |check| check.said == said && check.node == STOPPED);
    let (unmarked, stale) = (of_stopped(Said::Allowed), of_stopped(Said::Stale));
    let whole: Duration = stopped_for.iter().sum();
    say(format_args!(
        "SUMMARY stopped {rounds} times, {whole:?} in all, {:?} at most; {} changes; allowed after the answer unmarked for \
         {unmarked:?}, stale for {stale:?} at most; well again after {:?} at most\n{}",
        stopped_for.iter().max().unwrap(),
        made.len(),
        well_after.iter().max().unwrap(),
        verdict.summary(),
    ));
    verdict.demand_no_wrong_answer();
    let unmarked = latest(&made, &checks, |check| check.said == Said::Allowed);
    assert!(unmarked <= BOUND, "allowed without a mark {unmarked:?} after it was taken");
    let stale = latest(&made, &checks, |check| check.said == Said::Stale);
    assert!(stale <= GRACE, "allowed {stale:?} after it was taken");
    let marked = checks.iter().find(|check| check.said == Said::Stale && is_strict(check));
    assert!(marked.is_none(), "strict and stale: {marked:?}");
    // The one that stood still may say that it does not know, and end connections on which much was taken back; that
    // others do not answer may be the machine's fault.
    let is_failure =
        |check: &&Check| matches!(check.said, Said::Failed(_)) && check.node != STOPPED;
    let failed = checks.iter().filter(is_failure).count();
    assert!(failed <= asked_at_most("FAILED_MAX"), "{failed} failed");
}

/// Two that nothing is taken from.
async fn questions(operator: &mut Operator) -> Questions {
    for account in ["common", "taken"] {
        operator.make_account(account).await;
    }
    let mut questions = Vec::new();
    for scope in ["memory:read", STRICT] {
        let key = operator.make_key("common", scope).await;
        questions.push(Question { token: key.token.into(), scope: scope.into() });
    }
    Arc::new(RwLock::new(questions))
}

/// Stopped for longer than the bound, and cut off from the store when it goes on, it answers for a while, marked.
async fn goes_on_by_what_it_read(
    node: &mut Server,
    relay: &Relay,
    client: &mut Client,
    questions: &Questions,
) {
    let standard = questions.read().unwrap()[0].clone();
    node.pause().await;
    tokio::time::sleep(BOUND).await;
    relay.cut();
    node.resume();
    client.until(0, &standard, |said| said == Said::Stale).await;
    relay.mend();
    until_well(client, questions).await;
}

/// Waits until the node answers what it may answer only while it is fresh.
async fn until_well(client: &mut Client, questions: &Questions) {
    let strict = questions.read().unwrap()[1].clone();
    client.until_allowed(1, &strict).await;
}
