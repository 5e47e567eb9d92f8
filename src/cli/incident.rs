//! `latchkey incident`: a token has leaked. Ends its key and all that the key made, and tells in one report
//! what the key could do, when and from where it was used, and what was changed with it.
//!
//! Ending comes first: what cannot be found out, for want of permission or of an answer, stops nothing.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tonic::Code;
use zeroize::Zeroizing;

use self::report::{Report, counted};
use self::trail::Trail;
use super::console::{Console, Form, OutputArguments};
use super::key::found_token;
use super::key::revoke::revoke;
use super::refusal::Refusal;
use super::server::ServerArguments;
use super::session::Session;
use super::time::span;
use super::{Environment, Outcome};
use crate::failure::{Failure, Failures};
use crate::proto::v1::lookup_key_request::By;
use crate::proto::v1::revoke_key_request::Target;
use crate::proto::v1::{
    Account, GetAccountRequest, GetKeyRequest, Key, KeyState, ListKeysRequest, LookupKeyRequest,
    RevokeKeyRequest, RevokeReason,
};

mod report;
mod trail;

/// So many keys made by others are looked for; with more, all are revoked and not all are named.
const DESCENDANTS_MAX: usize = 10_000;

/// So long is looked at what there is before the key is ended, and so long is waited for an answer to each
/// question when it has.
const LOOK_SPAN: Duration = Duration::from_secs(5);

/// Which key, and how far to go.
#[derive(Debug, Args)]
pub(super) struct IncidentArguments {
    /// The key, where only its id is known [default: its token is read from stdin]
    #[arg(long, value_name = "KEY_ID")]
    key_id: Option<String>,
    /// A remark to keep with the key, such as where the token was found; never write a token here
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// How long to wait until every node has applied it
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "10s")]
    wait: Duration,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// What is known of the leaked key: its token, or its id.
enum Leaked {
    Token(Zeroizing<String>),
    Id(String),
}

/// What was found out, and what could not be.
#[derive(Debug, Default)]
struct Findings {
    /// The key as it was found; absent if it may not be read.
    key: Option<Key>,
    account: Option<Account>,
    /// The keys that it made, and that those made.
    descendants: Vec<Key>,
    /// Those of which it is not known yet what they made.
    makers: VecDeque<String>,
    /// Whether the key that we call with is among them all.
    has_own: bool,
    /// Sentences for people.
    unknown: Vec<String>,
}

/// Does what the command says.
pub(super) fn run(
    arguments: IncidentArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let IncidentArguments { key_id, comment, wait, yes, output, server } = arguments;
    let leaked = match key_id {
        Some(key_id) => Leaked::Id(key_id),
        None => Leaked::Token(found_token()?),
    };
    let session = server.open(environment)?;
    let mut findings = Findings::default();
    // Whoever has the token goes on while we look: what is left is looked for when it has ended.
    let look = session.within(LOOK_SPAN);
    findings.key = find(&look, &leaked, &mut findings.unknown)?;
    if let Some(key) = &findings.key {
        findings.makers.push_back(key.key_id.clone());
        drop(findings.look_around(&look, console));
    }
    findings.find_own(&session);
    if !yes && !findings.is_over() {
        console.note(&findings.told());
        console.confirm("Revoke it, and every key that it made, for good?")?;
    }
    let target = match leaked {
        Leaked::Token(token) => Target::Token(token.to_string()),
        Leaked::Id(key_id) => Target::KeyId(key_id),
    };
    let request = RevokeKeyRequest {
        target: Some(target),
        reason: RevokeReason::Compromised.into(),
        comment,
        wait: None,
        revoke_created: true,
    };
    let ended = revoke(&session, request, wait, console)?;
    let ended_key = ended.key.clone().unwrap_or_default();
    findings.ask_account(&session, &ended_key.account_id);
    findings.look_on(&session, console);
    findings.add_late(&session, &ended_key.key_id, &ended.revoked_key_ids);
    findings.find_own(&session);
    let trail = Trail::gather(&session, &ended_key, &mut findings, console);
    let report = Report { findings, ended, trail };
    match output.output {
        Form::Json => console.json(&report.to_tree()),
        Form::Table => report.print(console),
    }
    Ok(ExitCode::SUCCESS)
}

/// The key, if it may be read. That there is none is the end of it.
fn find(
    session: &Session,
    leaked: &Leaked,
    unknown: &mut Vec<String>,
) -> Result<Option<Key>, Failures> {
    let found = match leaked {
        Leaked::Id(key_id) => {
            session.call(GetKeyRequest { key_id: key_id.clone() }).map(|answer| answer.key)
        }
        Leaked::Token(token) => {
            let by = Some(By::Token(token.to_string()));
            match session.call(LookupKeyRequest { by }) {
                Ok(answer) if answer.keys.is_empty() => return Err(no_such_key(session)),
                Ok(answer) => Ok(answer.keys.into_iter().next()),
                Err(refusal) => Err(refusal),
            }
        }
    };
    found.or_else(|refusal| {
        not_told("the key as it was before, and the keys that it made", refusal, unknown)?;
        Ok(None)
    })
}

