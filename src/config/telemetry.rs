//! What is exported over OTLP, and where to: fields of their own kinds, and the variables that
//! OpenTelemetry gives their names to.
//!
//! Operators set those variables for all programs at once, so they are read where nothing of ours is set.

use std::fmt;

use http::{HeaderName, HeaderValue, Uri};

use super::setting::{Given, Setting, Shown, Words, quoted, setting_of_words};
use crate::telemetry;

/// What is exported over OTLP, and where to.
#[derive(Debug)]
pub struct Telemetry {
    /// The collector; without it nothing is exported.
    pub endpoint: Option<Endpoint>,
    /// What it speaks; without it, what its port says.
    pub protocol: Option<OtlpProtocol>,
    /// What each message carries besides.
    pub headers: Option<Headers>,
    /// How long one message may take, in milliseconds.
    pub timeout_ms: u64,
    /// The name that this service has in traces.
    pub service_name: String,
    /// What else is to be told of this process.
    pub resource_attributes: Attributes,
    /// Whether traces are exported.
    pub traces: Export,
    /// Which calls are traced.
    pub sampler: SamplerKind,
    /// The part of calls that a sampler with a ratio takes.
    pub sampler_ratio: Ratio,
    /// Whether metrics are exported.
    pub metrics: Export,
    /// How often, in milliseconds.
    pub metrics_interval_ms: u64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: None,
            headers: None,
            timeout_ms: 10_000,
            service_name: "latchkey".to_owned(),
            resource_attributes: Attributes::default(),
            traces: Export::Otlp,
            sampler: SamplerKind::ParentBasedTraceIdRatio,
            sampler_ratio: Ratio(0.01),
            metrics: Export::Otlp,
            metrics_interval_ms: 60_000,
        }
    }
}

/// OpenTelemetry's variables, and the fields that they set.
pub(super) const STANDARD: [(&str, &str); 11] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "telemetry.protocol"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "telemetry.headers"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "telemetry.timeout_ms"),
    ("OTEL_SERVICE_NAME", "telemetry.service_name"),
    ("OTEL_RESOURCE_ATTRIBUTES", "telemetry.resource_attributes"),
    ("OTEL_TRACES_EXPORTER", "telemetry.traces"),
    ("OTEL_TRACES_SAMPLER", "telemetry.sampler"),
    ("OTEL_TRACES_SAMPLER_ARG", "telemetry.sampler_ratio"),
    ("OTEL_METRICS_EXPORTER", "telemetry.metrics"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "telemetry.metrics_interval_ms"),
];
/// When it is `true`, none of the others is looked at.
pub(super) const STANDARD_OFF: &str = "OTEL_SDK_DISABLED";

impl Telemetry {
    /// What the collector speaks: as it was said, or else as its port has it by custom.
    #[must_use]
    pub fn protocol(&self) -> telemetry::Protocol {
        const GRPC_PORT: u16 = 4_317;
        let port = self.endpoint.as_ref().and_then(|endpoint| endpoint.0.port_u16());
        match self.protocol {
            Some(OtlpProtocol::Grpc) => telemetry::Protocol::Grpc,
            None if port == Some(GRPC_PORT) => telemetry::Protocol::Grpc,
            Some(OtlpProtocol::HttpProtobuf) | None => telemetry::Protocol::HttpProtobuf,
        }
    }

    /// Which calls are traced.
    #[must_use]
    pub fn sampler(&self) -> telemetry::Sampler {
        let (follows_parent, ratio) = match self.sampler {
            SamplerKind::AlwaysOn => (false, 1.0),
            SamplerKind::AlwaysOff => (false, 0.0),
            SamplerKind::TraceIdRatio => (false, self.sampler_ratio.0),
            SamplerKind::ParentBasedAlwaysOn => (true, 1.0),
            SamplerKind::ParentBasedAlwaysOff => (true, 0.0),
            SamplerKind::ParentBasedTraceIdRatio => (true, self.sampler_ratio.0),
        };
        telemetry::Sampler { follows_parent, ratio }
    }
}

/// The address of a collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// With a scheme and a host.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        // A password would stand in the log with the address; headers are the place for it.
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        let is_plain = uri.query().is_none() && !has_user;
        // A port that is none (99999) is kept in the text, and another would be taken in its place.
        let has_right_port = uri.authority().is_some_and(|authority| {
            let behind_host = authority.as_str().trim_start_matches(authority.host());
            behind_host.is_empty() || authority.port_u16().is_some_and(|port| port > 0)
        });
        (is_http && is_plain && has_right_port && uri.host().is_some_and(|host| !host.is_empty()))
            .then_some(Self(uri))
    }
}

impl Setting for Option<Endpoint> {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        const RIGHT: &str = "the collector's address without a user or a query, as a string: \
                             http://127.0.0.1:4318 or https://HOST:PORT";
        *self = Some(given.text().and_then(Endpoint::parse).ok_or(RIGHT)?);
        Ok(())
    }

    fn shown(&self) -> Shown {
        self.as_ref().map_or(Shown::Absent, |endpoint| quoted(&endpoint.0.to_string()))
    }

    fn may_be_repeated(&self) -> bool {
        false
    }
}

/// Headers for the collector. They may be secret, so only [`Headers::expose`] shows them.
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Names and values.
    #[must_use]
    pub fn expose(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let pairs = pairs(text)?.into_iter().map(|(name, value)| {
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some((name.parse().ok()?, value))
        });
        pairs.collect::<Option<_>>().map(Self)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Headers([hidden])")
    }
}

