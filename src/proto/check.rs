//! `envoy.service.auth.v3.CheckRequest`, as far as it is looked at: what is not declared here is skipped.
//!
//! The same message on the wire, read in place: text is a part of the bytes that came. It is not demanded to be UTF-8,
//! because gateways pass on what clients send, and a client must not be able to make its gateway's question unreadable.
//! A map is a list, so that what stands in it twice is seen.

use bytes::Bytes;
use prost::Message;

/// What a gateway asks.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct CheckRequest {
    /// What it knows of the request.
    #[prost(message, required, tag = "1")]
    pub attributes: AttributeContext,
}

/// What a gateway knows of a request.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct AttributeContext {
    /// Who sent it.
    #[prost(message, required, tag = "1")]
    pub source: Peer,
    /// The request itself.
    #[prost(message, required, tag = "4")]
    pub request: Request,
    /// What the gateway's configuration says of its route.
    #[prost(message, repeated, tag = "10")]
    pub context_extensions: Vec<Pair>,
    /// What other filters of the gateway found out.
    #[prost(message, required, tag = "11")]
    pub metadata_context: Metadata,
}

/// One end of a connection.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Peer {
    /// Where it is.
    #[prost(message, required, tag = "1")]
    pub address: Address,
}

/// An address; one of another kind is none to us.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Address {
    /// An address of TCP or UDP.
    #[prost(message, required, tag = "1")]
    pub socket_address: SocketAddress,
}

/// An address of TCP or UDP.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct SocketAddress {
    /// The IP address.
    #[prost(bytes = "bytes", tag = "2")]
    pub address: Bytes,
}

/// A request of any protocol.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Request {
    /// One of HTTP.
    #[prost(message, required, tag = "2")]
    pub http: HttpRequest,
}

/// A request of HTTP.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct HttpRequest {
    /// The method.
    #[prost(bytes = "bytes", tag = "2")]
    pub method: Bytes,
    /// The headers, what is repeated joined by commas.
    #[prost(message, repeated, tag = "3")]
    pub headers: Vec<Pair>,
    /// The target of the request line, query included.
    #[prost(bytes = "bytes", tag = "4")]
    pub path: Bytes,
    /// `Host` or `:authority`.
    #[prost(bytes = "bytes", tag = "5")]
    pub host: Bytes,
    /// The headers as they came, where the gateway is told to send them so (`encode_raw_headers`).
    #[prost(message, required, tag = "13")]
    pub header_map: HeaderMap,
}

/// Headers as they came.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct HeaderMap {
    /// One after the other.
    #[prost(message, repeated, tag = "1")]
    pub headers: Vec<HeaderValue>,
}

/// A header as it came.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct HeaderValue {
    /// Its name.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its value as text.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The same as bytes; one of the two is set.
    #[prost(bytes = "bytes", tag = "3")]
    pub raw_value: Bytes,
}

/// An entry of a map from text to text.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Pair {
    /// The name.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// What filters found out.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Metadata {
    /// By the name of the filter: a `google.protobuf.Struct` that is not yet read.
    #[prost(message, repeated, tag = "1")]
    pub filter_metadata: Vec<Pair>,
}
