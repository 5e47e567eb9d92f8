//! What a client library would never send: paths that are none, bytes that are no message, messages
//! that are too large.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Uri};
use latchkey::proto::v1::{ApplyPolicyRequest, CreateKeyRequest, ListKeysRequest, Policy, Scope};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{Rig, new_key};
use crate::support::reason_of;

pub(super) const CREATE_KEY: &str = "/latchkey.v1.KeyService/CreateKey";
const UPDATE_KEY: &str = "/latchkey.v1.KeyService/UpdateKey";
pub(super) const LIST_KEYS: &str = "/latchkey.v1.KeyService/ListKeys";
pub(super) const AUTHORIZE: &str = "/latchkey.v1.AuthorizationService/Authorize";
pub(super) const APPLY_POLICY: &str = "/latchkey.v1.PolicyService/ApplyPolicy";
pub(super) const HEALTH: &str = "/grpc.health.v1.Health/Check";
// Frames of HTTP/2 and their flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What may be left of a flood: buffers that the allocator keeps, with other tests running beside.
const KEPT_KIB_MAX: u64 = 64 * 1024;

impl Rig {
    /// Sends these bytes to this path over a connection of their own; what the status says.
    async fn send(&self, path: &'static str, body: Bytes) -> Status {
        let tcp = TcpStream::connect(self.server.grpc()).await.unwrap();
        let (send, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(Authority::from_static("localhost"));
        parts.path_and_query = Some(PathAndQuery::from_static(path));
        let request = Request::post(Uri::from_parts(parts).unwrap())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {}", self.root))
            .body(())
            .unwrap();
        let (answer, mut stream) = send.send_request(request, false).unwrap();
        let writing = tokio::spawn(async move { write(&mut stream, body).await });
        let (head, mut body) = answer.await.unwrap().into_parts();
        if let Some(status) = status(&head.headers) {
            writing.abort();
            return status;
        }
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        status(&trailers).unwrap()
    }

    /// Sends a `CreateKey` to a path that no library would send, and waits until the stream or the
    /// connection ends.
    async fn send_by_hand(&self, path: &str) {
        let authorization = format!("Bearer {}", self.root);
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("authorization", &authorization),
        ];
        let head: Vec<u8> = head.iter().flat_map(|(name, value)| header(name, value)).collect();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(http2_frame(SETTINGS, 0, 0, &[]));
        bytes.extend(http2_frame(SETTINGS, ACK, 0, &[]));
        bytes.extend(http2_frame(HEADERS, END_HEADERS, 1, &head));
        bytes.extend(http2_frame(DATA, END_STREAM, 1, &frame(&right_message())));
        let mut tcp = TcpStream::connect(self.server.grpc()).await.unwrap();
        tcp.write_all(&bytes).await.unwrap();
        loop {
            let mut start = [0; 9];
            if tcp.read_exact(&mut start).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, start[0], start[1], start[2]]);
            let mut payload = vec![0; length as usize];
            tcp.read_exact(&mut payload).await.unwrap();
            let ends = [HEADERS, DATA].contains(&start[3]) && start[4] & END_STREAM != 0;
            if ends || [RST_STREAM, GOAWAY].contains(&start[3]) {
                return;
            }
        }
    }
}

/// So many calls are refused at once by their heads, and send their messages then.
const REFUSED_AT_ONCE: u32 = 100;
const TIMES: u32 = 5;

