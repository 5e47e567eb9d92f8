//! PostgreSQL killed again and again under changes by all nodes: what was acknowledged is there, and what was not known
//! is settled by asking again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use latchkey::proto::v1::AuthorizeRequest;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::log::now;
use super::{Operator, asked};
use crate::crash::client::{Client as Changer, is_refusal};
use crate::crash::ledger::{Key, Ledger, Operation};
use crate::support::cluster::{Cluster, ROOT};
use crate::support::postgres::Postgres;
use crate::support::{Dice, eventually, say};

const NODES: usize = 3;
const CHANGERS: usize = 6;
const IN_TIME: Duration = Duration::from_secs(30);
/// After a call that was refused, as the store is away.
const PAUSE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_the_store_was_killed() {
    let seed = asked("SEED", 1);
    // What awaits its commits by itself needs no server that would have it do so.
    let postgres = Postgres::start(&["synchronous_commit=off"]).await;
    let cluster = Cluster::start_on(NODES, postgres, None).await;
    let mut ledgers: Vec<_> = (0..CHANGERS).map(Ledger::new).collect();
    let mut operator = Operator::at(&cluster.nodes[0].channel().await);
    for account in ledgers.iter().map(|ledger| &*ledger.account).chain(["shared"]) {
        operator.make_account(account).await;
    }
    let (mut looked_at, mut unknown) = (0, 0);
    for round in 0..asked("ROUNDS", 3) {
        let mut dice = Dice::new(seed).apart(round);
        let told = work_through_a_kill(&cluster, ledgers, &mut dice).await;
        ledgers = told.0;
        unknown += told.1;
        for ledger in &mut ledgers {
            looked_at += look_at(&cluster, ledger).await;
        }
    }
    for ledger in &mut ledgers {
        ledger.touched = ledger.keys.keys().cloned().collect();
        looked_at += look_at(&cluster, ledger).await;
    }
    let mut found = 0;
    for account in ledgers.iter().map(|ledger| &*ledger.account).chain(["shared"]) {
        found += operator.count_names(account).await.values().sum::<usize>();
    }
    assert!(unknown >= asked("UNKNOWN_MIN", 0), "of no change the outcome was unknown");
    let known: usize = ledgers.iter().map(|ledger| ledger.keys.len()).sum();
    assert_eq!(found, known, "keys were made of which their makers were told that they were not");
    let acknowledged: u64 = ledgers.iter().map(|ledger| ledger.acknowledged).sum();
    say(format_args!(
        "SUMMARY seed {seed}: {acknowledged} operations acknowledged, 0 missing; {unknown} of unknown outcome settled; \
         keys were looked at {looked_at} times on each of {NODES} nodes"
    ));
}

/// All change keys; the store is killed amid that and started again, and they go on.
async fn work_through_a_kill(
    cluster: &Cluster,
    ledgers: Vec<Ledger>,
    dice: &mut Dice,
) -> (Vec<Ledger>, u64) {
    let (acknowledged, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut working = Vec::new();
    for (number, ledger) in ledgers.into_iter().enumerate() {
        let changer = Changer::of(&cluster.nodes[number % NODES], ROOT, ledger).await;
        let (dice, acknowledged, is_over) =
            (dice.apart(number as u64), Arc::clone(&acknowledged), Arc::clone(&is_over));
        working.push(tokio::spawn(change(changer, dice, acknowledged, is_over)));
    }
    let until = async |more: u64| {
        let least = acknowledged.load(Ordering::Relaxed) + more;
        let is_reached = || (acknowledged.load(Ordering::Relaxed) >= least).then_some(());
        eventually(IN_TIME, "changes are acknowledged", is_reached).await;
    };
    until(dice.below(60)).await;
    tokio::time::sleep(Duration::from_micros(dice.below(20_000))).await;
    cluster.postgres.kill().await;
    tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
    cluster.postgres.start_again().await;
    until(20).await;
    is_over.store(true, Ordering::Relaxed);
    let done: Vec<_> = join_all(working).await.into_iter().map(Result::unwrap).collect();
    let unknown = done.iter().map(|(_, unknown)| unknown).sum();
    (done.into_iter().map(|(ledger, _)| ledger).collect(), unknown)
}

/// Changes one thing after the other. How often it was not known whether it was done.
async fn change(
    mut changer: Changer,
    mut dice: Dice,
    acknowledged: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
) -> (Ledger, u64) {
    let mut unknown = 0;
    while !is_over.load(Ordering::Relaxed) {
        let operation = changer.ledger.choose(&mut dice);
        match changer.carry_out(&operation).await {
            Ok(()) => {
                changer.ledger.acknowledged += 1;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) if is_refusal(&status) => tokio::time::sleep(PAUSE).await,
            Err(status) => {
                assert_eq!(status.code(), Code::Unknown, "{status:?}");
                unknown += 1;
                settle(&mut changer, &operation).await;
            }
        }
    }
    (changer.ledger, unknown)
}

/// Asks for the same until it is known to be done, or refused.
async fn settle(changer: &mut Changer, operation: &Operation) {
    // What was expected may have been changed by the very call that is not known of.
    let again = match operation.clone() {
        Operation::Rename { id, name, expected: _ } => {
            Operation::Rename { id, name, expected: None }
        }
        other => other,
    };
    loop {
        let Err(status) = changer.carry_out(&again).await else { return };
        if let Some(made) = made_before(&status) {
            changer.ledger = changer.ledger.after(operation, Some(&made));
            return;
        }
        match status.code() {
            Code::Unavailable | Code::Unknown => tokio::time::sleep(PAUSE).await,
            // Refused for what is so, and so it was not done before.
            _ => return assert!(is_refusal(&status), "{operation:?}: {status:?}"),
        }
    }
}

/// The key that the same request made before.
fn made_before(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.reason == "ALREADY_CREATED")?;
    info.metadata.get("key_id").cloned()
}

/// Looks at all that was touched: as the store has it, and as each node decides, within the bound. How many keys it were.
async fn look_at(cluster: &Cluster, ledger: &mut Ledger) -> usize {
    let touched: BTreeSet<_> = std::mem::take(&mut ledger.touched).into_iter().collect();
    for (number, node) in cluster.nodes.iter().enumerate() {
        let mut changer = Changer::of(node, ROOT, Ledger::new(0)).await;
        let mut decisions = node.decisions().await;
        for id in &touched {
            let told = &ledger.keys[id];
            if number == 0 {
                let found: Key = changer.get(id).await.unwrap();
                assert!(found.is_as_told(told), "told {told:?}, found {found:?}");
            }
            let Some(token) = told.token.clone() else { continue };
            let required_scope = "memory:read".to_owned();
            let request = AuthorizeRequest { token, required_scope, ..Default::default() };
            let until = now() + IN_TIME;
            loop {
                let said = decisions.authorize(request.clone()).await;
                match said.map(|said| said.into_inner().reason()) {
                    Ok(reason) if reason == ledger.reason(told) => break,
                    other => assert!(now() < until, "node {number}, {told:?}: {other:?}"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    touched.len()
}
