//! Who a client is by its certificate.
//!
//! The certificate was verified before; here it is only read. The subject's common name is not looked
//! at: it has no form, so nobody could say what kind of name it is.

use std::net::IpAddr;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::files::{Validity, parse};
use crate::clock::Timestamp;

/// The most bytes of an identity: what SPIFFE allows.
const IDENTITY_BYTES_MAX: usize = 2_048;

/// What a verified client certificate says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::serve) struct Client {
    /// Its first URI, else its first DNS name, IP address or email address among the subject's
    /// alternative names; `None` where there is none, or one that is not what it should be.
    pub(in crate::serve) identity: Option<Arc<str>>,
    /// When it expires.
    pub(in crate::serve) not_after: Timestamp,
}

impl Client {
    /// `None` for what is no certificate.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = parse(certificate)?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let identity = names.and_then(|names| identity(&names.value.general_names));
        Some(Self {
            identity: identity.map(Arc::from),
            not_after: Validity::of(&certificate).not_after,
        })
    }
}

/// A name of one kind cannot be taken for one of another: each kind has a form that the others lack.
fn identity(names: &[GeneralName<'_>]) -> Option<String> {
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return None;
    }
    let first = |rank| names.iter().find(|name| rank_of(name) == Some(rank));
    match (0..=3).find_map(first)? {
        GeneralName::URI(uri) => is_uri(uri).then(|| (*uri).to_owned()),
        GeneralName::DNSName(name) => is_dns(name).then(|| name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        GeneralName::RFC822Name(email) => is_email(email).then(|| (*email).to_owned()),
        _ => None,
    }
}

fn rank_of(name: &GeneralName<'_>) -> Option<u8> {
    match name {
        GeneralName::URI(_) => Some(0),
        GeneralName::DNSName(_) => Some(1),
        GeneralName::IPAddress(_) => Some(2),
        GeneralName::RFC822Name(_) => Some(3),
        _ => None,
    }
}

fn is_plain(text: &str) -> bool {
    (1..=IDENTITY_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_uri(text: &str) -> bool {
    is_plain(text) && text.contains(':') && text.parse::<IpAddr>().is_err()
}

fn is_dns(text: &str) -> bool {
    let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_*".contains(&byte);
    is_plain(text) && text.bytes().all(is_of_a_name) && text.parse::<IpAddr>().is_err()
}

fn is_email(text: &str) -> bool {
    is_plain(text) && text.contains('@') && !text.contains([':', '/'])
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIFFE: GeneralName<'_> = GeneralName::URI("spiffe://acme/billing");

    #[test]
    fn the_first_uri_wins_then_dns_then_the_address_then_the_email() {
        let (dns, ip) =
            (GeneralName::DNSName("Billing.acme"), GeneralName::IPAddress(&[10, 0, 0, 1]));
        let email = GeneralName::RFC822Name("ops@acme.example");
        let of = |names: &[GeneralName<'_>]| identity(names).unwrap_or_default();
        let all = [email.clone(), ip.clone(), dns.clone(), SPIFFE, GeneralName::URI("urn:b")];
        assert_eq!(of(&all), "spiffe://acme/billing");
        assert_eq!(of(&all[..3]), "billing.acme");
        assert_eq!(of(&all[..2]), "10.0.0.1");
        assert_eq!(of(&all[..1]), "ops@acme.example");
        assert_eq!(identity(&[]), None);
        assert_eq!(of(&[GeneralName::IPAddress(&[0; 16])]), "::");
    }

    #[test]
    fn a_name_that_is_not_what_it_should_be_is_none_and_no_other_takes_its_place() {
        let long = format!("spiffe://acme/{}", "a".repeat(IDENTITY_BYTES_MAX));
        let dns = GeneralName::DNSName("billing.acme");
        for wrong in [
            GeneralName::URI("spiffe://acme/bill\0ing"),
            GeneralName::URI("spiffe://acme/a b"),
            GeneralName::URI("spiffe://acmé"),
            GeneralName::URI("fe80::1"),
            GeneralName::URI("billing.acme"),
            GeneralName::URI(""),
            GeneralName::URI(&long),
        ] {
            assert_eq!(identity(&[wrong.clone(), dns.clone()]), None, "{wrong:?}");
        }
        for wrong in [
            GeneralName::DNSName("spiffe://acme/billing"),
            GeneralName::DNSName("10.0.0.1"),
            GeneralName::DNSName("a@b"),
            GeneralName::IPAddress(&[10, 0, 0]),
            GeneralName::RFC822Name("billing.acme"),
            GeneralName::RFC822Name("spiffe://a@b"),
        ] {
            assert_eq!(identity(std::slice::from_ref(&wrong)), None, "{wrong:?}");
        }
        let broken = GeneralName::Invalid(x509_parser::asn1_rs::Tag(2), &[0xff]);
        assert_eq!(identity(&[SPIFFE, broken]), None);
    }
}
