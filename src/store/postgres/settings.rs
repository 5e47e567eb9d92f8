//! The URL: who is connected to, and how. What it leaves out, libpq's environment and password file fill in.

use std::str::FromStr as _;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::store::StoreError;

/// How connections are made.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) options: PgConnectOptions,
    /// Whether statements are prepared under names, to be used again. A pooler that hands out connections for a
    /// transaction alone, and knows nothing of such names, mixes them up.
    pub(super) prepares: bool,
    /// Host, port and database, for people.
    pub(super) place: String,
}

const PARAMETERS: &str = "`host`, `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `application_name` and \
     `prepared_statements`";

impl Settings {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?…`; no error repeats any of it but names of parameters.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let mut asked = Asked::default();
        let mut passed = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "prepared_statements" => asked.prepares = prepares(&value)?,
                "sslmode" => asked.mode = Some(mode(&value)?),
                "host" | "sslrootcert" | "sslcert" | "sslkey" | "application_name" => {
                    asked.has_ca |= name == "sslrootcert";
                    passed.append_pair(&name, &value);
                }
                other => {
                    return Err(wrong(&format!(
                        "there is no parameter `{other}`; there are {PARAMETERS}"
                    )));
                }
            }
        }
        let url = format!("{place}?{}", passed.finish());
        let options =
            PgConnectOptions::from_str(&url).map_err(|error| wrong(&error.to_string()))?;
        let mode = asked.mode(is_near(&options));
        let options = options
            .ssl_mode(mode)
            // Poolers refuse parameters that they do not know, and no fraction is ever asked for.
            .extra_float_digits(None)
            .disable_statement_logging();
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("latchkey"),
        };
        Ok(Self { place: place_of(&options), options, prepares: asked.prepares })
    }

    /// What somebody between here and there can do, when it is not nothing.
    pub(super) fn exposure(&self) -> Option<&'static str> {
        if is_near(&self.options) {
            return None;
        }
        match self.options.get_ssl_mode() {
            PgSslMode::VerifyFull => None,
            PgSslMode::VerifyCa | PgSslMode::Require => Some(
                "it is encrypted, but another server could stand in its place; set sslmode=verify-full",
            ),
            PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => {
                Some("it is not encrypted; set sslmode=verify-full")
            }
        }
    }
}

/// What the parameters ask for.
struct Asked {
    mode: Option<PgSslMode>,
    has_ca: bool,
    prepares: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self { mode: None, has_ca: false, prepares: true }
    }
}

impl Asked {
    /// TLS with all its checks, unless the server is on this machine or something else was chosen.
    fn mode(&self, is_near: bool) -> PgSslMode {
        match self.mode {
            // As in libpq: who names a CA wants it looked at.
            Some(PgSslMode::Require) if self.has_ca => PgSslMode::VerifyCa,
            Some(mode) => mode,
            None if is_near => PgSslMode::Disable,
            None => PgSslMode::VerifyFull,
        }
    }
}

fn mode(value: &str) -> Result<PgSslMode, StoreError> {
    match value {
        "disable" => Ok(PgSslMode::Disable),
        "require" => Ok(PgSslMode::Require),
        "verify-ca" => Ok(PgSslMode::VerifyCa),
        "verify-full" => Ok(PgSslMode::VerifyFull),
        "allow" | "prefer" => Err(wrong(
            "`sslmode=allow` and `sslmode=prefer` promise nothing: choose `verify-full` or `disable`",
        )),
        _ => Err(wrong("sslmode must be `verify-full`, `verify-ca`, `require` or `disable`")),
    }
}

fn prepares(value: &str) -> Result<bool, StoreError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(wrong("prepared_statements must be `on` or `off`")),
    }
}

/// On this machine, where nobody stands between.
fn is_near(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn place_of(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or("(of the user's name)");
    match options.get_socket() {
        Some(folder) => format!("`{database}` at {}", folder.display()),
        None => format!("`{database}` at {}:{}", options.get_host(), options.get_port()),
    }
}

fn wrong(what: &str) -> StoreError {
    StoreError::Unusable(format!(
        "store.url: {what} (as in `postgres://USER:PASSWORD@HOST/DATABASE?sslrootcert=/PATH`)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(url: &str) -> String {
        Settings::parse(url).map(|_| ()).unwrap_err().to_string()
    }

    fn mode_of(url: &str) -> PgSslMode {
        Settings::parse(url).unwrap().options.get_ssl_mode()
    }

    #[test]
    fn tls_is_checked_in_full_unless_another_mode_is_chosen_or_the_server_is_near() {
        for (url, expected) in [
            ("postgres://u@db.example/d", "VerifyFull"),
            ("postgres://u@192.0.2.1/d", "VerifyFull"),
            ("postgresql://u@db.example:6432/d?sslmode=verify-full&sslrootcert=/ca", "VerifyFull"),
            ("postgres://u@db.example/d?sslmode=verify-ca", "VerifyCa"),
            ("postgres://u@db.example/d?sslmode=require", "Require"),
            ("postgres://u@db.example/d?sslmode=require&sslrootcert=/ca", "VerifyCa"),
            ("postgres://u@db.example/d?sslmode=disable", "Disable"),
            ("postgres://u@localhost/d", "Disable"),
            ("postgres://u@127.0.0.2/d", "Disable"),
            ("postgres://u@[::1]/d", "Disable"),
            ("postgres://u@db.example/d?host=/run/postgresql", "Disable"),
            ("postgres://u@localhost/d?sslmode=verify-full", "VerifyFull"),
        ] {
            assert_eq!(format!("{:?}", mode_of(url)), expected, "{url}");
        }
    }

    #[test]
    fn what_is_exposed_is_told() {
        let exposure = |url| Settings::parse(url).unwrap().exposure();
        assert_eq!(exposure("postgres://u@db.example/d"), None);
        assert_eq!(exposure("postgres://u@localhost/d"), None);
        assert!(exposure("postgres://u@db.example/d?sslmode=require").is_some());
        assert!(exposure("postgres://u@db.example/d?sslmode=disable").is_some());
    }

    #[test]
    fn a_wrong_url_is_told_without_what_stands_in_it() {
        for (url, told) in [
            ("postgres://u:hunter2@db.example/d?sslmode=prefer", "promise nothing"),
            ("postgres://u:hunter2@db.example/d?sslmode=hunter2", "sslmode must be"),
            ("postgres://u:hunter2@db.example/d?password=hunter2", "no parameter `password`"),
            ("postgres://u:hunter2@db.example/d?prepared_statements=hunter2", "must be `on`"),
            ("postgres://u:hunter2@db.example:hunter2/d", "invalid port number"),
        ] {
            let fault = fault(url);
            assert!(fault.contains(told) && !fault.contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn the_place_names_no_user_and_no_password() {
        let place = |url| Settings::parse(url).unwrap().place;
        assert_eq!(place("postgres://u:hunter2@db.example/keys"), "`keys` at db.example:5432");
        assert_eq!(place("postgres://u@localhost/keys?host=/run/pg"), "`keys` at /run/pg");
    }
}
