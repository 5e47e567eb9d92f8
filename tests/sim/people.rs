//! Who is in the world beside the nodes: callers who ask whether a key may do something, and operators who change keys.
//! They note what they asked and what they were told, and when.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use latchkey::account::{AccountChange, AccountId, NewAccount};
use latchkey::authorizer::operator::{WriteAccounts, WriteKeys, WritePolicy};
use latchkey::authorizer::{Credential, Operator, Permission, Question, Required};
use latchkey::clock::Entropy;
use latchkey::decision::Denial;
use latchkey::error::{Error, Reason};
use latchkey::key::{Expiry, KeyChange, KeyId, NewKey, RevokeReason};
use latchkey::keyring::{AccountUpdate, KeyUpdate, Patience, PolicyUpdate, Receipt, Revoke};
use latchkey::policy::Policy;
use latchkey::revision::Position;
use latchkey::scope::ScopePattern;
use latchkey::store::{Command, KeyTarget, Maker, Mutation, NewSecret, door};
use latchkey::token::{Digest, Environment, Prefix, Token};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::books::{Books, Transaction};
use crate::dice::Dice;
use crate::judge;
use crate::node::Running;
use crate::redis::Redis;
use crate::scripts;
use crate::world::{Chance, World};

const CALLERS: u64 = 6;
const OPERATORS: u64 = 2;
/// How many keys a cache has to have room for.
const ROOM_MIN: usize = 8;
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_millis(250);
const ACCOUNTS: [&str; 4] = ["ash", "birch", "cedar", "douglas"];
/// How many keys there are from the beginning, and at most.
const KEYS: usize = 12;
const KEYS_MAX: usize = 60;
pub(crate) const SCOPES: [&str; 3] = ["memory:read", "memory:write", "memory:admin"];

/// A key, as its holder has it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    token: Arc<str>,
    pub(crate) digest: Digest,
    pub(crate) id: Option<KeyId>,
}

/// A question, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) node: usize,
    pub(crate) boot_id: u64,
    pub(crate) sent: Duration,
    pub(crate) answered: Duration,
    pub(crate) digest: Digest,
    /// `None` asks for any valid key.
    pub(crate) scope: Option<&'static str>,
    pub(crate) min: Option<Position>,
    /// Whether nothing was in the way of an answer.
    pub(crate) is_due: bool,
    pub(crate) said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Allowed { account: AccountId, key: KeyId, stale: bool },
    Denied { denial: Denial, stale: bool },
    Unavailable(Reason),
    GivenUp,
}

/// A change, and what came of it.
#[expect(dead_code, reason = "all of it is shown where it is wrong")]
#[derive(Debug, Clone)]
pub(crate) struct Act {
    pub(crate) node: usize,
    pub(crate) boot_id: u64,
    pub(crate) sent: Duration,
    pub(crate) answered: Duration,
    pub(crate) what: &'static str,
    /// What it left behind where it was made.
    pub(crate) mark: String,
    pub(crate) came: Came,
}

#[expect(dead_code, reason = "all of it is shown where it is wrong")]
#[derive(Debug, Clone)]
pub(crate) enum Came {
    /// The last change, if anything was changed, and where it has taken effect.
    Made(Option<Position>, Option<Receipt>),
    Refused(Reason),
    /// Whether it was made is not known.
    NotKnown,
    GivenUp,
}

/// The last change, if anything was changed, and where it has taken effect.
pub(crate) type Changed = Result<(Option<Position>, Option<Receipt>), Error>;

/// All of them.
pub(crate) struct Cast {
    pub(crate) world: Arc<World>,
    pub(crate) redis: Option<Redis>,
    pub(crate) nodes: Vec<Mutex<Option<Arc<Running>>>>,
    keys: Mutex<Vec<Held>>,
    root: String,
    /// Every node that ever ran.
    ran: Mutex<Vec<Arc<Running>>>,
    boots: Mutex<Dice>,
    callers: Mutex<JoinSet<()>>,
    operators: Mutex<JoinSet<()>>,
}

