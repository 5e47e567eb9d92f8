//! Promise 7: chains of keys that make, change, rotate and revoke each other at random never come to more
//! than their root was made with; and nothing is refused that is within a maker's rights.
//!
//! `LATCHKEY_CHAINS=10000 cargo test --test it chains` is the long form. A failure names its chain, and
//! `LATCHKEY_CHAIN=N` runs that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use latchkey::clock::Timestamp;
use latchkey::error::{Error, Reason};
use latchkey::key::{
    Actor, Expiry, KeyChange, KeyClass, KeyId, KeyRecord, KeyState, NewKey, parse_cidr,
};
use latchkey::policy::{Policy, ScopeDefinition, own_scopes};
use latchkey::store::{Command, Done};
use latchkey::token::Environment;

use self::oracle::{Oracle, is_within_root, wished};
use super::support::{
    NOW, Shared, at, by_id, create_account, create_command, disable, done, found, id, mutation,
    new_key, revoke_created, rotate_command, scopes, seeded, update_command,
};

mod oracle;

const CHAINS: u64 = 400;
const STEPS: RangeInclusive<u64> = 10..=30;
const STEP: Duration = Duration::from_secs(1);

/// What keys may hold, pattern and name, known to both policies or to the later one.
const NAMES: [&str; 14] = [
    "memory:read",
    "memory:write",
    "memory:admin",
    "memory:*",
    "docs:read",
    "docs:all",
    "docs:*",
    "docs:deep:*",
    "docs:deep:one",
    "latchkey:keys.read",
    "latchkey:keys.write",
    "latchkey:admin",
    "latchkey:*",
    "vault:*",
];
const NETWORKS: [&str; 11] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/9",
    "10.128.0.0/9",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "192.0.2.0/24",
    "::/0",
    "2001:db8::/32",
    "2001:db8::/33",
    "2001:db8:8000::/33",
];

pub(crate) async fn no_chain_of_keys_exceeds_its_root(store: Shared) {
    seeded(&store).await;
    let mut told = BTreeMap::new();
    let mut now = NOW;
    for number in chosen() {
        let mut chain = Chain::begin(&store, number, now).await;
        chain.run(&mut told).await;
        now = chain.now.after(STEP);
    }
    // The oracle proves little if it always says the same.
    let seen = |what: &str| told.get(what).copied().unwrap_or_default();
    let enough =
        ["done", "GRANT_EXCEEDED", "INVALID_CREDENTIAL", "PERMISSION_DENIED", "KEY_ROTATED"];
    let is_short = chosen().count() < 400;
    assert!(is_short || enough.iter().all(|what| seen(what) > 30), "{told:?}");
    #[expect(clippy::print_stdout, reason = "the figures of the long form")]
    let () = println!("{told:?}");
}

#[expect(clippy::disallowed_methods, reason = "how far a test goes is for whoever runs it to say")]
fn chosen() -> RangeInclusive<u64> {
    let read = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match (read("LATCHKEY_CHAIN"), read("LATCHKEY_CHAINS")) {
        (Some(one), _) => one..=one,
        (None, chains) => 1..=chains.unwrap_or(CHAINS),
    }
}

/// A root, and the keys that came of it.
struct Chain<'a> {
    store: &'a Shared,
    number: u64,
    dice: Dice,
    now: Timestamp,
    /// The root as it was made.
    root: KeyRecord,
    keys: Vec<KeyRecord>,
    own_account: String,
    suspended: BTreeSet<String>,
    scopes: Vec<ScopeDefinition>,
    later_scopes: Vec<ScopeDefinition>,
}

impl<'a> Chain<'a> {
    async fn begin(store: &'a Shared, number: u64, now: Timestamp) -> Self {
        let own_account = format!("chain-{number}");
        done(store, at(now, create_account(&own_account, "enterprise"))).await;
        let first = policy(false);
        apply(store, now, &first).await;
        let mut dice = Dice(number);
        let home = if dice.one_in(4) { "latchkey" } else { own_account.as_str() };
        let mut new = wish(&mut dice, home, now);
        new.scopes.extend(scopes(&["latchkey:keys.write"]));
        for list in [&mut new.scopes, &mut new.grantable_scopes] {
            list.retain(|scope| scope.as_str() != "vault:*");
        }
        if new.expiry == Expiry::At(NOW) {
            new.expiry = Expiry::Never;
        }
        if !dice.one_in(4) {
            new.grantable_scopes.extend(scopes(&["latchkey:keys.write", "memory:*"]));
        }
        let mutation = at(now, mutation(create_command(new)));
        let root = done(store, mutation).await.keys.remove(0);
        Self {
            store,
            number,
            dice,
            now,
            keys: vec![root.clone()],
            root,
            own_account,
            suspended: BTreeSet::new(),
            scopes: definitions(&first),
            later_scopes: definitions(&policy(true)),
        }
    }

