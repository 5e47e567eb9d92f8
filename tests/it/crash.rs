//! Acknowledged means durable: what was answered is there after the process was killed, and after the
//! power was lost.
//!
//! Clients change keys at once and note every answer. The process ends at a random moment: amid changes,
//! while it starts, while it stops. Then the files are looked at as they lie there, then what the next
//! process says, and both are compared with what was noted. One store lives through all rounds.
//!
//! `tests/crash/run` does many rounds; what fails names its seed and its round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use latchkey::proto::v1::{
    AuthorizeRequest, CreateAccountRequest, GetAccountRequest, GetKeyRequest, GetPolicyRequest,
};
use rustix::process::Signal;
use tonic::Code;
use tonic_types::StatusExt as _;

use self::client::{Client, is_refusal};
use self::files::Files;
use self::ledger::{Key, Ledger, Operation};
use crate::support::{Dice, Disk, Folder, Server, Survivors, eventually, say};

mod calls;
pub(crate) mod client;
mod disk;
mod files;
pub(crate) mod ledger;

const CLIENTS: usize = 6;
/// Rounds of one run of the tests.
const ROUNDS: u64 = 8;
/// Keys that the plan of the shared account allows.
const SHARED_KEYS_MAX: u32 = 5;
/// Older keys of each client that are looked at in each round, beside those that were changed in it.
const SAMPLE: usize = 15;
/// A start takes about so long.
const START_MICROS: u64 = 250_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_the_process_was_killed() {
    Campaign::begin(Loss::OfProcess).await.run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_the_power_was_lost() {
    Campaign::begin(Loss::OfPower).await.run().await;
}

/// What is lost with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    OfProcess,
    /// And all that was not synced.
    OfPower,
}

/// How a round ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    WhileStarting { micros: u64 },
    AtWork { operations: u64 },
    WhileStopping { operations: u64, micros: u64 },
}

/// An operation without an answer, and what the files say of it.
#[derive(Debug, Clone)]
struct Unanswered {
    operation: Operation,
    /// The key that it made.
    made: Option<String>,
}

struct Campaign {
    loss: Loss,
    seed: u64,
    rounds: u64,
    dice: Dice,
    /// The last process; it has ended.
    server: Server,
    root: String,
    outside: Folder,
    ledgers: Vec<Ledger>,
    unanswered: Vec<Option<Unanswered>>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    amid_work: u64,
    starting: u64,
    stopping: u64,
    unknown_made: u64,
    unknown_not_made: u64,
    looked_at: u64,
}

impl Campaign {
    async fn begin(loss: Loss) -> Self {
        let (seed, rounds) =
            (asked("LATCHKEY_CRASH_SEED", 1), asked("LATCHKEY_CRASH_ROUNDS", ROUNDS));
        let mut server = Server::start().await;
        let root = server.root_token();
        let ledgers: Vec<_> = (0..CLIENTS).map(Ledger::new).collect();
        let own = ledgers.iter().map(|ledger| (ledger.account.as_str(), "enterprise"));
        for (account_id, plan) in own.chain([("shared", "developer")]) {
            let request = CreateAccountRequest {
                account_id: account_id.into(),
                plan: plan.into(),
                ..Default::default()
            };
            server.accounts(&root).await.create_account(request).await.unwrap();
        }
        server.stop().await;
        Self {
            loss,
            seed,
            rounds,
            dice: Dice::new(seed),
            server,
            root,
            outside: Folder::new(),
            unanswered: vec![None; ledgers.len()],
            ledgers,
            tally: Tally::default(),
        }
    }

    async fn run(mut self) {
        let (loss, seed) = (self.loss, self.seed);
        for round in 1..=self.rounds {
            say(format_args!("{loss:?}, seed {seed}, round {round}"));
            if let Err(fault) = self.round(round).await {
                panic!("{loss:?}, seed {seed}, round {round}: {fault}");
            }
        }
        // At last everything is looked at.
        let all = usize::MAX;
        self.server = self.server.again().start().await;
        if let Err(fault) = self.look_at_server(&mut Dice::new(0), all).await {
            panic!("{loss:?}, seed {seed}, after all rounds: {fault}");
        }
        let acknowledged: u64 = self.ledgers.iter().map(|ledger| ledger.acknowledged).sum();
        let keys: usize = self.ledgers.iter().map(|ledger| ledger.keys.len()).sum();
        say(format_args!(
            "SUMMARY {loss:?}: seed {seed}, {} rounds, {acknowledged} operations acknowledged on {keys} \
             keys, 0 missing; {:?}",
            self.rounds, self.tally
        ));
    }

