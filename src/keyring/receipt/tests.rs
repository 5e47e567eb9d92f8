//! What a receipt says, clause by clause; and that none is early, whatever the nodes do.

use proptest::prelude::*;

use super::*;
use crate::store::NodeRow;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// The change.
const N: u64 = 100;
const OWN: u64 = 1;

fn at(span: Duration) -> Timestamp {
    Timestamp::from_micros(1_000_000_000_000_000).after(span)
}

/// When the store was asked.
fn now() -> Timestamp {
    at(HOUR)
}

fn ago(span: Duration) -> Timestamp {
    at(HOUR.saturating_sub(span))
}

const fn position(n: u64) -> Position {
    Position { epoch: 1, n, tag: n }
}

/// A node that renewed its row just now, and has applied so much.
fn node(boot_id: u64, n: u64) -> NodeState {
    let row = NodeRow {
        boot_id,
        name: "machine".into(),
        version: "1".into(),
        started: at(Duration::ZERO),
        applied: Some(position(n)),
        bounds: Bounds { bound: SECOND, grace: MINUTE },
    };
    NodeState { row, renewed: now(), is_held: true }
}

fn silent(boot_id: u64, n: u64, span: Duration) -> NodeState {
    NodeState { renewed: ago(span), ..node(boot_id, n) }
}

fn nodes(nodes: Vec<NodeState>) -> Nodes {
    Nodes { now: now(), head: position(N + 10), nodes, policy: None }
}

fn terms() -> Terms {
    Terms { bounds: Bounds { bound: SECOND, grace: MINUTE }, strict_since: None }
}

/// Strict since the policy's change 50 and the record's change 90.
fn strict() -> Terms {
    Terms { strict_since: Some(vec![position(90), position(50)]), ..terms() }
}

const SHOWN: Shown = Shown { change: position(N), boot_id: OWN };

fn receipt(listed: Vec<NodeState>, terms: &Terms) -> Receipt {
    Tally::new(SHOWN, &nodes(listed)).receipt(terms, None)
}

/// How long a node of these bounds has to be reckoned with.
fn end(span: Duration) -> Duration {
    whole(Bounds { bound: span, grace: span }.until_end())
}

#[test]
fn what_every_row_states_holds_from_that_instant() {
    let told = receipt(vec![node(OWN, N), node(2, N), node(3, N + 5)], &terms());
    assert_eq!(told.revision, position(N));
    assert_eq!(told.applied_nodes, [OWN, 2, 3].map(node_name));
    assert_eq!(told.pending_nodes, [""; 0]);
    assert_eq!((told.effective_time, told.effective_in), (now(), Duration::ZERO));
}

#[test]
fn the_node_that_answers_has_applied_what_it_shows_whatever_its_row_says() {
    for own in [vec![], vec![node(OWN, N - 1)], vec![NodeState { is_held: false, ..node(OWN, N) }]]
    {
        let told = receipt([own, vec![node(2, N)]].concat(), &terms());
        assert_eq!(told.applied_nodes, [OWN, 2].map(node_name));
        assert_eq!((told.pending_nodes.len(), told.effective_in), (0, Duration::ZERO));
    }
}

#[test]
fn a_row_counts_by_epoch_number_and_what_the_store_holds_there() {
    let of = |applied, is_held| {
        let it = node(2, N);
        NodeState { row: NodeRow { applied, ..it.row }, is_held, ..it }
    };
    let elsewhere = Position { epoch: 2, ..position(N) };
    for behind in [
        of(Some(position(N - 1)), true),
        of(Some(position(N)), false),
        of(Some(elsewhere), true),
        of(None, false),
    ] {
        let told = receipt(vec![node(OWN, N), behind.clone()], &terms());
        assert_eq!(told.applied_nodes, [node_name(OWN)], "{behind:?}");
        assert_eq!(told.pending_nodes, [node_name(2)], "{behind:?}");
        assert_eq!(told.effective_in, end(MINUTE), "{behind:?}");
        assert_eq!(told.effective_time, now().after(end(MINUTE)));
    }
}

