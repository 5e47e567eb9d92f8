//! The configuration: its fields, their defaults, and the rules between them.
//!
//! Layers are TOML file < environment < flags; [`Config::load`] says where each value came from.
//! The environment is a parameter. Each field is named once, in `Config::settings`, which the
//! compiler holds complete; reading, showing and `deploy/latchkey.toml` all follow that list.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::gateway::{CredentialHeaders, Networks};
use crate::grpc::CallerNames;
use crate::serve::Listen;

mod check;
mod load;
mod policy_file;
mod redis;
mod setting;
mod show;
mod telemetry;
mod tls;

pub use self::load::{Flag, Loaded, Origin, Sources};
pub use self::policy_file::read_policy;
pub use self::redis::{Redis, RedisUrl};
pub use self::setting::{Callers, LogFormat, LogLevel, StoreUrl};
pub use self::telemetry::{Export, Telemetry};
pub use self::tls::{LoadedTls, Tls};

use self::setting::Setting;

/// How this process runs. What several nodes share is in the policy, not here.
#[derive(Debug, Default)]
pub struct Config {
    /// The token of the first operator's key, where it is chosen and not made.
    pub root_token: Option<SecretString>,
    /// Plaintext is served on addresses that other machines can reach.
    pub insecure: bool,
    /// Where keys and accounts are kept.
    pub store: Store,
    /// Where nodes keep for each other what they have read.
    pub redis: Redis,
    /// The API.
    pub grpc: Grpc,
    /// Administration, where it is not served beside the API.
    pub administration: Administration,
    /// Forward authentication.
    pub http: Http,
    /// What gateways are told, and may tell.
    pub gateway: Gateway,
    /// Probes, metrics and the log level.
    pub operations: Operations,
    /// New tokens.
    pub token: Token,
    /// The policy of an empty store.
    pub policy: Policy,
    /// What is kept in memory.
    pub cache: Cache,
    /// The bounds of serving.
    pub serve: Serve,
    /// What is written to stderr.
    pub log: Log,
    /// What is exported over OTLP.
    pub telemetry: Telemetry,
}

/// Where keys and accounts are kept.
#[derive(Debug)]
pub struct Store {
    /// `sqlite://PATH`, where a relative path starts in the working directory, or `postgres://…`.
    pub url: StoreUrl,
    /// Whether a start brings the schema of a PostgreSQL database up to date.
    pub migrate: bool,
    /// How long one read by the reader of changes may take, in milliseconds.
    pub read_timeout_ms: u64,
}

/// The API.
#[derive(Debug)]
pub struct Grpc {
    /// Where it listens.
    pub listen: Listen,
    /// Who may ask for decisions, where that was chosen.
    pub callers: Option<Callers>,
    /// Whose certificates may ask, where callers show certificates; any, where none is named.
    pub caller_names: CallerNames,
    /// Whether the API describes itself, for grpcurl.
    pub reflection: bool,
    /// What TLS is served with.
    pub tls: Tls,
}

/// Administration, where it has a listener of its own.
#[derive(Debug)]
pub struct Administration {
    /// Where it listens; where it is off, the API's listener serves administration as well.
    pub listen: Listen,
    /// What TLS is served with.
    pub tls: Tls,
}

/// Forward authentication.
#[derive(Debug)]
pub struct Http {
    /// Where it listens.
    pub listen: Listen,
    /// The realm in `WWW-Authenticate` (RFC 9110 §11.5).
    pub realm: String,
    /// What TLS is served with.
    pub tls: Tls,
}

/// What gateways are told, and may tell.
#[derive(Debug, Default)]
pub struct Gateway {
    /// Headers that hold a bare key, beside `authorization`.
    pub credential_headers: CredentialHeaders,
    /// Whether the upstream is sent the credential too.
    pub forward_credential: bool,
    /// Proxies that may say what the client asked, and from where it came.
    pub trusted_proxies: Networks,
}

/// Probes, metrics and the log level.
#[derive(Debug)]
pub struct Operations {
    /// Where they listen.
    pub listen: Listen,
    /// What TLS is served with.
    pub tls: Tls,
}

/// New tokens.
#[derive(Debug)]
pub struct Token {
    /// What they begin with; checked against [`Prefix`](crate::token::Prefix).
    pub prefix: String,
}

/// The policy of an empty store.
#[derive(Debug, Default)]
pub struct Policy {
    /// A TOML document; the built-in policy where there is none.
    pub file: Option<PathBuf>,
}

/// What is kept in memory.
#[derive(Debug)]
pub struct Cache {
    /// The most keys.
    pub keys_max: u64,
}

/// The bounds of serving.
#[derive(Debug)]
pub struct Serve {
    /// Threads that serve connections; 0 means one for each core.
    pub threads: u64,
    /// The most connections open at once, for each listener.
    pub connections_max: u64,
    /// The age at which a client is asked to connect anew, in seconds.
    pub connection_age_seconds: u64,
    /// How long calls are still taken and answered once readiness says that we are told to stop, in seconds.
    pub notice_seconds: u64,
    /// How long calls in flight have to end at shutdown, in seconds.
    pub drain_seconds: u64,
}

