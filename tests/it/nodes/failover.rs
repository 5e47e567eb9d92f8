//! Redis as a cluster, and behind Sentinel, whose primaries are killed, stand still, and hand over, all the time, while
//! something is taken from one key after the other: what is at hand is answered, what was taken is refused, and Redis is
//! read again.
//!
//! The nodes have room for few of the keys, so that the others are looked for in Redis again and again; what it lost by a
//! failover, or has again as it was, is what they find there.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use tonic::transport::Channel;

use super::log::{Check, Client, Load, Question, Said, now};
use super::taking::{Plan, Questions, Taking, latest};
use super::verdict::{Moment, Verdict, quantiles};
use super::{BOUND, Operator, asked, asked_at_most};
use crate::redis::looked;
use crate::support::cluster::Cluster;
use crate::support::redis::Group;
use crate::support::{Dice, Server, eventually_each, say};

const NODES: usize = 3;
/// Of so many keys that there is room for, one is asked for all the time.
const ROOM_PER_WARM: usize = 5;
/// How many more keys there are than room.
const TIMES_ROOM: usize = 4;
/// For how long nobody hears of what is written before a primary is killed: it is as if it had not been.
const BEHIND: Duration = Duration::from_millis(700);
/// For how many keys, those that came last, each node is asked after a failover.
const SWEPT: usize = 60;
/// How long a slot is between two primaries.
const BETWEEN: Duration = Duration::from_millis(300);
/// Sentinel leaves the old primary as it is for ten seconds: so long there are two.
const IN_TIME: Duration = Duration::from_mins(1);
/// Between a look at what is read and the next.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a new primary has to be read before it counts: nodes that try it out read it a few times, too.
const READS: u64 = 30;

/// What happens to a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Its replica has not heard of the last that was written.
    Killed,
    /// And finds, when it goes on, that another has its place.
    StoodStill,
    HandedOver,
    /// A slot of its own, with what is in it.
    SlotMoved,
}

