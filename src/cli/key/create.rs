//! `latchkey key create`.

use clap::Args;
use zeroize::Zeroizing;

use super::form::FormArguments;
use super::token_is_lost;
use crate::cli::arguments::{EnvironmentName, Label, labels, request_id};
use crate::cli::console::Console;
use crate::cli::server::ServerArguments;
use crate::cli::time::{When, duration, timestamp};
use crate::cli::tree::Tree;
use crate::cli::{Environment, Outcome};
use crate::proto::v1::create_key_request::Expiration;
use crate::proto::v1::{CreateKeyRequest, Restrictions};

/// The key to make.
#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArguments {
    /// The account that gets the key
    #[arg(long, value_name = "ACCOUNT_ID")]
    account: String,
    /// A name for people
    #[arg(long)]
    name: String,
    /// The world that it belongs to
    #[arg(long, value_enum)]
    environment: EnvironmentName,
    /// What it may do, as in memory:read or memory:*; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// What it may hand out to keys that it makes; may be repeated
    #[arg(long = "grantable", value_name = "SCOPE")]
    grantable: Vec<String>,
    /// When it expires: a span (90d), a date (2027-01-01) or an instant [default: never]
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    expires: Option<When>,
    /// A network that requests may come from; may be repeated [default: any]
    #[arg(long = "cidr", value_name = "CIDR")]
    cidrs: Vec<String>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = Label::parse)]
    labels: Vec<Label>,
    /// A UUID by which the same request is known again [default: one is made]
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    #[command(flatten)]
    form: FormArguments,
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) fn run(
    arguments: CreateArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let CreateArguments {
        account,
        name,
        environment: world,
        scopes,
        grantable,
        expires,
        cidrs,
        labels: given,
        request_id: id,
        form,
        server,
    } = arguments;
    form.check()?;
    let request = CreateKeyRequest {
        account_id: account,
        display_name: name,
        environment: world.to_proto(),
        scopes,
        grantable_scopes: grantable,
        expiration: expires.map(expiration),
        restrictions: (!cidrs.is_empty()).then_some(Restrictions { allowed_cidrs: cidrs }),
        labels: labels(given),
        request_id: request_id(id),
    };
    let answer = server.open(environment)?.call(request).map_err(token_is_lost)?;
    let tree = Tree::of(&answer);
    let token = Zeroizing::new(answer.token);
    form.print(&tree, answer.key.as_ref(), &token, console)
}

fn expiration(when: When) -> Expiration {
    match when {
        When::Span(span) => Expiration::Ttl(duration(span)),
        When::Instant(instant) => Expiration::ExpireTime(timestamp(instant)),
    }
}