/// What is written to stderr.
#[derive(Debug, Default)]
pub struct Log {
    /// The least severe events written.
    pub level: LogLevel,
    /// How they are written.
    pub format: LogFormat,
}

impl Config {
    /// Every field by its path, in the order in which they are shown: those without a section first.
    #[expect(clippy::too_many_lines, reason = "a list, in which every field stands once")]
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        let Self {
            root_token,
            insecure,
            store: Store { url, migrate, read_timeout_ms },
            redis: Redis { url: redis_url, ca_file },
            grpc: Grpc { listen: grpc_listen, callers, caller_names, reflection, tls: grpc_tls },
            administration:
                Administration { listen: administration_listen, tls: administration_tls },
            http: Http { listen: http_listen, realm, tls: http_tls },
            gateway: Gateway { credential_headers, forward_credential, trusted_proxies },
            operations: Operations { listen: operations_listen, tls: operations_tls },
            token: Token { prefix },
            policy: Policy { file },
            cache: Cache { keys_max },
            serve:
                Serve {
                    threads,
                    connections_max,
                    connection_age_seconds,
                    notice_seconds,
                    drain_seconds,
                },
            log: Log { level, format },
            telemetry:
                Telemetry {
                    endpoint,
                    protocol,
                    headers,
                    timeout_ms,
                    service_name,
                    resource_attributes,
                    traces,
                    sampler,
                    sampler_ratio,
                    metrics,
                    metrics_interval_ms,
                },
        } = self;
        vec![
            ("root_token", root_token),
            ("insecure", insecure),
            ("store.url", url),
            ("store.migrate", migrate),
            ("store.read_timeout_ms", read_timeout_ms),
            ("redis.url", redis_url),
            ("redis.ca_file", ca_file),
            ("grpc.listen", grpc_listen),
            ("grpc.callers", callers),
            ("grpc.caller_names", caller_names),
            ("grpc.reflection", reflection),
            ("grpc.tls_certificate", &mut grpc_tls.certificate),
            ("grpc.tls_key", &mut grpc_tls.key),
            ("grpc.tls_client_ca", &mut grpc_tls.client_ca),
            ("administration.listen", administration_listen),
            ("administration.tls_certificate", &mut administration_tls.certificate),
            ("administration.tls_key", &mut administration_tls.key),
            ("administration.tls_client_ca", &mut administration_tls.client_ca),
            ("http.listen", http_listen),
            ("http.realm", realm),
            ("http.tls_certificate", &mut http_tls.certificate),
            ("http.tls_key", &mut http_tls.key),
            ("http.tls_client_ca", &mut http_tls.client_ca),
            ("gateway.credential_headers", credential_headers),
            ("gateway.forward_credential", forward_credential),
            ("gateway.trusted_proxies", trusted_proxies),
            ("operations.listen", operations_listen),
            ("operations.tls_certificate", &mut operations_tls.certificate),
            ("operations.tls_key", &mut operations_tls.key),
            ("operations.tls_client_ca", &mut operations_tls.client_ca),
            ("token.prefix", prefix),
            ("policy.file", file),
            ("cache.keys_max", keys_max),
            ("serve.threads", threads),
            ("serve.connections_max", connections_max),
            ("serve.connection_age_seconds", connection_age_seconds),
            ("serve.notice_seconds", notice_seconds),
            ("serve.drain_seconds", drain_seconds),
            ("log.level", level),
            ("log.format", format),
            ("telemetry.endpoint", endpoint),
            ("telemetry.protocol", protocol),
            ("telemetry.headers", headers),
            ("telemetry.timeout_ms", timeout_ms),
            ("telemetry.service_name", service_name),
            ("telemetry.resource_attributes", resource_attributes),
            ("telemetry.traces", traces),
            ("telemetry.sampler", sampler),
            ("telemetry.sampler_ratio", sampler_ratio),
            ("telemetry.metrics", metrics),
            ("telemetry.metrics_interval_ms", metrics_interval_ms),
        ]
    }
}

impl Grpc {
    /// Who may ask for decisions. [`Config::check`] has seen to it that `any` is a choice wherever
    /// other machines can connect.
    #[must_use]
    pub fn callers(&self) -> Callers {
        self.callers.unwrap_or(Callers::Any)
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { url: StoreUrl::default(), migrate: true, read_timeout_ms: 250 }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: loopback(50_051),
            callers: None,
            caller_names: CallerNames::default(),
            reflection: true,
            tls: Tls::default(),
        }
    }
}

impl Default for Administration {
    fn default() -> Self {
        Self { listen: Listen::Off, tls: Tls::default() }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: loopback(8_080), realm: "latchkey".to_owned(), tls: Tls::default() }
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self { listen: loopback(9_090), tls: Tls::default() }
    }
}

impl Default for Token {
    fn default() -> Self {
        Self { prefix: "hm".to_owned() }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { keys_max: 2_000_000 }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            threads: 0,
            connections_max: 2_000,
            connection_age_seconds: 30 * 60,
            notice_seconds: 2,
            drain_seconds: 10,
        }
    }
}

fn loopback(port: u16) -> Listen {
    Listen::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], port)))
}

#[cfg(test)]
mod tests;
