//! Keys that something is taken from, one after the other, all the time, by one node or another, while they are asked for
//! on all: what goes on beside a disturbance.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tonic::transport::{Channel, Endpoint};

use super::change::{Made, Policies, Way};
use super::log::{Check, Client, PATIENCE, Question, Said, now, wall};
use super::{BOUND, Operator};
use crate::support::Dice;

/// What may be taken, but for the policy.
const WAYS: [Way; 5] = [Way::Revoke, Way::RevokeAndWait, Way::Disable, Way::Narrow, Way::Suspend];
/// The scope that is strict.
pub(super) const STRICT: &str = "memory:admin";
/// The longest between the first question about a key and what is taken from it.
const HELD_MS: u64 = 400;
/// A node has to deny a key so often before it is believed.
const DENIALS: usize = 5;

/// What is asked on all nodes, and grows.
pub(super) type Questions = Arc<RwLock<Vec<Question>>>;

/// How it goes on.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The nodes that are told.
    pub(super) tellers: Vec<usize>,
    /// How often something is taken.
    pub(super) every: Duration,
    /// Between a question about that key and the next, on each node, answered or not.
    pub(super) pause: Duration,
    /// For how long a node is asked that does not deny it.
    pub(super) asked_for: Duration,
}

/// It goes on until it is ended.
pub(super) struct Taking {
    is_over: watch::Sender<bool>,
    going_on: JoinHandle<Vec<(Made, Vec<Check>)>>,
}

struct Place {
    nodes: Vec<SocketAddr>,
    operators: Vec<Operator>,
    questions: Questions,
    plan: Plan,
    policies: Policies,
}

impl Taking {
    /// The account `taken` must be there.
    pub(super) fn begin(
        nodes: &[SocketAddr],
        questions: &Questions,
        plan: &Plan,
        dice: &Dice,
    ) -> Self {
        let place = Arc::new(Place {
            nodes: nodes.to_vec(),
            operators: nodes.iter().map(|node| Operator::at(&connection(*node))).collect(),
            questions: Arc::clone(questions),
            plan: plan.clone(),
            policies: Policies::default(),
        });
        let (is_over, mut over) = watch::channel(false);
        let dice = dice.clone();
        let going_on = tokio::spawn(async move {
            let mut open = JoinSet::new();
            let mut ticks = tokio::time::interval(place.plan.every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 0.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = over.changed() => break,
                }
                let (place, dice) = (Arc::clone(&place), dice.apart(number));
                open.spawn(async move { place.take_one(dice).await });
            }
            open.join_all().await
        });
        Self { is_over, going_on }
    }

    /// Ends it; what was taken, and all that was noted of it.
    pub(super) async fn end(self) -> (Vec<Made>, Vec<Check>) {
        self.is_over.send_replace(true);
        let (made, noted): (Vec<_>, Vec<_>) = self.going_on.await.unwrap().into_iter().unzip();
        (made, noted.into_iter().flatten().collect())
    }
}

impl Place {
    async fn take_one(&self, mut dice: Dice) -> (Made, Vec<Check>) {
        let way = *dice.pick(&WAYS);
        let [maker, teller] = [(); 2].map(|()| *dice.pick(&self.plan.tellers));
        let (key, question) = self.make(maker, way, dice.draw(), dice.is_one_of(1, 2)).await;
        // From then on no node may say that there is no such key.
        tokio::time::sleep(BOUND).await;
        let number = {
            let mut questions = self.questions.write().unwrap();
            questions.push(question.clone());
            questions.len() - 1
        };
        let (tell, told) = watch::channel(None);
        let probes = self.nodes.iter().enumerate().map(|(node, address)| {
            let Plan { pause, asked_for, .. } = self.plan;
            let probe = Probe { node, address: *address, number, way, pause, asked_for };
            tokio::spawn(probe.ask(question.clone(), told.clone()))
        });
        let probes: Vec<_> = probes.collect();
        tokio::time::sleep(Duration::from_millis(dice.below(HELD_MS))).await;
        let mut operator = self.operators[teller].clone();
        let made = operator.take_away(way, &key, (number, teller), &self.policies).await;
        tell.send_replace(Some(made.effective));
        let checks = join_all(probes).await.into_iter().flat_map(Result::unwrap).collect();
        (made, checks)
    }