#[test]
fn a_silent_node_is_waited_for_until_it_can_answer_nothing() {
    let pending = |span| receipt(vec![silent(2, N - 1, span)], &terms()).pending_nodes.len();
    assert_eq!(pending(SECOND * 2), 1);
    assert_eq!(pending(MINUTE), 1, "its clock may be slow");
    assert_eq!(pending(end(MINUTE)), 1);
    assert_eq!(pending(end(MINUTE) + Duration::from_micros(1)), 0);
    let of = |span| liveness(&silent(2, N, span), now());
    assert_eq!(of(SECOND), Liveness::Fresh);
    assert_eq!(of(SECOND * 2), Liveness::Silent);
    assert_eq!(of(MINUTE * 2), Liveness::Gone);
}

#[test]
fn a_silent_node_goes_by_its_own_bounds_and_not_by_those_of_the_policy() {
    let mut slow = silent(2, N - 1, MINUTE * 2);
    slow.row.bounds.grace = HOUR;
    let told = receipt(vec![slow.clone()], &terms());
    assert_eq!((told.pending_nodes.len(), told.effective_in), (1, end(HOUR)));
    let longer = Terms { bounds: Bounds { bound: SECOND, grace: HOUR * 2 }, ..terms() };
    assert_eq!(receipt(vec![slow], &longer).effective_in, end(HOUR * 2));
}

#[test]
fn a_node_that_has_applied_it_still_goes_by_its_bounds_in_what_is_reckoned() {
    let mut other = node(3, N);
    other.row.bounds.grace = HOUR;
    let told = receipt(vec![node(2, N - 1), other], &terms());
    assert_eq!((told.pending_nodes, told.effective_in), (vec![node_name(2)], end(HOUR)));
}

#[test]
fn a_key_that_answers_strict_requests_alone_ends_with_the_bound() {
    let told = receipt(vec![node(OWN, N - 1), node(2, 90), node(3, 95)], &strict());
    assert_eq!(told.pending_nodes, [2, 3].map(node_name));
    assert_eq!(told.effective_in, end(SECOND));
}

#[test]
fn whoever_has_an_earlier_policy_or_record_may_find_that_it_can_do_more() {
    for n in [49, 50, 89] {
        let told = receipt(vec![node(2, 95), node(3, n)], &strict());
        assert_eq!(told.effective_in, end(MINUTE), "{n}");
    }
    let astray = NodeState { is_held: false, ..node(3, 95) };
    assert_eq!(receipt(vec![node(2, 95), astray], &strict()).effective_in, end(MINUTE));
    // A policy that came after the change: what this node shows says nothing of it.
    let later = Terms { strict_since: Some(vec![position(N + 1)]), ..terms() };
    assert_eq!(receipt(vec![node(OWN, N), node(2, 95)], &later).effective_in, end(MINUTE));
    let gone = silent(3, 10, MINUTE * 2);
    assert_eq!(receipt(vec![node(2, 95), gone], &strict()).effective_in, end(SECOND));
}

#[test]
fn a_grace_below_the_bound_shortens_nothing() {
    let bounds = Bounds { bound: MINUTE, grace: SECOND };
    let mut other = node(2, N - 1);
    other.row.bounds = bounds;
    for terms in [Terms { bounds, ..terms() }, Terms { bounds, ..strict() }] {
        assert_eq!(receipt(vec![other.clone()], &terms).effective_in, end(MINUTE));
    }
}

