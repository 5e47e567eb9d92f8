//! `latchkey serve`, `root reset`, `migrate` and `redis new-key`: reads the configuration and hands over to [`app`].

use std::path::PathBuf;
use std::process::ExitCode;

use super::console::Console;
use super::settings::ConfigArguments;
use super::{Dev, Environment, Outcome, ServeArguments};
use crate::config::{Config, Loaded, Origin};
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::{app, telemetry};

/// `latchkey serve`.
pub(super) fn serve(arguments: ServeArguments, environment: Environment) -> Outcome {
    let ServeArguments { config, dev, dev_dir, scopes } = arguments;
    let loaded = config.load_checked(environment)?;
    let dev = dev.then_some(Dev { directory: dev_dir, scopes });
    if dev.is_some() {
        refuse_exposed_dev(&loaded.config)?;
        refuse_dev_with_more(&loaded)?;
        refuse_another_store(&loaded)?;
    }
    let logging = telemetry::start(&loaded.config.log);
    for told in &loaded.passed_over {
        tracing::warn!("{told}");
    }
    if let Some(Origin::Environment(name)) = loaded.origins.get("root_token")
        && !name.ends_with("_FILE")
    {
        tracing::warn!(
            "{name} stays in this process's environment for as long as it lives; name a file that holds the token in {name}_FILE"
        );
    }
    app::serve(loaded.config, dev, &logging)
}

/// `--dev` prints tokens, so nothing of it may be reached from elsewhere.
fn refuse_exposed_dev(config: &Config) -> Result<(), Failure> {
    let listeners = [
        ("grpc", &config.grpc.listen),
        ("administration", &config.administration.listen),
        ("http", &config.http.listen),
        ("operations", &config.operations.listen),
    ];
    let exposed = listeners.into_iter().find(|(_, listen)| !listen.is_loopback());
    exposed.map_or(Ok(()), |(section, listen)| {
        let message = format!("--dev listens on loopback only, and {section}.listen is {listen}");
        Err(Failure::new(message).help("leave --dev out, or listen on 127.0.0.1"))
    })
}

/// The lines that `--dev` prints are for plaintext, and for one listener.
fn refuse_dev_with_more(loaded: &Loaded) -> Result<(), Failure> {
    let is_more =
        |path: &str| path.ends_with(".tls_certificate") || path == "administration.listen";
    let more = loaded.origins.iter().find(|(path, _)| is_more(path));
    let Some((path, origin)) = more else { return Ok(()) };
    let message = format!(
        "--dev serves plaintext on loopback, administration with the rest, and {origin} sets {path}"
    );
    Err(Failure::new(message).help("leave one of them out"))
}

/// `--dev` would not look at the store that was named.
fn refuse_another_store(loaded: &Loaded) -> Result<(), Failure> {
    let Some(origin) = loaded.origins.get("store.url") else { return Ok(()) };
    let message = format!("--dev keeps a store of its own, and {origin} sets store.url");
    let help = "leave one of them out; --dev-dir DIR says where --dev keeps its store";
    Err(Failure::new(message).help(help))
}

/// `latchkey root reset`.
pub(super) fn reset_root(
    arguments: ConfigArguments,
    token_file: Option<PathBuf>,
    environment: Environment,
    console: &mut Console,
) -> Outcome {
    let config = arguments.load_checked(environment)?.config;
    let delivery = Delivery::choose(token_file).ok_or_else(|| {
        Failure::new("stdout is not a terminal: the new token could end in a log")
            .help("name a new file for it: --token-file FILE")
    })?;
    let logging = telemetry::start(&config.log);
    app::reset_root(&config, &delivery)?;
    drop(logging); // its last lines come before the answer
    console.answer(&match delivery {
        Delivery::File(path) => {
            format!("The old root key is revoked; the new token is in {}.", path.display())
        }
        Delivery::Terminal => {
            "The old root key is revoked; the new token stands above, and is not shown again."
                .to_owned()
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// `latchkey migrate`.
pub(super) fn migrate(
    arguments: ConfigArguments,
    environment: Environment,
    console: &mut Console,
) -> Outcome {
    let config = arguments.load_checked(environment)?.config;
    let logging = telemetry::start(&config.log);
    app::migrate(&config)?;
    drop(logging); // its last lines come before the answer
    console.answer("The schema is up to date.");
    Ok(ExitCode::SUCCESS)
}

/// `latchkey redis new-key`.
pub(super) fn new_mac_key(
    arguments: ConfigArguments,
    environment: Environment,
    console: &mut Console,
) -> Outcome {
    let config = arguments.load_checked(environment)?.config;
    let logging = telemetry::start(&config.log);
    app::new_mac_key(&config)?;
    drop(logging); // its last lines come before the answer
    console.answer(
        "There is a new key. What the one before authenticated counts until the next is made.",
    );
    Ok(ExitCode::SUCCESS)
}
