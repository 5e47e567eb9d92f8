//! `envoy.service.auth.v3.CheckRequest` with bytes where there should be text, and lists where there should be maps: so that
//! what a client sends can be anything, and a name can come twice.

use latchkey::proto::vendored::envoy::config::core::v3::Address;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Check {
    #[prost(message, optional, tag = "1")]
    pub(super) attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attributes {
    #[prost(message, optional, tag = "1")]
    pub(super) source: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    pub(super) request: Option<Request>,
    #[prost(message, repeated, tag = "10")]
    pub(super) context_extensions: Vec<Pair>,
    #[prost(message, optional, tag = "11")]
    pub(super) metadata_context: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Peer {
    #[prost(message, optional, tag = "1")]
    pub(super) address: Option<Address>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, optional, tag = "2")]
    pub(super) http: Option<Http>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Http {
    #[prost(bytes = "vec", tag = "2")]
    pub(super) method: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    pub(super) headers: Vec<Pair>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) path: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) host: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub(super) protocol: Vec<u8>,
    #[prost(message, optional, tag = "13")]
    pub(super) header_map: Option<HeaderMap>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HeaderMap {
    #[prost(message, repeated, tag = "1")]
    pub(super) headers: Vec<Header>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) raw_value: Vec<u8>,
}

/// An entry of a map of text.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(message, repeated, tag = "1")]
    pub(super) filter_metadata: Vec<Told>,
}

/// What a filter tells: its name, and a `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Told {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}