#[test]
fn an_instant_that_was_reckoned_before_stays_right() {
    let (before, listed) = (now().after(SECOND), nodes(vec![node(2, N - 1)]));
    let told = Tally::new(SHOWN, &listed).receipt(&terms(), Some(before));
    assert_eq!((told.effective_time, told.effective_in), (before, SECOND));
    let past = at(MINUTE);
    let told = Tally::new(SHOWN, &listed).receipt(&terms(), Some(past));
    assert_eq!((told.effective_time, told.effective_in), (past, Duration::ZERO));
    assert_eq!(told.pending_nodes, [node_name(2)]);
}

#[test]
fn without_the_rows_nobody_is_left_out() {
    let told = without_nodes(SHOWN, now());
    assert_eq!(told.applied_nodes, [node_name(OWN)]);
    assert_eq!(told.pending_nodes, ["*"]);
    assert!(told.effective_in > Duration::from_hours(24));
}

/// A node as it truly is: when it renewed its row last, what that says, and what it had applied.
#[derive(Debug, Clone)]
struct True {
    renewed_ago: Duration,
    bounds: Bounds,
    applied: u64,
    is_held: bool,
}

impl True {
    /// The last instant at which it answers by what was true before the change. In the worst case it applied nothing
    /// after it wrote its row, and its clock is slow. A row that it wrote after the change leads to a read of it.
    fn last_answer(&self, committed: Timestamp, strict: &Terms) -> Option<Timestamp> {
        if self.is_held && self.applied >= N {
            return None;
        }
        let knows = |change: &Position| self.is_held && self.applied >= change.n;
        let changes = strict.strict_since.as_ref();
        let is_strict = changes.is_some_and(|changes| changes.iter().all(knows));
        let Bounds { bound, grace } = self.bounds;
        let span = if is_strict { bound } else { bound.max(grace) };
        let slow = u64::try_from(span.as_micros()).unwrap() * 10_000 / 9_998;
        let renewed = ago(self.renewed_ago);
        Some(renewed.min(committed).after(Duration::from_micros(slow)))
    }
}

fn a_node() -> impl Strategy<Value = True> {
    let span = || prop_oneof![0..3_000_u64, 0..200_000_u64].prop_map(Duration::from_millis);
    (span(), span(), span(), 80..110_u64, prop::bool::weighted(0.9)).prop_map(
        |(renewed_ago, bound, grace, applied, is_held)| {
            let bounds = Bounds { bound, grace };
            True { renewed_ago, bounds, applied, is_held }
        },
    )
}

proptest! {
    #[test]
    fn no_receipt_is_early_and_none_forgets_who_may_still_answer(
        truths in prop::collection::vec(a_node(), 0..6),
        policy in (0..3_000_u64, 0..200_000_u64, 40..100_u64, 40..100_u64),
        committed_ago in 0..3_000_u64,
        is_strict: bool,
    ) {
        let (bound, grace, applied, record) = policy;
        let bounds =
            Bounds { bound: Duration::from_millis(bound), grace: Duration::from_millis(grace) };
        let since = vec![position(applied), position(record)];
        let terms = Terms { bounds, strict_since: is_strict.then_some(since) };
        let committed = ago(Duration::from_millis(committed_ago));
        let rows = truths.iter().zip(2..).map(|(it, boot_id)| {
            let row = NodeRow { bounds: it.bounds, ..node(boot_id, it.applied).row };
            NodeState { row, renewed: ago(it.renewed_ago), is_held: it.is_held }
        });
        let listed = nodes(rows.collect());
        let told = Tally::new(SHOWN, &listed).receipt(&terms, None);
        for (truth, boot_id) in truths.iter().zip(2..) {
            let Some(last) = truth.last_answer(committed, &terms) else { continue };
            prop_assert!(told.effective_time >= last, "{truth:?}: {told:?}");
            let is_told = told.pending_nodes.contains(&node_name(boot_id));
            prop_assert!(is_told || last <= now(), "{truth:?}: {told:?}");
        }
        prop_assert!(!told.pending_nodes.is_empty() || told.effective_in.is_zero());
        prop_assert_eq!(told.effective_time, now().after(told.effective_in));
    }
}
