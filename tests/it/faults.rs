//! Every call of the store failing once, in every way in which it can, and hanging.
//!
//! A node over the real store does one thing, and the n-th call that it makes of the store is disturbed,
//! for n from 1 until there is no such call. Whatever comes of it: what was answered is so; what was
//! refused did not happen; nobody is allowed, refused or unknown who is not so in the store; and once the
//! store is well again, so is the node, by itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use latchkey::error::{Error, Reason};
use latchkey::store::StoreError;

use self::rig::{Deed, Rig, Told};
use crate::support::{Fault, say};

mod rig;
mod start;

/// How a call can end that does not say what it did, and all others.
const FAULTS: [Fault; 7] = [
    Fault::Unavailable,
    Fault::Corrupt,
    Fault::Unusable,
    Fault::Unknown { is_made: true },
    Fault::Unknown { is_made: false },
    Fault::HangsBefore,
    Fault::HangsAfter,
];
/// More calls than anything makes here.
const CALLS_MAX: u64 = 50;
/// A node is well again within so many reads.
const READS_TO_HEAL_MAX: u64 = 12;
/// How many nodes are at it at once.
const AT_ONCE: usize = 16;
/// How long a call that hangs does.
const HANG: Duration = Duration::from_millis(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_a_key_is_made() {
    disturb_each(Deed::Create).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_the_last_key_of_a_plan_is_made() {
    disturb_each(Deed::CreateLast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_a_key_is_changed() {
    disturb_each(Deed::Update).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_a_key_is_rotated() {
    disturb_each(Deed::Rotate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_a_key_is_revoked() {
    disturb_each(Deed::Revoke).await;
    disturb_each(Deed::RevokeByToken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_an_account_is_suspended() {
    disturb_each(Deed::Suspend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_the_policy_is_replaced() {
    disturb_each(Deed::ApplyPolicy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_keys_are_looked_at() {
    disturb_each(Deed::Look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_a_key_that_is_not_held_is_asked_for() {
    disturb_each(Deed::Fill).await;
}

/// Each fault at each call of a deed, until there is no such call.
async fn disturb_each(deed: Deed) {
    let runs = futures_util::stream::iter(FAULTS).map(|fault| async move {
        for at in 1..CALLS_MAX {
            let run = Run { deed, fault, at };
            match run.once().await {
                Ok(Some(_)) => {}
                Ok(None) => return at - 1,
                Err(fault) => panic!("{run:?}: {fault}"),
            }
        }
        panic!("{deed:?} makes more than {CALLS_MAX} calls");
    });
    let calls: Vec<_> = runs.buffer_unordered(AT_ONCE).collect().await;
    assert!(calls.iter().all(|calls| *calls > 0), "{deed:?}: nothing was disturbed: {calls:?}");
    say(format_args!("SUMMARY {deed:?}: {calls:?} calls disturbed, 0 faults"));
}

#[derive(Debug)]
struct Run {
    deed: Deed,
    fault: Fault,
    at: u64,
}

impl Run {
    /// The call that was disturbed, if there was one of this number.
    async fn once(&self) -> Result<Option<&'static str>, String> {
        let rig = Arc::new(Rig::new(self.deed).await);
        let before = rig.truth().await;
        rig.store.disturb(self.at, self.fault);
        let told = self.act(&rig).await?;
        let said = rig.answers().await;
        let disturbed = rig.store.disturbed();
        let after = rig.truth().await;
        after.check(said)?;

        let happened = after.position != before.position;
        let is_as_told = match &told {
            Ok(told) => rig.is_so(told, &after),
            Err(error) if error.reason == Reason::OutcomeUnknown => {
                if !matches!(self.fault, Fault::Unknown { .. }) {
                    return Err(tell("the outcome is known", error));
                }
                true
            }
            Err(error) => {
                let is_temporary =
                    matches!(error.reason, Reason::StoreUnavailable | Reason::NotReady);
                let is_defect = error.reason == Reason::Internal && self.fault == Fault::Corrupt;
                if !(is_temporary || is_defect) {
                    return Err(tell("that is not why", error));
                }
                !happened
            }
        };
        if !is_as_told {
            let told = told.map_err(|error| tell("error", &error));
            return Err(format!("told {told:?}; something happened: {happened}"));
        }
        if disturbed.is_none() && told.is_err() {
            return Err("nothing was disturbed, and it failed".into());
        }
        self.look(&rig).await?;
        Ok(disturbed)
    }

    /// Does it; what hangs is let go after a moment, in which decisions on other keys go on.
    async fn act(&self, rig: &Arc<Rig>) -> Result<Result<Told, Error>, String> {
        let actor = Arc::clone(rig);
        let deed = self.deed;
        let mut acting = tokio::spawn(async move { actor.act(deed).await });
        let hangs = rig.store.a_call_hangs();
        let told = tokio::select! {
            told = &mut acting => Some(told),
            () = hangs => None,
        };
        let told = if let Some(told) = told {
            told
        } else {
            // Nobody waits for a store that hangs, save for what only the store can say.
            let other = rig.ask(&rig.bystander).await;
            let is_held = self.deed != Deed::Fill;
            if !(matches!(other, Ok(None)) || other.is_err() && !is_held) {
                return Err(format!("a key of another account is answered with {other:?}"));
            }
            tokio::time::sleep(HANG).await;
            rig.store.recover();
            acting.await
        };
        told.map_err(|panicked| format!("it panicked: {panicked}"))
    }

    /// From the answer on nobody is answered but as the store has it; and soon everybody is.
    async fn look(&self, rig: &Rig) -> Result<(), String> {
        let truth = rig.truth().await;
        rig.store.recover();
        let reads = rig.store.reads.load(Ordering::SeqCst);
        let healing = tokio::time::timeout(Duration::from_secs(10), async {
            while !truth.check(rig.answers().await)? {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok::<(), String>(())
        });
        healing.await.unwrap_or_else(|_| Err("it is never well again".into()))?;
        let reads = rig.store.reads.load(Ordering::SeqCst) - reads;
        if reads > READS_TO_HEAL_MAX {
            return Err(format!("it took {reads} reads to be well again"));
        }
        rig.check_whole(&truth).await?;
        rig.go_on().await
    }
}

fn tell(what: impl fmt::Display, error: &Error) -> String {
    format!("{what}: {:?}: {error}", error.reason)
}

#[test]
fn every_kind_of_failure_is_among_those_that_are_tried() {
    // A kind that is added has to be added above as well: this does not compile without it.
    let is_tried = |error: &StoreError| match error {
        StoreError::Unavailable(_) => FAULTS.contains(&Fault::Unavailable),
        StoreError::OutcomeUnknown(_) => FAULTS.contains(&Fault::Unknown { is_made: true }),
        StoreError::Corrupt { .. } => FAULTS.contains(&Fault::Corrupt),
        StoreError::Unusable(_) => FAULTS.contains(&Fault::Unusable),
        // It takes another node, of a newer version: `lease` tries it.
        StoreError::Outgrown(_) => true,
    };
    assert!(is_tried(&StoreError::Unusable(String::new())));
}
