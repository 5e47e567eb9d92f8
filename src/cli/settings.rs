//! The flags that stand for configuration, and `latchkey config`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::console::Console;
use super::{Environment, Outcome};
use crate::config::{Config, Flag, Loaded, Sources};
use crate::failure::Failures;
use crate::serve::Listen;
use crate::token;

/// Flags that `serve`, `config` and `root` share.
#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    /// The configuration as TOML; the environment and flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(
        long,
        value_name = "URL",
        help = "Where keys are kept: sqlite://PATH or postgres://USER@HOST/DATABASE"
    )]
    store_url: Option<String>,
    /// Where the API listens: IP:PORT, unix:PATH or off
    #[arg(long, value_name = "ADDRESS")]
    grpc_listen: Option<Listen>,
    /// Where forward authentication listens: IP:PORT, unix:PATH or off
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<Listen>,
    /// Where probes listen: IP:PORT, unix:PATH or off
    #[arg(long, value_name = "ADDRESS")]
    operations_listen: Option<Listen>,
    /// The least severe events logged
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: Option<String>,
    /// Allow plaintext on addresses that other machines can reach
    #[arg(long)]
    insecure: bool,
}

impl ConfigArguments {
    /// Reads all layers. The rules between fields are not checked.
    pub(super) fn load(self, environment: Environment) -> Result<Loaded, Failures> {
        let Self {
            config,
            store_url,
            grpc_listen,
            http_listen,
            operations_listen,
            log_level,
            insecure,
        } = self;
        let address = |listen: Option<Listen>| listen.map(|listen| listen.to_string());
        let flags = [
            ("--store-url", "store.url", store_url),
            ("--grpc-listen", "grpc.listen", address(grpc_listen)),
            ("--http-listen", "http.listen", address(http_listen)),
            ("--operations-listen", "operations.listen", address(operations_listen)),
            ("--log-level", "log.level", log_level),
            ("--insecure", "insecure", insecure.then(|| "true".to_owned())),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(name, path, value)| value.map(|value| Flag { name, path, value }));
        Config::load(&Sources { file: config, environment, flags: flags.collect() })
    }

    /// Reads all layers, and checks everything but what the machine has to say.
    pub(super) fn load_checked(self, environment: Environment) -> Result<Loaded, Failures> {
        let loaded = self.load(environment)?;
        loaded.check()?;
        Ok(loaded)
    }
}

/// `latchkey config check`.
pub(super) fn check(
    arguments: ConfigArguments,
    environment: Environment,
    console: &mut Console,
) -> Outcome {
    let Loaded { config, passed_over, origins: _ } = arguments.load_checked(environment)?;
    config.first_policy()?;
    config.load_tls()?;
    warn(&passed_over, console);
    console.answer("The configuration is right.");
    Ok(ExitCode::SUCCESS)
}

/// `latchkey config show`.
pub(super) fn show(
    arguments: ConfigArguments,
    environment: Environment,
    console: &mut Console,
) -> Outcome {
    let loaded = arguments.load(environment)?;
    warn(&loaded.passed_over, console);
    // A token may stand where none belongs.
    console.answer(&token::without_tokens(&loaded.into_toml()));
    Ok(ExitCode::SUCCESS)
}

fn warn(passed_over: &[String], console: &mut Console) {
    for told in passed_over {
        console.note(&format!("warning: {told}"));
    }
}