impl Cast {
    /// A store with some keys, nodes on it, and people who use them.
    pub(crate) async fn assemble(world: &Arc<World>) -> Arc<Self> {
        let cast = Self::gather(world).await;
        let dice = &world.dice;
        for number in 0..CALLERS {
            let (cast_of, dice) = (Arc::clone(&cast), dice.apart(1_000 + number));
            cast.cast_caller(cast_of.call(dice));
        }
        for number in 0..OPERATORS {
            let (cast_of, dice) = (Arc::clone(&cast), dice.apart(2_000 + number));
            lock(&cast.operators).spawn(cast_of.operate(number, dice));
        }
        cast
    }

    /// A store with some keys, and nodes on it.
    pub(crate) async fn gather(world: &Arc<World>) -> Arc<Self> {
        let dice = &world.dice;
        let (root, keys) = found(world, &Chance::new(dice.apart(3))).await;
        let redis = world.shape.has_redis.then(|| Redis::start(world, &dice.apart(4)));
        let cast = Arc::new(Self {
            world: Arc::clone(world),
            redis,
            nodes: (0..world.shape.nodes).map(|_| Mutex::default()).collect(),
            keys: Mutex::new(keys),
            root,
            ran: Mutex::default(),
            boots: Mutex::new(dice.apart(5)),
            callers: Mutex::default(),
            operators: Mutex::default(),
        });
        for number in 0..world.shape.nodes {
            cast.start(number).await;
        }
        cast
    }

    /// Somebody who asks until the end.
    pub(crate) fn cast_caller(&self, asks: impl Future<Output = ()> + Send + 'static) {
        lock(&self.callers).spawn(asks);
    }

