//! More keys in the store than a node has room for: how many are at hand, how long the others take, what a flood of tokens
//! that nobody has costs the store and those who have keys, and whether anything of a token gets into Redis.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use latchkey::token::stands_in;
use tonic::Code;
use tonic::transport::Channel;

use super::asked;
use super::counts::Counts;
use super::flood::{Answer, Cold, Flood, ask_cold, demand_refused};
use super::log::{Check, Client, Load, Question, Said, now};
use super::many_keys::ManyKeys;
use super::verdict::quantile;
use crate::leaks::canary::Canaries;
use crate::redis::uses_redis;
use crate::support::cluster::Cluster;
use crate::support::postgres::Postgres;
use crate::support::redis::{Redis, command_of};
use crate::support::{Dice, Server, eventually, say};
use crate::telemetry::{IN_TIME, metric};

/// How many are asked for at once where the pace is that of the answers.
const AT_ONCE: usize = 64;
/// Of so many keys that there is room for, one is asked for all the time.
const ROOM_PER_WARM: usize = 5;
/// What a node looks for of keys that nobody has: at once, and each second from then on (`docs/limits.md`).
const UNKNOWN_AT_ONCE: f64 = 4_096.0;
const UNKNOWN_PER_SECOND: f64 = 200.0;
/// Most cold keys are found within so many tries: more, and the flood is in their way.
const FEW_TRIES: usize = 3;
/// PostgreSQL tells what it counted about a second later.
const TOLD_AFTER: Duration = Duration::from_secs(2);
/// How many tokens are looked for in what Redis holds, piece by piece.
const WATCHED: usize = 2_000;
/// What comes next to each other in popularity does not in the order of ids.
const STRIDE: usize = 7_919;

/// A node with more keys than room, another one beside it, and the keys.
struct Stage {
    cluster: Cluster,
    keys: ManyKeys,
    room: usize,
    channels: Vec<Channel>,
    dice: Dice,
}

/// What was answered during a flood, and to those who have keys before it, too.
struct Flooded {
    answers: Vec<Answer>,
    before: Vec<Check>,
    during: Vec<Check>,
    cold: Vec<Cold>,
    seconds: f64,
}

/// Keys that nobody asks for before it is their turn, by their numbers from the highest down.
struct Untouched {
    next: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_more_keys_than_room_all_are_found_and_tokens_of_nobody_cost_little() {
    let mut stage = Stage::set().await;
    let mut untouched = Untouched { next: stage.keys.len() };
    stage.compare_ways(&mut untouched).await;
    let flood_millis = asked("FLOOD_MS", 4_000);
    let cold = usize::try_from(flood_millis * asked("COLD", 5) / 2_000).unwrap();
    let drawn_of = untouched.next - 2 * cold;
    stage.show_hit_ratios(drawn_of).await;
    let warm = stage.warm_up(drawn_of).await;
    let poured = stage.flood("with Redis", &warm, untouched.take(cold), flood_millis).await;
    stage.demand_no_token_in_redis(&warm, &poured);
    drop(poured);
    stage.cluster.redis.as_mut().unwrap().kill();
    stage.flood("with Redis killed", &warm, untouched.take(cold), flood_millis).await;
    stage.flood_one_that_holds_all(flood_millis / 4).await;
}

impl Untouched {
    fn take(&mut self, count: usize) -> std::ops::Range<usize> {
        self.next -= count;
        self.next..self.next + count
    }
}

impl Stage {
    async fn set() -> Self {
        let redis = Redis::start_with(&["--port", "0", "--rdbcompression", "no"]).await;
        let settings = ["shared_buffers=256MB", "max_wal_size=4GB"];
        let postgres = Postgres::start(&settings).await;
        let mut cluster = Cluster::start_on(0, postgres, Some(redis)).await;
        let keys = ManyKeys::write(&cluster, asked("KEYS", 5_000).try_into().unwrap()).await;
        let room = asked("ROOM", 500);
        for _ in 0..2 {
            let node = Server::build().environment("LATCHKEY__CACHE__KEYS_MAX", &room.to_string());
            cluster.nodes.push(cluster.node(node).start().await);
        }
        for node in &cluster.nodes {
            uses_redis(node).await;
        }
        let channels = cluster.channels().await;
        let room = room.try_into().unwrap();
        Self { cluster, keys, room, channels, dice: Dice::new(asked("SEED", 1)) }
    }

