//! The command line: what there is, and which function does it.
//!
//! Stdout carries answers, stderr everything else. Exit codes: 0 done, 1 refused or failed, 2 not understood.
//! A token is never taken from an argument, which other users of the machine can read.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use self::account::AccountCommand;
use self::audit::AuditCommand;
use self::authorize::AuthorizeArguments;
use self::console::{Colour, Console};
use self::explain::ExplainArguments;
use self::incident::IncidentArguments;
use self::key::KeyCommand;
use self::node::NodeCommand;
use self::policy::PolicyCommand;
use self::profiles::ProfileCommand;
use self::rules::RulesCommand;
use self::server::ServerArguments;
use self::settings::ConfigArguments;
use crate::failure::Failures;
use crate::machine;

mod process;
mod settings;
mod token;

mod account;
mod audit;
mod authorize;
mod explain;
mod health;
mod incident;
mod key;
mod node;
mod policy;
mod rules;

mod completions;
mod profiles;

mod arguments;
mod private;
mod profile;
mod receipt;
mod refusal;
mod rpc;
mod secret;
mod server;
mod session;

mod console;
mod table;
mod time;
mod tree;

/// Environment variables, as the machine has them.
type Environment = Vec<(OsString, OsString)>;

/// What a command comes to.
type Outcome = Result<ExitCode, Failures>;

const USAGE: u8 = 2;

/// How `serve --dev` is to run: a throw-away service on loopback, which prints its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dev {
    /// Where it keeps its store; a temporary folder if none is named.
    pub directory: Option<PathBuf>,
    /// Scopes of the key that it makes; those of the default policy if none are named.
    pub scopes: Vec<String>,
}

/// API keys, and the 200, 401 or 403 of every request.
#[derive(Debug, Parser)]
#[command(name = "latchkey", version, arg_required_else_help = true)]
struct Arguments {
    /// When to colour
    #[arg(
        long,
        global = true,
        help_heading = "Output",
        value_name = "WHEN",
        value_enum,
        default_value_t = Colour::Auto
    )]
    color: Colour,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(ServeArguments),
    /// Look at a token
    #[command(subcommand)]
    Token(TokenCommand),
    /// Check or show the configuration that `serve` would run with
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make, look at, change and suspend accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Make, look at, change, rotate and revoke keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Ask whether a key may do something; its token is read from stdin
    Authorize(AuthorizeArguments),
    /// A token has leaked: end its key and all that the key made, and report
    Incident(IncidentArguments),
    /// Read, check, try or replace the policy: scopes, plans, rules and bounds
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Hold the policy's rules against what has passed
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Show the audit trail, or verify it
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Say what is decided about a key, and why: now, or at an instant in the past
    Explain(ExplainArguments),
    /// Manage the root key
    #[command(subcommand)]
    Root(RootCommand),
    /// Bring the schema of the store up to date
    Migrate(ConfigArguments),
    /// Show the nodes that serve from one store
    #[command(subcommand)]
    Node(NodeCommand),
    /// Manage what nodes keep in Redis
    #[command(subcommand)]
    Redis(RedisCommand),
    /// Ask a server whether it serves
    Health(HealthArguments),
    /// Keep the addresses and tokens of servers under names
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Print what a shell needs to complete these commands
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct ServeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Try latchkey out: a throw-away store, loopback only, and tokens printed at the start
    #[arg(long)]
    dev: bool,
    /// Keep the store of --dev in this folder
    #[arg(long, value_name = "DIR", requires = "dev")]
    dev_dir: Option<PathBuf>,
    /// A scope of the key that --dev makes; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", requires = "dev")]
    scopes: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Say whether a token is well-formed, reading it from stdin; asks no server
    Inspect {
        /// Taken only to be refused without being repeated.
        #[arg(hide = true, value_name = "TOKEN")]
        given: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether the service would accept the configuration
    Check(ConfigArguments),
    /// Print the configuration in effect, secrets hidden, and where each value came from
    Show(ConfigArguments),
}