/// How long it took until a replica was in its place, and until all nodes read of Redis again.
#[derive(Debug, Clone, Copy)]
struct Lasted {
    replaced: Duration,
    read: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_cluster_that_fails_over_lets_nothing_wrong_through_and_stops_nothing() {
    let events = [Event::SlotMoved, Event::Killed, Event::HandedOver, Event::StoodStill];
    demand_all_goes_on(Group::cluster().await, &events, asked("ROUNDS", 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_failover_by_sentinel_lets_nothing_wrong_through_and_stops_nothing() {
    let events = [Event::Killed, Event::HandedOver, Event::StoodStill];
    demand_all_goes_on(Group::behind_sentinel().await, &events, asked("ROUNDS", 1)).await;
}

async fn demand_all_goes_on(mut group: Group, events: &[Event], rounds: u64) {
    let room = usize::try_from(asked("ROOM", 100)).unwrap();
    let settings = [("REDIS__URL", &*group.url()), ("CACHE__KEYS_MAX", &room.to_string())];
    let cluster = Cluster::start_with(NODES, &settings).await;
    let channels = cluster.channels().await;
    let (warm, cold) = make_keys(&channels, room).await;
    let dice = Dice::new(asked("SEED", 1));
    let moment = Moment::now();
    let checks = u32::try_from(asked("CHECKS", 300)).unwrap();
    let load = Load::begin(&channels, &warm, checks * 2 / 3);
    let others = Load::begin(&channels, &cold, checks / 3);
    let plan = Plan {
        tellers: (0..NODES).collect(),
        every: Duration::from_millis(asked("TAKEN_MS", 100)),
        pause: Duration::from_millis(20),
        asked_for: Duration::from_secs(20),
    };
    let taking = Taking::begin(&cluster.addresses(), &cold, &plan, &dice);
    are_read(&group, &cluster.nodes, &group.primaries()).await;

    let mut lasted: BTreeMap<Event, Vec<Lasted>> = BTreeMap::new();
    let mut swept = Vec::new();
    for round in 0..usize::try_from(rounds).unwrap() {
        let event = events[round % events.len()];
        let took = disturb(&mut group, &cluster.nodes, event, round / events.len()).await;
        say(format_args!("round {round}: {event:?}, {took:?}"));
        lasted.entry(event).or_default().push(took);
        swept.extend(sweep(&channels, &cold).await);
    }
    let (made, mut noted) = taking.end().await;
    let first_cold = warm.read().unwrap().len();
    noted.extend(others.end().await);
    noted.extend(swept);
    let at_hand = load.end().await;
    let verdict = judge(&made, &at_hand, &noted, first_cold, moment);
    say(format_args!(
        "SUMMARY {}: {}\n{}\n  looked up in Redis: {}\n  at hand: {}",
        if group.is_cluster() { "cluster" } else { "Sentinel" },
        told(&lasted),
        verdict.summary(),
        looked_up(&cluster.nodes),
        told_of(&at_hand),
    ));
    // On a busy machine a key that is not at hand may not be found in time.
    verdict.demand_no_wrong_answer();
    // On a machine so busy that a node is not fresh, it says so.
    let unmarked = latest(&made, &noted, |check| check.said == Said::Allowed);
    assert!(unmarked <= BOUND, "allowed without a mark {unmarked:?} after it was taken");
    let of = |is_it: fn(&Said) -> bool| at_hand.iter().filter(|it| is_it(&it.said)).count();
    let denied = of(|said| matches!(said, Said::Denied(_)));
    assert_eq!(denied, 0, "denied, and nothing was taken from them");
    // What others crowd out of a busy machine's cache may not be read in time.
    let failed = of(|said| matches!(said, Said::Failed(_)));
    assert!(failed <= asked_at_most("FAILED_MAX"), "{failed} failed");
    // The one that is not answered soon may be the machine's fault.
    let late = at_hand.iter().filter(|check| check.said == Said::Nothing).count();
    assert!(late <= asked_at_most("LATE_MAX"), "{late} were not answered");
}

/// Keys that are at hand on all nodes, as they are asked for all the time, and many others.
async fn make_keys(channels: &[Channel], room: usize) -> (Questions, Questions) {
    let mut operator = Operator::at(&channels[0]);
    operator.make_account("common").await;
    operator.make_account("taken").await;
    let make = async |count: usize| {
        let made = stream::iter(0..count).map(|_| {
            let mut operator = operator.clone();
            async move {
                let key = operator.make_key("common", "memory:read").await;
                Question { token: key.token.into(), scope: "memory:read".into() }
            }
        });
        made.buffered(16).collect::<Vec<_>>().await
    };
    let (cold, warm) = (make(room * TIMES_ROOM).await, make(room / ROOM_PER_WARM).await);
    for (node, channel) in channels.iter().enumerate() {
        let mut client = Client::of(node, channel);
        for question in &warm {
            client.until_allowed(0, question).await;
        }
    }
    (Arc::new(RwLock::new(warm)), Arc::new(RwLock::new(cold)))
}

/// Has this happen to one primary once all are well, and waits until what took its place is read.
async fn disturb(group: &mut Group, nodes: &[Server], event: Event, turn: usize) -> Lasted {
    group.until_whole().await;
    let primaries = group.primaries();
    let primary = primaries[turn % primaries.len()];
    let replica = group.replica_of(primary).expect("each primary has a replica");
    let mut began = now();
    match event {
        Event::Killed => {
            group.server(replica).pause();
            group.cut_off_replica(primary);
            tokio::time::sleep(BEHIND).await;
            began = now();
            group.server(primary).kill();
            group.server(replica).resume();
        }
        Event::StoodStill => group.server(primary).pause(),
        Event::HandedOver => group.hand_over(replica),
        Event::SlotMoved => {
            let to = primaries[(turn + 1) % primaries.len()];
            group.move_a_slot(primary, to, BETWEEN).await;
            return Lasted {
                replaced: now() - began,
                read: until_read(group, nodes, &[to], began).await,
            };
        }
    }
    group.until_replaced(primary).await;
    let replaced = now() - began;
    let read = until_read(group, nodes, &[replica], began).await;
    match event {
        Event::Killed => group.server(primary).start_again().await,
        Event::StoodStill => group.server(primary).resume(),
        Event::HandedOver | Event::SlotMoved => {}
    }
    Lasted { replaced, read }
}

/// Asks each node for what was taken last, one key after the other: what Redis has of it as it was before, for that is
/// lost which was written later, is found now.
async fn sweep(channels: &[Channel], cold: &Questions) -> Vec<Check> {
    let questions = cold.read().unwrap().clone();
    let first = questions.len().saturating_sub(SWEPT);
    let on_each = channels.iter().enumerate().map(async |(node, channel)| {
        let (mut client, mut checks) = (Client::of(node, channel), Vec::new());
        for (number, question) in questions.iter().enumerate().skip(first) {
            checks.push(client.ask(number, question).await);
        }
        checks
    });
    join_all(on_each).await.into_iter().flatten().collect()
}

async fn until_read(
    group: &Group,
    nodes: &[Server],
    servers: &[usize],
    began: Instant,
) -> Duration {
    are_read(group, nodes, servers).await;
    now() - began
}

/// Waits until these are read, and each node finds something in Redis.
async fn are_read(group: &Group, nodes: &[Server], servers: &[usize]) {
    let reads = || servers.iter().map(|server| group.reads_of(*server)).collect::<Vec<_>>();
    let found = || nodes.iter().map(|node| looked(node, "hit")).collect::<Vec<_>>();
    let (reads_before, found_before) = (reads(), found());
    let are_read =
        || reads().iter().zip(&reads_before).all(|(now, before)| now >= &(before + READS));
    let do_find = || found().iter().zip(&found_before).all(|(now, before)| now > before);
    let all_is_well = || (are_read() && do_find()).then_some(());
    eventually_each(LOOK_EVERY, IN_TIME, "Redis is read again", all_is_well).await;
}

/// What is said of keys at hand comes first; the numbers of other questions go on from there.
fn judge(
    made: &[super::change::Made],
    at_hand: &[Check],
    noted: &[Check],
    first_cold: usize,
    moment: Moment,
) -> Verdict {
    let later = |question: usize| question + first_cold;
    let made: Vec<_> = made
        .iter()
        .map(|made| super::change::Made { question: later(made.question), ..*made })
        .collect();
    let noted = noted.iter().map(|check| Check { question: later(check.question), ..*check });
    let checks: Vec<_> = at_hand.iter().copied().chain(noted).collect();
    Verdict::of(&made, &checks, NODES, moment)
}

fn told(lasted: &BTreeMap<Event, Vec<Lasted>>) -> String {
    let longest = |of: &[Lasted], what: fn(&Lasted) -> Duration| {
        of.iter().map(what).max().unwrap_or_default().as_secs_f64()
    };
    let of = |(event, of): (&Event, &Vec<Lasted>)| {
        let (replaced, read) = (longest(of, |it| it.replaced), longest(of, |it| it.read));
        format!(
            "{event:?} {} × replaced after {replaced:.1} s, read again after {read:.1} s at most",
            of.len()
        )
    };
    lasted.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// By what came of it.
fn looked_up(nodes: &[Server]) -> String {
    let results = [
        "hit",
        "miss",
        "changed",
        "too_old",
        "ahead",
        "another_tag",
        "bad_mac",
        "failed",
        "skipped",
    ];
    let of = |result: &&str| {
        let count: f64 = nodes.iter().map(|node| looked(node, result)).sum();
        format!("{result} {count}")
    };
    results.iter().map(of).collect::<Vec<_>>().join(", ")
}

fn told_of(checks: &[Check]) -> String {
    let mut took: Vec<_> = checks.iter().map(|check| check.answered - check.sent).collect();
    took.sort_unstable();
    let failed = checks.iter().filter(|check| matches!(check.said, Said::Failed(_))).count();
    let late = checks.iter().filter(|check| check.said == Said::Nothing).count();
    format!("{}; failed: {failed}; not answered in time: {late}", quantiles(&took))
}
