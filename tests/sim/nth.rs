//! Each call that nodes make of the store, of Redis and of the clock disturbed once, in every way in which it can be.
//!
//! A script says what happens on three nodes ([`Scenario`]). It is played once as it stands, which tells how many calls each
//! node makes; then once for each of these calls and each [`Fault`], until none is left. Whatever becomes of the call: no
//! answer is one that the store's history forbids; nodes that it was not a call of answer all along, and so does its own, where
//! it was a call of Redis, or the clock only as wrong as clocks may be; else that one answers again, unmarked, within
//! [`HEALED_AFTER`] of the end of the call, or of the time for which it is waited for; and in the end each says of each key
//! what is so, and hears what is published.
//!
//!     cargo test --test sim nth::                                   every so many of them
//!     tests/sim/run calls                                           all, in a release build
//!     LATCHKEY_SIM_CASE=fill:1:store:17:late cargo test --test sim nth:: -- --nocapture

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::calls::{Calls, Disturbance, Fault, Struck, Whom};
use crate::dice::Dice;
use crate::judge;
use crate::people::Said;
use crate::scripts::Scenario;
use crate::stage::Stage;
use crate::world::{HEALED_AFTER, State, World, simulate};
use crate::{asked, asked_text, say};

/// By which messages take their time: one that shows all that scripts demand.
const SEED: u64 = 1;
/// How long nodes go on before a script begins, so that all are connected, and how long one may take.
const BEFORE: Duration = Duration::from_secs(1);
const PLAYED_WITHIN: Duration = Duration::from_mins(2);
/// One in so many is tried, if nobody asks for another: a prime, so that every fault has its turn.
const STRIDE: u64 = 23;
/// So many that fail say enough.
const FAILED_MAX: usize = 5;

#[test]
fn any_call_may_fail_while_keys_are_looked_for() {
    disturb_each(Scenario::Fill);
}

#[test]
fn any_call_may_fail_while_nodes_poll() {
    disturb_each(Scenario::Poll);
}

#[test]
fn any_call_may_fail_while_a_node_is_cut_off() {
    disturb_each(Scenario::Lease);
}

#[test]
fn any_call_may_fail_while_changes_are_pushed() {
    disturb_each(Scenario::Push);
}

#[test]
fn any_call_may_fail_while_the_store_goes_back_in_time() {
    disturb_each(Scenario::Fence);
}

#[test]
fn any_call_may_fail_while_nodes_start() {
    disturb_each(Scenario::Start);
}

#[test]
fn any_call_may_fail_while_a_node_stops() {
    disturb_each(Scenario::Drain);
}

fn disturb_each(scenario: Scenario) {
    if let Some(case) = asked_text("CASE") {
        return repeat(scenario, &case);
    }
    let whole = play(scenario, None, false);
    let cases = cases(&whole.calls);
    let stride = usize::try_from(asked("STRIDE").unwrap_or(STRIDE)).unwrap();
    let (mut played, mut failed, mut healed) = (0, Vec::new(), Duration::ZERO);
    if !whole.faults.is_empty() {
        failed.push(format!(
            "{}, undisturbed\n    {}",
            scenario.name(),
            whole.faults.join("\n    ")
        ));
    }
    // Each scenario begins elsewhere.
    for case in cases.iter().skip(scenario as usize % stride).step_by(stride) {
        let run = play(scenario, Some(*case), false);
        played += 1;
        healed = healed.max(run.healed);
        if !run.faults.is_empty() {
            failed.push(told(scenario, *case, &run));
        }
        if failed.len() >= FAILED_MAX {
            break;
        }
    }
    let counts = Whom::ALL.map(|(whom, name)| format!("{name} {:?}", whole.calls_of(whom)));
    say(&format!(
        "SUMMARY {}: calls by node: {}; {played} of {} disturbed: {} failed; as before after {healed:?} at most, {HEALED_AFTER:?} allowed once it is over",
        scenario.name(),
        counts.join(", "),
        cases.len(),
        failed.len(),
    ));
    assert!(played > 0, "{}: nothing was disturbed", scenario.name());
    assert!(failed.is_empty(), "what was promised was broken:\n{}", failed.join("\n"));
}

/// Plays one case, and tells all that happened.
fn repeat(scenario: Scenario, case: &str) {
    let Some((name, case)) = case.split_once(':') else { panic!("{case} is no case") };
    assert!(Scenario::ALL.iter().any(|(_, it)| *it == name), "there is no script {name}");
    if name != scenario.name() {
        return;
    }
    let case = Disturbance::parse(case).unwrap_or_else(|| panic!("{case} is no case"));
    let run = play(scenario, Some(case), true);
    say(&format!("{:?}, as before after {:?}", run.calls.struck, run.healed));
    assert!(run.faults.is_empty(), "{:#?}", run.faults);
}