#[derive(Debug, Subcommand)]
enum RootCommand {
    /// Make a new root key and revoke the old one; needs the store itself, and no server on it
    Reset {
        #[command(flatten)]
        config: ConfigArguments,
        /// Write the new token to this file, which must not exist yet, and not to the terminal
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum RedisCommand {
    /// Make a new key for authenticating it; what the one before authenticated counts until the next is made
    NewKey(ConfigArguments),
}

#[derive(Debug, Args)]
struct HealthArguments {
    /// Ask for one gRPC service, by its full name, and not for the server as a whole
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    service: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Does what the arguments say, with this environment.
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: Environment) -> ExitCode {
    if let Err(error) = machine::shield() {
        let text = format!("warning: a crash may write tokens to a core dump: {error}");
        Console::new(Colour::Never, &environment).note(&text);
    }
    let arguments: Vec<_> = arguments.into_iter().collect();
    // Before anything else can repeat it.
    if arguments.iter().any(|argument| token::looks_like_one(&argument.to_string_lossy())) {
        Console::new(Colour::Auto, &environment).failures(&token::given_as_argument().into());
        return ExitCode::from(USAGE);
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(USAGE);
            Console::misunderstood(error);
            return ExitCode::from(code);
        }
    };
    let mut console = Console::new(arguments.color, &environment);
    let outcome = dispatch(arguments.command, environment, &mut console);
    console.finish(outcome)
}

fn dispatch(command: Command, environment: Environment, console: &mut Console) -> Outcome {
    match command {
        Command::Serve(arguments) => process::serve(arguments, environment),
        Command::Token(TokenCommand::Inspect { given }) if given.is_empty() => {
            token::inspect(console)
        }
        Command::Token(TokenCommand::Inspect { given: _ }) => {
            console.failures(&token::given_as_argument().into());
            Ok(ExitCode::from(USAGE))
        }
        Command::Config(ConfigCommand::Check(arguments)) => {
            settings::check(arguments, environment, console)
        }
        Command::Config(ConfigCommand::Show(arguments)) => {
            settings::show(arguments, environment, console)
        }
        Command::Account(command) => account::run(command, &environment, console),
        Command::Key(command) => key::run(command, &environment, console),
        Command::Node(command) => node::run(command, &environment, console),
        Command::Authorize(arguments) => authorize::run(arguments, &environment, console),
        Command::Incident(arguments) => incident::run(arguments, &environment, console),
        Command::Policy(command) => policy::run(command, &environment, console),
        Command::Rules(command) => rules::run(&command, &environment, console),
        Command::Audit(command) => audit::run(command, environment, console),
        Command::Explain(arguments) => explain::run(&arguments, &environment, console),
        Command::Root(RootCommand::Reset { config, token_file }) => {
            process::reset_root(config, token_file, environment, console)
        }
        Command::Migrate(arguments) => process::migrate(arguments, environment, console),
        Command::Redis(RedisCommand::NewKey(arguments)) => {
            process::new_mac_key(arguments, environment, console)
        }
        Command::Health(arguments) => health::check(&arguments, &environment, console),
        Command::Profile(command) => profiles::run(command, &environment, console),
        Command::Completions { shell } => {
            completions::print(shell, console);
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command as Clap, CommandFactory as _};

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_folder_and_the_scopes_of_dev_need_dev() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("latchkey serve --scope memory:read").is_err());
        assert!(parse("latchkey serve --dev --scope memory:read --scope memory:write").is_ok());
    }

    #[test]
    fn a_revision_may_begin_with_a_hyphen() {
        // All revisions of one store in sixty-four do.
        let of = |command: &Clap, path: &str| {
            let is_of_revision = |argument: &Arg| {
                argument.get_value_names().is_some_and(|names| names == ["REVISION"])
            };
            let taken = command.get_arguments().filter(|argument| is_of_revision(argument));
            for argument in taken {
                assert!(argument.is_allow_hyphen_values_set(), "{path} --{}", argument.get_id());
            }
        };
        let mut commands = vec![("latchkey".to_owned(), Arguments::command())];
        while let Some((path, command)) = commands.pop() {
            of(&command, &path);
            let below = command.get_subcommands().cloned();
            commands.extend(below.map(|it| (format!("{path} {}", it.get_name()), it)));
        }
        let update = "latchkey key update key_1 --expected-revision -7080gq --name mine";
        assert!(Arguments::try_parse_from(update.split(' ')).is_ok());
    }
}