    fn node(&self) -> &Server {
        &self.cluster.nodes[0]
    }

    /// A key of which this node knows nothing is read of the store, then it is at hand, and the other node has it of
    /// Redis.
    async fn compare_ways(&self, untouched: &mut Untouched) {
        let count = (self.room / 5).min(2_000);
        let numbers = untouched.take(count);
        let redis = self.cluster.redis.as_ref().unwrap();
        let (of_store, counted) = self.time(0, numbers.clone()).await;
        assert!(counted.fills * 2.0 > count_of(count), "hardly any was read: {counted:?}");
        say_spread("read of the store", &of_store, counted.fills);
        let (of_memory, counted) = self.time(0, numbers.clone()).await;
        assert!(counted.hits * 2.0 > count_of(count), "hardly any was at hand: {counted:?}");
        say_spread("at hand", &of_memory, counted.hits);
        let most_are_kept = || (redis.records().len() * 10 > count * 9).then_some(());
        eventually(IN_TIME, "what was read is kept in Redis", most_are_kept).await;
        let (of_redis, counted) = self.time(1, numbers).await;
        assert!(counted.redis_hits * 2.0 > count_of(count), "hardly any: {counted:?}");
        say_spread("found in Redis", &of_redis, counted.redis_hits);
    }

    /// Asks one node for one key after the other; how long those took that were answered at once, in order.
    async fn time(&self, node: usize, numbers: std::ops::Range<usize>) -> (Vec<Duration>, Counts) {
        let before = Counts::of(&self.cluster.nodes[node]);
        let mut client = Client::of(node, &self.channels[node]);
        let mut took = Vec::new();
        for number in numbers {
            let check = until_allowed(&mut client, number, &self.keys.question(number)).await;
            took.extend(check);
        }
        took.sort_unstable();
        (took, Counts::of(&self.cluster.nodes[node]).since(&before))
    }

    /// What is at hand of keys that are drawn as people use them, and of keys that are drawn without a difference.
    async fn show_hit_ratios(&mut self, of: usize) {
        let times = usize::try_from(asked("DRAWS", 500)).unwrap();
        assert_ne!(of % STRIDE, 0, "another number of keys, please");
        let sums = harmonic_sums(of);
        let skewed = |dice: &mut Dice| {
            let below = sums[of - 1] * share(dice);
            sums.partition_point(|sum| *sum < below).min(of - 1) * STRIDE % of
        };
        let evenly = |dice: &mut Dice| usize::try_from(dice.below(of as u64)).unwrap();
        let mut dice = self.dice.apart(1);
        // Until what is at hand is what was asked for lately.
        let warming: Vec<_> = (0..times * 4).map(|_| skewed(&mut dice)).collect();
        self.ask_all("skewed, the first", warming).await;
        let drawn: Vec<_> = (0..times).map(|_| skewed(&mut dice)).collect();
        self.ask_all("skewed", drawn).await;
        let drawn: Vec<_> = (0..times).map(|_| evenly(&mut dice)).collect();
        self.ask_all("evenly", drawn).await;
    }