#[tokio::test]
async fn messages_that_come_after_the_refusal_are_nobodys_fault() {
    let rig = Rig::start().await;
    let head: Vec<u8> = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", CREATE_KEY),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .iter()
    .flat_map(|(name, value)| header(name, value))
    .collect();
    let mut tcp = TcpStream::connect(rig.server.grpc()).await.unwrap();
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    tcp.write_all(&http2_frame(SETTINGS, 0, 0, &[])).await.unwrap();
    tcp.write_all(&http2_frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    let message = frame(&right_message());
    for time in 0..TIMES {
        let streams =
            || (0..REFUSED_AT_ONCE).map(move |call| 2 * (time * REFUSED_AT_ONCE + call) + 1);
        let of_all = |kind, flags, payload: &[u8]| -> Vec<u8> {
            streams().flat_map(|stream| http2_frame(kind, flags, stream, payload)).collect()
        };
        tcp.write_all(&of_all(HEADERS, END_HEADERS, &head)).await.unwrap();
        let mut refused = 0;
        while refused < REFUSED_AT_ONCE {
            let mut start = [0; 9];
            tcp.read_exact(&mut start).await.expect("the connection goes on");
            let length = u32::from_be_bytes([0, start[0], start[1], start[2]]);
            let mut payload = vec![0; length as usize];
            tcp.read_exact(&mut payload).await.unwrap();
            assert!(![RST_STREAM, GOAWAY].contains(&start[3]), "{start:?} {payload:?}");
            refused += u32::from(start[3] == HEADERS && start[4] & END_STREAM != 0);
        }
        tcp.write_all(&of_all(DATA, END_STREAM, &message)).await.unwrap();
    }
}

/// A frame of HTTP/2 (RFC 9113 §4.1) on a stream.
fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header as HPACK writes it without any table (RFC 7541 §6.2.2).
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// Writes as fast as the other side lets us; it may stop listening at any time.
async fn write(stream: &mut h2::SendStream<Bytes>, mut body: Bytes) -> Option<()> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(1 << 16));
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await?.ok()?;
        let part = body.split_to(room.min(body.len()));
        stream.send_data(part, false).ok()?;
    }
    stream.send_data(Bytes::new(), true).ok()
}

fn status(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

/// A message as it is framed: not compressed, its length, its bytes.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len().try_into().unwrap());
    frame.put_slice(message);
    frame.freeze()
}

fn right_message() -> Vec<u8> {
    new_key("acme").encode_to_vec()
}

#[tokio::test]
async fn a_path_that_is_not_exactly_a_method_reaches_none() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    for path in [
        "//latchkey.v1.KeyService/CreateKey",
        "/latchkey.v1.KeyService//CreateKey",
        "/latchkey.v1.KeyService/CreateKey/",
        "/latchkey.v1.KeyService/./CreateKey",
        "/x/../latchkey.v1.KeyService/CreateKey",
        "/latchkey.v1.keyservice/createkey",
        "/latchkey.v1.KeyService/Create%4Bey",
        "/latchkey.v1.KeyService%2FCreateKey",
        "//latchkey.v1.AuthorizationService/Authorize",
        "/latchkey.v1.AuthorizationService/authorize",
        "*",
    ] {
        let status = rig.send(path, frame(&right_message())).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
        assert_eq!(reason_of(&status), "UNKNOWN_METHOD", "{path}");
    }
    assert_eq!(rig.head().await, before);
    // A path without its slash is none that our client would send.
    for path in ["latchkey.v1.KeyService/CreateKey", "", "http://latchkey.v1.KeyService/CreateKey"]
    {
        rig.send_by_hand(path).await;
        assert_eq!(rig.head().await, before, "{path}");
    }
    rig.send_by_hand(CREATE_KEY).await;
    let by_hand = rig.head().await;
    assert_ne!(by_hand, before, "the bytes made by hand do what they say on the right path");
    let status = rig.send(CREATE_KEY, frame(&right_message())).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    assert_ne!(rig.head().await, by_hand);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_mistake() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    // `display_name` (field 2, length-delimited) is not UTF-8.
    let no_text = [&right_message()[..], &[0x12, 2, 0xff, 0xfe]].concat();
    let cut_off = &right_message()[..5];
    let wrong_type = [&right_message()[..], &[0x10, 1]].concat();
    for (path, message) in [
        (CREATE_KEY, &no_text[..]),
        (CREATE_KEY, cut_off),
        (CREATE_KEY, &wrong_type),
        (CREATE_KEY, &[0xff; 64]),
        (AUTHORIZE, &[0x0a, 2, 0xff, 0xfe]),
    ] {
        let status = rig.send(path, frame(message)).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
        assert_eq!((&*info.domain, &*info.reason), ("latchkey", "INVALID_FIELD"));
    }
    // The field is named as far as it was read.
    let status = rig.send(CREATE_KEY, frame(&no_text)).await;
    let details = status.get_error_details();
    let violation = &details.bad_request().unwrap().field_violations[0];
    assert_eq!(violation.field, "display_name");
    assert!(violation.description.contains("UTF-8"), "{violation:?}");
    let nested = rig.send(UPDATE_KEY, frame(&[0x0a, 3, 0x1a, 1, 0xff])).await;
    let details = nested.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "key.display_name");
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn a_field_given_twice_or_unknown_is_read_as_protobuf_has_it() {
    let rig = Rig::start().await;
    // The last `display_name` counts; field 1,000 is of a later version.
    let twice = CreateKeyRequest { display_name: "the last".into(), ..Default::default() };
    let unknown = [0xc2, 0x3e, 1, b'x'];
    let message = [&right_message()[..], &twice.encode_to_vec(), &unknown].concat();
    let status = rig.send(CREATE_KEY, frame(&message)).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let mut keys = rig.server.keys(&rig.root).await;
    let request = ListKeysRequest { account_id: "acme".into(), ..Default::default() };
    let listed = keys.list_keys(request).await.unwrap().into_inner().keys;
    assert_eq!(listed.last().unwrap().display_name, "the last");
}

