//! The rules that a configuration must meet beside the types of its fields.

use std::ops::RangeInclusive;

use secrecy::{ExposeSecret as _, SecretString};

use super::setting::shortened;
use super::{Callers, Config, Loaded};
use crate::failure::{Failure, Failures};
use crate::serve::Listen;
use crate::store;
use crate::token::{Environment, Prefix};

const REALM_BYTES_MAX: usize = 100;

/// A rule that is not met, and the field that it is about.
struct Fault {
    path: &'static str,
    failure: Failure,
}

impl Loaded {
    /// As [`Config::check`]; where a value came from is told as well.
    pub fn check(&self) -> Result<(), Failures> {
        let told = |Fault { path, failure }| match self.origins.get(path) {
            Some(origin) => failure.about(origin),
            None => failure,
        };
        Failures::finish(self.config.faults().into_iter().map(told).collect())
    }
}

impl Config {
    /// Checks what can be seen without touching the store or the network.
    pub fn check(&self) -> Result<(), Failures> {
        Failures::finish(self.faults().into_iter().map(|fault| fault.failure).collect())
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.check_exposure(&mut faults);
        self.check_tls(&mut faults);
        self.check_values(&mut faults);
        self.check_bounds(&mut faults);
        faults
    }

    /// Where other machines can connect, somebody must have said who may ask, and that it is in the clear.
    fn check_exposure(&self, faults: &mut Vec<Fault>) {
        let listeners = [
            ("grpc.listen", &self.grpc.listen, &self.grpc.tls),
            ("http.listen", &self.http.listen, &self.http.tls),
            ("administration.listen", &self.administration.listen, &self.administration.tls),
        ];
        let mut exposed = listeners.into_iter().filter(|(_, listen, _)| !listen.is_loopback());
        let open =
            |path, listen| format!("{path} = \"{listen}\" can be reached from other machines");
        if self.grpc.callers.is_none()
            && let Some((path, listen, _)) =
                exposed.clone().find(|(path, ..)| *path != "administration.listen")
        {
            let open = open(path, listen);
            let message = format!("{open}, and it was not said who may ask for decisions");
            let help = "write below [grpc] `callers = \"key\"` (whoever has a key with \
                        latchkey:authorize), `callers = \"mtls\"` (whoever has a client certificate \
                        of tls_client_ca), or `callers = \"any\"` (whoever can connect)";
            faults.push(fault(path, message, help));
        }
        if !self.insecure
            && let Some((path, listen, _)) = exposed.find(|(_, _, tls)| tls.files().is_none())
        {
            let open = open(path, listen);
            let message = format!("{open}, in plaintext: tokens can be read on the way");
            let section = path.trim_end_matches(".listen");
            let help = format!(
                "name `tls_certificate` and `tls_key` below [{section}]; or, if something else \
                 encrypts or the network is trusted, write `insecure = true` at the top of the file \
                 (or --insecure)"
            );
            faults.push(fault(path, message, help));
        }
    }

    /// TLS is all or nothing, and who is to show a certificate must be asked for one.
    fn check_tls(&self, faults: &mut Vec<Fault>) {
        let Self { grpc, administration, http, operations, .. } = self;
        for (section, paths, tls) in [
            ("grpc", ["grpc.tls_certificate", "grpc.tls_key", "grpc.tls_client_ca"], &grpc.tls),
            ("http", ["http.tls_certificate", "http.tls_key", "http.tls_client_ca"], &http.tls),
            (
                "administration",
                [
                    "administration.tls_certificate",
                    "administration.tls_key",
                    "administration.tls_client_ca",
                ],
                &administration.tls,
            ),
            (
                "operations",
                ["operations.tls_certificate", "operations.tls_key", "operations.tls_client_ca"],
                &operations.tls,
            ),
        ] {
            let [certificate, key, client_ca] = paths;
            let (named, missing, what) = match (&tls.certificate, &tls.key, &tls.client_ca) {
                (Some(_), None, _) => {
                    (certificate, "tls_key", "the private key of the certificate")
                }
                (None, Some(_), _) => (key, "tls_certificate", "the certificate of the key"),
                (None, None, Some(_)) => (
                    client_ca,
                    "tls_certificate",
                    "the server's own certificate, beside `tls_key`, its private key",
                ),
                (Some(_), Some(_), _) | (None, None, None) => continue,
            };
            let message = format!("{named} is set, and {section}.{missing} is not");
            let help = format!("write `{missing} = \"PATH\"` below [{section}]: {what}, as PEM");
            faults.push(fault(named, message, help));
        }
        let (section, tls) =
            if grpc.listen == Listen::Off { ("http", &http.tls) } else { ("grpc", &grpc.tls) };
        let is_mtls = grpc.callers == Some(Callers::Mtls);
        if is_mtls && tls.client_ca.is_none() {
            let message = format!(
                "grpc.callers = \"mtls\" needs {section}.tls_client_ca: whose client certificates count"
            );
            let help = format!(
                "write `tls_client_ca = \"PATH\"` below [{section}]: the CAs that sign them, as PEM"
            );
            faults.push(fault("grpc.callers", message, help));
        }
        if !is_mtls && !grpc.caller_names.is_empty() {
            let message = "grpc.caller_names has no effect, for grpc.callers is not \"mtls\"";
            let help = "write `callers = \"mtls\"` below [grpc], or leave caller_names out";
            faults.push(fault("grpc.caller_names", message, help));
        }
    }