    async fn ask_all(&self, what: &str, numbers: Vec<usize>) {
        let before = Counts::of(self.node());
        let checks: Vec<Check> = stream::iter(numbers)
            .map(|number| {
                let mut client = Client::of(0, &self.channels[0]);
                async move { client.ask(number, &self.keys.question(number)).await }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let counted = Counts::of(self.node()).since(&before);
        let wrong: Vec<_> =
            checks.iter().filter(|check| matches!(check.said, Said::Denied(_))).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        let looked = counted.hits + counted.misses;
        say(format_args!(
            "SUMMARY {what}: {:.1} % of {looked} were at hand, {:.1} % found in Redis, {:.1} % read; {}",
            percent(counted.hits, looked),
            percent(counted.redis_hits, looked),
            percent(counted.fills, looked),
            of_checks(&checks),
        ));
    }

    /// Keys that are asked for all the time from now on; each has been allowed once.
    async fn warm_up(&self, of: usize) -> Vec<Question> {
        let count = self.room / ROOM_PER_WARM;
        let questions: Vec<_> =
            (0..count).map(|rank| self.keys.question(rank * STRIDE % of)).collect();
        let mut client = Client::of(0, &self.channels[0]);
        for (number, question) in questions.iter().enumerate() {
            until_allowed(&mut client, number, question).await;
        }
        questions
    }

    /// The flood, beside what is asked for all the time, and keys that nobody has asked for. Demands that it costs the
    /// store little, and those who have keys nothing.
    async fn flood(
        &self,
        what: &str,
        warm: &[Question],
        cold: std::ops::Range<usize>,
        millis: u64,
    ) -> Vec<Answer> {
        let (counts, looked_up) = (Counts::of(self.node()), self.looked_up_by_store().await);
        let flooded = self.pour(warm, cold, Duration::from_millis(millis)).await;
        let counted = Counts::of(self.node()).since(&counts);
        tokio::time::sleep(TOLD_AFTER).await;
        let looked_up = self.looked_up_by_store().await - looked_up;
        let dropped = self.count_dropped(warm).await;
        let Flooded { answers, before, during, cold, seconds } = flooded;
        let (poured, cold_asked) = (count_of(answers.len()), count_of(cold.len()));
        say(format_args!(
            "SUMMARY a flood, {what}: {poured} tokens that nobody has, answered {:?}\n  \
             looked for in the store: {} by the node's count, {looked_up} by the store's, {cold_asked} of them cold keys; \
             {:.2} % of the flood; {} reads in all\n  \
             warm before: {}\n  warm during: {}\n  {dropped} of {} warm keys were dropped\n  {}\n  \
             {:.1} MiB more resident",
            demand_refused(&answers),
            counted.fills,
            percent(counted.fills - cold_asked, poured).max(0.0),
            counted.reads,
            of_checks(&before),
            of_checks(&during),
            warm.len(),
            of_cold(&cold),
            counted.memory / 1_048_576.0,
        ));
        let most = may_reach_store(poured, seconds);
        assert!(poured > 1.5 * most, "this is no flood: {poured}, and {most} may reach the store");
        // The store counts a little more for each read than the keys in it.
        for reached in [counted.fills, looked_up - counted.reads] {
            let most = most * 1.1 + cold_asked;
            assert!(reached <= most, "the flood reached the store: {reached}, not {most}");
        }
        assert!(dropped <= 0.0, "{dropped} of {} warm keys were dropped", warm.len());
        // How much slower they are is up to the machine, which the flood comes from as well.
        let allowed = during.iter().filter(|check| check.said.is_allow()).count();
        assert!(allowed * 2 > during.len(), "of the warm keys half were not allowed in time");
        let found = cold.iter().filter(|it| it.said.is_allow() && it.tries <= FEW_TRIES).count();
        assert!(found * 2 > cold.len(), "cold keys are not found: {}", of_cold(&cold));
        answers
    }

    /// A node that has room for all keys looks for none in the store.
    async fn flood_one_that_holds_all(&self, millis: u64) {
        let room = (self.keys.len() * 2).to_string();
        let node = Server::build().environment("LATCHKEY__CACHE__KEYS_MAX", &room);
        let node = self.cluster.node(node).start().await;
        let holds_all = || (metric(&node, "latchkey_cache_complete") > 0.0).then_some(());
        eventually(IN_TIME * 3, "it holds all keys", holds_all).await;
        let (counts, looked_up) = (Counts::of(&node), self.looked_up_by_store().await);
        let flood = Flood::begin(&node, asked("FLOOD", 2_500).try_into().unwrap()).await;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        let answers = flood.end().await;
        let counted = Counts::of(&node).since(&counts);
        tokio::time::sleep(TOLD_AFTER).await;
        let looked_up = self.looked_up_by_store().await - looked_up;
        let told = demand_refused(&answers);
        say(format_args!(
            "SUMMARY a flood, of a node that holds all keys: {} tokens that nobody has, answered {told:?}; looked for in \
             the store: {} by the node's count, {looked_up} by the store's",
            answers.len(),
            counted.fills,
        ));
        let unknown = answers.iter().filter(|it| matches!(it.said, Said::Denied(_))).count();
        assert!(unknown > 100, "hardly any was answered: {told:?}");
        assert!(counted.fills + looked_up <= 0.0, "{counted:?}, {looked_up} by the store's count");
    }

    async fn pour(
        &self,
        warm: &[Question],
        cold: std::ops::Range<usize>,
        span: Duration,
    ) -> Flooded {
        let checks_per_second = asked("CHECKS", 200).try_into().unwrap();
        let questions = Arc::new(RwLock::new(warm.to_vec()));
        let load = || Load::begin(&self.channels[..1], &questions, checks_per_second);
        let quiet = load();
        tokio::time::sleep(span / 4).await;
        let before = demand_right(quiet.end().await);
        let cold: Vec<_> = cold.map(|number| self.keys.question(number)).collect();
        let (began, load) = (now(), load());
        let flood = Flood::begin(self.node(), asked("FLOOD", 2_500).try_into().unwrap()).await;
        // By then nobody looks for any token any more.
        tokio::time::sleep(span / 2).await;
        let per_second = asked("COLD", 5).try_into().unwrap();
        let cold = ask_cold(&self.channels[0], cold, per_second).await;
        let is_flood = || {
            let poured = count_of(flood.answered());
            (poured > 1.6 * may_reach_store(poured, began.elapsed().as_secs_f64())).then_some(())
        };
        eventually(IN_TIME * 3, "this is a flood", is_flood).await;
        let (answers, during) = (flood.end().await, demand_right(load.end().await));
        Flooded { answers, before, during, cold, seconds: (now() - began).as_secs_f64() }
    }

    /// How many keys the store has looked up by their digests, by what it counts itself.
    async fn looked_up_by_store(&self) -> f64 {
        let mut store = self.cluster.connect().await;
        let count: i64 = sqlx::query_scalar(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'keys_by_digest'",
        )
        .fetch_one(&mut store)
        .await
        .unwrap();
        count_of(usize::try_from(count).unwrap())
    }

    /// How many of these are not at hand any more.
    async fn count_dropped(&self, warm: &[Question]) -> f64 {
        let before = Counts::of(self.node());
        let mut client = Client::of(0, &self.channels[0]);
        for (number, question) in warm.iter().enumerate() {
            client.ask(number, question).await;
        }
        Counts::of(self.node()).since(&before).misses
    }

    /// Nor a piece of one that is longer than people are shown.
    fn demand_no_token_in_redis(&self, warm: &[Question], answers: &[Answer]) {
        let redis = self.cluster.redis.as_ref().unwrap();
        let mut canaries = Canaries::default();
        let all = (0..self.keys.len()).map(|number| self.keys.token(number));
        let warm = warm.iter().map(|question| &*question.token);
        let poured = answers.iter().map(|answer| &*answer.token);
        for token in some(all).into_iter().chain(some(warm)).chain(some(poured)) {
            canaries.watch(token);
        }
        assert_eq!(find_token(redis, &canaries), None);
        say(format_args!(
            "SUMMARY Redis holds {} records and no token",
            redis.ask::<u64>(&["DBSIZE"])
        ));
        // The same search finds one, whole, or a piece of it, in a name or in a value.
        let token = self.keys.token(0);
        for (name, value) in [("planted", token), ("planted", &token[20..32]), (&token[9..21], "")]
        {
            redis.ask::<()>(&["SET", name, value]);
            assert!(find_token(redis, &canaries).is_some(), "the search finds nothing");
            redis.ask::<()>(&["DEL", name]);
        }
    }
}

/// Asks until it is allowed; how long the first question took if that was.
async fn until_allowed(
    client: &mut Client,
    number: usize,
    question: &Question,
) -> Option<Duration> {
    let first = client.ask(number, question).await;
    let mut last = first;
    let allowed = async {
        while !last.said.is_allow() {
            assert!(!matches!(last.said, Said::Denied(_)), "{last:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = client.ask(number, question).await;
        }
    };
    tokio::time::timeout(IN_TIME, allowed).await.expect("a key is allowed");
    first.said.is_allow().then(|| first.answered - first.sent)
}

/// Nothing but that they are allowed. What took too long may be the machine's fault; a client that often gives up is cut
/// off, and what it waited for then is not known.
fn demand_right(checks: Vec<Check>) -> Vec<Check> {
    let is_late = |said| matches!(said, Said::Nothing | Said::Failed(Code::Unknown));
    let wrong: Vec<_> =
        checks.iter().filter(|it| !it.said.is_allow() && !is_late(it.said)).collect();
    assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), checks.len(), wrong[0]);
    let late = checks.iter().filter(|it| is_late(it.said)).count();
    assert!(late as u64 <= asked("LATE_MAX", u64::MAX), "{late} of {} not in time", checks.len());
    checks
}

/// Where a token stands in what Redis holds, or has written to its file.
fn find_token(redis: &Redis, canaries: &Canaries) -> Option<String> {
    redis.ask::<()>(&["SAVE"]);
    let dump = std::fs::read(redis.folder().join("dump.rdb")).unwrap();
    let mut connection = redis.connect();
    let names: Vec<String> = command_of(&["KEYS", "*"]).query(&mut connection).unwrap();
    let mut held = Vec::new();
    for names in names.chunks(1_000) {
        let values: Vec<Vec<u8>> = redis::cmd("MGET").arg(names).query(&mut connection).unwrap();
        for (name, value) in names.iter().zip(values) {
            held.extend_from_slice(name.as_bytes());
            held.push(b' ');
            held.extend(value);
            held.push(b'\n');
        }
    }
    [dump, held].iter().find_map(|text| {
        let whole = stands_in(&String::from_utf8_lossy(text));
        canaries.find(text).or_else(|| whole.then(|| "a whole token".to_owned()))
    })
}

/// A part of them, from everywhere.
fn some<'a>(tokens: impl ExactSizeIterator<Item = &'a str>) -> Vec<&'a str> {
    let every = tokens.len().div_ceil(WATCHED / 3).max(1);
    tokens.step_by(every).collect()
}

