//! What TLS is served with, by listener: three files each, loaded before anything is served.

use std::path::PathBuf;

use super::Config;
use crate::failure::{Failure, Failures};
use crate::machine;
use crate::serve::{self, Listen, Protocol, TlsFiles};

/// The files of one listener; no TLS where none is named.
#[derive(Debug, Default)]
pub struct Tls {
    /// The server's certificate and its chain.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The CAs of client certificates.
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    /// All files that are needed, where they are named.
    pub(super) fn files(&self) -> Option<TlsFiles> {
        let Self { certificate, key, client_ca } = self;
        Some(TlsFiles {
            certificate: certificate.clone()?,
            key: key.clone()?,
            client_ca: client_ca.clone(),
        })
    }
}

/// What each listener serves TLS with; `None` where it serves plaintext, or nothing.
#[derive(Debug)]
pub struct LoadedTls {
    /// The API.
    pub grpc: Option<serve::Tls>,
    /// Administration, where it has a listener of its own.
    pub administration: Option<serve::Tls>,
    /// Forward authentication.
    pub http: Option<serve::Tls>,
    /// Probes.
    pub operations: Option<serve::Tls>,
}

impl Config {
    /// Reads and checks the files of all listeners; every fault is told at once.
    pub fn load_tls(&self) -> Result<LoadedTls, Failures> {
        let mut failures = Vec::new();
        let mut load = |section, listen: &Listen, tls: &Tls, protocol| {
            let files = tls.files().filter(|_| *listen != Listen::Off)?;
            let loaded = serve::Tls::load(section, files, protocol, machine::wall_clock);
            loaded
                .map_err(|error| {
                    let failure = Failure::new(format!("{section}.{error}"));
                    failures.push(failure.help(
                        "the service starts with files that are right only; `latchkey config check` \
                         looks at them too",
                    ));
                })
                .ok()
        };
        let loaded = LoadedTls {
            grpc: load("grpc", &self.grpc.listen, &self.grpc.tls, Protocol::Http2),
            administration: load(
                "administration",
                &self.administration.listen,
                &self.administration.tls,
                Protocol::Http2,
            ),
            http: load("http", &self.http.listen, &self.http.tls, Protocol::Auto),
            operations: load(
                "operations",
                &self.operations.listen,
                &self.operations.tls,
                Protocol::Auto,
            ),
        };
        Failures::finish(failures)?;
        Ok(loaded)
    }
}
