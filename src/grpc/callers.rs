//! Who may ask for decisions.

use std::str::FromStr;
use std::sync::Arc;

use crate::authorizer::operator::Decide;
use crate::authorizer::{Authorizer, Credential};
use crate::error::{Error, Reason};
use crate::serve::Peer;

/// Who may ask for decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callers {
    /// Whoever reaches the listener.
    Any,
    /// Whoever brings a key of their own with `latchkey:authorize`.
    Key,
    /// Whoever has a client certificate that is trusted and bears one of these names.
    Mtls(CallerNames),
}

impl Callers {
    /// Demands that whoever calls, with this credential of its own, may ask for decisions.
    pub(crate) async fn admit(
        &self,
        authorizer: &Authorizer,
        credential: Credential<'_>,
        peer: Option<&Peer>,
    ) -> Result<(), Error> {
        match self {
            Self::Any => Ok(()),
            Self::Mtls(names) => names.admit(peer),
            Self::Key => {
                let address = peer.and_then(Peer::ip);
                // The peer is for the audit trail, which decisions do not enter.
                authorizer.operator::<Decide>(credential, address, String::new()).await?;
                Ok(())
            }
        }
    }
}

/// Names in client certificates; none at all stands for any name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallerNames(Arc<[CallerName]>);

/// One name, or all that begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CallerName {
    Exactly(String),
    /// What stands before the `*`, the last `/` included.
    Below(String),
}

impl CallerNames {
    /// Demands a certificate whose name is one of these.
    pub(crate) fn admit(&self, peer: Option<&Peer>) -> Result<(), Error> {
        let Some(identity) = peer.and_then(|peer| peer.identity.as_deref()) else {
            return Err(Error::new(
                Reason::MissingCredential,
                "asking for decisions needs a client certificate that says who you are: by a URI, DNS \
                 name, IP or email address among its subject alternative names",
            ));
        };
        if self.0.is_empty() || self.0.iter().any(|name| name.is(identity)) {
            return Ok(());
        }
        let told = format!("`grpc.caller_names` does not let `{identity}` ask for decisions");
        Err(Error::new(Reason::PermissionDenied, told).with("identity", identity))
    }

    /// The names as they are written.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|name| match name {
            CallerName::Exactly(name) => name.clone(),
            CallerName::Below(start) => format!("{start}*"),
        })
    }

    /// Whether any name will do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads names as they are written: `billing.acme`, `spiffe://acme/billing`, `spiffe://acme/*`.
    pub fn read<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidCallerName> {
        names.into_iter().map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl CallerName {
    fn is(&self, identity: &str) -> bool {
        match self {
            // DNS names are the same in any case (RFC 4343); a URI is as it is written.
            Self::Exactly(name) if !name.contains([':', '/', '@']) => {
                name.eq_ignore_ascii_case(identity)
            }
            Self::Exactly(name) => name == identity,
            Self::Below(start) => {
                identity.strip_prefix(&**start).is_some_and(|rest| !rest.is_empty())
            }
        }
    }
}

impl FromStr for CallerName {
    type Err = InvalidCallerName;

    fn from_str(text: &str) -> Result<Self, InvalidCallerName> {
        let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let (name, is_start) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        let is_right = !name.contains('*') && (!is_start || name.ends_with('/'));
        match (is_plain && is_right, is_start) {
            (true, true) => Ok(Self::Below(name.to_owned())),
            (true, false) => Ok(Self::Exactly(name.to_owned())),
            (false, _) => Err(InvalidCallerName),
        }
    }
}

/// A text that is no name in a certificate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("names as client certificates bear them; `*` may stand last, after a `/`")]
pub struct InvalidCallerName;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Origin;

    fn reason(names: &[&str], identity: Option<&str>) -> Option<Reason> {
        let peer = Peer { origin: Origin::Unix, identity: identity.map(Into::into) };
        let names = CallerNames::read(names.iter().copied()).unwrap();
        names.admit(Some(&peer)).err().map(|error| error.reason)
    }

    #[test]
    fn names_are_compared_whole_or_up_to_a_slash() {
        let names = ["billing.acme", "spiffe://acme/prod/*"];
        for admitted in ["billing.acme", "spiffe://acme/prod/billing", "spiffe://acme/prod/a/b"] {
            assert_eq!(reason(&names, Some(admitted)), None, "{admitted}");
        }
        for other in [
            "billing.acme.evil",
            "spiffe://acme/prod/",
            "spiffe://acme/production",
            "x.billing.acme",
        ] {
            assert_eq!(reason(&names, Some(other)), Some(Reason::PermissionDenied), "{other}");
        }
    }

    #[test]
    fn a_dns_name_is_the_same_in_capitals_and_a_uri_is_not() {
        let names = ["Billing.ACME", "spiffe://acme/Billing", "Ops@acme"];
        for admitted in ["billing.acme", "spiffe://acme/Billing", "Ops@acme"] {
            assert_eq!(reason(&names, Some(admitted)), None, "{admitted}");
        }
        for other in ["spiffe://acme/billing", "ops@acme"] {
            assert_eq!(reason(&names, Some(other)), Some(Reason::PermissionDenied), "{other}");
        }
    }

    #[test]
    fn without_names_any_identity_will_do_but_there_must_be_one() {
        assert_eq!(reason(&[], Some("spiffe://acme/billing")), None);
        assert_eq!(reason(&[], None), Some(Reason::MissingCredential));
        assert_eq!(
            CallerNames::default().admit(None).unwrap_err().reason,
            Reason::MissingCredential
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "*", "spiffe://acme*", "spiffe://*/billing", "a b", "bill\ning", "*.acme"]
        {
            assert_eq!(text.parse::<CallerName>(), Err(InvalidCallerName), "{text}");
        }
    }
}
