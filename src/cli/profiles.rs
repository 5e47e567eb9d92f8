//! `latchkey profile`: shows and keeps named servers, so that their address and token need not be said each time.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::console::Console;
use super::profile::{PLAINTEXT, PROFILE_DEFAULT, Profile, Profiles};
use super::table::Table;
use super::{Environment, Outcome, secret};
use crate::failure::Failure;
use crate::token::{self, Token};

/// `latchkey profile …`.
#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// List the profiles
    List,
    /// Show a profile, its token hidden
    Show {
        /// The profile
        #[arg(default_value = PROFILE_DEFAULT)]
        name: String,
    },
    /// Make a profile, or change what is named in it
    Set(SetArguments),
    /// Take a profile out
    Delete {
        /// The profile
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct SetArguments {
    /// The profile
    #[arg(default_value = PROFILE_DEFAULT)]
    name: String,
    /// Where the server listens: https://HOST:PORT, http://HOST:PORT or unix:PATH
    #[arg(long)]
    address: Option<String>,
    /// Send tokens to this http:// address, although it is beyond this machine
    #[arg(long, requires = "address")]
    plaintext: bool,
    /// Read the operator's token from stdin, and keep it in the profile
    #[arg(long, conflicts_with = "token_file")]
    with_token: bool,
    /// A file that holds the operator's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM with the authorities that the server's certificate may come from
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// PEM with your own certificate
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// PEM with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The name in the server's certificate
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

/// Does what the command says.
pub(super) fn run(
    command: ProfileCommand,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    match command {
        ProfileCommand::List => list(&Profiles::read(environment)?, console),
        ProfileCommand::Show { name } => {
            let profiles = Profiles::read(environment)?;
            let fields = profiles.get(&name)?.iter();
            let rows: Vec<_> = fields.map(|(name, value)| (name, shown(name, value))).collect();
            console.answer_rows(&rows);
        }
        ProfileCommand::Set(arguments) => set(arguments, environment, console)?,
        ProfileCommand::Delete { name } => {
            let profiles = Profiles::change(environment, |profiles| profiles.remove(&name))?;
            console.answer(&format!("Profile {name} is gone from {}.", profiles.path().display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(profiles: &Profiles, console: &mut Console) {
    let mut table = Table::new(&["PROFILE", "ADDRESS", "TOKEN"]);
    let mut is_empty = true;
    for (name, profile) in profiles.iter() {
        let field = |name: &str| profile.get(name).map(|value| shown(name, value));
        let none = || "-".to_owned();
        let token = field("token").or_else(|| field("token_file"));
        table.words([
            name.clone(),
            field("address").unwrap_or_else(none),
            token.unwrap_or_else(none),
        ]);
        is_empty = false;
    }
    if is_empty {
        let path = profiles.path().display();
        console.note(&format!("There is no profile in {path}; `latchkey profile set` makes one."));
    } else {
        console.table(&table);
    }
}

/// A field's value; of a token as much as anybody may see.
fn shown(name: &str, value: &str) -> String {
    if name != "token" {
        // One may stand where none belongs.
        return token::without_tokens(value);
    }
    Token::from_text(value).map_or_else(|_| "[malformed]".to_owned(), |token| token.hint())
}

fn set(
    arguments: SetArguments,
    environment: &Environment,
    console: &mut Console,
) -> Result<(), Failure> {
    let SetArguments {
        name,
        address,
        plaintext,
        with_token,
        token_file,
        ca_file,
        cert_file,
        key_file,
        server_name,
    } = arguments;
    let token = if with_token {
        let text = secret::read("Operator's token")?;
        Some(crate::cli::token::well_formed(&text)?)
    } else {
        None
    };
    let mut said = Profile::new();
    let mut put = |field: &str, value: Option<String>| {
        if let Some(value) = value {
            said.insert(field.to_owned(), Zeroizing::new(value));
        }
    };
    let is_moved = address.is_some();
    put("address", address);
    put(PLAINTEXT, plaintext.then(|| "true".to_owned()));
    put("server_name", server_name);
    for (field, file) in [
        ("token_file", &token_file),
        ("ca_file", &ca_file),
        ("cert_file", &cert_file),
        ("key_file", &key_file),
    ] {
        put(field, file.as_deref().map(absolute).transpose()?);
    }
    put("token", token.map(|token| token.expose().to_owned()));
    let profiles = Profiles::change(environment, |profiles| {
        let profile = profiles.entry(&name);
        if is_moved {
            // It was said of the address before.
            profile.remove(PLAINTEXT);
        }
        profile.extend(said);
        keep_one_token(profile, with_token, token_file.is_some());
        Ok(())
    })?;
    console.answer(&format!("Profile {name} is kept in {}.", profiles.path().display()));
    Ok(())
}

/// Whichever was named last counts.
fn keep_one_token(profile: &mut Profile, has_token: bool, has_file: bool) {
    if has_token {
        profile.remove("token_file");
    }
    if has_file {
        profile.remove("token");
    }
}

/// What a command in any folder can find.
fn absolute(path: &Path) -> Result<String, Failure> {
    let absolute =
        std::path::absolute(path).map_err(|error| Failure::reading(path.display(), &error))?;
    absolute.into_os_string().into_string().map_err(|path| {
        let message = format!("{} is not UTF-8", path.display());
        Failure::new(message).help("give the file a name that can be written down")
    })
}
