//! The rules that a configuration must meet beside the types of its fields.

use std::ops::RangeInclusive;

use super::{Callers, Config};
use crate::failure::{Failure, Failures};
use crate::serve::Listen;
use crate::token::{Prefix, Token};

impl Config {
    /// Checks what can be seen without touching the store or the network.
    pub fn check(&self) -> Result<(), Failures> {
        let mut failures = Vec::new();
        self.check_exposure(&mut failures);
        self.check_values(&mut failures);
        self.check_bounds(&mut failures);
        Failures::finish(failures)
    }

    /// Where other machines can connect, somebody must have said who may ask, and that it is in the clear.
    fn check_exposure(&self, failures: &mut Vec<Failure>) {
        if self.grpc.callers == Some(Callers::Mtls) {
            let message =
                "grpc.callers = \"mtls\" needs TLS, which this version does not serve yet";
            let help = "write `callers = \"key\"` below [grpc], and let a proxy or a mesh encrypt";
            failures.push(Failure::new(message).help(help));
        }
        let exposed = [("grpc", &self.grpc.listen), ("http", &self.http.listen)]
            .into_iter()
            .find(|(_, listen)| !listen.is_loopback());
        let Some((section, listen)) = exposed else { return };
        let open = format!("{section}.listen = \"{listen}\" can be reached from other machines");
        if self.grpc.callers.is_none() {
            let message = format!("{open}, and it was not said who may ask for decisions");
            let help = "write `callers = \"key\"` below [grpc] (whoever has a key with \
                        latchkey:authorize), or `callers = \"any\"` (whoever can connect)";
            failures.push(Failure::new(message).help(help));
        }
        if !self.insecure {
            let message = format!("{open}, in plaintext: tokens can be read on the way");
            let help = "if something else encrypts, or the network is trusted, write \
                        `insecure = true` at the top of the file (or --insecure)";
            failures.push(Failure::new(message).help(help));
        }
    }

    fn check_values(&self, failures: &mut Vec<Failure>) {
        if Prefix::parse(&self.token.prefix).is_none() {
            let message = format!("token.prefix cannot be {:?}", self.token.prefix);
            let help = "it must be 2 to 16 characters of a-z and 0-9, a letter first";
            failures.push(Failure::new(message).help(help));
        }
        if let Some(fault) = self.store.url.fault() {
            let help = "write `url = \"sqlite://PATH\"` below [store]";
            failures.push(Failure::new(format!("store.url: {fault}")).help(help));
        }
        if let Some(token) = &self.root_token
            && let Err(fault) = Token::from_text(secrecy::ExposeSecret::expose_secret(token))
        {
            let message = format!("root_token is no token: {fault}");
            let help = "leave it out, and one is made at the first start; `latchkey token inspect` \
                        says whether a token is well-formed";
            failures.push(Failure::new(message).help(help));
        }
        let realm = &self.http.realm;
        if realm.len() > 100 || realm.contains(|char: char| !is_plain(char)) {
            let message =
                "http.realm must be 1 to 100 printable ASCII characters, without \" and \\";
            failures.push(Failure::new(message));
        }
        let no_door = [&self.grpc.listen, &self.http.listen].map(|listen| *listen == Listen::Off);
        if no_door == [true, true] {
            let message = "grpc.listen and http.listen are both off: nobody could ask anything";
            failures.push(Failure::new(message).help("give one of them an address"));
        }
    }

    fn check_bounds(&self, failures: &mut Vec<Failure>) {
        let serve = &self.serve;
        let bounds: [(&str, u64, RangeInclusive<u64>); 5] = [
            ("cache.keys_max", self.cache.keys_max, 1..=1_000_000_000),
            ("serve.threads", serve.threads, 0..=1_024),
            ("serve.connections_max", serve.connections_max, 1..=1_000_000),
            ("serve.connection_age_seconds", serve.connection_age_seconds, 1..=7 * 24 * 3_600),
            ("serve.drain_seconds", serve.drain_seconds, 0..=3_600),
        ];
        for (path, value, range) in bounds {
            if !range.contains(&value) {
                let (least, most) = range.into_inner();
                let message = format!("{path} cannot be {value}");
                failures.push(Failure::new(message).help(format!("from {least} to {most}")));
            }
        }
    }
}

impl super::StoreUrl {
    /// What is wrong with it, without repeating it.
    fn fault(&self) -> Option<&'static str> {
        match self.expose().split_once("://") {
            None => Some("it is no URL"),
            Some(("sqlite", "" | ":memory:")) => Some("there is no path of a file in it"),
            Some(("sqlite", _)) => None,
            Some(("postgres" | "postgresql", _)) => {
                Some("PostgreSQL needs a later version; this one stores in SQLite")
            }
            Some(_) => Some("there is no store of this scheme"),
        }
    }
}

/// What may stand in a quoted string of a header without being escaped.
fn is_plain(char: char) -> bool {
    matches!(char, ' '..='~') && !matches!(char, '"' | '\\')
}
