//! Nodes whose wall clocks are set by up to an hour, forwards and back, while they run and before they start: nothing that
//! they decide goes by them. Keys end when they should, what was taken is refused in time, receipts are true, and nobody
//! else is turned away.
//!
//! The clients and the database have the machine's own time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use latchkey::clock::Timestamp;
use latchkey::proto::v1::create_key_request::Expiration;
use latchkey::proto::v1::{CreateKeyRequest, DecisionReason, Environment};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::log::{Check, Client, Load, Question, Said, wall};
use super::taking::{Plan, Taking, latest};
use super::verdict::{Moment, Verdict, quantile};
use super::{BOUND, Operator, asked, asked_at_most};
use crate::support::cluster::Cluster;
use crate::support::relay::{Hold, Relay};
use crate::support::wall_clock::WallClock;
use crate::support::{Dice, Server, eventually_each, say};
use crate::telemetry::{IN_TIME, metric};

const NODES: usize = 3;
const AN_HOUR: i64 = 3_600;
const GRACE: Duration = Duration::from_millis(1_500);
/// How many keys nothing is taken from.
const KEPT: usize = 20;
/// For how long a key lives that ends by itself: longer than the others need to know of it.
const LIVES_MS: [u64; 2] = [1_300, 2_500];
/// How long it is asked for from then on.
const ASKED_FOR: Duration = Duration::from_secs(1);
/// Between a question about it and the next.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest that a clock is left as it is.
const LEFT_MS: u64 = 300;
/// By so much what is told by a clock is away from what it says itself, at most.
const TOLD_WITHIN: i64 = 60;
/// By so much later a node is told the time than it was: more than a key may be late.
const TOLD_LATE: Duration = Duration::from_millis(900);
/// How well the clocks of clients and nodes can agree, which are both this machine's.
const AGREED: Duration = Duration::from_millis(50);

