//! The files that TLS is served with: reading them, and checking all that can be checked before
//! anything is served with them.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, InconsistentKeys, RootCertStore, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use crate::bounded;
use crate::clock::Timestamp;
use crate::serve::Protocol;

/// Where the PEM files are that TLS is served with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and after it the rest of its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CAs of client certificates. Where it is given, nobody connects without one.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be served with a file. Never holds what is in it.
#[derive(Debug, thiserror::Error)]
#[error("{field} = {path:?} {fault}")]
pub struct TlsError {
    field: &'static str,
    path: PathBuf,
    fault: String,
}

/// Checked, and ready to serve with.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) config: Arc<ServerConfig>,
    /// When the server's certificate expires.
    pub(super) not_after: Timestamp,
}

/// What the files hold at one moment.
pub(super) struct Contents<'a> {
    certificate: Content<'a>,
    key: Content<'a>,
    client_ca: Option<Content<'a>>,
}

struct Content<'a> {
    field: &'static str,
    path: &'a Path,
    bytes: io::Result<Zeroizing<Vec<u8>>>,
}

impl TlsFiles {
    pub(super) fn read(&self) -> Contents<'_> {
        Contents {
            certificate: Content::read("tls_certificate", &self.certificate),
            key: Content::read("tls_key", &self.key),
            client_ca: self.client_ca.as_deref().map(|path| Content::read("tls_client_ca", path)),
        }
    }

    /// Whether everybody on the machine may read the key.
    pub(super) fn key_is_open(&self) -> bool {
        const READ_BY_OTHERS: u32 = 0o004;
        std::fs::metadata(&self.key).is_ok_and(|file| file.mode() & READ_BY_OTHERS != 0)
    }
}

impl Contents<'_> {
    /// The same as long as the files are, and with overwhelming likelihood only then.
    pub(super) fn mark(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for content in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()] {
            let of_one = match content.map(|content| &content.bytes) {
                Some(Ok(bytes)) => Sha256::digest(bytes),
                Some(Err(error)) => Sha256::digest(error.to_string()),
                None => Sha256::digest(""),
            };
            hasher.update(of_one);
        }
        hasher.finalize().into()
    }

    /// Makes what is served with, or says what is wrong with which file.
    pub(super) fn check(&self, protocol: Protocol, now: Timestamp) -> Result<Checked, TlsError> {
        let chain = self.certificate.certificates()?;
        let not_after = self.certificate.validity(&chain, now)?;
        let key = self.key.private_key()?;
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| self.key.fault(error.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(content) => {
                let roots = Arc::new(content.roots(now)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| content.fault(format!("cannot be used: {error}")))?,
                )
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| self.key_fault(&error))?;
        config.alpn_protocols = match protocol {
            Protocol::Http2 => vec![b"h2".to_vec()],
            Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        if self.client_ca.is_some() {
            // A session that is resumed would bring its client certificate along unverified, beyond the
            // certificate's expiry.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Checked { config: Arc::new(config), not_after })
    }

    fn key_fault(&self, error: &rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let path = self.certificate.path.display();
                self.key.fault(format!(
                    "is not the key of the first certificate in {path}, which must be the server's own"
                ))
            }
            rustls::Error::General(_) => self.key.fault(
                "holds a key that is not supported: take ECDSA on P-256 or P-384, Ed25519, or RSA \
                 of 2048 to 8192 bits",
            ),
            error => self.certificate.fault(format!("cannot be used: {error}")),
        }
    }
}

impl<'a> Content<'a> {
    fn read(field: &'static str, path: &'a Path) -> Self {
        Self { field, path, bytes: bounded::read_file(path) }
    }

    fn fault(&self, fault: impl Into<String>) -> TlsError {
        TlsError { field: self.field, path: self.path.to_owned(), fault: fault.into() }
    }

    fn bytes(&self) -> Result<&[u8], TlsError> {
        match &self.bytes {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(self.fault(format!("cannot be read: {error}"))),
        }
    }

    /// Not the error's own text, which may repeat a line of the file.
    fn pem_fault(&self, error: &PemError) -> TlsError {
        self.fault(match error {
            PemError::MissingSectionEnd { .. } => "ends amid a PEM section: it is not whole",
            PemError::Base64Decode(_) => "holds a PEM section that is not base64",
            PemError::SectionTooLarge => "holds a PEM section that is too large",
            _ => "is not PEM",
        })
    }

    /// At least one.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.bytes()?).collect();
        let all = all.map_err(|error| self.pem_fault(&error))?;
        if all.is_empty() {
            return Err(self.fault("holds no certificate: PEM with `BEGIN CERTIFICATE` is needed"));
        }
        Ok(all)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(self.bytes()?).map_err(|error| match error {
            PemError::NoItemsFound => self.fault(
                "holds no private key that can be read: PEM with `BEGIN PRIVATE KEY` is needed, \
                 without a password",
            ),
            error => self.pem_fault(&error),
        })
    }

    /// When the first certificate expires, which is valid now.
    fn validity(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Timestamp, TlsError> {
        let own = chain.first().and_then(parse);
        let own = own.ok_or_else(|| self.fault("holds a certificate that cannot be read"))?;
        let Validity { not_before, not_after } = Validity::of(&own);
        if now > not_after {
            return Err(self.fault(format!("has expired at {not_after}")));
        }
        if now < not_before {
            return Err(self.fault(format!("is not valid before {not_before}")));
        }
        Ok(not_after)
    }

    /// The CAs to trust. One that has expired is left out: verification itself does not look at its dates.
    fn roots(&self, now: Timestamp) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for (index, der) in self.certificates()?.into_iter().enumerate() {
            let fault = |what: &str| self.fault(format!("holds, as number {}, {what}", index + 1));
            let read = parse(&der).ok_or_else(|| fault("a certificate that cannot be read"))?;
            if !read.is_ca() {
                return Err(fault("a certificate that is no CA's: it cannot have signed others"));
            }
            if now <= Validity::of(&read).not_after {
                roots.add(der.clone()).map_err(|_| fault("a CA that cannot be used"))?;
            }
        }
        if roots.is_empty() {
            return Err(self.fault("holds only CAs that have expired"));
        }
        Ok(roots)
    }
}

/// When a certificate is valid.
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl Validity {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let instant = |seconds: i64| {
            Timestamp::from_seconds_and_nanos(seconds.max(0), 0).unwrap_or(Timestamp::MAX)
        };
        let validity = certificate.validity();
        Self {
            not_before: instant(validity.not_before.timestamp()),
            not_after: instant(validity.not_after.timestamp()),
        }
    }
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}
