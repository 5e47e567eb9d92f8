//! How long a node goes on by what it read, when it cannot read any more, and what it tells others of that.
//!
//! The parts of the program in this process, on a real PostgreSQL, with a clock that is set by hand: polls go on by the
//! machine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use latchkey::account::AccountId;
use latchkey::app::Node;
use latchkey::authorizer::operator::{ReadAudit, WriteKeys};
use latchkey::authorizer::{Credential, Question, Required};
use latchkey::clock::{Clock, Timestamp};
use latchkey::decision::Denial;
use latchkey::error::Reason;
use latchkey::key::{Expiry, KeyChange, KeyId, NewKey, RevokeReason};
use latchkey::lease::Lease;
use latchkey::machine::MachineEntropy;
use latchkey::policy::Policy;
use latchkey::policy::target::Target;
use latchkey::scope::ScopePattern;
use latchkey::store::{Command, KeyTarget, NodeQuery, Nodes, Store};
use latchkey::token::{Environment, Prefix, Token};

use crate::store::support::place::{self, Place};
use crate::support::FaultyStore;

const START: i64 = 1_800_000_000_000_000;
const BOUND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_mins(10);

/// A clock that goes when it is told to.
pub(crate) struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// A node, and a hand on its clock and its reads.
pub(crate) struct Rig {
    pub(crate) node: Node,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) clock: Arc<HandClock>,
    reader: tokio::task::JoinHandle<()>,
    place: Place,
    root: Token,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// What came of a question: the answer, and whether it was marked as stale; or why there was none.
type Answer = Result<(Option<Denial>, bool), Reason>;