/// Every call that was made, with every fault.
fn cases(calls: &Calls) -> Vec<Disturbance> {
    let made = calls
        .made
        .iter()
        .flat_map(|((node, whom), made)| (1..=*made).map(move |nth| (*node, *whom, nth)));
    let disturbed = made.flat_map(|(node, whom, nth)| {
        Fault::of(whom).iter().map(move |fault| Disturbance { node, whom, nth, fault: *fault })
    });
    disturbed.collect()
}

fn told(scenario: Scenario, case: Disturbance, run: &Run) -> String {
    let what = run.calls.struck.as_ref().map_or("nothing", |struck| &struck.what);
    format!(
        "LATCHKEY_SIM_CASE={}:{case} cargo test --test sim nth:: -- --nocapture   # {what}\n    {}",
        scenario.name(),
        run.faults.join("\n    ")
    )
}

/// What came of a script.
#[derive(Default)]
struct Run {
    faults: Vec<String>,
    calls: Calls,
    /// For how long after a call was disturbed its node did not answer as before.
    healed: Duration,
}

impl Run {
    fn calls_of(&self, whom: Whom) -> Vec<u64> {
        let of = |((_, it), made): (&(usize, Whom), &u64)| (*it == whom).then_some(*made);
        self.calls.made.iter().filter_map(of).collect()
    }
}

fn play(scenario: Scenario, planned: Option<Disturbance>, is_told: bool) -> Run {
    let before = panics();
    let run =
        catch_unwind(AssertUnwindSafe(|| simulate(is_told, on_stage(scenario, planned, is_told))));
    let mut run = run.unwrap_or_default();
    if panics() > before {
        run.faults.push("something panicked".to_owned());
    }
    run
}

async fn on_stage(scenario: Scenario, planned: Option<Disturbance>, is_told: bool) -> Run {
    let world = World::new(Dice::new(SEED), scenario.shape(), is_told);
    world.calls().planned = planned;
    let set = Stage::set(&world).await;
    sleep(BEFORE).await;
    world.calls().are_counted = true;
    let is_over = timeout(PLAYED_WITHIN, scenario.play(&set)).await.is_ok();
    world.calls().are_counted = false;
    set.calm().await;
    let mut faults = set.cast.end().await;
    faults.append(&mut set.faults.lock().unwrap());
    let calls = std::mem::take(&mut *world.calls());
    if !is_over {
        faults.push("the script does not come to its end".to_owned());
    }
    if planned.is_some() && calls.struck.is_none() {
        faults
            .push("there was no such call: what is scripted is not the same each time".to_owned());
    }
    let state = world.state();
    faults.extend(judge::judge(&state));
    let marked = state.checks.iter().filter(|it| it.is_due && is_marked(&it.said));
    faults.extend(
        marked.take(5).map(|it| format!("nothing was in the way of what is not stale: {it:?}")),
    );
    let healed = match (planned, &calls.struck) {
        (Some(planned), Some(struck)) => healed(&state, planned, struck),
        _ => Duration::ZERO,
    };
    Run { faults, calls, healed }
}

/// How long after a call was disturbed its node gave the last answer that was none, or was marked. Scripts themselves keep nodes
/// from answering; what they do is not counted.
fn healed(state: &State, planned: Disturbance, struck: &Struck) -> Duration {
    let is_scripted = state.links.iter().any(|link| link.cuts > 0) || !state.reverts.is_empty();
    let is_bad =
        |said: &Said| is_marked(said) || matches!(said, Said::Unavailable(_) | Said::GivenUp);
    let checks = state.checks.iter().filter(|it| it.node == planned.node && !is_scripted);
    let bad = checks.filter(|it| it.answered >= struck.at && is_bad(&it.said));
    bad.map(|it| it.answered.saturating_sub(struck.at)).max().unwrap_or_default()
}

const fn is_marked(said: &Said) -> bool {
    matches!(said, Said::Allowed { stale: true, .. } | Said::Denied { stale: true, .. })
}

/// How often anything panicked in this thread, in tasks of nodes too.
fn panics() -> u64 {
    thread_local!(static PANICS: Cell<u64> = const { Cell::new(0) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panicked| {
            PANICS.with(|it| it.set(it.get() + 1));
            before(panicked);
        }));
    });
    PANICS.with(Cell::get)
}