    async fn run(&mut self, told: &mut BTreeMap<&'static str, u64>) {
        for _ in 0..self.dice.within(STEPS) {
            self.now = self.now.after(STEP);
            if self.keys.iter().all(|key| key.state(self.now) != KeyState::Active) {
                return;
            }
            let word = match self.dice.below(12) {
                0 => self.change_ground().await,
                1..=4 => self.create().await,
                5..=8 => self.update().await,
                9 | 10 => self.rotate().await,
                _ => self.revoke().await,
            };
            *told.entry(word).or_default() += 1;
        }
    }

    /// The policy grows, or the account is suspended or not any more.
    async fn change_ground(&mut self) -> &'static str {
        if self.suspended.is_empty() && !self.dice.one_in(4) {
            apply(self.store, self.now, &policy(true)).await;
            self.scopes.clone_from(&self.later_scopes);
            return "policy";
        }
        let is_suspended = self.suspended.remove(&self.own_account);
        if !is_suspended {
            self.suspended.insert(self.own_account.clone());
        }
        let change = latchkey::account::AccountChange {
            suspended: Some(!is_suspended),
            ..Default::default()
        };
        let command = Command::UpdateAccount { id: id(&self.own_account), change, expected: None };
        done(self.store, at(self.now, mutation(command))).await;
        "suspension"
    }

    async fn create(&mut self) -> &'static str {
        let maker = self.any_maker();
        let account = match self.dice.below(8) {
            0 => "latchkey".to_owned(),
            1..=3 => self.own_account.clone(),
            _ => maker.account.to_string(),
        };
        let mut new = wish(&mut self.dice, &account, self.now);
        if !self.dice.one_in(3) {
            new = modest(&mut self.dice, new, &maker);
        }
        let end = match new.expiry {
            Expiry::Never => None,
            Expiry::At(end) => Some(end),
            Expiry::In(span) => Some(self.now.after(span)),
        };
        let reasons = self.oracle(&maker).create(&wished(&new, end, &maker));
        let answer = self.send(&maker, create_command(new)).await;
        self.judge(answer, &reasons, "create").await
    }

    async fn update(&mut self) -> &'static str {
        let (maker, key) = (self.any_maker(), self.any_key());
        let account = key.account.to_string();
        let mut new = wish(&mut self.dice, &account, self.now);
        if !self.dice.one_in(3) {
            new = modest(&mut self.dice, new, &maker);
        }
        let NewKey { display_name, scopes, grantable_scopes, expiry, allowed_cidrs, .. } = new;
        let expire_time = match expiry {
            Expiry::Never => None,
            Expiry::At(end) => Some(end),
            Expiry::In(span) => Some(self.now.after(span)),
        };
        let dice = &mut self.dice;
        let change = if dice.one_in(16) {
            disable()
        } else {
            KeyChange {
                display_name: dice.one_in(2).then_some(display_name),
                scopes: dice.one_in(3).then_some(scopes),
                grantable_scopes: dice.one_in(3).then_some(grantable_scopes),
                expire_time: dice.one_in(3).then_some(expire_time),
                allowed_cidrs: dice.one_in(3).then_some(allowed_cidrs),
                labels: None,
                disabled: dice.one_in(6).then(|| dice.one_in(4)),
            }
        };
        let reasons = self.oracle(&maker).update(&key, &change);
        let answer = self.send(&maker, update_command(key.id, change)).await;
        self.judge(answer, &reasons, "update").await
    }

    async fn rotate(&mut self) -> &'static str {
        let (maker, key) = (self.any_maker(), self.any_key());
        let overlap = if self.dice.one_in(2) { Duration::ZERO } else { self.dice.span() };
        let reasons = self.oracle(&maker).rotate(&key);
        let answer = self.send(&maker, rotate_command(key.id, overlap)).await;
        if let Ok(done) = &answer {
            let new = &done.keys[0];
            let is_copy = KeyRecord { scopes: key.scopes.clone(), ..new.clone() } == *new
                && (&new.grantable_scopes, &new.allowed_cidrs, new.expire_time, &new.account)
                    == (&key.grantable_scopes, &key.allowed_cidrs, key.expire_time, &key.account)
                && (new.environment, new.disabled) == (key.environment, key.disabled);
            assert!(is_copy, "chain {}: {key:#?} {new:#?}", self.number);
        }
        self.judge(answer, &reasons, "rotate").await
    }

    async fn revoke(&mut self) -> &'static str {
        let (maker, key) = (self.any_maker(), self.any_key());
        let with_created = self.dice.one_in(4);
        let mut command = revoke_created(key.id);
        if !with_created {
            command = super::support::revoke_command(key.id);
        }
        let reasons = self.oracle(&maker).revoke(&key);
        let answer = self.send(&maker, command).await;
        if let Ok(done) = &answer {
            let lineage = if with_created { self.keys.len() } else { 0 };
            let mut expected: BTreeSet<_> = BTreeSet::from([key.id]);
            for _ in 0..lineage {
                expected.extend(self.made_by(&expected, &maker));
            }
            let is_live =
                |id: &KeyId| self.keys.iter().any(|key| key.id == *id && key.revocation.is_none());
            expected.retain(is_live);
            let ended = done.ended.iter().map(|key| key.id);
            assert_eq!(ended.collect::<BTreeSet<_>>(), expected, "{}", self.number);
        }
        self.judge(answer, &reasons, "revoke").await
    }

    /// What these keys made, as far as `by` reaches.
    fn made_by(&self, makers: &BTreeSet<KeyId>, by: &KeyRecord) -> Vec<KeyId> {
        let is_one = |key: &&KeyRecord| {
            let is_reached = by.account.as_str() == "latchkey" || by.account == key.account;
            is_reached && makers.iter().any(|maker| key.created_by == Actor::Key(*maker))
        };
        self.keys.iter().filter(is_one).map(|key| key.id).collect()
    }

    /// Compares what came of a command with what the oracle says, and looks at every key of the chain.
    async fn judge(
        &mut self,
        answer: Result<Done, Error>,
        reasons: &BTreeSet<&'static str>,
        what: &str,
    ) -> &'static str {
        let number = self.number;
        let word = match &answer {
            Ok(done) => {
                assert!(reasons.is_empty(), "chain {number}: {what} was done, though {reasons:?}");
                if let Some(new) = done.keys.first().filter(|new| !self.has(new.id)) {
                    self.keys.push(new.clone());
                }
                "done"
            }
            Err(refused) if refused.reason == Reason::PlanLimitReached => {
                let is_one = |key: &&KeyRecord| {
                    key.account.as_str() == self.own_account && key.class() == KeyClass::Operator
                };
                let operators = self.keys.iter().filter(is_one).count();
                assert!(operators >= 5, "chain {number}: {operators} operators are no reason");
                "PLAN_LIMIT_REACHED"
            }
            Err(refused) => {
                let reason = refused.reason.as_str();
                let text = &refused.message;
                assert!(
                    reasons.contains(reason),
                    "chain {number}: {what}: {text}, and {reasons:?}"
                );
                reason
            }
        };
        self.look_at_all(answer.is_ok(), what).await;
        word
    }

    async fn look_at_all(&mut self, may_have_changed: bool, what: &str) {
        for index in 0..self.keys.len() {
            let key = found(self.store, self.keys[index].id).await;
            let number = self.number;
            assert!(
                may_have_changed || key == self.keys[index],
                "chain {number}: {what}: {key:#?}"
            );
            for scopes in [&self.scopes, &self.later_scopes] {
                let is_within = is_within_root(&key, &self.root, scopes);
                assert!(is_within, "chain {number}: {what}: {key:#?} exceeds {:#?}", self.root);
            }
            self.keys[index] = key;
        }
    }

    async fn send(&self, maker: &KeyRecord, command: Command) -> Result<Done, Error> {
        self.store.mutate(at(self.now, by_id(maker.id, command))).await.unwrap()
    }

    fn oracle<'b>(&'b self, maker: &'b KeyRecord) -> Oracle<'b> {
        let Self { scopes, now, suspended, .. } = self;
        Oracle { scopes, now: *now, suspended, maker }
    }

    /// Any key; mostly one that works, or little would be done.
    fn any_maker(&mut self) -> KeyRecord {
        let tried: Vec<_> = (0..4).map(|_| self.any_key()).collect();
        let working = tried.iter().find(|key| key.state(self.now) == KeyState::Active);
        working.unwrap_or(&tried[0]).clone()
    }

    /// Any key: that it is over, revoked or foreign is often the point.
    fn any_key(&mut self) -> KeyRecord {
        let index = self.dice.below(self.keys.len() as u64);
        self.keys[usize::try_from(index).unwrap()].clone()
    }

    fn has(&self, id: KeyId) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }
}

