//! What a proxy asks: in the query of our own URL, or by the policy's rules about the request that it forwards.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Query;
use http::{HeaderMap, Uri};

use crate::gateway::{Networks, read_cost};
use crate::serve::Peer;
use crate::token;
use crate::token::Environment;

/// The query of our own URL, which the proxy's configuration writes. Every name once, and none that is not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) needs: Needs,
    pub(super) environment: Option<Environment>,
    pub(super) cost: Option<u32>,
    /// Whether the proxy takes no other refusal than 401 and 403.
    pub(super) folds: bool,
}

/// What the request needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Scope(String),
    AuthenticateOnly,
    /// What the policy's rules say.
    ByRules,
}

impl Asked {
    pub(super) fn read(uri: &Uri) -> Result<Self, String> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| "the query cannot be read".to_owned())?;
        let mut fields: [(&str, Option<String>); 5] =
            ["scope", "authenticate_only", "environment", "cost", "statuses"].map(|it| (it, None));
        for (name, value) in pairs {
            let Some((_, field)) = fields.iter_mut().find(|(known, _)| *known == name) else {
                return Err(unknown(&name));
            };
            if field.replace(value).is_some() {
                return Err(format!("the parameter `{name}` stands in the query twice"));
            }
        }
        let [scope, authenticate_only, environment, cost, statuses] =
            fields.map(|(_, value)| value);
        let needs = match (scope, authenticate_only.as_deref()) {
            (Some(scope), None) => Needs::Scope(scope),
            (None, Some("true")) => Needs::AuthenticateOnly,
            (None, None) => Needs::ByRules,
            (Some(_), Some(_)) => {
                return Err("send `scope` or `authenticate_only`, not both".to_owned());
            }
            (None, Some(_)) => return Err("`authenticate_only` can only be `true`".to_owned()),
        };
        let environment = environment
            .map(|word| Environment::parse(&word).ok_or("`environment` must be `live` or `test`"));
        let cost = cost.map(|text| {
            read_cost(&text).ok_or("`cost` must be a whole number of 1,000,000 at most")
        });
        let folds = match statuses.as_deref() {
            None => false,
            Some("401,403") => true,
            Some(_) => return Err("`statuses` can only be `401,403`".to_owned()),
        };
        Ok(Self { needs, environment: environment.transpose()?, cost: cost.transpose()?, folds })
    }
}

fn unknown(name: &str) -> String {
    let name = token::quoted(name);
    format!(
        "the parameter {name} is not known; there are `scope`, `authenticate_only`, `environment`, `cost` and `statuses`"
    )
}

// === The request that is forwarded ===

/// What a proxy says of the request that it asks about; only of one that is trusted is it believed.
pub(super) struct Forwarded<'a> {
    pub(super) host: &'a str,
    pub(super) method: &'a str,
    pub(super) uri: &'a str,
}

const METHODS: [&str; 2] = ["x-forwarded-method", "x-original-method"];
const URIS: [&str; 2] = ["x-forwarded-uri", "x-original-uri"];
const HOSTS: [&str; 2] = ["x-forwarded-host", "x-original-host"];

impl<'a> Forwarded<'a> {
    /// `None` when one of the headers is there twice, or in both spellings: one of them came from the client, and it
    /// cannot be seen which. The error says what the proxy does not tell.
    pub(super) fn read(headers: &'a HeaderMap) -> Result<Option<Self>, String> {
        let only = |names: [&'static str; 2]| {
            let mut values = names.iter().flat_map(|name| headers.get_all(*name));
            match (values.next(), values.next()) {
                (Some(value), None) => Ok(value.to_str().ok()),
                (Some(_), Some(_)) => Ok(None),
                (None, _) => Err(format!(
                    "without `scope` or `authenticate_only` the rules of the policy answer, and the proxy does not say \
                     {}",
                    names.map(|name| format!("`{name}`")).join(" or ")
                )),
            }
        };
        let (host, method, uri) = (only(HOSTS)?, only(METHODS)?, only(URIS)?);
        Ok(host.zip(method).zip(uri).map(|((host, method), uri)| Self { host, method, uri }))
    }
}

