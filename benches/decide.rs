//! What a decision costs in the process: parsing, hashing, deciding, the whole path on a hit with
//! few and many keys, and the memory that a key takes. `docs/benchmarks.md` has the figures.
//!
//! The cache is filled by the door that the reader uses. No store is behind it: on a hit none is asked.

use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use futures_util::FutureExt as _;
use latchkey::account::{Account, AccountId, Labels};
use latchkey::authorizer::{Authorizer, Credential, Question, Required};
use latchkey::cache::Cache;
use latchkey::clock::{Entropy, Timestamp};
use latchkey::decision::{Ask, Decision, Denial, Facts, Requirement, decide};
use latchkey::error::Error;
use latchkey::feed::{Boot, Feed};
use latchkey::filling::Filling;
use latchkey::key::{Actor, KeyId, KeyRecord};
use latchkey::lease::Lease;
use latchkey::machine;
use latchkey::policy::{Catalogue, Policy};
use latchkey::revision::Position;
use latchkey::scope::ScopePattern;
use latchkey::store::{
    AccountQuery, AuditPage, AuditQuery, Change, Done, KeyQuery, MacKey, MacKeys, Mutation,
    PageEnd, ReadAsk, ReadBatch, Store, StoreError,
};
use latchkey::token::{self, Digest, Environment, Prefix, Token};
use tokio::sync::watch;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
const PREFIX: &str = "hm";
const TOKEN_BYTES: usize = 44;
const KEYS_MANY: u64 = 1_000_000;
/// How many keys an account has.
const KEYS_PER_ACCOUNT: u64 = 4;
/// The lists of scopes that keys have: few, as in reality.
const SCOPES: [&[&str]; 4] = [
    &["memory:read"],
    &["memory:readonly"],
    &["memory:read", "memory:write"],
    &["memory:read", "memory:*"],
];
/// What all of them may do, and what only the last may.
const HELD_BY_ALL: &str = "memory:read";
const HELD_BY_FEW: &str = "memory:admin";

fn main() {
    // First, while nothing else was allocated and let go of.
    let many = measure_memory();

    let mut criterion = Criterion::default().configure_from_args();
    bench_parts(&mut criterion);
    let mut group = criterion.benchmark_group("hit");
    bench_hits(&mut group, &filled(1), 1);
    bench_hits(&mut group, &filled(10_000), 10_000);
    bench_hits(&mut group, &many, KEYS_MANY);
    group.finish();
    bench_answers(&mut criterion, &many);
    criterion.final_summary();
}

// === Memory ===

/// Fills a cache with many keys and prints by how much the resident memory of this process rose.
fn measure_memory() -> Authorizer {
    let before = resident_bytes();
    let authorizer = filled(KEYS_MANY);
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let each = after.saturating_sub(before) / KEYS_MANY;
        print(&format!("memory: {each} bytes per key held, of {KEYS_MANY} keys (resident)"));
    }
    authorizer
}

/// What of the process is in memory; `None` where the kernel does not tell.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1_024)
}

fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output takes a line");
}

// === The parts ===

fn bench_parts(criterion: &mut Criterion) {
    let token = token(1);
    let token: &[u8] = token.expose().as_bytes();
    criterion.bench_function("token/parse", |bencher| {
        bencher.iter(|| token::parse(black_box(token)).is_ok());
    });
    criterion
        .bench_function("token/digest", |bencher| bencher.iter(|| Digest::of(black_box(token))));

    let catalogue =
        Catalogue::compile(Policy::default(), PREFIX).expect("the default policy is right");
    let held = catalogue.held(&patterns(SCOPES[2]));
    let facts = Facts {
        revoked: false,
        disabled: false,
        expire_time: Some(Timestamp::MAX),
        suspended: false,
        allowed_cidrs: &[],
        environment: Environment::Live,
        held: &held,
    };
    for (name, scope, expected) in [
        ("decide/allowed", HELD_BY_ALL, Ok(())),
        ("decide/denied", HELD_BY_FEW, Err(Denial::InsufficientScope)),
    ] {
        let expression = catalogue.expression(scope).expect("the policy has the scope");
        let requirement = Requirement::Scope(&expression);
        let ask = Ask { requirement, client_address: None, environment: None };
        assert_eq!(decide(&facts, &ask, NOW), expected);
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| decide(black_box(&facts), black_box(&ask), black_box(NOW)));
        });
    }
}