    fn check_values(&self, faults: &mut Vec<Fault>) {
        let prefix = &self.token.prefix;
        if Prefix::parse(prefix).is_none() {
            let message = format!("token.prefix cannot be {prefix:?}");
            let help = "it must be 2 to 16 characters of a-z and 0-9, a letter first";
            faults.push(fault("token.prefix", message, help));
        }
        if let Some(what) = self.store.url.fault() {
            let help = "write `url = \"sqlite://PATH\"` below [store], the path alone, or \
                        `url = \"postgres://USER:PASSWORD@HOST/DATABASE\"`";
            faults.push(fault("store.url", format!("store.url: {what}"), help));
        }
        if let Err(what) = self.redis.address() {
            let path =
                if what.starts_with("redis.ca_file") { "redis.ca_file" } else { "redis.url" };
            let help = "leave redis.url out to do without it: nothing needs Redis";
            faults.push(fault(path, what, help));
        }
        if let Some(what) = self.root_token.as_ref().and_then(|token| root_fault(token, prefix)) {
            let help = "`latchkey token inspect` says what a token is; without root_token one is \
                        made at the first start, and a store that has its root key needs none";
            faults.push(fault("root_token", format!("root_token is no token {what}"), help));
        }
        let realm = &self.http.realm;
        if realm.is_empty()
            || realm.len() > REALM_BYTES_MAX
            || realm.contains(|char: char| !is_plain(char))
        {
            let message = format!("http.realm cannot be {:?}", shortened(realm));
            let help = "it must be 1 to 100 printable ASCII characters, without \" and \\";
            faults.push(fault("http.realm", message, help));
        }
        let no_door = [&self.grpc.listen, &self.http.listen].map(|listen| *listen == Listen::Off);
        if no_door == [true, true] {
            let message = "grpc.listen and http.listen are both off: nobody could ask anything";
            faults.push(fault("grpc.listen", message, "give one of them an address"));
        }
    }

    /// What this number would have to be, where it is out of its bounds.
    pub(super) fn bounds_fault(&self, path: &str) -> Option<String> {
        let mut faults = Vec::new();
        self.check_bounds(&mut faults);
        faults.into_iter().find(|fault| fault.path == path)?.failure.help
    }

    fn check_bounds(&self, faults: &mut Vec<Fault>) {
        let (store, serve, telemetry) = (&self.store, &self.serve, &self.telemetry);
        let interval = telemetry.metrics_interval_ms;
        let bounds: [(&str, u64, RangeInclusive<u64>); 9] = [
            ("store.read_timeout_ms", store.read_timeout_ms, 10..=10_000),
            ("cache.keys_max", self.cache.keys_max, 1..=1_000_000_000),
            ("serve.threads", serve.threads, 0..=1_024),
            ("serve.connections_max", serve.connections_max, 1..=1_000_000),
            ("serve.connection_age_seconds", serve.connection_age_seconds, 1..=7 * 24 * 3_600),
            ("serve.notice_seconds", serve.notice_seconds, 0..=3_600),
            ("serve.drain_seconds", serve.drain_seconds, 0..=3_600),
            ("telemetry.timeout_ms", telemetry.timeout_ms, 10..=60_000),
            ("telemetry.metrics_interval_ms", interval, 100..=3_600_000),
        ];
        for (path, value, range) in bounds {
            if !range.contains(&value) {
                let (least, most) = range.into_inner();
                let message = format!("{path} cannot be {value}");
                faults.push(fault(path, message, format!("from {least} to {most}")));
            }
        }
    }
}

fn fault(path: &'static str, message: impl Into<String>, help: impl Into<String>) -> Fault {
    Fault { path, failure: Failure::new(message).help(help) }
}

/// What is wrong with a root token, without repeating it.
fn root_fault(text: &SecretString, prefix: &str) -> Option<String> {
    match crate::token::parse(text.expose_secret().as_bytes()) {
        Err(malformed) => Some(format!("at all: {malformed}")),
        Ok(parsed) if parsed.prefix == prefix && parsed.environment == Environment::Live => None,
        Ok(_) => Some(format!("for a root key: it must begin with `{prefix}_live_`")),
    }
}

impl super::StoreUrl {
    /// What is wrong with it, without repeating it.
    fn fault(&self) -> Option<String> {
        let fault = match self.expose().split_once("://") {
            None => "it is no URL",
            Some(("sqlite", "" | ":memory:")) => "there is no path of a file in it",
            // To SQLite these would begin parameters, of which there are none.
            Some(("sqlite", path)) if path.contains(['?', '#']) => {
                "there is a `?` or `#` in the path, and parameters are not taken"
            }
            Some(("sqlite", _)) => return None,
            Some(("postgres" | "postgresql", _)) => {
                let fault = store::check(self.expose()).err()?.to_string();
                return Some(fault.trim_start_matches("store.url: ").to_owned());
            }
            Some(_) => "there is no store of this scheme",
        };
        Some(fault.to_owned())
    }
}

/// What may stand in a quoted string of a header without being escaped.
fn is_plain(char: char) -> bool {
    matches!(char, ' '..='~') && !matches!(char, '"' | '\\')
}
