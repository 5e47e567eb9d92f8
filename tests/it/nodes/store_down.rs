//! The store away for all nodes: it stands still, then it is killed, and Redis with it. What was at hand is answered, and
//! marked as soon as it may be too old; what must not be too old is not answered, nor is what is not known; and nobody is
//! told that anything was changed.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use latchkey::machine::MachineEntropy;
use latchkey::proto::v1::create_key_request::Expiration;
use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{CreateKeyRequest, DecisionReason, Environment, RevokeKeyRequest};
use latchkey::token::{self, Prefix, Token};
use tonic::Code;

use super::log::{Check, Client, Load, PATIENCE, Question, Said, now};
use super::maker::{Makers, Told, Wish};
use super::{BOUND, Operator, asked, asked_at_most};
use crate::support::cluster::Cluster;
use crate::support::{Dice, say};

const NODES: usize = 3;
const ACCOUNT: &str = "acme";
/// How many questions there are of each kind.
const OF_EACH: usize = 20;
/// How long all goes well.
const BETWEEN: Duration = Duration::from_millis(300);

/// What a question is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Standard,
    Strict,
    Unknown,
    Revoked,
    Expired,
}

const KINDS: [Kind; 5] =
    [Kind::Standard, Kind::Strict, Kind::Unknown, Kind::Revoked, Kind::Expired];

/// The store was away.
#[derive(Debug, Clone, Copy)]
struct Outage {
    what: &'static str,
    /// It answers nothing any more.
    began: Instant,
    /// It may answer again.
    ended: Instant,
    /// It could be reached.
    back: Instant,
    /// And until when.
    until: Instant,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_what_is_at_hand_is_answered_and_nothing_else() {
    let away = Duration::from_millis(asked("AWAY_MS", 2_500));
    let grace = Duration::from_millis(asked("GRACE_MS", 1_500));
    let mut cluster = Cluster::start_with_redis(NODES).await;
    let channels = cluster.channels().await;
    let operators: Vec<_> = channels.iter().map(Operator::at).collect();
    let mut operator = operators[0].clone();
    operator.set_grace(grace).await;
    operator.make_account(ACCOUNT).await;
    operator.make_account("wishes").await;
    let questions = questions(&mut operator).await;
    let strict = questions[1].clone();
    let all_are_fresh = async || {
        for (node, channel) in channels.iter().enumerate() {
            Client::of(node, channel).until_allowed(1, &strict).await;
        }
    };
    all_are_fresh().await;

    let load = Load::begin(
        &channels,
        &Arc::new(RwLock::new(questions)),
        asked("CHECKS", 300).try_into().unwrap(),
    );
    let makers = Makers::begin(&operators, "wishes", &Dice::new(asked("SEED", 1)));
    tokio::time::sleep(BETWEEN).await;
    let frozen = cluster.postgres.freeze().await;
    let began = now();
    tokio::time::sleep(away).await;
    let ended = now();
    drop(frozen);
    let back = now();
    all_are_fresh().await;
    tokio::time::sleep(BETWEEN).await;
    let stood_still = Outage { what: "stands still", began, ended, back, until: now() };
    cluster.redis.as_mut().unwrap().kill();
    cluster.postgres.kill().await;
    let began = now();
    tokio::time::sleep(away).await;
    let ended = now();
    cluster.postgres.start_again().await;
    let back = now();
    all_are_fresh().await;
    tokio::time::sleep(BETWEEN).await;
    let was_killed = Outage { what: "was killed, Redis too", began, ended, back, until: now() };
    let (wishes, checks) = (makers.end().await, load.end().await);

    for outage in [stood_still, was_killed] {
        let judged = Judged::of(&outage, &checks, &wishes, grace);
        say(format_args!("SUMMARY the store {}: {judged:?}", outage.what));
        assert!(judged.wrong.is_empty(), "{}: {:#?}", outage.what, judged.wrong);
        assert!(judged.refused > 0, "{judged:?}");
        // In these a busy machine shows, and so only the long form demands them.
        let at_most = |name| Duration::from_millis(asked(name, 60_000));
        assert!(judged.longest_change <= at_most("CHANGE_MS"), "{judged:?}");
        // Two answers may be waited for that do not come.
        assert!(judged.longest_under_way <= at_most("CHANGE_MS") * 2, "{judged:?}");
        assert!(judged.fresh_after <= at_most("BACK_MS"), "{judged:?}");
        assert!(judged.late <= asked_at_most("LATE_MAX"), "{judged:?}");
    }
    let (before, now) = operator.demand_all("wishes", &wishes).await;
    let made = wishes.iter().filter(|wish| wish.told == Told::Made).count();
    say(format_args!(
        "SUMMARY changes: {made} of {} made, 0 of them missing; of those not known {before} had been made and {now} had not",
        wishes.len()
    ));
}

/// One after the other, a question of each kind.
async fn questions(operator: &mut Operator) -> Vec<Question> {
    let strict = operator.make_key(ACCOUNT, "memory:admin").await;
    let revoked = operator.make_key(ACCOUNT, "memory:read").await;
    let target = Some(Target::KeyId(revoked.id));
    let revoke = RevokeKeyRequest { target, ..Default::default() };
    until_done!(operator.keys.revoke_key(revoke.clone()).await);
    let expired = CreateKeyRequest {
        account_id: ACCOUNT.into(),
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        expiration: Some(Expiration::Ttl(prost_types::Duration { seconds: 0, nanos: 1_000 })),
        ..Default::default()
    };
    let expired = operator.try_often(expired).await.token;
    let prefix = Prefix::parse("hm").unwrap();
    let mut questions = Vec::new();
    for number in 0..OF_EACH * KINDS.len() {
        let (token, scope) = match KINDS[number % KINDS.len()] {
            Kind::Standard => {
                (operator.make_key(ACCOUNT, "memory:read").await.token, "memory:read")
            }
            Kind::Strict => (strict.token.clone(), "memory:admin"),
            Kind::Unknown => {
                let token = Token::generate(&prefix, token::Environment::Live, &MachineEntropy);
                (token.expose().to_owned(), "memory:read")
            }
            Kind::Revoked => (revoked.token.clone(), "memory:read"),
            Kind::Expired => (expired.clone(), "memory:read"),
        };
        questions.push(Question { token: token.into(), scope: scope.into() });
    }
    questions
}

/// What the notes say of an outage.
#[derive(Debug, Default)]
struct Judged {
    checks: usize,
    /// Answered from what was at hand and marked, of keys that are not strict.
    stale: usize,
    /// Not answered, as has to be.
    unavailable: usize,
    /// Not answered while the client waited, where there was an answer to give.
    late: usize,
    /// Not answered as has to be.
    wrong: Vec<String>,
    /// When the last node answered everything again, from when the store could be reached.
    fresh_after: Duration,
    changes: usize,
    /// Told while the store was away that they were not made.
    refused: usize,
    /// How long it took at most to be told, of the time that the store was away.
    longest_change: Duration,
    /// The same, of those that were sent before.
    longest_under_way: Duration,
}

impl Judged {
    fn of(outage: &Outage, checks: &[Check], wishes: &[Wish], grace: Duration) -> Self {
        let mut judged = Self::default();
        for check in checks.iter().filter(|it| it.sent >= outage.began) {
            if check.answered <= outage.ended {
                judged.judge(outage, check, grace);
            } else if check.sent >= outage.back && check.answered < outage.until {
                judged.judge_after(outage, check);
            }
        }
        let amid = wishes.iter().filter(|it| it.answered > outage.began && it.sent < outage.ended);
        for wish in amid {
            judged.changes += 1;
            // Until it was answered, or the store could answer it again. What was done already, and is not read back, is
            // waited for until reads have failed for a while.
            let was_under_way = wish.sent < outage.began;
            let longest = if was_under_way {
                &mut judged.longest_under_way
            } else {
                &mut judged.longest_change
            };
            let waited = wish.answered.min(outage.ended) - wish.sent.max(outage.began);
            *longest = waited.max(*longest);
            let (is_refused, is_after) =
                (wish.told == Told::Unavailable, wish.answered > outage.ended);
            judged.refused += usize::from(is_refused && !is_after);
            // What was under way when the store went may have come through, and nobody may know.
            if !(is_refused || is_after || was_under_way) {
                judged.wrong.push(format!("{wish:?}"));
            }
        }
        judged
    }