/// The client's address: the last one in `x-forwarded-for` that is not itself a trusted proxy's. `None` when the peer
/// is not trusted, or there is none that can be read.
pub(super) fn client_address(
    headers: &HeaderMap,
    peer: Option<&Peer>,
    trusted: &Networks,
) -> Option<IpAddr> {
    if !is_trusted(peer, trusted) {
        return None;
    }
    let lines = headers.get_all("x-forwarded-for");
    let lines: Vec<_> = lines.iter().map(|line| line.to_str().unwrap_or("?")).collect();
    for text in lines.iter().flat_map(|line| line.split(',')).rev() {
        let text = text.trim();
        let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        // What cannot be read could be anybody.
        let address = bare.parse::<IpAddr>().ok().or_else(with_port)?.to_canonical();
        if !trusted.contain(address) {
            return Some(address);
        }
    }
    None
}

/// Whether what the peer says of the client is believed.
pub(super) fn is_trusted(peer: Option<&Peer>, trusted: &Networks) -> bool {
    peer.and_then(Peer::ip).is_some_and(|address| trusted.contain(address))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::serve::Origin;

    fn read(query: &str) -> Result<Asked, String> {
        Asked::read(&format!("/v1/forward-auth?{query}").parse().unwrap())
    }

    #[test]
    fn a_scope_is_decoded_and_an_environment_read() {
        let asked = read("scope=memory%3Aread+or%20memory:admin&environment=test&cost=0").unwrap();
        assert_eq!(asked.needs, Needs::Scope("memory:read or memory:admin".into()));
        assert_eq!((asked.environment, asked.cost), (Some(Environment::Test), Some(0)));
        assert_eq!(read("authenticate_only=true").unwrap().needs, Needs::AuthenticateOnly);
        assert_eq!(read("").unwrap().needs, Needs::ByRules);
        assert_eq!(read("environment=test&cost=0").unwrap().needs, Needs::ByRules);
        assert!(read("statuses=401,403").unwrap().folds);
    }

    #[test]
    fn a_query_that_is_not_exactly_right_is_a_mistake() {
        for query in [
            "scope=a:b&scope=c:d",
            "scope=a:b&authenticate_only=true",
            "authenticate_only=false",
            "authenticate_only=",
            "scope=a:b&environment=prod",
            "scope=a:b&enviroment=test",
            "Scope=a:b",
            "environment=prod",
            "cost=x",
            "scope=a:b&cost=-1",
            "scope=a:b&cost=%2B1",
            "scope=a:b&cost=1000001",
            "scope=a:b&cost=",
            "scope=a:b&statuses=200",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_is_said_twice_is_not_believed() {
        let said = |more: &[(&'static str, &'static str)]| {
            let base = [("x-forwarded-host", "a"), ("x-original-method", "GET")];
            let headers = headers(&[&base, more].concat());
            Forwarded::read(&headers)
                .map(|it| it.map(|it| format!("{} {}{}", it.method, it.host, it.uri)))
        };
        assert_eq!(said(&[("x-forwarded-uri", "/x?y")]), Ok(Some("GET a/x?y".into())));
        assert_eq!(said(&[("x-original-uri", "/x")]), Ok(Some("GET a/x".into())));
        assert_eq!(said(&[("x-original-uri", "/x"), ("x-forwarded-uri", "/x")]), Ok(None));
        assert_eq!(said(&[("x-original-uri", "/x"), ("x-original-uri", "/x")]), Ok(None));
        assert!(said(&[]).unwrap_err().contains("`x-forwarded-uri` or `x-original-uri`"));
    }

    #[test]
    fn a_client_cannot_choose_its_address() {
        let trusted = Networks::read(["10.0.0.0/8"]).unwrap();
        let of = |peer: &str, lines: &[&'static str]| {
            let origin = Origin::Tcp(SocketAddr::new(peer.parse().unwrap(), 1));
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let peer = Peer { origin, identity: None };
            client_address(&headers(&lines), Some(&peer), &trusted)
                .map(|address| address.to_string())
        };
        let known = |address: &str| Some(address.to_owned());
        assert_eq!(of("10.0.0.1", &["192.0.2.7"]), known("192.0.2.7"));
        assert_eq!(of("10.0.0.1", &["198.51.100.1, 192.0.2.7, 10.0.0.2"]), known("192.0.2.7"));
        assert_eq!(of("10.0.0.1", &["198.51.100.1", "192.0.2.7:80"]), known("192.0.2.7"));
        for line in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80"] {
            assert_eq!(of("10.0.0.1", &[line]), known("2001:db8::1"));
        }
        for lines in [&["192.0.2.7, unknown"][..], &["10.0.0.2"], &[], &["192.0.2.7,"]] {
            assert_eq!(of("10.0.0.1", lines), None, "{lines:?}");
        }
        assert_eq!(of("192.0.2.1", &["192.0.2.7"]), None);
    }
}
