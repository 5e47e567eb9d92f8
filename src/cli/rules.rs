//! `latchkey rules`: the policy's rules, held against requests. They are compared by the code that compares them
//! on the server.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use self::replay::ReplayArguments;
use super::console::Console;
use super::server::ServerArguments;
use super::session::Session;
use super::{Environment, Outcome};
use crate::config::read_policy;
use crate::failure::{Failure, Failures};
use crate::grpc::convert::policy_from_proto;
use crate::policy::routes::{Answer, Route};
use crate::policy::target::Target;
use crate::policy::{Catalogue, Policy, Rule};
use crate::proto::v1::GetPolicyRequest;

mod keys;
mod log;
mod replay;

/// The host of a request of which none is known, where no rule goes by it.
pub(super) const ANY_HOST: &str = "any.invalid";

/// `latchkey rules …`.
#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// List what the rules would refuse of the requests in an access log that passed
    #[command(after_help = replay::EXIT_CODES)]
    Replay(ReplayArguments),
}

/// Does what the command says.
pub(super) fn run(
    command: &RulesCommand,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    match command {
        RulesCommand::Replay(arguments) => replay::run(arguments, environment, console),
    }
}

/// The rules of a policy, and the policy.
pub(super) struct RuleBook {
    catalogue: Catalogue,
}

impl RuleBook {
    /// That of a file; without one that of the server, which comes with it.
    pub(super) fn open(
        file: Option<&PathBuf>,
        server: &ServerArguments,
        environment: &Environment,
    ) -> Result<(Self, Option<Session>), Failures> {
        if let Some(file) = file {
            return Ok((Self::of(read_policy(file)?)?, None));
        }
        let session = server.open(environment)?;
        let policy = session.call(GetPolicyRequest {})?.policy.unwrap_or_default();
        let policy = policy_from_proto(policy).map_err(|error| {
            Failure::of("this version cannot read the server's policy", &error)
                .help("use the latchkey of the server's version")
        })?;
        Ok((Self::of(policy)?, Some(session)))
    }

    fn of(policy: Policy) -> Result<Self, Failure> {
        let compiled = Catalogue::compile(policy, "");
        let catalogue = compiled.map_err(|error| Failure::of("the policy is wrong", &error))?;
        Ok(Self { catalogue })
    }

    pub(super) const fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.catalogue.policy().rules
    }

    /// What the rules say of a request.
    pub(super) fn answer(&self, target: &Target<'_>) -> Answer<'_> {
        self.catalogue.routes().answer(target)
    }

    /// The rule as it is written, and its place, counted from 1.
    pub(super) fn rule(&self, route: &Route) -> Option<(usize, &Rule)> {
        let mut rules = self.rules().iter().zip(1..);
        rules.find(|(rule, _)| *rule.name == *route.name).map(|(rule, number)| (number, rule))
    }

    /// The host of a request of which none is known: any, if no rule goes by it.
    pub(super) fn any_host(&self) -> Result<&'static str, Failure> {
        match self.rules().iter().find(|rule| !rule.hosts.is_empty()) {
            None => Ok(ANY_HOST),
            Some(Rule { name, .. }) => {
                Err(Failure::new(format!("the rule `{name}` goes by the host, and none is told")))
            }
        }
    }
}

/// What the rule needs, in words.
pub(super) fn needs(rule: &Rule) -> String {
    match &rule.required_scope {
        Some(scope) => scope.clone(),
        None if rule.authenticate_only => "a key, whatever it may do".to_owned(),
        None if rule.public => "nothing".to_owned(),
        None => "nothing helps".to_owned(),
    }
}

/// The name for people of where a text is read from.
pub(super) fn source(path: &Path) -> String {
    if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() }
}