/// A catalogue; the later one has grown below patterns and by implications.
fn policy(is_later: bool) -> Policy {
    let scope = |name: &str, implies: &[&str]| ScopeDefinition {
        name: name.into(),
        description: String::new(),
        implies: implies.iter().map(|name| (*name).to_owned()).collect(),
        strict: false,
        cost: 1,
    };
    let mut policy = Policy::default();
    policy.scopes.push(scope("docs:read", &[]));
    policy.scopes.push(scope("docs:deep:one", &[]));
    if is_later {
        policy.scopes.push(scope("docs:all", &["docs:read", "memory:write", "vault:open"]));
        policy.scopes.push(scope("docs:deep:two", &["vault:open"]));
        policy.scopes.push(scope("memory:more", &["docs:deep:two"]));
        policy.scopes.push(scope("vault:open", &[]));
    } else {
        policy.scopes.push(scope("docs:all", &["docs:read", "memory:write"]));
    }
    policy
}

fn definitions(policy: &Policy) -> Vec<ScopeDefinition> {
    own_scopes().into_iter().chain(policy.scopes.clone()).collect()
}

async fn apply(store: &Shared, now: Timestamp, policy: &Policy) {
    let policy = policy.clone();
    let command =
        Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: true };
    done(store, at(now, mutation(command))).await;
}