fn no_such_key(session: &Session) -> Failures {
    let message =
        format!("{} has no key with this token, or none that you may see", session.address());
    Failure::new(message)
        .help("see whether this is the right server (--profile, --address), or ask with a key of `latchkey`")
        .into()
}

/// Notes what may not be known, or not in time; anything else that is wrong is told at once.
fn not_told(what: &str, refusal: Refusal, unknown: &mut Vec<String>) -> Result<(), Failures> {
    let is_withheld =
        matches!(refusal.code(), Code::PermissionDenied | Code::NotFound | Code::Unimplemented);
    if !is_withheld && !refusal.is_passing() {
        return Err(refusal.into());
    }
    unknown.push(format!("{what}: {}", refusal.message()));
    Ok(())
}

impl Findings {
    /// Asks for the keys that it made, as far as that goes.
    fn look_around(&mut self, session: &Session, console: &mut Console) -> Result<(), Refusal> {
        while let Some(maker) = self.makers.front() {
            let created_by = format!("key:{maker}");
            let request = ListKeysRequest { created_by, ..ListKeysRequest::default() };
            let keys = session.within(LOOK_SPAN).pages(request, None, console)?.keys;
            self.makers.pop_front();
            self.makers.extend(keys.iter().map(|key| key.key_id.clone()));
            self.descendants.extend(keys);
            if self.descendants.len() > DESCENDANTS_MAX {
                self.unknown.push(format!("the keys that it made, beyond {DESCENDANTS_MAX}"));
                self.makers.clear();
            }
            console.progress(&format!("{} keys made with it so far …", self.descendants.len()));
        }
        Ok(())
    }

    /// Asks for those that are left. What goes wrong is noted: the key has ended all the same.
    fn look_on(&mut self, session: &Session, console: &mut Console) {
        if let Err(refusal) = self.look_around(session, console) {
            self.unknown.push(format!("all keys that it made: {}", refusal.message()));
            self.makers.clear();
        }
    }

    /// Adds those that were made after we had asked: they are revoked all the same.
    fn add_late(&mut self, session: &Session, key_id: &str, revoked: &[String]) {
        let known =
            |id: &String| id == key_id || self.descendants.iter().any(|it| it.key_id == *id);
        let late: Vec<_> = revoked.iter().filter(|id| !known(id)).cloned().collect();
        for key_id in late {
            let request = GetKeyRequest { key_id: key_id.clone() };
            match session.within(LOOK_SPAN).call(request) {
                Ok(answer) => self.descendants.extend(answer.key),
                Err(refusal) => {
                    self.unknown.push(format!("{key_id}: {}", refusal.message()));
                    // Whoever is silent now would be so for each of the others.
                    if refusal.is_passing() {
                        return;
                    }
                }
            }
        }
    }

    fn ask_account(&mut self, session: &Session, account_id: &str) {
        let request = GetAccountRequest { account_id: account_id.to_owned() };
        match session.within(LOOK_SPAN).call(request) {
            Ok(answer) => self.account = answer.account,
            Err(refusal) => {
                self.unknown.push(format!("the account and its plan: {}", refusal.message()));
            }
        }
    }

    /// Looks for the key that we call with, by what people are shown of its token.
    fn find_own(&mut self, session: &Session) {
        let own = session.hint();
        let mut keys = self.key.iter().chain(&self.descendants);
        self.has_own = own.is_some_and(|own| keys.any(|key| key.token_hint == own));
    }

    /// Whether nothing is left to be ended.
    fn is_over(&self) -> bool {
        let is_revoked = |key: &Key| key.state() == KeyState::Revoked;
        self.key.as_ref().is_some_and(is_revoked)
            && self.descendants.iter().all(is_revoked)
            && self.makers.is_empty()
            && self.unknown.is_empty()
    }

    /// What is about to be ended, for whoever is asked.
    fn told(&self) -> String {
        let Some(key) = &self.key else {
            let unknown = self.unknown.join("; ");
            return format!("Not known: {unknown}. The key can be revoked all the same.");
        };
        let works = self.descendants.iter().filter(|key| key.state() != KeyState::Revoked).count();
        let made = match self.descendants.len() {
            0 => "No key was made with it.".to_owned(),
            all => {
                format!("{} were made with it, of which {works} not revoked.", counted(all, "key"))
            }
        };
        let scopes =
            if key.scopes.is_empty() { "nothing".to_owned() } else { key.scopes.join(", ") };
        let more = if self.makers.is_empty() { "" } else { " There may be more of them." };
        let root = if is_root(key) {
            " It is a root key: `latchkey root reset`, at the store, ends it alone and makes another."
        } else {
            ""
        };
        let own = if self.has_own {
            " The key that you call with is among them, and ends as well."
        } else {
            ""
        };
        let Key { key_id, display_name, account_id, .. } = key;
        format!(
            "{key_id} is `{display_name}` of account {account_id}, and may {scopes}. \
             {made}{more}{root}{own}"
        )
    }
}

/// Whether a start or a reset has made it, and no operator.
fn is_root(key: &Key) -> bool {
    key.account_id == "latchkey" && key.created_by.starts_with("system:root")
}
