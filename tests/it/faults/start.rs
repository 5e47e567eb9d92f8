//! A first start, with each call of the store disturbed: a second start finds its way, and the token in the
//! file opens the store.

use std::sync::Arc;
use std::time::Duration;

use latchkey::app::root::{Chosen, seed};
use latchkey::authorizer::operator::ReadKeys;
use latchkey::authorizer::{Credential, Operator};
use latchkey::clock::Timestamp;
use latchkey::delivery::Delivery;
use latchkey::machine::{self, MachineEntropy};
use latchkey::policy::Policy;
use latchkey::store::Store;
use latchkey::token::Prefix;

use super::{CALLS_MAX, FAULTS, HANG, rig};
use crate::support::{Fault, FaultyStore, Folder};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail_while_the_first_start_makes_the_root_key() {
    for fault in FAULTS {
        let mut at = 1;
        while let Some(call) = start_disturbed(at, fault).await {
            println!("{fault:?} at {call}");
            at += 1;
            assert!(at < CALLS_MAX);
        }
        assert!(at > 3, "{fault:?}: only {} calls were disturbed", at - 1);
    }
}

/// The call that was disturbed, if there was one of this number.
async fn start_disturbed(at: u64, fault: Fault) -> Option<&'static str> {
    let folder = Folder::new();
    let inner = rig::open(&folder).await;
    let store = FaultyStore::new(Arc::clone(&inner));
    store.disturb(at, fault);
    let mut starting = {
        let (store, folder) = (Arc::clone(&store), folder.path().to_owned());
        tokio::spawn(async move { start(store, &folder.join("token")).await })
    };
    let started = tokio::select! {
        started = &mut starting => started,
        () = store.a_call_hangs() => {
            tokio::time::sleep(HANG).await;
            store.recover();
            starting.await
        }
    };
    let started = started.expect("it does not panic");
    let disturbed = store.disturbed();
    // What hangs is waited for, and a read is repeated.
    let may_fail = !matches!(fault, Fault::HangsBefore | Fault::HangsAfter)
        && disturbed.is_some_and(|call| call != "read");
    assert_eq!(started.is_err(), may_fail, "{fault:?} at {disturbed:?}: {started:?}");
    store.recover();
    let again = FaultyStore::new(inner);
    start(again, &folder.path().join("token")).await.unwrap();
    disturbed
}

/// As the program does it: the clock, the root key, the first read; then the token in the file is used.
async fn start(store: Arc<FaultyStore>, file: &std::path::Path) -> Result<(), String> {
    let as_store: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
    let kept: Timestamp = as_store.kept_time().await.map_err(|error| error.to_string())?;
    let clock = machine::clock(machine::wall_clock(), kept);
    let prefix = Prefix::parse("hm").unwrap();
    let chosen = Chosen::Made(Delivery::File(file.to_owned()));
    let policy = || Ok(Policy::default());
    seed(&*as_store, &*clock, &MachineEntropy, &prefix, policy, chosen)
        .await
        .map_err(|failures| format!("{failures:?}"))?;

    let node = rig::node(&as_store, 100);
    let feed = node.feed.clone();
    let reader = tokio::spawn(async move { feed.run().await });
    let token = std::fs::read_to_string(file).unwrap();
    let admitted = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let credential = Credential::Token(token.trim().as_bytes());
            let admitted: Result<Operator<ReadKeys>, _> =
                node.authorizer.operator(credential, None, String::new()).await;
            match admitted {
                Err(error) if error.reason == latchkey::error::Reason::NotReady => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                admitted => return admitted.map(drop),
            }
        }
    });
    let admitted = admitted.await.expect("it is ready in time");
    reader.abort();
    admitted.map_err(|error| error.to_string())
}