    async fn round(&mut self, round: u64) -> Result<(), String> {
        let mut dice = self.dice.apart(round);
        let ending = Ending::of(round, &mut dice);
        let survivors = Survivors::of(round);
        say(format_args!("  {ending:?}, {survivors:?}"));
        let folder = self.server.folder().canonicalize().unwrap();
        let disk = (self.loss == Loss::OfPower)
            .then(|| Disk::of(&folder, &self.outside.path().join("trace")));
        let environment = disk.as_ref().map(|disk| disk.environment(None)).unwrap_or_default();
        let builder = self.server.again().environments(environment);
        match ending {
            Ending::WhileStarting { micros } => {
                self.server = builder.launch();
                tokio::time::sleep(Duration::from_micros(micros)).await;
                self.tally.starting += 1;
            }
            Ending::AtWork { operations } => {
                self.server = builder.start().await;
                self.look_at_server(&mut dice, SAMPLE).await?;
                self.work(&mut dice, operations, None).await;
                self.tally.amid_work += 1;
            }
            Ending::WhileStopping { operations, micros } => {
                self.server = builder.start().await;
                self.look_at_server(&mut dice, SAMPLE).await?;
                self.work(&mut dice, operations, Some(micros)).await;
                self.tally.stopping += 1;
            }
        }
        self.server.kill().await;
        if self.server.log().contains("panicked") {
            return Err("the server panicked".into());
        }
        if let Some(disk) = disk {
            disk.lose_power(survivors, &mut dice);
        }
        self.look_at_files().await
    }