const ALLOWED: Answer = Ok((None, false));
const ALLOWED_STALE: Answer = Ok((None, true));
const NO_ANSWER: Answer = Err(Reason::NotReady);

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(Duration::from_millis(250)).await
    }

    /// Whose reads are given up after so long.
    async fn start_with(read_time_max: Duration) -> Self {
        Self::start_holding(1_000, read_time_max).await
    }

    /// Which has room for so many keys.
    async fn start_holding(keys_max: usize, read_time_max: Duration) -> Self {
        let place = place::on_postgres().await;
        let store = FaultyStore::new(place.open().await);
        let as_store: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let clock = Arc::new(HandClock(AtomicI64::new(START)));
        let prefix = Prefix::parse("hm").unwrap();
        let node = Node::wire(
            &as_store,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(MachineEntropy),
            &prefix,
            keys_max,
            read_time_max,
            None,
        );
        let (root, secret) = node.keyring.new_token(Environment::Live);
        let seed = Command::Seed { policy: Policy::default(), secret };
        let feed = node.feed.clone();
        crate::truth::mutate(&*store, seed).await;
        let reader = tokio::spawn(async move { feed.run().await });
        node.feed.knows().wait_for(|knows| *knows).await.unwrap();
        let account = crate::truth::an_account();
        let demo = Command::SeedDemo { account, keys: Vec::new(), policy: None };
        node.keyring.mutate_as_system("test", demo).await.unwrap();
        Self { node, store, clock, reader, place, root }
    }

    pub(crate) fn pass(&self, span: Duration) {
        let micros = i64::try_from(span.as_micros()).unwrap();
        self.clock.0.fetch_add(micros, Ordering::SeqCst);
    }

    async fn change(&self, command: Command) -> Option<KeyId> {
        let done = self.node.keyring.mutate_as_system("test", command).await.unwrap();
        done.keys.first().map(|key| key.id)
    }

    pub(crate) async fn key(&self, scope: &str, expiry: Expiry) -> (KeyId, Token) {
        let (token, secret) = self.node.keyring.new_token(Environment::Live);
        let new = NewKey {
            account: AccountId::parse("a").unwrap(),
            display_name: "k".into(),
            environment: Environment::Live,
            scopes: vec![ScopePattern::parse(scope).unwrap()],
            grantable_scopes: Vec::new(),
            expiry,
            allowed_cidrs: Vec::new(),
            labels: std::collections::BTreeMap::new(),
        };
        let id = self.change(Command::CreateKey { new, secret, request: None }).await.unwrap();
        (id, token)
    }

    async fn revoke(&self, id: KeyId) {
        let revocation = Command::RevokeKey {
            target: KeyTarget::Id(id),
            reason: RevokeReason::Compromised,
            comment: String::new(),
            with_created: false,
        };
        self.change(revocation).await;
    }

    async fn ask(&self, token: &Token, required: Required<'_>) -> Answer {
        let credential = Credential::Token(token.expose().as_bytes());
        self.ask_with(credential, required).await
    }

    async fn ask_with(&self, credential: Credential<'_>, required: Required<'_>) -> Answer {
        let question = Question {
            credential,
            required,
            client_address: None,
            environment: None,
            cost: None,
            min_revision: None,
        };
        let decision = self.node.authorizer.authorize(&question).await;
        decision.map(|it| (it.denial, it.stale)).map_err(|error| error.reason)
    }

    fn lease_from(&self) -> Timestamp {
        let Lease::Since { from, .. } = self.node.cache.standing().unwrap().lease else {
            panic!("others change this store");
        };
        from
    }

    async fn nodes(&self) -> Nodes {
        self.store.nodes(NodeQuery::default()).await.unwrap().unwrap()
    }

    pub(crate) async fn until(&self, what: &str, is: impl AsyncFn(&Self) -> bool) {
        let reached = async {
            while !is(self).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
        reached.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

fn bounds(bound_ms: u64, grace_ms: u64) -> Command {
    let policy = Policy { bound_ms, grace_ms, ..Policy::default() };
    Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: false }
}

const READ: Required<'_> = Required::Scope("memory:read");
const STRICT: Required<'_> = Required::Scope("memory:admin");
const EITHER: Required<'_> = Required::Scope("memory:read or memory:admin");

#[tokio::test]
async fn without_a_lease_answers_are_stale_then_there_are_none() {
    let rig = Rig::start().await;
    let (_, reading) = rig.key("memory:read", Expiry::Never).await;
    let (_, admin) = rig.key("memory:admin", Expiry::Never).await;
    let (revoked_id, revoked) = rig.key("memory:admin", Expiry::Never).await;
    let (disabled_id, disabled) = rig.key("memory:read", Expiry::Never).await;
    let expiry = Expiry::In(Duration::from_mins(5));
    let (_, expiring) = rig.key("memory:read", expiry).await;
    let (unknown, _) = rig.node.keyring.new_token(Environment::Live);
    rig.revoke(revoked_id).await;
    let change = KeyChange { disabled: Some(true), ..KeyChange::default() };
    rig.change(Command::UpdateKey { id: disabled_id, change, expected: None }).await;
    assert_eq!(rig.ask(&admin, STRICT).await, ALLOWED);
    assert_eq!(rig.ask(&unknown, READ).await, Ok((Some(Denial::UnknownKey), false)));

    rig.store.hold_reads();
    rig.pass(BOUND);
    let who = Required::AuthenticateOnly;
    assert_eq!(rig.ask(&reading, READ).await, ALLOWED_STALE);
    assert_eq!(rig.ask(&reading, who).await, ALLOWED_STALE);
    assert_eq!(rig.ask(&admin, READ).await, ALLOWED_STALE);
    assert_eq!(rig.ask(&admin, STRICT).await, NO_ANSWER);
    assert_eq!(rig.ask(&admin, EITHER).await, NO_ANSWER);
    assert_eq!(rig.ask(&admin, who).await, NO_ANSWER);
    assert_eq!(rig.ask(&reading, STRICT).await, NO_ANSWER, "a lack is not final either");
    assert_eq!(rig.ask(&unknown, READ).await, NO_ANSWER, "it may have been made since");
    let later = Required::Scope("memory:later");
    assert_eq!(rig.ask(&reading, later).await, NO_ANSWER, "a later policy may have it");
    assert_eq!(rig.ask(&disabled, READ).await, Ok((Some(Denial::KeyDisabled), true)));
    assert_eq!(rig.ask(&revoked, STRICT).await, Ok((Some(Denial::KeyRevoked), false)));

    rig.pass(GRACE);
    assert_eq!(rig.ask(&reading, READ).await, NO_ANSWER);
    assert_eq!(rig.ask(&disabled, READ).await, NO_ANSWER);
    assert_eq!(rig.ask(&revoked, STRICT).await, Ok((Some(Denial::KeyRevoked), false)));
    assert_eq!(rig.ask(&expiring, READ).await, Ok((Some(Denial::KeyExpired), false)));
    let missing = rig.ask_with(Credential::Missing, STRICT).await;
    assert_eq!(missing, Ok((Some(Denial::MissingCredential), false)));
    let malformed = rig.ask_with(Credential::Token(b"hm_live_x"), STRICT).await;
    assert_eq!(malformed, Ok((Some(Denial::MalformedCredential), false)));

    rig.store.pass_reads();
    rig.until("fresh", async |rig| rig.ask(&admin, STRICT).await == ALLOWED).await;
    assert_eq!(rig.ask(&unknown, READ).await, Ok((Some(Denial::UnknownKey), false)));
}

#[tokio::test]
async fn what_a_rule_only_observes_is_let_through_no_longer_than_what_it_enforces() {
    let rig = Rig::start().await;
    let (_, admin) = rig.key("memory:admin", Expiry::Never).await;
    let rules = r#"
        [[rules]]
        name = "plain"
        path = "/plain"
        required_scope = "memory:read"
        mode = "observe"
        [[rules]]
        name = "strict"
        path = "/strict"
        required_scope = "memory:admin"
        mode = "observe"
    "#;
    let policy = Policy::from_toml(&format!("{}\n{rules}", Policy::default().to_toml())).unwrap();
    let apply =
        Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: false };
    rig.change(apply).await;
    let [plain, strict] =
        ["/plain", "/strict"].map(|path| Target::new("api.example.com", "GET", path, None));
    let none = || [Credential::Missing, Credential::Token(b"hm_live_x")];
    for credential in none() {
        assert_eq!(rig.ask_with(credential, Required::ByRules(&strict)).await, ALLOWED);
    }

    // The rule may be enforced by now, and nobody here knows.
    rig.store.hold_reads();
    rig.pass(BOUND);
    assert_eq!(rig.ask(&admin, Required::ByRules(&strict)).await, NO_ANSWER);
    for credential in none() {
        assert_eq!(rig.ask_with(credential, Required::ByRules(&strict)).await, NO_ANSWER);
    }
    for credential in none() {
        assert_eq!(rig.ask_with(credential, Required::ByRules(&plain)).await, ALLOWED_STALE);
    }
    rig.pass(GRACE);
    for credential in none() {
        assert_eq!(rig.ask_with(credential, Required::ByRules(&plain)).await, NO_ANSWER);
    }
}