/// What was seen of keys that ended by themselves.
#[derive(Debug, Default)]
struct Ended {
    keys: usize,
    /// The latest after its end that a key was asked for and allowed.
    late: Duration,
    /// The earliest before its end that a key had been refused.
    early: Duration,
    /// How often it was refused because it had ended.
    refused: usize,
    wrong: Vec<Check>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_set_moves_nothing() {
    let clocks: [WallClock; NODES] = std::array::from_fn(|_| WallClock::new());
    let mut cluster = Cluster::start(0).await;
    for clock in &clocks {
        let node = clock.of(cluster.node(Server::build()));
        cluster.nodes.push(node.start().await);
    }
    let channels = cluster.channels().await;
    let questions = Arc::new(RwLock::new(questions(&channels).await));
    let plan = Plan {
        tellers: (0..NODES).collect(),
        every: Duration::from_millis(asked("TAKEN_MS", 150)),
        pause: Duration::from_millis(10),
        asked_for: Duration::from_secs(20),
    };
    let moment = Moment::now();
    let mut dice = Dice::new(asked("SEED", 1));
    let load = Load::begin(&channels, &questions, asked("CHECKS", 200).try_into().unwrap());
    let taking = Taking::begin(&cluster.addresses(), &questions, &plan, &dice.apart(1));
    // Connections of their own: where too many questions are taken back, as on a busy machine, a connection is ended.
    let makers = cluster.channels().await;
    let ending = Ending::begin(&channels, &makers, &dice.apart(2));
    let rounds = asked("ROUNDS", 8);
    for _ in 0..rounds {
        let node = usize::try_from(dice.below(NODES as u64)).unwrap();
        let anything = i64::try_from(dice.below(7_201)).unwrap() - AN_HOUR;
        let ahead = *dice.pick(&[AN_HOUR, -AN_HOUR, 0, anything]);
        clocks[node].set(ahead);
        Operator::at(&makers[node]).make_key("common", "memory:read").await;
        logs_by(&cluster.nodes[node], ahead).await;
        tokio::time::sleep(Duration::from_millis(dice.below(LEFT_MS))).await;
    }
    let (made, mut checks) = taking.end().await;
    checks.extend(load.end().await);
    let ended = ending.end().await;
    let verdict = Verdict::of(&made, &checks, NODES, moment);
    say(format_args!(
        "SUMMARY {rounds} times set; {} changes; {}\n{}",
        made.len(),
        ended.summary(),
        verdict.summary()
    ));
    verdict.demand_no_wrong_answer();
    verdict.demand_receipts_came_true();
    // The one that is not answered may be the machine's fault.
    let failed = checks.iter().filter(|check| matches!(check.said, Said::Failed(_))).count();
    assert!(failed <= asked_at_most("FAILED_MAX"), "{failed} failed");
    let unmarked = latest(&made, &checks, |check| check.said == Said::Allowed);
    assert!(unmarked <= BOUND, "allowed without a mark {unmarked:?} after it was taken");
    // No receipt is true because it promises nothing, save where the nodes could not be asked in time.
    let promised = |made: &super::change::Made| {
        made.effective.duration_since(moment.wall(made.answered)).unwrap_or_default()
    };
    let mut promised: Vec<_> = made.iter().map(promised).collect();
    promised.sort_unstable();
    let most = quantile(&promised, 500);
    assert!(most <= GRACE + AGREED, "from answers to what their receipts say: {promised:?}");
    ended.demand();

    let kept = questions.read().unwrap()[0].clone();
    demand_the_same_after_a_start(&mut cluster, &clocks, &kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_the_time_late_is_not_behind() {
    let mut cluster = Cluster::start(1).await;
    let relay = Relay::before(&cluster.postgres);
    relay.hold(Hold::AnswerWith(vec!["told".into()]));
    let late = async {
        let held = tokio::time::timeout(IN_TIME, relay.until_held()).await;
        held.expect("it asks for the time");
        tokio::time::sleep(TOLD_LATE).await;
        relay.let_go();
    };
    tokio::join!(cluster.start_behind(&relay, Duration::from_secs(2)), late);
    let channels = cluster.channels().await;
    let mut operator = Operator::at(&channels[0]);
    operator.make_account("ending").await;
    let (question, end) = operator.make_ending(Duration::from_millis(LIVES_MS[0])).await;
    tokio::time::sleep(BOUND).await;
    Ended::of(&channels, question, end, &Moment::now()).await.demand();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_set_back_revives_no_key_of_the_embedded_store() {
    let clock = WallClock::new();
    let mut server = clock.of(Server::build()).start().await;
    let root = server.root_token();
    let make = async |server: &Server| {
        let mut operator = Operator::of(&server.channel().await, &root);
        operator.make_ending(Duration::from_millis(LIVES_MS[0])).await
    };
    Operator::of(&server.channel().await, &root).make_account("ending").await;
    let mut ended = Vec::new();
    for ahead in [AN_HOUR, -AN_HOUR] {
        let channels = [server.channel().await];
        let (question, end) = make(&server).await;
        clock.set(ahead);
        ended.push(question.clone());
        Ended::of(&channels, question, end, &Moment::now()).await.demand();
    }
    // It starts with a clock that is an hour behind.
    let (last, _) = make(&server).await;
    server.stop().await;
    server = clock.of(server.again()).start().await;
    is_told_as_started(&server, -AN_HOUR);
    let mut client = Client::of(0, &server.channel().await).waiting(IN_TIME);
    let expired = Said::Denied(DecisionReason::KeyExpired);
    for question in &ended {
        assert_eq!(client.ask(0, question).await.said, expired);
    }
    client.until(0, &last, |said| said == expired).await;
}

/// Nodes start with wrong clocks, and go by the database's.
async fn demand_the_same_after_a_start(
    cluster: &mut Cluster,
    clocks: &[WallClock],
    kept: &Question,
) {
    for ((node, clock), ahead) in clocks.iter().enumerate().zip([AN_HOUR, -AN_HOUR, AN_HOUR / 2]) {
        clock.set(ahead);
        cluster.nodes[node].stop().await;
        let again = cluster.nodes[node].again();
        cluster.nodes[node] = clock.of(cluster.node(again)).start().await;
        is_told_as_started(&cluster.nodes[node], ahead);
    }
    let channels = cluster.channels().await;
    let mut ended = Ended::default();
    let endings = channels.iter().map(async |channel| {
        let lives = Duration::from_millis(LIVES_MS[0]);
        let (question, end) = Operator::at(channel).make_ending(lives).await;
        let moment = Moment::now();
        tokio::time::sleep(BOUND).await;
        Ended::of(&channels, question, end, &moment).await
    });
    join_all(endings).await.into_iter().for_each(|one| ended.add(one));
    say(format_args!("SUMMARY started with wrong clocks: {}", ended.summary()));
    ended.demand();
    for (node, channel) in channels.iter().enumerate() {
        Client::of(node, channel).until_allowed(0, kept).await;
    }
}

/// Waits until its log tells a time that is so far ahead: so the clock was set indeed.
async fn logs_by(node: &Server, ahead: i64) {
    let is_so = || {
        let log = node.log();
        let line: serde_json::Value = serde_json::from_str(log.lines().last()?).ok()?;
        let told = Timestamp::parse(line["timestamp"].as_str()?)?.micros() / 1_000_000;
        ((told - seconds(wall()) - ahead).abs() < TOLD_WITHIN).then_some(())
    };
    eventually_each(Duration::from_millis(20), IN_TIME, "the wall clock is set", is_so).await;
}

fn is_told_as_started(node: &Server, ahead: i64) {
    let told = metric(node, "process_start_time_seconds");
    let expected = seconds(wall()) + ahead;
    #[expect(clippy::cast_possible_truncation, reason = "seconds of this century")]
    let away = (told as i64 - expected).abs();
    assert!(away < TOLD_WITHIN, "started at {told}, and not at {expected}");
}

fn seconds(at: SystemTime) -> i64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// Keys that nothing is taken from.
async fn questions(channels: &[Channel]) -> Vec<Question> {
    let mut operator = Operator::at(&channels[0]);
    operator.set_grace(GRACE).await;
    for account in ["common", "taken", "ending"] {
        operator.make_account(account).await;
    }
    let mut questions = Vec::new();
    for _ in 0..KEPT {
        let key = operator.make_key("common", "memory:read").await;
        questions.push(Question { token: key.token.into(), scope: "memory:read".into() });
    }
    for (node, channel) in channels.iter().enumerate() {
        let mut client = Client::of(node, channel);
        for question in &questions {
            client.until_allowed(0, question).await;
        }
    }
    questions
}

impl Operator {
    /// A key that lives for so long, and when it ends.
    async fn make_ending(&mut self, lives: Duration) -> (Question, SystemTime) {
        let request = CreateKeyRequest {
            account_id: "ending".into(),
            display_name: "a key that ends".into(),
            environment: Environment::Live.into(),
            scopes: vec!["memory:read".into()],
            expiration: Some(Expiration::Ttl(lives.try_into().unwrap())),
            ..Default::default()
        };
        let made = self.try_often(request).await;
        let end = made.key.unwrap().expire_time.unwrap().try_into().unwrap();
        assert!(end <= wall() + lives + AGREED, "it lives for {lives:?}, and until {end:?}");
        let question = Question { token: made.token.into(), scope: "memory:read".into() };
        (question, end)
    }
}

/// Makes keys that end by themselves, and watches them end on all nodes, until it is ended.
struct Ending {
    is_over: Arc<AtomicBool>,
    working: JoinSet<Ended>,
}

impl Ending {
    fn begin(channels: &[Channel], makers: &[Channel], dice: &Dice) -> Self {
        let (is_over, mut working) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for (maker, channel) in makers.iter().enumerate() {
            let (mut dice, mut operator) = (dice.apart(maker as u64), Operator::at(channel));
            let (channels, is_over) = (channels.to_vec(), Arc::clone(&is_over));
            working.spawn(async move {
                let mut ended = Ended::default();
                while !is_over.load(Ordering::Relaxed) {
                    let lives = LIVES_MS[0] + dice.below(LIVES_MS[1] - LIVES_MS[0]);
                    let (question, end) = operator.make_ending(Duration::from_millis(lives)).await;
                    let moment = Moment::now();
                    tokio::time::sleep(BOUND).await;
                    ended.add(Ended::of(&channels, question, end, &moment).await);
                }
                ended
            });
        }
        Self { is_over, working }
    }

    async fn end(self) -> Ended {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Ended::default();
        self.working.join_all().await.into_iter().for_each(|ended| all.add(ended));
        all
    }
}

impl Ended {
    /// Asks for a key on all nodes until it has ended, and a little longer.
    async fn of(
        channels: &[Channel],
        question: Question,
        end: SystemTime,
        moment: &Moment,
    ) -> Self {
        let mut asking = JoinSet::new();
        for (node, channel) in channels.iter().enumerate() {
            let (mut client, question) = (Client::of(node, channel), question.clone());
            asking.spawn(async move {
                let mut checks = Vec::new();
                while wall() < end + ASKED_FOR {
                    checks.push(client.ask(0, &question).await);
                    tokio::time::sleep(PAUSE).await;
                }
                checks
            });
        }
        let mut ended = Self { keys: 1, ..Self::default() };
        for check in asking.join_all().await.into_iter().flatten() {
            ended.note(check, end, moment);
        }
        ended
    }

    fn note(&mut self, check: Check, end: SystemTime, moment: &Moment) {
        match check.said {
            Said::Allowed | Said::Stale => {
                let late = moment.wall(check.sent).duration_since(end).unwrap_or_default();
                self.late = self.late.max(late);
            }
            Said::Denied(DecisionReason::KeyExpired) => {
                let early = end.duration_since(moment.wall(check.answered)).unwrap_or_default();
                self.early = self.early.max(early);
                self.refused += 1;
            }
            Said::Nothing | Said::Failed(_) => {}
            Said::Denied(_) => self.wrong.push(check),
        }
    }

    fn add(&mut self, other: Self) {
        self.keys += other.keys;
        self.late = self.late.max(other.late);
        self.early = self.early.max(other.early);
        self.refused += other.refused;
        self.wrong.extend(other.wrong);
    }

    fn summary(&self) -> String {
        format!(
            "{} keys ended by themselves, {:?} late and {:?} early at most",
            self.keys, self.late, self.early
        )
    }

    fn demand(&self) {
        assert!(self.wrong.is_empty(), "{:?}", self.wrong);
        let late_max = Duration::from_millis(asked("ENDED_MS", 500));
        assert!(self.late <= late_max && self.early <= AGREED, "{self:?}");
        assert!(self.refused > 0, "nobody was told that a key had ended");
    }
}