/// A key as anybody might wish it.
fn wish(dice: &mut Dice, account: &str, now: Timestamp) -> NewKey {
    NewKey {
        display_name: format!("key {}", dice.below(4)),
        environment: if dice.one_in(4) { Environment::Test } else { Environment::Live },
        scopes: scopes(&dice.some_of(&NAMES)),
        grantable_scopes: scopes(&dice.some_of(&NAMES)),
        expiry: match dice.below(6) {
            0 => Expiry::In(dice.span()),
            1 => Expiry::At(now.after(dice.span())),
            2 if dice.one_in(8) => Expiry::At(NOW),
            _ => Expiry::Never,
        },
        allowed_cidrs: match dice.below(3) {
            0 => dice.some_of(&NETWORKS).into_iter().map(|net| parse_cidr(net).unwrap()).collect(),
            _ => Vec::new(),
        },
        ..new_key(account, &[])
    }
}

/// A wish that has a chance: much of it as the maker has it.
fn modest(dice: &mut Dice, mut new: NewKey, maker: &KeyRecord) -> NewKey {
    let kept = |dice: &mut Dice| {
        let kept = maker.grantable_scopes.iter().filter(|_| !dice.one_in(4));
        kept.cloned().collect::<Vec<_>>()
    };
    (new.scopes, new.grantable_scopes) = (kept(dice), kept(dice));
    new.environment = maker.environment;
    if !dice.one_in(6) {
        new.expiry = maker.expire_time.map_or(Expiry::Never, Expiry::At);
        new.allowed_cidrs.clone_from(&maker.allowed_cidrs);
    }
    new
}

/// Numbers that look like chance and come again for the same seed (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    /// So long that some keys are over before their chain is.
    fn span(&mut self) -> Duration {
        STEP * u32::try_from(self.within(5..=60)).unwrap()
    }

    fn some_of<'a>(&mut self, all: &[&'a str]) -> Vec<&'a str> {
        let chance = self.within(2..=6);
        all.iter().filter(|_| self.one_in(chance)).copied().collect()
    }
}
