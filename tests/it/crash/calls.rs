//! Every call of the disk disturbed once: the power goes before it, it fails, it and all after it fail.
//!
//! One story is told again and again: an empty store, a first start, a key made, renamed, rotated and
//! revoked, a policy, a stop. Each time the next call is disturbed, until there is none left. Then the
//! power is lost and the program starts on what is left: the root token opens it, what was acknowledged
//! is there, and what was not is there wholly or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use latchkey::proto::v1::{AuthorizeRequest, ListAccountsRequest};
use rustix::io::Errno;
use tonic::Code;

use super::client::{Client, is_refusal};
use super::files::Files;
use super::ledger::{Key, Ledger, Operation};
use super::{asked, settle};
use crate::support::{Dice, Disk, Disturbance, Does, Folder, Server, Survivors, eventually, say};

/// In one run of the tests one call of so many is disturbed, and every sync; `tests/crash/run` disturbs all.
const STRIDE: u64 = 29;
/// More calls than the story can make.
const CALLS_MAX: u64 = 5_000;
/// How often something is asked for that is not answered.
const TRIES: usize = 3;

#[tokio::test]
async fn the_power_may_go_before_any_call_of_the_disk() {
    disturb_each(Does::LosesPower).await;
}

#[tokio::test]
async fn any_call_of_the_disk_may_fail_once() {
    disturb_each(Does::Fails(Errno::IO)).await;
    disturb_each(Does::Fails(Errno::NOSPC)).await;
    disturb_each(Does::FailsToRead).await;
}

#[tokio::test]
async fn any_sync_may_fail_once_or_from_then_on() {
    disturb_each(Does::FailsToSync).await;
    disturb_each(Does::FailsToSyncOnwards).await;
}

#[tokio::test]
async fn the_disk_may_fail_from_any_call_on() {
    disturb_each(Does::FailsOnwards(Errno::IO)).await;
    disturb_each(Does::FailsOnwards(Errno::NOSPC)).await;
}

async fn disturb_each(does: Does) {
    let stride = match does {
        Does::FailsToSync | Does::FailsToSyncOnwards => 1,
        _ => asked("LATCHKEY_CRASH_STRIDE", STRIDE),
    };
    let seed = asked("LATCHKEY_CRASH_SEED", 1);
    let (mut told, mut calls) = (BTreeMap::<String, u64>::new(), 0);
    let mut at = 1 + seed % stride;
    while at < CALLS_MAX {
        let story = Story { does, at, seed };
        match story.tell().await {
            Ok(Some(call)) => *told.entry(call).or_default() += 1,
            Ok(None) => break,
            Err(fault) => panic!("{story:?}: {fault}"),
        }
        at += stride;
        calls += 1;
    }
    assert!(calls > 1, "nothing was disturbed");
    say(format_args!("SUMMARY {does:?}: {calls} calls disturbed, {told:?}; 0 faults"));
}

#[derive(Debug)]
struct Story {
    does: Does,
    at: u64,
    seed: u64,
}

impl Story {
    /// The call that was disturbed; none when there was none of this number.
    async fn tell(&self) -> Result<Option<String>, String> {
        let outside = Folder::new();
        let nowhere = Server::build();
        let folder = nowhere.folder().canonicalize().unwrap();
        let disk = Disk::of(&folder, &outside.path().join("trace"));
        let disturbed = Disturbance { at: self.at, does: self.does };
        let mut server = nowhere.environments(disk.environment(Some(disturbed))).launch();
        let mut ledger = Ledger::new(0);
        let mut root = None;
        if is_ready(&mut server).await {
            let told = server.root_token();
            self.work(&server, &told, &mut ledger).await?;
            root = Some(told);
            if server.ended().is_none() {
                server.signal(rustix::process::Signal::TERM);
            }
        }
        let ended = eventually(Duration::from_secs(30), "it ends", || server.ended()).await;
        // Whoever is killed by the loss of power says nothing; whoever refuses to start says why.
        if server.log().contains("panicked") || server.log().contains("RUST_BACKTRACE") {
            return Err(format!("it panicked:\n{}", server.log()));
        }
        let disturbed = disk.disturbed();
        if disturbed.is_none() && (root.is_none() || !ended.success() || ledger.pending.is_some()) {
            return Err(format!("undisturbed, it ends with {ended}:\n{}", server.log()));
        }
        disk.lose_power(Survivors::of(self.at), &mut Dice::new(self.seed).apart(self.at));
        let left = self.look_at_what_is_left(&server, ledger, root).await;
        left.map_err(|fault| format!("{fault}; the server had said:\n{}", server.log()))?;
        Ok(disturbed)
    }

