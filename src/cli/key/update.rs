//! `latchkey key update`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use prost_types::FieldMask;

use crate::cli::arguments::{Label, labels};
use crate::cli::console::{Console, Form, OutputArguments};
use crate::cli::server::ServerArguments;
use crate::cli::time::{When, timestamp};
use crate::cli::{Environment, Outcome};
use crate::failure::Failure;
use crate::machine::wall_clock;
use crate::proto::v1::{Key, Restrictions, UpdateKeyRequest};

/// What to change.
#[derive(Debug, Args)]
pub(in crate::cli) struct UpdateArguments {
    /// The key
    key_id: String,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// What it may do; may be repeated. All scopes are replaced
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// What it may hand out; may be repeated. All are replaced
    #[arg(long = "grantable", value_name = "SCOPE")]
    grantable: Vec<String>,
    /// When it expires: a span from now (90d), a date (2027-01-01) or an instant
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    expires: Option<When>,
    /// A network that requests may come from; may be repeated. All are replaced
    #[arg(long = "cidr", value_name = "CIDR")]
    cidrs: Vec<String>,
    /// A label; may be repeated. All labels are replaced
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = Label::parse)]
    labels: Vec<Label>,
    /// Leave this empty: what the key had of it is gone; may be repeated
    #[arg(long, value_name = "WHAT", value_enum)]
    clear: Vec<Clear>,
    /// Pause the key
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// Let a paused key work again
    #[arg(long)]
    enable: bool,
    /// Change it only if it still has this revision
    #[arg(
        long,
        value_name = "REVISION",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    expected_revision: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clear {
    Scopes,
    Grantable,
    Expiry,
    Cidrs,
    Labels,
}

impl Clear {
    const fn flag(self) -> &'static str {
        match self {
            Self::Scopes => "--scope",
            Self::Grantable => "--grantable",
            Self::Expiry => "--expires",
            Self::Cidrs => "--cidr",
            Self::Labels => "--label",
        }
    }
}

pub(super) fn run(
    arguments: UpdateArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let UpdateArguments {
        key_id,
        name,
        scopes,
        grantable,
        expires,
        cidrs,
        labels: given,
        clear,
        disable,
        enable,
        expected_revision,
        output,
        server,
    } = arguments;
    let changes = [
        ("display_name", name.is_some(), None),
        ("scopes", !scopes.is_empty(), Some(Clear::Scopes)),
        ("grantable_scopes", !grantable.is_empty(), Some(Clear::Grantable)),
        ("expire_time", expires.is_some(), Some(Clear::Expiry)),
        ("restrictions", !cidrs.is_empty(), Some(Clear::Cidrs)),
        ("labels", !given.is_empty(), Some(Clear::Labels)),
        ("disabled", disable || enable, None),
    ];
    let paths = mask(&changes, &clear)?;
    let key = Key {
        key_id,
        display_name: name.unwrap_or_default(),
        scopes,
        grantable_scopes: grantable,
        // The server's clock decides; this one is only added to.
        expire_time: expires.map(|when| timestamp(when.after(wall_clock()))),
        restrictions: (!cidrs.is_empty()).then_some(Restrictions { allowed_cidrs: cidrs }),
        labels: labels(given),
        disabled: disable,
        ..Key::default()
    };
    let update_mask = Some(FieldMask { paths });
    let request = UpdateKeyRequest { key: Some(key), update_mask, expected_revision };
    let answer = server.open(environment)?.call(request)?;
    console.show(&answer, answer.key.as_ref(), output);
    if output.output == Form::Table {
        super::show_receipt(answer.receipt.as_ref(), console);
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be changed: each of the fields that is given or is to be cleared, not both.
fn mask(
    changes: &[(&str, bool, Option<Clear>)],
    cleared: &[Clear],
) -> Result<Vec<String>, Failure> {
    let mut paths = Vec::new();
    for (path, is_given, clear) in changes {
        let is_cleared = clear.is_some_and(|clear| cleared.contains(&clear));
        if let Some(clear) = clear
            && is_cleared
            && *is_given
        {
            let message = format!("{} is both given and to be cleared", clear.flag());
            return Err(Failure::new(message).help("leave one of them out"));
        }
        if *is_given || is_cleared {
            paths.push((*path).to_owned());
        }
    }
    if paths.is_empty() {
        return Err(Failure::new("nothing was named that is to change").help(
            "name it: --name, --scope, --grantable, --expires, --cidr, --label, --clear, --disable \
             or --enable",
        ));
    }
    Ok(paths)
}