// === The whole path ===

/// Decisions on all keys in turn, in an order that has nothing to do with where they lie in memory.
/// The tokens themselves are read in order, as they come fresh from the network in a server.
fn bench_hits(group: &mut BenchmarkGroup<'_, WallTime>, authorizer: &Authorizer, keys: u64) {
    let tokens: Vec<[u8; TOKEN_BYTES]> =
        (0..keys).map(|turn| text(scattered(turn, keys))).collect();
    let mut turns = tokens.iter().cycle();
    group.bench_function(format!("{keys} keys"), |bencher| {
        bencher.iter(|| {
            let token = turns.next().expect("there is a key");
            let denial = authorize(authorizer, token, HELD_BY_ALL).denial;
            assert!(denial.is_none());
        });
    });
}

/// What the answers cost beside each other.
fn bench_answers(criterion: &mut Criterion, authorizer: &Authorizer) {
    let mut group = criterion.benchmark_group("answer");
    let malformed = *b"hm_live_abc123xyz456def789ghi012jkl345mno678";
    for (name, token, scope, denial) in [
        ("allowed", text(0), HELD_BY_ALL, None),
        ("denied", text(0), HELD_BY_FEW, Some(Denial::InsufficientScope)),
        ("unknown", text(KEYS_MANY), HELD_BY_ALL, Some(Denial::UnknownKey)),
        ("malformed", malformed, HELD_BY_ALL, Some(Denial::MalformedCredential)),
    ] {
        assert_eq!(authorize(authorizer, &token, scope).denial, denial, "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| authorize(authorizer, black_box(&token), black_box(scope)).denial);
        });
    }
    group.finish();
}

fn authorize(authorizer: &Authorizer, token: &[u8], scope: &str) -> Decision {
    let question = Question {
        credential: Credential::from_token(token),
        required: Required::Scope(scope),
        client_address: None,
        environment: None,
        cost: None,
        min_revision: None,
    };
    let answered: Option<Result<Decision, Error>> = authorizer.authorize(&question).now_or_never();
    answered.expect("nothing is waited for on a hit").expect("it can be decided")
}

/// The numbers below `keys`, each once, far from each other; `keys` may be any power of ten.
fn scattered(turn: u64, keys: u64) -> u64 {
    turn * 654_188_429 % keys
}

// === Keys ===

/// An authorizer that knows keys 0 to `keys`.
fn filled(keys: u64) -> Authorizer {
    let cache = Arc::new(Cache::new(usize::try_from(keys).unwrap_or(usize::MAX)));
    let mut next = 0;
    while !cache.is_complete() {
        let ask = cache.begin_read(Vec::new(), 0);
        let page = ask.page.expect("the cache loads until it is complete");
        let end = keys.min(next + u64::try_from(page.keys_max).unwrap_or(u64::MAX));
        let page = page_of(next, end, end == keys);
        cache.apply(page, &[], Some(Lease::Held)).expect("the page is in order");
        next = end;
    }
    let clock = machine::clock(machine::wall_clock(), Timestamp::EPOCH);
    let boot = Boot { id: 1, machine: String::new(), started: Timestamp::EPOCH };
    let (store, known) = (Arc::new(NoStore), Arc::clone(&cache));
    let feed = Feed::new(store, known, Arc::clone(&clock), boot, Duration::from_millis(250));
    let prefix = Prefix::parse(PREFIX).expect("the prefix is right");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    let (known, of) = (Arc::clone(&cache), feed.clone());
    let filling = Filling::new(known, of, None, Arc::clone(&clock), runtime.handle().clone());
    Authorizer::new(cache, feed, filling, clock, prefix)
}

fn page_of(start: u64, end: u64, is_last: bool) -> ReadBatch {
    let position = Position { epoch: 1, n: 1, tag: 1 };
    let accounts = start / KEYS_PER_ACCOUNT..=(end - 1) / KEYS_PER_ACCOUNT;
    ReadBatch {
        is_renewed: false,
        position,
        is_behind: false,
        found: Some(position),
        changes: Vec::new(),
        keys: (start..end).map(|number| record(number, position)).collect(),
        accounts: accounts.map(|number| account(number, position)).collect(),
        policy: (start == 0).then(Policy::default),
        absent: Vec::new(),
        listed: Vec::new(),
        unreadable: Vec::new(),
        page: Some(if is_last { PageEnd::Last } else { PageEnd::At(key_id(end - 1)) }),
        mac_keys: MacKeys { current: MacKey::new([0; 32].into()), previous: None },
    }
}