    /// All clients work at once, until the process is gone.
    async fn work(&mut self, dice: &mut Dice, operations: u64, stopping: Option<u64>) {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut working = Vec::new();
        for ledger in std::mem::take(&mut self.ledgers) {
            let client = Client::of(&self.server, &self.root, ledger).await;
            let (dice, acknowledged) =
                (dice.apart(working.len() as u64), Arc::clone(&acknowledged));
            working.push(tokio::spawn(async move { client.work(dice, &acknowledged).await }));
        }
        eventually(Duration::from_mins(1), "changes are acknowledged", || {
            (acknowledged.load(Ordering::Relaxed) >= operations).then_some(())
        })
        .await;
        if let Some(micros) = stopping {
            self.server.signal(Signal::TERM);
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        self.server.kill().await;
        for ledger in working {
            self.ledgers.push(ledger.await.unwrap());
        }
    }

    /// What lies there is whole, and is what was answered; of what was not, all or nothing.
    async fn look_at_files(&mut self) -> Result<(), String> {
        let files = Files::of(self.server.folder()).await?;
        for (ledger, unanswered) in self.ledgers.iter_mut().zip(&mut self.unanswered) {
            let settled = settle(ledger, &files)?;
            if let Some(settled) = settled {
                let is_made = settled.made.is_some();
                self.tally.unknown_made += u64::from(is_made);
                self.tally.unknown_not_made += u64::from(!is_made);
                *unanswered = Some(settled);
            }
        }
        let counted = files
            .keys
            .values()
            .filter(|key| key.account == "shared" && !key.is_revoked && key.rotated_to.is_none());
        match u32::try_from(counted.count()) {
            Ok(0..=SHARED_KEYS_MAX) => Ok(()),
            other => Err(format!("the shared account has {other:?} keys")),
        }
    }

    /// What the next process says, and what it answers to a repeat of what was not answered.
    async fn look_at_server(&mut self, dice: &mut Dice, sample: usize) -> Result<(), String> {
        let request = GetAccountRequest { account_id: "shared".into() };
        let shared = self.server.accounts(&self.root).await.get_account(request).await;
        let counted = shared.map_err(|status| format!("{status:?}"))?.into_inner().account.unwrap();
        if counted.counted_keys > SHARED_KEYS_MAX {
            return Err(format!("the shared account has {} keys", counted.counted_keys));
        }
        for at in 0..self.ledgers.len() {
            let ledger = std::mem::replace(&mut self.ledgers[at], Ledger::new(at));
            let mut client = Client::of(&self.server, &self.root, ledger).await;
            if let Some(unanswered) = self.unanswered[at].take() {
                repeat(&mut client, &unanswered).await?;
            }
            self.ledgers[at] = client.ledger;
            self.look_at_policy(at).await?;
            self.look_at_keys(at, dice, sample).await?;
        }
        Ok(())
    }

    async fn look_at_policy(&self, at: usize) -> Result<(), String> {
        let Some(told) = self.ledgers[at].policy.as_ref().filter(|told| !told.is_empty()) else {
            return Ok(());
        };
        let policy = self.server.policies(&self.root).await.get_policy(GetPolicyRequest {}).await;
        let policy = policy.map_err(|status| format!("{status:?}"))?.into_inner().policy.unwrap();
        let found = &policy.scopes[0].description;
        if found == told { Ok(()) } else { Err(format!("the policy says {found}, not {told}")) }
    }

    async fn look_at_keys(
        &mut self,
        at: usize,
        dice: &mut Dice,
        sample: usize,
    ) -> Result<(), String> {
        let mut keys = self.server.keys(&self.root).await;
        let mut decisions = self.server.decisions().await;
        let ledger = &mut self.ledgers[at];
        let touched: BTreeSet<_> = std::mem::take(&mut ledger.touched).into_iter().collect();
        let mut others: Vec<_> =
            ledger.keys.keys().filter(|id| !touched.contains(*id)).cloned().collect();
        dice.shuffle(&mut others);
        others.truncate(sample);
        for id in touched.iter().chain(&others) {
            let told = &ledger.keys[id];
            self.tally.looked_at += 1;
            let found = keys.get_key(GetKeyRequest { key_id: id.clone() }).await;
            let found = found.map_err(|status| format!("{told:?}: {status:?}"))?.into_inner();
            let found = Key::from(found.key.unwrap());
            if !found.is_as_told(told) {
                return Err(format!("told {told:?}, found {found:?}"));
            }
            let Some(token) = told.token.clone() else { continue };
            let required_scope = "memory:read".to_owned();
            let question = AuthorizeRequest { token, required_scope, ..Default::default() };
            let said = decisions.authorize(question).await;
            let said = said.map_err(|status| format!("{id}: {status:?}"))?.into_inner();
            if said.reason() != ledger.reason(told) || said.allowed != (said.reason() as i32 == 1) {
                return Err(format!("{told:?} is answered with {:?}", said.reason()));
            }
        }
        Ok(())
    }
}

impl Ending {
    /// Each kind comes up in every run, however short.
    fn of(round: u64, dice: &mut Dice) -> Self {
        let operations = 1 + dice.below(80);
        match round % 8 {
            3 => Self::WhileStarting { micros: dice.below(START_MICROS) },
            4 | 7 => Self::WhileStopping { operations, micros: dice.below(20_000) },
            _ => Self::AtWork { operations },
        }
    }
}

/// Compares what one client was told with what lies there. What was not answered is settled: the ledger
/// says from now on what the files say.
fn settle(ledger: &mut Ledger, files: &Files) -> Result<Option<Unanswered>, String> {
    let own: Vec<_> =
        files.keys.values().filter(|key| key.name.starts_with(&ledger.name)).collect();
    let new: Vec<_> = own.iter().filter(|key| !ledger.keys.contains_key(&key.id)).collect();
    let made = new.first().map(|key| key.id.clone());
    let pending = ledger.pending.take();
    let mut candidates = vec![(ledger.clone(), None)];
    if let Some(operation) = &pending {
        let after = ledger.after(operation, made.as_deref());
        candidates.push((after, Some(made.clone().unwrap_or_default())));
    }
    let is_suspended = files.accounts.get(&ledger.account).copied();
    let fitting = candidates.into_iter().find(|(candidate, _)| {
        candidate.keys.len() == own.len()
            && Some(candidate.is_suspended) == is_suspended
            && own
                .iter()
                .all(|key| candidate.keys.get(&key.id).is_some_and(|told| key.is_as_told(told)))
    });
    let Some((mut settled, made)) = fitting else {
        let differ: Vec<_> = ledger
            .keys
            .values()
            .map(|told| (told, files.keys.get(&told.id)))
            .filter(|(told, found)| found.is_none_or(|found| !found.is_as_told(told)))
            .collect();
        return Err(format!(
            "{}: pending {pending:?}, new {new:?}, suspended {is_suspended:?}, told and found {differ:?}",
            ledger.name
        ));
    };
    for key in own {
        let token = settled.keys[&key.id].token.clone();
        settled.keys.insert(key.id.clone(), Key { token, ..key.clone() });
    }
    *ledger = settled;
    Ok(pending.map(|operation| Unanswered { operation, made }))
}

/// What was not answered is asked again: it was done, and this is said, or it is done now.
async fn repeat(client: &mut Client, unanswered: &Unanswered) -> Result<(), String> {
    let Unanswered { operation, made } = unanswered;
    let again = client.carry_out(operation).await;
    let is_remembered = matches!(operation, Operation::Create { .. } | Operation::Rotate { .. });
    match (again, made) {
        (Err(status), Some(made)) if is_remembered => {
            let details = status.get_error_details();
            let named = details.error_info().and_then(|info| info.metadata.get("key_id").cloned());
            if status.code() == Code::AlreadyExists && named.as_ref() == Some(made) {
                return Ok(());
            }
            Err(format!("{operation:?} made {made}, and its repeat says {status:?}"))
        }
        (Ok(()), Some(made)) if is_remembered => {
            Err(format!("{operation:?} made {made}, and was carried out again"))
        }
        (Ok(()), _) => Ok(()),
        // The plan, an account that is suspended, a revision that this very request has changed.
        (Err(status), _) if is_refusal(&status) && status.code() != Code::AlreadyExists => Ok(()),
        (Err(status), _) => Err(format!("{operation:?} cannot be repeated: {status:?}")),
    }
}

/// A number that `tests/crash/run` asks for.
fn asked(name: &str, otherwise: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is how a longer run is asked for")]
    let asked = std::env::var(name).ok();
    asked.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}
