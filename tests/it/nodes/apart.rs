//! One node cut off from the store. What it was not told of it must not allow for longer than it may, whatever it has read
//! before, and however late that came.

use std::time::{Duration, Instant};

use futures_util::future::join;
use latchkey::proto::v1::RevokeKeyRequest;
use latchkey::proto::v1::revoke_key_request::Target;
use tonic::transport::Channel;

use super::log::{Check, Client, PATIENCE, Question, Said, now};
use super::{BOUND, Held, Operator, asked};
use crate::support::cluster::Cluster;
use crate::support::relay::Relay;
use crate::support::{eventually, say};
use crate::telemetry::{IN_TIME, metric};

const ACCOUNT: &str = "acme";
const GRACE: Duration = Duration::from_millis(1_500);
/// How long each answer of the store takes to the node that is cut off: an old answer is what it goes on by.
const SLOW: Duration = Duration::from_millis(120);
/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(2);

/// Two keys that are revoked at one node, and asked for at another.
struct Pair {
    standard: (Held, Question),
    strict: (Held, Question),
}

/// When they were revoked, and what the other node said of them.
struct Noted {
    answered: Instant,
    standard: Vec<Check>,
    strict: Vec<Check>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_answers_no_longer_than_it_may() {
    let mut cluster = Cluster::start(1).await;
    let relay = Relay::before(&cluster.postgres);
    cluster.start_behind(&relay, Duration::from_secs(2)).await;
    let channels = cluster.channels().await;
    let mut operator = Operator::at(&channels[0]);
    operator.make_account(ACCOUNT).await;
    operator.set_grace(GRACE).await;
    let mut went_on = 0;
    for round in 0..asked("ROUNDS", 2) {
        let pair = Pair::make(&mut operator).await;
        pair.until_allowed(&channels[1]).await;
        relay.answers_take(SLOW);
        // What it reads now, it reads before the keys are revoked, and gets late.
        relay.until_renewed().await;
        relay.cut();
        let answered = pair.revoke(&mut operator).await;
        let noted = pair.ask(&channels[1], answered, GRACE + BOUND / 2).await;
        relay.answers_take(Duration::ZERO);
        relay.mend();
        went_on += usize::from(noted.demand_in_time(GRACE, &format!("round {round}")));
        pair.until_denied(&channels[1]).await;
    }
    say(format_args!("SUMMARY cut off: {went_on} times it went on by what it had read"));
    assert!(went_on > 0, "nothing was shown: the node never allowed what it could not know of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_far_from_the_store_finds_back_to_it() {
    let mut cluster = Cluster::start(0).await;
    let relay = Relay::before(&cluster.postgres);
    cluster.start_behind(&relay, Duration::from_millis(250)).await;
    // A read takes two answers. To connect takes more than a read may take.
    relay.answers_take(Duration::from_millis(100));
    cluster.end_connections().await;
    let node = &cluster.nodes[0];
    let is_stale = || (metric(node, "latchkey_lease_age_seconds") > 0.5).then_some(());
    eventually(IN_TIME, "its lease is not renewed", is_stale).await;
    let is_fresh = || (metric(node, "latchkey_lease_age_seconds") < 0.5).then_some(());
    eventually(IN_TIME, "its lease is renewed", is_fresh).await;
}

impl Pair {
    async fn make(operator: &mut Operator) -> Self {
        let mut make = async |scope: &str| {
            let key = operator.make_key(ACCOUNT, scope).await;
            let question = Question { token: key.token.clone().into(), scope: scope.into() };
            (key, question)
        };
        Self { standard: make("memory:read").await, strict: make("memory:admin").await }
    }

    async fn revoke(&self, operator: &mut Operator) -> Instant {
        for (key, _) in [&self.standard, &self.strict] {
            let target = Some(Target::KeyId(key.id.clone()));
            let request = RevokeKeyRequest { target, ..Default::default() };
            until_done!(operator.keys.revoke_key(request.clone()).await);
        }
        now()
    }

    async fn until_allowed(&self, node: &Channel) {
        self.until(node, |said| said == Said::Allowed).await;
    }

    async fn until_denied(&self, node: &Channel) {
        self.until(node, |said| matches!(said, Said::Denied(_))).await;
    }

    async fn until(&self, node: &Channel, is_it: impl Fn(Said) -> bool) {
        let mut client = Client::of(1, node);
        for (_, question) in [&self.standard, &self.strict] {
            client.until(0, question, &is_it).await;
        }
    }

    /// Asks for both for so long, whether the node answers or not.
    async fn ask(&self, node: &Channel, answered: Instant, during: Duration) -> Noted {
        let ask = async |question: &Question| {
            let mut asking = tokio::task::JoinSet::new();
            while now() < answered + during {
                let (mut client, question) = (Client::of(1, node), question.clone());
                asking.spawn(async move { client.ask(0, &question).await });
                tokio::time::sleep(PAUSE).await;
            }
            asking.join_all().await
        };
        let (standard, strict) = join(ask(&self.standard.1), ask(&self.strict.1)).await;
        Noted { answered, standard, strict }
    }
}

impl Noted {
    /// Demands that nothing was allowed too late; whether the node went on at all.
    fn demand_in_time(&self, grace: Duration, when: &str) -> bool {
        let late = |checks: &[Check], said: Said| -> Duration {
            let of = checks.iter().filter(|check| check.said == said);
            of.map(|check| check.sent.saturating_duration_since(self.answered))
                .max()
                .unwrap_or_default()
        };
        let accepted = |checks: &[Check], said: Said| -> Duration {
            let of = checks.iter().filter(|check| check.said == said);
            of.map(|it| it.answered.saturating_duration_since(self.answered))
                .max()
                .unwrap_or_default()
        };
        let (strict, standard) =
            (late(&self.strict, Said::Allowed), late(&self.standard, Said::Allowed));
        let stale = late(&self.standard, Said::Stale);
        say(format_args!("{when}: strict {strict:?}, standard {standard:?}, stale {stale:?}"));
        assert!(
            strict <= BOUND,
            "{when}: a strict key was allowed {strict:?} after its revocation"
        );
        assert!(
            standard <= BOUND,
            "{when}: allowed without a mark {standard:?} after its revocation"
        );
        assert!(stale <= grace, "{when}: allowed {stale:?} after its revocation");
        for (checks, said, most) in [
            (&self.strict, Said::Allowed, BOUND),
            (&self.standard, Said::Allowed, BOUND),
            (&self.standard, Said::Stale, grace),
        ] {
            let accepted = accepted(checks, said);
            assert!(
                accepted <= most + PATIENCE,
                "{when}: {said:?} was accepted after {accepted:?}"
            );
        }
        assert!(
            self.strict.iter().all(|check| check.said != Said::Stale),
            "{when}: strict and stale"
        );
        !strict.is_zero() && !stale.is_zero()
    }
}
