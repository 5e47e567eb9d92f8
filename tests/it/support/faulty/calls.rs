//! The store behind a counter: there is no other way to it, so a call that is added is counted too.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use latchkey::store::{Store, StoreError};
use tokio::sync::{Notify, Semaphore, watch};

/// How many reads fail after a call that did not say what it did.
const READS_FAIL: u64 = 2;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not carried out, and fails so.
    Unavailable,
    Corrupt,
    Unusable,
    /// It is carried out, or not, and does not say which; and the next reads fail too.
    Unknown {
        is_made: bool,
    },
    /// It is carried out when it is let go.
    HangsBefore,
    /// It is carried out, and answers when it is let go.
    HangsAfter,
}

/// The store, and which call of it is to be disturbed.
pub(super) struct Calls {
    store: Arc<dyn Store>,
    plan: Mutex<Plan>,
    /// Where a call that hangs waits.
    hanging: Semaphore,
    a_call_hangs: Notify,
}

#[derive(Default)]
struct Plan {
    /// The number of the call, counted from when this was asked for; 0 for none.
    at: u64,
    fault: Option<Fault>,
    calls: u64,
    disturbed: Option<&'static str>,
    /// How many more reads fail.
    reads_fail: u64,
}

impl Calls {
    pub(super) fn of(store: Arc<dyn Store>) -> Self {
        let (hanging, a_call_hangs) = (Semaphore::new(0), Notify::new());
        Self { store, plan: Mutex::default(), hanging, a_call_hangs }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    pub(super) fn disturb(&self, at: u64, fault: Fault) {
        *self.plan.lock().unwrap() = Plan { at, fault: Some(fault), ..Plan::default() };
    }

    pub(super) fn disturbed(&self) -> Option<&'static str> {
        self.plan.lock().unwrap().disturbed
    }

    pub(super) fn recover(&self) {
        let mut plan = self.plan.lock().unwrap();
        (plan.at, plan.reads_fail) = (0, 0);
        drop(plan);
        self.hanging.add_permits(1_000_000);
    }

    pub(super) async fn one_hangs(&self) {
        self.a_call_hangs.notified().await;
    }

    /// What is watched is no call: it was there before.
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.store.commits()
    }

    /// Makes a call, or what is to happen in its place.
    pub(super) async fn call<'a, T>(
        &'a self,
        name: &'static str,
        work: impl FnOnce(&'a dyn Store) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = self.plan.lock().unwrap().count(name);
        let work = work(&*self.store);
        let broken = || "the connection broke".into();
        match fault {
            None => work.await,
            Some(Fault::Unavailable) => Err(StoreError::Unavailable(broken())),
            Some(Fault::Corrupt) => {
                Err(StoreError::Corrupt { table: "keys", row: "?".into(), what: "?".into() })
            }
            Some(Fault::Unusable) => Err(StoreError::Unusable("the database is gone".into())),
            Some(Fault::Unknown { is_made }) => {
                if is_made {
                    drop(work.await);
                }
                Err(StoreError::OutcomeUnknown(broken()))
            }
            Some(Fault::HangsBefore) => {
                self.hang().await;
                work.await
            }
            Some(Fault::HangsAfter) => {
                let answer = work.await;
                self.hang().await;
                answer
            }
        }
    }

    async fn hang(&self) {
        self.a_call_hangs.notify_one();
        self.hanging.acquire().await.unwrap().forget();
    }
}

impl Plan {
    /// What is to happen to this call.
    fn count(&mut self, name: &'static str) -> Option<Fault> {
        self.calls += 1;
        if self.calls != self.at {
            let fails = name == "read" && self.reads_fail > 0;
            self.reads_fail -= u64::from(fails);
            return fails.then_some(Fault::Unavailable);
        }
        self.disturbed = Some(name);
        if matches!(self.fault, Some(Fault::Unknown { .. })) {
            self.reads_fail = READS_FAIL;
        }
        self.fault
    }
}