/// The memory that the process holds, in KiB; at its height with `VmHWM`, now with `VmRSS`.
pub(super) fn memory(rig: &Rig, what: &str) -> u64 {
    let path = format!("/proc/{}/status", rig.server.process_id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_message_of_100_mb_is_refused_and_not_kept() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    let huge = frame(&vec![b'a'; 100 << 20]);
    let memory_before = memory(&rig, "VmRSS");
    for path in [CREATE_KEY, LIST_KEYS, AUTHORIZE, APPLY_POLICY] {
        let status = rig.send(path, huge.clone()).await;
        assert_eq!(reason_of(&status), "MESSAGE_TOO_LARGE", "{path}: {status:?}");
        assert!(status.message().contains("the limit is"), "{status:?}");
    }
    // All at once.
    let sending = (0..16).map(|_| rig.send(APPLY_POLICY, huge.clone()));
    for status in futures_util::future::join_all(sending).await {
        assert_eq!(reason_of(&status), "MESSAGE_TOO_LARGE", "{status:?}");
    }
    let height = memory(&rig, "VmHWM");
    assert!(height < memory_before + KEPT_KIB_MAX, "from {memory_before} to {height} KiB");
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn many_messages_as_large_as_may_be_leave_the_server_serving() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    // Just below the limit of one mebibyte, and all of it wrong.
    let scopes = vec![Scope { name: "memory:read".into(), ..Default::default() }; 65_000];
    let policy = Some(Policy { scopes, ..Default::default() });
    let large = ApplyPolicyRequest { policy, ..Default::default() };
    let large = frame(&large.encode_to_vec());
    assert!((900_000..1 << 20).contains(&large.len()), "{}", large.len());
    let memory_before = memory(&rig, "VmRSS");
    for _ in 0..4 {
        let sending = (0..16).map(|_| rig.send(APPLY_POLICY, large.clone()));
        for status in futures_util::future::join_all(sending).await {
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            assert!(status.message().contains("scopes at most"), "{status:?}");
        }
    }
    let held = memory(&rig, "VmRSS");
    assert!(held < memory_before + 2 * KEPT_KIB_MAX, "from {memory_before} to {held} KiB");
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn a_token_that_is_huge_is_malformed() {
    let rig = Rig::start().await;
    let said = rig.server.authorize(&"x".repeat(16_000), "memory:read").await;
    assert!(!said.allowed);
    assert_eq!(said.http_status, 401);
}