impl Setting for Option<Headers> {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        const RIGHT: &str =
            "headers as a string: name=value,name=value, where a comma in a value is %2C";
        *self = Some(given.text().and_then(Headers::parse).ok_or(RIGHT)?);
        Ok(())
    }

    fn shown(&self) -> Shown {
        self.as_ref().map_or(Shown::Absent, |_| Shown::Hidden)
    }

    fn may_be_repeated(&self) -> bool {
        false
    }
}

/// Attributes of the resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    text: String,
    pairs: Vec<(String, String)>,
}

impl Attributes {
    /// Names and values.
    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}

impl Setting for Attributes {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        const RIGHT: &str =
            "attributes as a string: name=value,name=value, where a comma in a value is %2C";
        // Unlike other texts it may be empty, as its default is.
        let text = match given {
            Given::Toml(value) => value.as_str(),
            Given::Text("") => None,
            Given::Text(text) => Some(text),
        };
        let text = text.ok_or(RIGHT)?;
        *self = Self { text: text.to_owned(), pairs: pairs(text).ok_or(RIGHT)? };
        Ok(())
    }

    fn shown(&self) -> Shown {
        quoted(&self.text)
    }
}

/// `name=value,name=value`, values with percent-escapes, as W3C Baggage has it. Empty members are passed over.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let members = text.split(',').filter(|member| !member.trim().is_empty()).map(|member| {
        let (name, value) = member.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then_some((name.to_owned(), unescaped(value.trim())?))
    });
    members.collect()
}

fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// A part of the whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

impl Setting for Ratio {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        let number = match given {
            Given::Toml(toml::Value::Integer(0)) => Some(0.0),
            Given::Toml(toml::Value::Integer(1)) => Some(1.0),
            Given::Toml(value) => value.as_float(),
            Given::Text(text) => text.parse().ok(),
        };
        let number = number.filter(|number| (0.0..=1.0).contains(number));
        *self = Self(number.ok_or("a number from 0 to 1")?);
        Ok(())
    }

    fn shown(&self) -> Shown {
        Shown::Value(format!("{:?}", self.0))
    }
}

/// What the collector speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// HTTP with protobuf.
    HttpProtobuf,
}

impl Words for OtlpProtocol {
    const ALL: &'static [(&'static str, Self)] =
        &[("grpc", Self::Grpc), ("http/protobuf", Self::HttpProtobuf)];
}

impl Setting for Option<OtlpProtocol> {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        *self = Some(OtlpProtocol::read(given)?);
        Ok(())
    }

    fn shown(&self) -> Shown {
        self.map_or(Shown::Absent, |protocol| quoted(protocol.word()))
    }
}

/// Whether something is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// Over OTLP.
    Otlp,
    /// Not at all.
    None,
}

impl Words for Export {
    const ALL: &'static [(&'static str, Self)] = &[("otlp", Self::Otlp), ("none", Self::None)];
}

/// Which calls are traced, in OpenTelemetry's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplerKind {
    /// All.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// A part.
    TraceIdRatio,
    /// What the caller traces; of others, all.
    ParentBasedAlwaysOn,
    /// What the caller traces.
    ParentBasedAlwaysOff,
    /// What the caller traces; of others, a part.
    ParentBasedTraceIdRatio,
}

impl Words for SamplerKind {
    const ALL: &'static [(&'static str, Self)] = &[
        ("always_on", Self::AlwaysOn),
        ("always_off", Self::AlwaysOff),
        ("traceidratio", Self::TraceIdRatio),
        ("parentbased_always_on", Self::ParentBasedAlwaysOn),
        ("parentbased_always_off", Self::ParentBasedAlwaysOff),
        ("parentbased_traceidratio", Self::ParentBasedTraceIdRatio),
    ];
}

setting_of_words!(Export, SamplerKind);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_with_their_escapes() {
        let read = pairs("a=1, b = x%2Cy%3d ,c=").unwrap();
        let shown: Vec<_> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(shown, [("a", "1"), ("b", "x,y="), ("c", "")]);
        assert_eq!(pairs(", a=1,,").unwrap(), [("a".to_owned(), "1".to_owned())]);
        for bad in ["a", "=1", "a=1,b", "a=%2", "a=%zz", "a=%ff"] {
            assert_eq!(pairs(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_address_has_a_scheme_and_a_host_and_nothing_secret() {
        for good in [
            "http://127.0.0.1:4317",
            "https://otlp.example/base",
            "http://[::1]:4318/",
            "http://[::1]",
            "http://a:65535",
        ] {
            assert!(Endpoint::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:4317",
            "grpc://a:1",
            "http://",
            "http://u:p@a",
            "http://a?k=v",
            "http://a:99999",
            "http://[::1]:65536/",
            "http://a:0",
            "http://a:",
        ] {
            assert_eq!(Endpoint::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn without_a_protocol_the_port_tells() {
        let of = |endpoint: &str| {
            let endpoint = Endpoint::parse(endpoint);
            Telemetry { endpoint, ..Telemetry::default() }.protocol()
        };
        assert_eq!(of("http://a:4317"), telemetry::Protocol::Grpc);
        assert_eq!(of("http://a:4318"), telemetry::Protocol::HttpProtobuf);
        assert_eq!(of("https://a"), telemetry::Protocol::HttpProtobuf);
    }
}
