//! Certificates of the tests' own: authorities, and what they sign.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use latchkey::clock::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType, date_time_ymd,
};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
}

/// What a certificate is to say.
#[derive(Clone)]
pub(crate) struct Wish(CertificateParams);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub(crate) fn expired(name: &str) -> Self {
        Self::with(name, |params| params.not_after = date_time_ymd(2001, 1, 1))
    }

    fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// An authority that this one vouches for.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn sign(&self, wish: &Wish) -> Signed {
        let key = KeyPair::generate().unwrap();
        let signed = wish.0.signed_by(&key, &self.0).unwrap();
        Signed { certificate: signed.pem(), key: key.serialize_pem(), der: signed.der().clone() }
    }

    /// A server's, for 127.0.0.1 and localhost.
    pub(crate) fn server(&self) -> Signed {
        self.sign(&Wish::server())
    }

    /// A client's, with this URI.
    pub(crate) fn client(&self, uri: &str) -> Signed {
        self.sign(&Wish::client(&[SanType::URI(uri.try_into().unwrap())]))
    }
}

impl Wish {
    pub(crate) fn server() -> Self {
        let names = [
            SanType::DnsName("localhost".try_into().unwrap()),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ];
        Self::of("a server", &names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub(crate) fn client(names: &[SanType]) -> Self {
        Self::of("a client", names, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn of(common_name: &str, names: &[SanType], usage: ExtendedKeyUsagePurpose) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = vec![usage];
        Self(params)
    }

    pub(crate) fn expired(mut self) -> Self {
        self.0.not_after = date_time_ymd(2001, 1, 1);
        self
    }

    pub(crate) fn not_yet_valid(mut self) -> Self {
        self.0.not_before = date_time_ymd(2999, 1, 1);
        self
    }

    pub(crate) fn until(mut self, instant: Timestamp) -> Self {
        let seconds = instant.since(Timestamp::EPOCH).as_secs();
        self.0.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        self
    }
}

impl Signed {
    /// Writes both to files whose names begin so; the paths.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = write(folder, &format!("{name}.crt"), &self.certificate);
        let key = write(folder, &format!("{name}.key"), &self.key);
        (certificate, key)
    }
}

/// Writes a file so that nobody ever sees a part of it, and so that others may not read it.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let (path, beside) = (folder.join(name), folder.join(format!(".{name}.new")));
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    path
}