#[tokio::test]
async fn what_has_no_mark_is_not_shown_to_whom_nobody_may_know_of_any_more() {
    let rig = Rig::start().await;
    let admit = async || {
        let root = || Credential::Token(rig.root.expose().as_bytes());
        let authorizer = &rig.node.authorizer;
        let sees = authorizer.operator::<ReadAudit>(root(), None, String::new()).await;
        let changes = authorizer.operator::<WriteKeys>(root(), None, String::new()).await;
        let of = |error: &latchkey::error::Error| error.reason;
        (sees.map(drop).map_err(|it| of(&it)), changes.map(drop).map_err(|it| of(&it)))
    };
    assert_eq!(admit().await, (Ok(()), Ok(())));
    rig.store.hold_reads();
    rig.pass(BOUND);
    // Whoever changes something is judged again, on the rows.
    assert_eq!(admit().await, (Err(Reason::NotReady), Ok(())));
}

#[tokio::test]
async fn a_lease_counts_from_before_the_read_was_sent() {
    let rig = Rig::start_with(Duration::from_mins(1)).await;
    let held = |number| move |rig: &Rig| rig.store.reads_held.load(Ordering::SeqCst) == number;
    rig.store.hold_reads();
    rig.until("a read is held", async |rig| held(1)(rig)).await;
    // The next one finds that the lease is due.
    rig.pass(BOUND / 2);
    let sent = rig.clock.now();
    rig.store.let_one_go();
    rig.until("the next is held", async |rig| held(2)(rig)).await;
    assert!(rig.lease_from() < sent);
    rig.pass(BOUND * 3);
    rig.store.let_one_go();
    rig.until("it is renewed", async |rig| rig.lease_from() >= sent).await;
    assert_eq!(rig.lease_from(), sent);
}

#[tokio::test]
async fn others_are_told_what_was_applied_before_the_read() {
    let rig = Rig::start().await;
    let boot_id = rig.node.feed.boot().id;
    let before = rig.node.cache.applied().unwrap();
    rig.key("memory:read", Expiry::Never).await;
    let applied = rig.node.cache.applied().unwrap();
    assert!(applied.n > before.n);
    // The clock stands still, so the row was not written again since the policy's bounds were told.
    let nodes = rig.nodes().await;
    let [node] = &nodes.nodes[..] else { panic!("one node: {nodes:?}") };
    assert_eq!((node.row.boot_id, node.is_held), (boot_id, true));
    assert!(node.row.applied.unwrap().n <= before.n, "{node:?}");
    assert_eq!((node.row.bounds.bound, node.row.bounds.grace), (BOUND, GRACE));
    assert_eq!(nodes.head, applied);

    rig.pass(BOUND / 2);
    rig.until("it tells", async |rig| rig.nodes().await.nodes[0].row.applied == Some(applied))
        .await;
    rig.store.leave(boot_id).await.unwrap();
    assert_eq!(rig.nodes().await.nodes, []);
}

