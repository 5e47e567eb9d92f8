//! `envoy.service.auth.v3`: what a gateway asks. All of it but `context_extensions` and who is at the other end is the
//! client's own, and may be anything.

use std::net::IpAddr;

use prost::Message as _;
use prost_types::Struct;
use prost_types::value::Kind;

use crate::authorizer::Required;
use crate::error::{Error, Reason};
use crate::gateway::read_cost;
use crate::policy::target::{Mcp, Target};
use crate::proto::check::{CheckRequest, Pair};
use crate::token::{Environment, quoted};

pub(in crate::grpc) mod answer;

/// Where Envoy's filter for the Model Context Protocol tells what it found.
const MCP_FILTER: &[u8] = b"envoy.filters.http.mcp";
const REALM_BYTES_MAX: usize = 100;

// === What the gateway's configuration asks ===

/// What stands in `context_extensions`, which the gateway's configuration writes for each route.
#[derive(Clone, Copy)]
pub(in crate::grpc) struct Asked<'a> {
    /// `None` leaves it to the rules.
    pub required: Option<Required<'a>>,
    pub environment: Option<Environment>,
    pub cost: Option<u32>,
    pub realm: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// Every name once, none that is not known, and not both `required_scope` and `authenticate_only`.
    pub(in crate::grpc) fn read(check: &CheckRequest<'a>) -> Result<Self, Error> {
        let [mut scope, mut authenticate_only, mut environment, mut cost, mut realm] = [None; 5];
        for (key, value) in &check.context_extensions {
            let value = text(value).ok_or_else(|| mistake("holds what is no text"))?;
            let place = match *key {
                b"required_scope" => &mut scope,
                b"authenticate_only" => &mut authenticate_only,
                b"required_environment" => &mut environment,
                b"cost" => &mut cost,
                b"realm" => &mut realm,
                _ => return Err(unknown(key)),
            };
            if place.replace(value).is_some() {
                return Err(mistake("names something twice"));
            }
        }
        let told = "says of `cost` what must be a number of 1,000,000 at most";
        Ok(Self {
            required: required(scope, authenticate_only)?,
            environment: environment.map(read_environment).transpose()?,
            cost: cost.map(|text| read_cost(text).ok_or_else(|| mistake(told))).transpose()?,
            realm: realm.map(read_realm).transpose()?,
        })
    }
}

fn required<'a>(
    scope: Option<&'a str>,
    authenticate_only: Option<&str>,
) -> Result<Option<Required<'a>>, Error> {
    match (scope, authenticate_only) {
        (Some(scope), None) => Ok(Some(Required::Scope(scope))),
        (None, Some("true")) => Ok(Some(Required::AuthenticateOnly)),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(mistake("names `required_scope` and `authenticate_only`, and may name one of them"))
        }
        (None, Some(_)) => Err(mistake("says of `authenticate_only` what can only be `true`")),
    }
}

fn read_environment(word: &str) -> Result<Environment, Error> {
    let told = "says of `required_environment` what must be `live` or `test`";
    Environment::parse(word).ok_or_else(|| mistake(told))
}

fn read_realm(text: &str) -> Result<&str, Error> {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let is_right = (1..=REALM_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain);
    let told =
        "says of `realm` what must be 1 to 100 printable ASCII characters, without \" and \\";
    is_right.then_some(text).ok_or_else(|| mistake(told))
}

fn unknown(key: &[u8]) -> Error {
    let key = quoted(&String::from_utf8_lossy(key));
    mistake(&format!(
        "names {key}, which is not known; there are `required_scope`, `authenticate_only`, `required_environment`, \
         `cost` and `realm`"
    ))
}

fn mistake(told: &str) -> Error {
    Error::new(Reason::InvalidField, format!("`context_extensions` {told}"))
}

// === What the client sent ===

/// The headers, by the one of two ways in which the gateway tells them.
pub(in crate::grpc) fn headers<'a>(check: &CheckRequest<'a>) -> impl Iterator<Item = Pair<'a>> {
    let is_raw = !check.raw_headers.is_empty();
    let headers = if is_raw { &check.raw_headers } else { &check.joined_headers };
    headers.iter().copied()
}

/// The request, as far as rules go by it.
pub(in crate::grpc) fn target<'a>(check: &CheckRequest<'a>, mcp: Option<&'a Called>) -> Target<'a> {
    let mcp = mcp.and_then(|called| Mcp::seen(Some(&called.method), called.tool.as_deref()));
    whole(check)
        .map_or(Target::INCOMPLETE, |[host, method, path]| Target::new(host, method, path, mcp))
}

/// Whether the request has what every request has. One without is refused, whatever is asked.
pub(in crate::grpc) fn is_whole(check: &CheckRequest<'_>) -> bool {
    whole(check).is_some()
}

/// Host, method and path.
fn whole<'a>(check: &CheckRequest<'a>) -> Option<[&'a str; 3]> {
    let part = |bytes| text(bytes).filter(|text| !text.is_empty());
    Some([part(check.host)?, part(check.method)?, part(check.path)?])
}

/// From where the client comes; of a Unix socket nothing is known.
pub(in crate::grpc) fn client_address(check: &CheckRequest<'_>) -> Option<IpAddr> {
    text(check.client_address)?.parse().ok()
}

/// Whether the client speaks gRPC, and so reads no body.
fn is_grpc(check: &CheckRequest<'_>) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers(check).any(|(name, value)| {
        name.eq_ignore_ascii_case(b"content-type")
            && value.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
    })
}