/// One, one and a half, one and a half and a third: what is drawn by it is used as keys are, most of them hardly ever.
fn harmonic_sums(of: usize) -> Vec<f64> {
    let terms = (1..=u32::try_from(of).unwrap()).map(|rank| 1.0 / f64::from(rank));
    terms
        .scan(0.0, |sum, term| {
            *sum += term;
            Some(*sum)
        })
        .collect()
}

/// From nothing to one.
fn share(dice: &mut Dice) -> f64 {
    f64::from(u32::try_from(dice.draw() >> 32).unwrap()) / f64::from(u32::MAX)
}

/// Of a flood of so many in so long.
fn may_reach_store(poured: f64, seconds: f64) -> f64 {
    (poured / 1_000.0).max(UNKNOWN_AT_ONCE + UNKNOWN_PER_SECOND * seconds)
}

fn count_of(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn percent(part: f64, of: f64) -> f64 {
    100.0 * part / of.max(1.0)
}

fn of_checks(checks: &[Check]) -> String {
    let allowed = checks.iter().filter(|check| check.said.is_allow());
    let mut took: Vec<_> = allowed.map(|check| check.answered - check.sent).collect();
    took.sort_unstable();
    let unanswered = checks.len() - took.len();
    format!("{} allowed, {}, {unanswered} not answered", took.len(), spread(&took))
}

fn of_cold(cold: &[Cold]) -> String {
    let at_once = cold.iter().filter(|it| it.tries == 1 && it.said.is_allow()).count();
    let allowed = cold.iter().filter(|it| it.said.is_allow());
    let mut took: Vec<_> = allowed.map(|it| it.took).collect();
    took.sort_unstable();
    let all = cold.len();
    format!(
        "cold: {at_once} of {all} allowed at once, {} within ten tries, {}",
        took.len(),
        spread(&took)
    )
}

fn say_spread(what: &str, took: &[Duration], counted: f64) {
    say(format_args!(
        "SUMMARY {what}: {} × {} ({counted} by the node's count)",
        took.len(),
        spread(took)
    ));
}

fn spread(sorted: &[Duration]) -> String {
    let of = |thousandths| quantile(sorted, thousandths).as_secs_f64() * 1e3;
    format!("p50 {:.3} ms, p99 {:.3} ms", of(500), of(990))
}