#[tokio::test]
async fn a_row_says_nothing_of_what_the_read_after_it_brings() {
    let rig = Rig::start_with(Duration::from_mins(1)).await;
    let held = |number| move |rig: &Rig| rig.store.reads_held.load(Ordering::SeqCst) == number;
    rig.store.hold_reads();
    rig.until("a read is held", async |rig| held(1)(rig)).await;
    let applied = rig.node.cache.applied().unwrap();
    let account = crate::truth::an_account();
    let (_, secret) = rig.node.keyring.new_token(Environment::Live);
    let keys = vec![(crate::truth::a_key(), secret)];
    crate::truth::mutate(&*rig.store, Command::SeedDemo { account, keys, policy: None }).await;
    rig.pass(BOUND / 2);
    rig.store.let_one_go();
    // Its row is written, and it has its answer, which nobody has applied.
    rig.until("the next is held", async |rig| held(2)(rig)).await;
    let nodes = rig.nodes().await;
    assert!(nodes.head.n > applied.n);
    assert_eq!(nodes.nodes[0].row.applied, Some(applied));
}

#[tokio::test]
async fn a_shorter_bound_counts_at_once_and_a_longer_one_when_others_know() {
    let rig = Rig::start().await;
    let (_, token) = rig.key("memory:read", Expiry::Never).await;
    rig.change(bounds(200, 0)).await;
    rig.store.hold_reads();
    rig.pass(Duration::from_millis(300));
    assert_eq!(rig.ask(&token, READ).await, NO_ANSWER);
    rig.store.pass_reads();
    rig.until("fresh", async |rig| rig.ask(&token, READ).await == ALLOWED).await;

    rig.change(bounds(60_000, 0)).await;
    rig.until("others are told", async |rig| {
        rig.nodes().await.nodes[0].row.bounds.bound == Duration::from_mins(1)
    })
    .await;
    rig.until("fresh by it", async |rig| {
        rig.pass(Duration::from_millis(1));
        rig.ask(&token, READ).await == ALLOWED
    })
    .await;
}

#[tokio::test]
async fn keys_are_read_again_once_the_store_is_no_longer_slow_however_short_the_bound() {
    let rig = Rig::start_holding(1, Duration::from_millis(250)).await;
    let (_, one) = rig.key("memory:read", Expiry::Never).await;
    let (_, other) = rig.key("memory:read", Expiry::Never).await;
    // So short that every read has to renew the lease.
    rig.change(bounds(200, 0)).await;
    rig.store.hold_reads();
    rig.until("a read is given up", async |rig| rig.node.feed.reads_given_up() > 0).await;
    rig.store.pass_reads();
    for token in [&one, &other, &one] {
        rig.until("it is read", async |rig| rig.ask(token, READ).await == ALLOWED).await;
    }
}

#[tokio::test]
async fn a_new_connection_writes_the_row_before_it_reads() {
    let rig = Rig::start().await;
    let reads = rig.node.cache.applied().unwrap();
    rig.store.leave(rig.node.feed.boot().id).await.unwrap();
    // The clock stands still: nothing is due, and the row would stay away.
    let ends = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    rig.place.sql(ends).await;
    rig.until("it is there again", async |rig| {
        rig.store
            .nodes(NodeQuery::default())
            .await
            .is_ok_and(|nodes| nodes.unwrap().nodes.len() == 1)
    })
    .await;
    assert_eq!(rig.node.cache.applied().unwrap(), reads);
}

#[tokio::test]
async fn a_store_that_asks_for_a_newer_version_is_used_no_more() {
    let rig = Rig::start().await;
    let (_, token) = rig.key("memory:read", Expiry::Never).await;
    assert_eq!(rig.ask(&token, READ).await, ALLOWED);
    for column in ["least_schema", "least_format"] {
        rig.place.sql(&format!("UPDATE feed SET {column} = {column} + 99")).await;
        rig.until("it answers no more", async |rig| rig.ask(&token, READ).await == NO_ANSWER).await;
        assert!(!*rig.node.feed.knows().borrow());
        rig.place.sql(&format!("UPDATE feed SET {column} = {column} - 99")).await;
        rig.until("it answers again", async |rig| rig.ask(&token, READ).await == ALLOWED).await;
    }
    assert_eq!(rig.node.feed.fences(), 0, "the store did not go back in time");
}