/// A message of the Model Context Protocol: its method, and what its parameters name.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::grpc) struct Called {
    method: String,
    tool: Option<String>,
}

/// What Envoy's filter found in the body. Nothing, unless it says that it is one message of the Model Context Protocol and
/// of which method. Nor when it did not read to the end, or found something wrong: it lets such a body pass, and tells
/// what it had seen until then.
pub(in crate::grpc) fn mcp(check: &CheckRequest<'_>) -> Option<Called> {
    let mut found = check.filter_metadata.iter().filter(|(name, _)| *name == MCP_FILTER);
    let (Some((_, told)), None) = (found.next(), found.next()) else { return None };
    let mut told = Struct::decode(*told).ok()?;
    let mut take = |name| told.fields.remove(name).and_then(|value| value.kind);
    let is_read = match take("status") {
        Some(Kind::StringValue(status)) => status == "mcp_ok",
        status => status.is_none(),
    };
    if !is_read || take("passthrough_reason").is_some() || take("is_exceeding_limit").is_some() {
        return None;
    }
    let (Some(Kind::BoolValue(true)), Some(Kind::StringValue(method))) =
        (take("is_mcp_request"), take("method"))
    else {
        return None;
    };
    let Some(Kind::StructValue(mut params)) = take("params") else {
        return Some(Called { method, tool: None });
    };
    let tool = match params.fields.remove("name").and_then(|value| value.kind) {
        Some(Kind::StringValue(name)) => Some(name),
        _ => None,
    };
    Some(Called { method, tool })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(extensions: &[(&'static str, &'static str)]) -> Result<String, String> {
        let pair =
            |(name, value): &(&'static str, &'static str)| (name.as_bytes(), value.as_bytes());
        let context_extensions = extensions.iter().map(pair).collect();
        let check = CheckRequest { context_extensions, ..CheckRequest::default() };
        let asked = Asked::read(&check).map_err(|error| error.message)?;
        let required = match asked.required {
            None => "rules",
            Some(Required::AuthenticateOnly) => "any",
            Some(Required::Scope(scope)) => scope,
            Some(Required::ByRules(_)) => "never",
        };
        let Asked { required: _, environment, cost, realm } = asked;
        Ok(format!("{required} {environment:?} {cost:?} {realm:?}"))
    }

    #[test]
    fn what_a_route_needs_is_read() {
        for (extensions, told) in [
            (&[][..], "rules None None None"),
            (&[("required_scope", "a:b or c:d")], "a:b or c:d None None None"),
            (&[("authenticate_only", "true")], "any None None None"),
            (
                &[("cost", "007"), ("required_environment", "test"), ("realm", "a b")],
                "rules Some(Test) Some(7) Some(\"a b\")",
            ),
        ] {
            assert_eq!(asked(extensions).unwrap(), told);
        }
    }

    #[test]
    fn what_is_not_exactly_right_is_a_mistake() {
        for extensions in [
            &[("required_scopes", "a:b")][..],
            &[("required_scope", "a:b"), ("authenticate_only", "true")],
            &[("required_scope", "a:b"), ("required_scope", "a:b")],
            &[("authenticate_only", "True")],
            &[("required_environment", "")],
            &[("cost", "1000001")],
            &[("cost", "99999999999")],
            &[("cost", "-0")],
            &[("realm", "a\nb")],
            &[("realm", "ä")],
        ] {
            let told = asked(extensions).unwrap_err();
            assert!(told.starts_with("`context_extensions` "), "{told}");
        }
    }

    #[test]
    fn a_mistake_repeats_no_token() {
        let token = "hm_live_0000000000000000000000000000002dlYSp";
        let told = asked(&[(token, token)]).unwrap_err();
        assert!(!told.contains(&token["hm_live_".len()..]), "{told}");
    }

    #[test]
    fn headers_as_they_came_are_the_only_ones_where_there_are_any() {
        let joined: Vec<Pair<'_>> = vec![(b"a", b"1")];
        let raw: Vec<Pair<'_>> = vec![(b"b", b"2"), (b"b", b"3")];
        let of = |joined_headers: &[Pair<'static>], raw_headers: &[Pair<'static>]| {
            let (joined_headers, raw_headers) = (joined_headers.to_vec(), raw_headers.to_vec());
            let check = CheckRequest { joined_headers, raw_headers, ..CheckRequest::default() };
            headers(&check).collect::<Vec<_>>()
        };
        assert_eq!(of(&joined, &[]), joined);
        assert_eq!(of(&joined, &raw), raw);
        assert_eq!(of(&[], &raw), raw);
    }

    #[test]
    fn two_reports_of_one_filter_are_none() {
        let field = |kind| prost_types::Value { kind: Some(kind) };
        let fields = [
            ("is_mcp_request".to_owned(), field(Kind::BoolValue(true))),
            ("method".to_owned(), field(Kind::StringValue("tools/list".into()))),
        ];
        let report = Struct { fields: fields.into() }.encode_to_vec();
        let filter_metadata = vec![(MCP_FILTER, &report[..])];
        let mut check = CheckRequest { filter_metadata, ..CheckRequest::default() };
        assert_eq!(mcp(&check), Some(Called { method: "tools/list".into(), tool: None }));
        check.filter_metadata.push((MCP_FILTER, &report));
        assert_eq!(mcp(&check), None);
    }
}