    /// Asks for one thing after the other, and again for what was not answered.
    async fn work(&self, server: &Server, root: &str, ledger: &mut Ledger) -> Result<(), String> {
        let Ok(mut client) = Client::connect(server, root, ledger.clone()).await else {
            return Ok(());
        };
        let mut dice = Dice::new(self.seed);
        if client.create_account().await.is_err() && client.create_account().await.is_err() {
            return Ok(());
        }
        for step in 0..STEPS {
            let Some(operation) = step_of(step, &client.ledger, &mut dice) else { continue };
            for _ in 0..TRIES {
                match client.carry_out(&operation).await {
                    Ok(()) => client.ledger.pending = None,
                    Err(status) if status.code() == Code::AlreadyExists => {
                        client.ledger.pending = Some(operation.clone());
                    }
                    // It was not done this time; an earlier time may have done it.
                    Err(status) if is_refusal(&status) => continue,
                    Err(_) => {
                        client.ledger.pending = Some(operation.clone());
                        continue;
                    }
                }
                break;
            }
            *ledger = client.ledger.clone();
            if ledger.pending.is_some() {
                return Ok(());
            }
            look_at_decisions(server, ledger).await?;
        }
        Ok(())
    }

    async fn look_at_what_is_left(
        &self,
        server: &Server,
        mut ledger: Ledger,
        root: Option<String>,
    ) -> Result<(), String> {
        if !ledger.keys.is_empty() {
            settle(&mut ledger, &Files::of(server.folder()).await?)?;
        }
        let server = server.again().start().await;
        let found = server.root_token();
        if root.as_ref().is_some_and(|told| *told != found) {
            return Err("the root token is another".into());
        }
        let list =
            server.accounts(&found).await.list_accounts(ListAccountsRequest::default()).await;
        list.map_err(|status| format!("the root token does not open the store: {status:?}"))?;
        let mut client = Client::of(&server, &found, ledger).await;
        look_at_keys(&mut client).await?;
        look_at_decisions(&server, &client.ledger).await
    }
}

const STEPS: u32 = 7;

/// The story; what depends on something that was not done is passed over.
fn step_of(step: u32, ledger: &Ledger, dice: &mut Dice) -> Option<Operation> {
    let live = ledger.keys.values().find(|key| !key.is_revoked && key.rotated_to.is_none());
    let mut draw = || format!("{}{:016x}", ledger.name, dice.draw());
    let name = draw();
    let request_id = super::ledger::request_id(dice);
    Some(match step {
        0 | 6 => Operation::Create { account: ledger.account.clone(), name, request_id },
        1 => Operation::Rename { id: live?.id.clone(), name, expected: None },
        2 => Operation::Rotate { id: live?.id.clone(), has_overlap: true, request_id },
        3 => Operation::Rotate { id: live?.id.clone(), has_overlap: false, request_id },
        4 => Operation::Revoke { id: live?.id.clone(), by_token: None },
        5 => Operation::ApplyPolicy { description: name },
        _ => return None,
    })
}

/// Whether it says that it is ready before it ends.
async fn is_ready(server: &mut Server) -> bool {
    eventually(Duration::from_mins(1), "it is ready, or ends", || {
        if server.log().contains("\"ready\"") {
            return Some(true);
        }
        server.ended().map(|_| false)
    })
    .await
}

/// A decision is right, or there is none.
async fn look_at_decisions(server: &Server, ledger: &Ledger) -> Result<(), String> {
    for key in ledger.keys.values() {
        let Some(token) = key.token.clone() else { continue };
        let required_scope = "memory:read".to_owned();
        let question = AuthorizeRequest { token, required_scope, ..Default::default() };
        let Ok(mut decisions) = server.try_decisions().await else { continue };
        let Ok(said) = decisions.authorize(question).await else { continue };
        let said = said.into_inner().reason();
        if said != ledger.reason(key) {
            return Err(format!("{key:?} is answered with {said:?}"));
        }
    }
    Ok(())
}

async fn look_at_keys(client: &mut Client) -> Result<(), String> {
    for told in client.ledger.keys.clone().into_values() {
        let found: Key = client.get(&told.id).await.map_err(|status| format!("{status:?}"))?;
        if !found.is_as_told(&told) {
            return Err(format!("told {told:?}, found {found:?}"));
        }
    }
    Ok(())
}