    /// While the store is away.
    fn judge(&mut self, outage: &Outage, check: &Check, grace: Duration) {
        self.checks += 1;
        let kind = KINDS[check.question % KINDS.len()];
        let age = check.sent - outage.began;
        // From when on what was read before must be too old, and until when it cannot be: it was fresh when the store went.
        let must = |span: Duration| age >= span;
        let cannot = |span: Duration| age + BOUND + PATIENCE < span;
        let is_right = match (kind, check.said) {
            (Kind::Revoked, Said::Denied(DecisionReason::KeyRevoked))
            | (Kind::Expired, Said::Denied(DecisionReason::KeyExpired)) => true,
            (Kind::Standard | Kind::Strict, Said::Allowed)
            | (Kind::Unknown, Said::Denied(DecisionReason::UnknownKey)) => !must(BOUND),
            (Kind::Standard, Said::Stale) => {
                self.stale += 1;
                !must(grace.max(BOUND))
            }
            (Kind::Standard, Said::Failed(Code::Unavailable)) => {
                self.unavailable += 1;
                !cannot(grace.max(BOUND))
            }
            (Kind::Strict | Kind::Unknown, Said::Failed(Code::Unavailable)) => {
                self.unavailable += 1;
                !cannot(BOUND)
            }
            (_, Said::Nothing) => {
                self.late += 1;
                true
            }
            _ => false,
        };
        if !is_right {
            self.wrong.push(format!("{kind:?} after {age:?}: {check:?}"));
        }
    }

    /// When it can be reached again.
    fn judge_after(&mut self, outage: &Outage, check: &Check) {
        let kind = KINDS[check.question % KINDS.len()];
        let is_as_before = match kind {
            Kind::Standard | Kind::Strict => check.said == Said::Allowed,
            Kind::Unknown => check.said == Said::Denied(DecisionReason::UnknownKey),
            Kind::Revoked => check.said == Said::Denied(DecisionReason::KeyRevoked),
            Kind::Expired => check.said == Said::Denied(DecisionReason::KeyExpired),
        };
        let is_not_yet =
            matches!(check.said, Said::Stale | Said::Nothing | Said::Failed(Code::Unavailable));
        if is_not_yet && !matches!(kind, Kind::Revoked | Kind::Expired) {
            self.fresh_after = self.fresh_after.max(check.sent - outage.back);
        } else if !is_as_before {
            self.wrong.push(format!("{kind:?} after the return: {check:?}"));
        }
    }
}