    /// A key, and what is asked of it.
    async fn make(
        &self,
        maker: usize,
        way: Way,
        id: u64,
        is_strict: bool,
    ) -> (super::Held, Question) {
        let mut operator = self.operators[maker].clone();
        // Others may have taken something before.
        let own = format!("taken-{id:x}");
        let account = if way == Way::Suspend { &own } else { "taken" };
        if way == Way::Suspend {
            operator.make_account(account).await;
        }
        let (holds, asked) =
            if is_strict { (STRICT.to_owned(), STRICT.to_owned()) } else { way.scopes(0) };
        let key = operator.make_key(account, &holds).await;
        let question = Question { token: key.token.clone().into(), scope: asked.into() };
        (key, question)
    }
}

/// A node is asked for a key.
#[derive(Debug, Clone, Copy)]
struct Probe {
    node: usize,
    address: SocketAddr,
    number: usize,
    way: Way,
    pause: Duration,
    asked_for: Duration,
}

impl Probe {
    /// Whether it answers or not, until it denies it and has for a while; and once more when the receipt has come true.
    ///
    /// On a connection of its own, and on another once nothing is answered: else, what was asked last of a node that
    /// stood still would wait behind all that nobody waits for any more, and would go with it, as a flood.
    async fn ask(
        self,
        question: Question,
        told: watch::Receiver<Option<SystemTime>>,
    ) -> Vec<Check> {
        let (mut asking, mut checks) = (JoinSet::new(), Vec::new());
        let (mut denials, mut until) = (0, None);
        let (mut client, mut heard) = (self.client(), now());
        let mut pace = tokio::time::interval(self.pause);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    if now() - heard > PATIENCE {
                        (client, heard) = (self.client(), now());
                    }
                    let (mut client, question) = (client.clone(), question.clone());
                    asking.spawn(async move { client.ask(self.number, &question).await });
                }
                Some(check) = asking.join_next() => {
                    let check: Check = check.unwrap();
                    checks.push(check);
                    if check.said != Said::Nothing {
                        heard = now();
                    }
                    denials = match check.said {
                        Said::Denied(reason) if reason == self.way.reason() => denials + 1,
                        Said::Denied(_) | Said::Allowed | Said::Stale => 0,
                        Said::Failed(_) | Said::Nothing => denials,
                    };
                    if told.borrow().is_some() {
                        let until = *until.get_or_insert(check.sent + self.asked_for);
                        if denials >= DENIALS || check.sent > until {
                            break;
                        }
                    }
                }
            }
        }
        checks.extend(asking.join_all().await);
        let comes_true = told.borrow().map(|effective| effective.duration_since(wall()));
        let comes_true = comes_true.and_then(Result::ok).unwrap_or_default();
        if comes_true < self.asked_for {
            tokio::time::sleep(comes_true + Duration::from_millis(1)).await;
            checks.push(client.ask(self.number, &question).await);
        }
        checks
    }

    fn client(&self) -> Client {
        Client::of(self.node, &connection(self.address))
    }
}

/// A connection that is made when it is needed.
fn connection(node: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{node}")).unwrap().connect_lazy()
}

/// The latest after the answer that a question was sent that was answered so, of the keys that this is said of.
///
/// A client notes that it asks before it does: a node that said so has said it later still. And nobody waits for longer
/// than [`PATIENCE`].
pub(super) fn latest(made: &[Made], checks: &[Check], is_it: impl Fn(&Check) -> bool) -> Duration {
    let answered: std::collections::BTreeMap<_, _> =
        made.iter().map(|made| (made.question, made.answered)).collect();
    let after = checks.iter().filter(|check| is_it(check)).filter_map(|check| {
        let answered = answered.get(&check.question)?;
        Some(check.sent.saturating_duration_since(*answered))
    });
    after.max().unwrap_or_default()
}