    /// Starts a node where none runs; tries until it serves.
    pub(crate) async fn start(&self, number: usize) {
        loop {
            let dice = {
                let mut boots = lock(&self.boots);
                let part = boots.draw();
                boots.apart(part)
            };
            let url = self.redis.as_ref().map(|redis| redis.url(number));
            if let Some(running) = Running::start(&self.world, number, url.as_deref(), dice).await {
                lock(&self.ran).push(Arc::clone(&running));
                *lock(&self.nodes[number]) = Some(running);
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Nobody asks this node any more.
    pub(crate) fn take(&self, number: usize) -> Option<Arc<Running>> {
        lock(&self.nodes[number]).take()
    }

    /// The node of this number, if it serves.
    pub(crate) fn running(&self, number: usize) -> Option<Arc<Running>> {
        lock(&self.nodes[number]).clone()
    }

    /// All keys that were handed out, the first at the head; the last of those from the beginning is nobody's.
    pub(crate) fn keys(&self) -> Vec<Held> {
        lock(&self.keys).clone()
    }

    fn any_node(&self, dice: &mut Dice) -> Option<Arc<Running>> {
        let number = dice.below(self.nodes.len() as u64);
        lock(&self.nodes[usize::try_from(number).unwrap()]).clone()
    }

    fn any_key(&self, dice: &mut Dice) -> Held {
        let keys = lock(&self.keys);
        // Most are about those made last: earlier ones are revoked by and by.
        let among = if dice.is_one_of(2, 3) { keys.len().min(6) } else { keys.len() };
        keys[keys.len() - 1 - usize::try_from(dice.below(among as u64)).unwrap()].clone()
    }

    /// Nobody changes anything any more.
    pub(crate) async fn end_changes(&self) {
        let mut operators = std::mem::take(&mut *lock(&self.operators));
        operators.abort_all();
        while operators.join_next().await.is_some() {}
    }

    /// All is well again: every node must say of every key what is so.
    pub(crate) async fn end(&self) -> Vec<String> {
        lock(&self.callers).abort_all();
        let mut faults = Vec::new();
        let keys = lock(&self.keys).clone();
        let books = Arc::clone(&self.world.state().books);
        for number in 0..self.nodes.len() {
            let Some(node) = lock(&self.nodes[number]).clone() else {
                faults.push(format!("node {number} does not run in the end"));
                continue;
            };
            for held in &keys {
                let check = self.ask(&node, held, Some(SCOPES[0]), None).await;
                let truth = judge::truth(&books, &held.digest, Some(SCOPES[0]));
                if !truth.is_said_by(&check.said, false) {
                    faults.push(format!("in the end, of {truth:?}: {check:?}"));
                }
            }
        }
        for node in lock(&self.ran).iter() {
            for (result, count) in node.node.verifier.counts() {
                if result == "violation" && count > 0 {
                    faults.push(format!("the verifier of node {} found {count}", node.number));
                }
            }
            let fences = node.node.feed.fences();
            if fences > 0 {
                self.world.count("fence");
                let may_fence = self.world.state().counts.contains_key("store went back")
                    || self.world.state().counts.contains_key("store deposed");
                if !may_fence {
                    faults.push(format!("node {} fenced without reason", node.number));
                }
            }
            node.crash();
        }
        faults
    }
}

// === Callers ===

impl Cast {
    async fn call(self: Arc<Self>, mut dice: Dice) {
        loop {
            sleep(Duration::from_millis(5 + dice.below(150))).await;
            let Some(node) = self.any_node(&mut dice) else { continue };
            let held = self.any_key(&mut dice);
            let scope = (!dice.is_one_of(1, 8)).then(|| *dice.pick(&SCOPES));
            let min = dice.is_one_of(1, 10).then(|| self.any_revision(&mut dice)).flatten();
            let check = self.ask(&node, &held, scope, min).await;
            self.note_check(&node, check);
        }
    }

    /// What a node that was killed meant to say, nobody hears.
    pub(crate) fn note_check(&self, node: &Running, check: Check) {
        let what = match &check.said {
            Said::Allowed { stale: false, .. } => "allowed",
            Said::Allowed { stale: true, .. } => "allowed, stale",
            Said::Denied { denial: Denial::UnknownKey, .. } => "denied, unknown",
            Said::Denied { .. } => "denied",
            Said::Unavailable(_) => "unavailable",
            Said::GivenUp => "given up",
        };
        self.world.count(what);
        self.world.note(format_args!("{check:?}"));
        if node.is_alive() {
            self.world.state().checks.push(check);
        }
    }

    fn any_revision(&self, dice: &mut Dice) -> Option<Position> {
        let state = self.world.state();
        let made: Vec<_> = state.acts.iter().rev().take(8).collect();
        let act = (!made.is_empty()).then(|| *dice.pick(&made))?;
        match act.came {
            Came::Made(position, _) => position,
            _ => None,
        }
    }

    pub(crate) async fn ask(
        &self,
        node: &Running,
        held: &Held,
        scope: Option<&'static str>,
        min: Option<Position>,
    ) -> Check {
        let sent = self.world.now();
        let question = Question {
            credential: Credential::Token(held.token.as_bytes()),
            required: scope.map_or(Required::AuthenticateOnly, Required::Scope),
            client_address: None,
            environment: None,
            cost: None,
            min_revision: min,
        };
        let said = match timeout(PATIENCE, node.node.authorizer.authorize(&question)).await {
            Err(_) => Said::GivenUp,
            Ok(Err(error)) => Said::Unavailable(error.reason),
            Ok(Ok(decision)) => match (decision.denial, decision.identity) {
                (Some(denial), _) => Said::Denied { denial, stale: decision.stale },
                (None, Some(who)) => {
                    Said::Allowed { account: who.account, key: who.key_id, stale: decision.stale }
                }
                (None, None) => panic!("nobody was allowed"),
            },
        };
        let (node, boot_id, answered) = (node.number, node.boot_id, self.world.now());
        // In a cache of a few keys each that comes in may push out what another call waits for.
        let is_due = self.world.shape.room >= ROOM_MIN
            && self.world.state().links[node].troubled_until < answered;
        Check { node, boot_id, sent, answered, digest: held.digest, scope, min, is_due, said }
    }
}

// === Operators ===

impl Cast {
    async fn operate(self: Arc<Self>, operator: u64, mut dice: Dice) {
        for number in 0.. {
            sleep(Duration::from_millis(50 + dice.below(600))).await;
            let Some(node) = self.any_node(&mut dice) else { continue };
            let mark = format!("act-{operator}-{number}");
            let sent = self.world.now();
            let patience = if dice.is_one_of(1, 10) { 5 + dice.below(300) } else { 8_000 };
            let (what, changed) = {
                let changing = self.change(&node, &mark, &mut dice);
                match timeout(Duration::from_millis(patience), changing).await {
                    Ok((what, changed)) => (what, Some(changed)),
                    Err(_) => ("a change", None),
                }
            };
            self.note_act(&node, what, mark, sent, changed);
        }
    }

    /// Notes what came of a change; nothing if it took too long for whoever wanted it.
    pub(crate) fn note_act(
        &self,
        node: &Running,
        what: &'static str,
        mark: String,
        sent: Duration,
        changed: Option<Changed>,
    ) -> Act {
        let came = match changed {
            None => Came::GivenUp,
            Some(Ok((position, receipt))) => Came::Made(position, receipt),
            Some(Err(error)) if error.reason == Reason::OutcomeUnknown => Came::NotKnown,
            Some(Err(error)) => Came::Refused(error.reason),
        };
        self.world.count(match &came {
            Came::Made(..) => "changed",
            Came::Refused(_) => "refused",
            Came::NotKnown => "changed, not known",
            Came::GivenUp => "change given up",
        });
        let answered = self.world.now();
        let (number, boot_id) = (node.number, node.boot_id);
        let act = Act { node: number, boot_id, sent, answered, what, mark, came };
        self.world.note(format_args!("{act:?}"));
        if node.is_alive() {
            self.world.state().acts.push(act.clone());
        }
        act
    }

    pub(crate) async fn admitted<P: Permission>(
        &self,
        node: &Running,
    ) -> Result<Operator<P>, Error> {
        let credential = Credential::Token(self.root.as_bytes());
        node.node.authorizer.operator(credential, None, String::new()).await
    }

    async fn change(&self, node: &Running, mark: &str, dice: &mut Dice) -> (&'static str, Changed) {
        match dice.below(16) {
            0..=2 => ("create", self.create(node, mark, dice).await),
            3 | 4 => ("revoke", self.revoke(node, mark, dice).await),
            5 => ("rotate", self.rotate(node, dice).await),
            6..=8 => ("suspend or resume", self.suspend(node, mark, dice).await),
            9 => ("policy", self.apply_policy(node, mark, dice).await),
            _ => ("update", self.update(node, mark, dice).await),
        }
    }

    async fn create(&self, node: &Running, mark: &str, dice: &mut Dice) -> Changed {
        if lock(&self.keys).len() >= KEYS_MAX {
            return Err(Error::not_found());
        }
        let operator = self.admitted(node).await?;
        let new = new_key(dice.pick::<&str>(&ACCOUNTS), mark, some_scopes(dice));
        self.create_key(node, operator, new).await
    }

    pub(crate) async fn create_key(
        &self,
        node: &Running,
        operator: Operator<WriteKeys>,
        new: NewKey,
    ) -> Changed {
        let made = node.node.keyring.create_key(operator, new, None).await?;
        self.keep(&made.token, made.key.id);
        Ok((Some(made.key.revision), None))
    }

    async fn revoke(&self, node: &Running, mark: &str, dice: &mut Dice) -> Changed {
        let operator = self.admitted(node).await?;
        let held = self.any_key(dice);
        let target = match held.id {
            Some(id) if dice.is_one_of(2, 3) => KeyTarget::Id(id),
            _ => KeyTarget::Digest(held.digest),
        };
        let wait = Duration::from_millis(if dice.is_one_of(1, 3) { 2_000 } else { 0 });
        self.revoke_key(node, operator, mark, target, wait).await
    }

    pub(crate) async fn revoke_key(
        &self,
        node: &Running,
        operator: Operator<WriteKeys>,
        mark: &str,
        target: KeyTarget,
        wait: Duration,
    ) -> Changed {
        let comment = mark.to_owned();
        let revoke =
            Revoke { target, reason: RevokeReason::Compromised, comment, with_created: false };
        let patience = Patience { wait, is_wanted: Box::new(|| true) };
        let made = node.node.keyring.revoke_key(operator, revoke, &patience).await?;
        let what = if made.receipt.pending_nodes.is_empty() {
            "receipt, all at once"
        } else {
            "receipt, later"
        };
        self.world.count(what);
        // Revoked before: nothing was changed now.
        let position = (!made.revoked.is_empty()).then_some(made.receipt.revision);
        Ok((position, Some(made.receipt)))
    }

    async fn rotate(&self, node: &Running, dice: &mut Dice) -> Changed {
        if lock(&self.keys).len() >= KEYS_MAX {
            return Err(Error::not_found());
        }
        let operator = self.admitted::<WriteKeys>(node).await?;
        let id = self.any_key(dice).id.ok_or_else(Error::not_found)?;
        let overlap = Duration::from_secs(if dice.is_one_of(1, 2) { 0 } else { 86_400 });
        let made = node.node.keyring.rotate_key(operator, id, overlap, None).await?;
        self.keep(&made.token, made.key.id);
        Ok((Some(made.receipt.revision), Some(made.receipt)))
    }

    async fn update(&self, node: &Running, mark: &str, dice: &mut Dice) -> Changed {
        let operator = self.admitted::<WriteKeys>(node).await?;
        let id = self.any_key(dice).id.ok_or_else(Error::not_found)?;
        let mut change = KeyChange { display_name: Some(mark.to_owned()), ..KeyChange::default() };
        if dice.is_one_of(1, 2) {
            change.disabled = Some(dice.is_one_of(1, 3));
        } else {
            change.scopes = Some(some_scopes(dice));
        }
        let update = KeyUpdate { id, change, expected: None };
        let (_, receipt) = node.node.keyring.update_key(operator, update).await?;
        Ok((Some(receipt.revision), Some(receipt)))
    }

    async fn suspend(&self, node: &Running, mark: &str, dice: &mut Dice) -> Changed {
        let operator = self.admitted(node).await?;
        let account = *dice.pick::<&str>(&ACCOUNTS);
        self.suspend_account(node, operator, mark, account, dice.is_one_of(1, 4)).await
    }

    pub(crate) async fn suspend_account(
        &self,
        node: &Running,
        operator: Operator<WriteAccounts>,
        mark: &str,
        account: &str,
        is_suspended: bool,
    ) -> Changed {
        let id = AccountId::parse(account).unwrap();
        let change = AccountChange {
            display_name: Some(mark.to_owned()),
            suspended: Some(is_suspended),
            ..AccountChange::default()
        };
        let update = AccountUpdate { id, change, expected: None };
        let (_, receipt) = node.node.keyring.update_account(operator, update).await?;
        Ok((Some(receipt.revision), Some(receipt)))
    }

    async fn apply_policy(&self, node: &Running, mark: &str, dice: &mut Dice) -> Changed {
        let operator = self.admitted::<WritePolicy>(node).await?;
        let update = PolicyUpdate {
            policy: some_policy(mark, dice),
            expected: None,
            is_dry_run: false,
            allow_orphans: true,
        };
        let made = node.node.keyring.apply_policy(operator, update).await?;
        Ok((Some(made.revision), Some(made.receipt)))
    }

    fn keep(&self, token: &Token, id: KeyId) {
        let held = Held { token: token.expose().into(), digest: token.digest(), id: Some(id) };
        lock(&self.keys).push(held);
    }
}

/// What there is in the beginning: the root key, accounts with keys, and a key that nobody has.
async fn found(world: &World, chance: &Chance) -> (String, Vec<Held>) {
    let mut books = Books::clone(&world.state().books);
    let prefix = Prefix::parse("hm").unwrap();
    let mut dice = world.dice.apart(6);
    let mut done = async |command: Command| {
        let mut seed = [0; 32];
        chance.fill(&mut seed);
        let (maker, now) = (Maker::System("sim"), world.time());
        let mutation = Mutation { maker, peer: String::new(), now, seed, command };
        door::pass(&mut Transaction(&mut books), &mutation).await.unwrap().unwrap()
    };
    let token = || Token::generate(&prefix, Environment::Live, chance);
    let secret = |token: &Token| NewSecret { digest: token.digest(), hint: token.hint() };
    let root = token();
    let policy = some_policy("first", &mut dice);
    let policy = if world.shape.is_scripted { scripts::policy() } else { policy };
    done(Command::Seed { policy, secret: secret(&root) }).await;
    for account in ACCOUNTS {
        let new = NewAccount {
            id: AccountId::parse(account),
            display_name: account.to_owned(),
            plan: "enterprise".to_owned(),
            labels: std::collections::BTreeMap::default(),
        };
        done(Command::CreateAccount { new, request: None }).await;
    }
    let mut keys = Vec::new();
    for number in 0..KEYS {
        let token = token();
        let scopes = some_scopes(&mut dice);
        let scopes = if world.shape.is_scripted { scripts::scopes() } else { scopes };
        let new = new_key(ACCOUNTS[number % ACCOUNTS.len()], "a key", scopes);
        let made = done(Command::CreateKey { new, secret: secret(&token), request: None }).await;
        let id = made.keys.first().map(|key| key.id);
        keys.push(Held { token: token.expose().into(), digest: token.digest(), id });
    }
    let nobodys = token();
    keys.push(Held { token: nobodys.expose().into(), digest: nobodys.digest(), id: None });
    world.put(books);
    (root.expose().to_owned(), keys)
}

pub(crate) fn new_key(account: &str, mark: &str, scopes: Vec<ScopePattern>) -> NewKey {
    NewKey {
        account: AccountId::parse(account).unwrap(),
        display_name: mark.to_owned(),
        environment: Environment::Live,
        scopes,
        grantable_scopes: Vec::new(),
        expiry: Expiry::Never,
        allowed_cidrs: Vec::new(),
        labels: std::collections::BTreeMap::default(),
    }
}

fn some_scopes(dice: &mut Dice) -> Vec<ScopePattern> {
    vec![ScopePattern::parse(dice.pick::<&str>(&SCOPES)).unwrap()]
}

fn some_policy(mark: &str, dice: &mut Dice) -> Policy {
    let bound = *dice.pick(&[500, 1_000, 2_000]);
    let grace = *dice.pick(&[0, 3_000, 10_000]);
    let does_imply = dice.is_one_of(1, 2);
    let strict = dice.is_one_of(1, 2);
    policy_of(mark, [bound, grace], does_imply, strict)
}

/// With these bounds in milliseconds; whoever may write may read, or not, and to write is strict, or not.
pub(crate) fn policy_of(
    mark: &str,
    [bound, grace]: [u64; 2],
    does_imply: bool,
    strict: bool,
) -> Policy {
    let implies = if does_imply { r#"implies = ["memory:read"]"# } else { "" };
    Policy::from_toml(&format!(
        r#"
        bound_ms = {bound}
        grace_ms = {grace}
        [[scopes]]
        name = "memory:read"
        description = "{mark}"
        [[scopes]]
        name = "memory:write"
        strict = {strict}
        {implies}
        [[scopes]]
        name = "memory:admin"
        strict = true
        implies = ["memory:write"]
        [[plans]]
        name = "enterprise"
        [[plans]]
        name = "free"
        max_keys = 1
        "#
    ))
    .unwrap()
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap()
}