fn record(number: u64, position: Position) -> KeyRecord {
    let token = token(number);
    let list = usize::try_from(number).unwrap_or(0) % SCOPES.len();
    KeyRecord {
        id: key_id(number),
        account: account_id(number / KEYS_PER_ACCOUNT),
        display_name: String::new(),
        environment: Environment::Live,
        scopes: patterns(SCOPES[list]),
        grantable_scopes: Vec::new(),
        digest: token.digest(),
        hint: token.hint(),
        create_time: NOW,
        update_time: NOW,
        expire_time: Some(Timestamp::MAX),
        revocation: None,
        disabled: false,
        allowed_cidrs: Vec::new(),
        labels: Labels::new(),
        rotated_from: None,
        rotated_to: None,
        created_by: Actor::System("bench".to_owned()),
        revision: position,
        version: 1,
    }
}

fn account(number: u64, position: Position) -> Account {
    Account {
        id: account_id(number),
        display_name: String::new(),
        plan: "developer".to_owned(),
        suspended: false,
        suspend_reason: String::new(),
        labels: Labels::new(),
        create_time: NOW,
        update_time: NOW,
        revision: position,
        version: 1,
    }
}

fn key_id(number: u64) -> KeyId {
    KeyId::new(NOW, number, number)
}

fn account_id(number: u64) -> AccountId {
    AccountId::parse(&format!("acct_{number:08}")).expect("the id is well formed")
}

fn patterns(names: &[&str]) -> Vec<ScopePattern> {
    names.iter().map(|name| ScopePattern::parse(name).expect("the scope is well formed")).collect()
}

fn text(number: u64) -> [u8; TOKEN_BYTES] {
    token(number).expose().as_bytes().try_into().expect("tokens of one prefix have one length")
}

/// The token of this number: the same in every run.
fn token(number: u64) -> Token {
    let prefix = Prefix::parse(PREFIX).expect("the prefix is right");
    Token::generate(&prefix, Environment::Live, &Numbered(AtomicU64::new(number << 8)))
}

/// Not random at all: `SplitMix64` from a number on.
struct Numbered(AtomicU64);

impl Entropy for Numbered {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let mut mixed =
                self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes()[..chunk.len()]);
        }
    }
}

// === No store ===

/// A store that cannot be reached.
struct NoStore;

fn unreachable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("there is no store in a benchmark".into()))
}

#[async_trait]
impl Store for NoStore {
    async fn read(&self, _: &ReadAsk) -> Result<ReadBatch, StoreError> {
        unreachable()
    }

    async fn mutate(&self, _: Mutation) -> Result<Result<Done, Error>, StoreError> {
        unreachable()
    }

    async fn changed(&self, _: u64, _: u32) -> Result<Vec<Change>, StoreError> {
        unreachable()
    }

    async fn key(&self, _: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        unreachable()
    }

    async fn key_by_digest(&self, _: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        unreachable()
    }

    async fn list_keys(&self, _: &KeyQuery) -> Result<Vec<KeyRecord>, StoreError> {
        unreachable()
    }

    async fn account(
        &self,
        _: &AccountId,
        _: Timestamp,
    ) -> Result<Option<(Account, u32)>, StoreError> {
        unreachable()
    }

    async fn list_accounts(&self, _: &AccountQuery) -> Result<Vec<(Account, u32)>, StoreError> {
        unreachable()
    }

    async fn audit(&self, _: &AuditQuery) -> Result<AuditPage, StoreError> {
        unreachable()
    }

    async fn policy(&self) -> Result<(Policy, Position), StoreError> {
        unreachable()
    }

    async fn keep_time(&self, _: Timestamp) -> Result<(), StoreError> {
        unreachable()
    }

    async fn kept_time(&self) -> Result<Timestamp, StoreError> {
        unreachable()
    }

    fn commits(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    async fn close(&self) {}
}
