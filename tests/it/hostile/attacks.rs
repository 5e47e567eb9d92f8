//! What is sent: each attack as the bytes of one connection.

use latchkey::proto::v1::AuthorizeRequest;
use prost::Message as _;
use tokio_rustls::rustls::ClientConnection;

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, call_headers, frame, grpc_message, header, opening, remembered_header,
};

const AUTHORIZE: &str = "/latchkey.v1.AuthorizationService/Authorize";
/// The setting of the window of each stream (RFC 9113 §6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Where an attack goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listener {
    Grpc,
    Http,
    Operations,
    TlsGrpc,
    /// It asks for a client certificate.
    TlsHttp,
    TlsOperations,
}

/// What the bytes of an attack are wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrap {
    Bare,
    Tls12,
    Tls13,
    /// With a client certificate, and a hundred that could be its issuer's.
    Namesakes,
    /// With a client certificate, and a megabyte of others.
    Oversized,
}

/// How an attack ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection is closed.
    Closed,
    /// The call is answered, with an error, and its sender may go on; or the connection is closed.
    Answered,
}

/// One connection's bytes, as they are sent.
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) listener: Listener,
    pub(super) wrap: Wrap,
    pub(super) end: End,
    /// Connections at once.
    pub(super) connections: usize,
    /// Sent first, at once.
    pub(super) opening: Vec<u8>,
    /// Sent then, again and again, as fast as it is taken; or slowly, or not at all.
    pub(super) flood: Flood,
    pub(super) reads: Reads,
}

pub(super) enum Flood {
    /// Nothing more: the sender waits.
    Silence,
    /// The same bytes.
    Same(Vec<u8>),
    /// Bytes made for the stream of this number, which is odd and grows by two.
    Streams(fn(u32) -> Vec<u8>),
    /// One byte each 100 ms.
    Drip(Vec<u8>),
    /// TLS records made for the session.
    Records(fn(ClientConnection) -> Records),
    /// Nothing more: the sender goes.
    Leave,
}

/// Makes the next records.
pub(super) type Records = Box<dyn FnMut() -> Vec<u8> + Send>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    Everything,
    Nothing,
}

/// Those on listeners that serve plaintext.
pub(super) fn plain() -> Vec<Attack> {
    [of_frames(), of_silence(), of_size(), over_http1()].into_iter().flatten().collect()
}

pub(super) const fn closed(name: &'static str, opening: Vec<u8>, flood: Flood) -> Attack {
    Attack {
        name,
        listener: Listener::Grpc,
        wrap: Wrap::Bare,
        end: End::Closed,
        connections: 4,
        opening,
        flood,
        reads: Reads::Everything,
    }
}

fn answered(name: &'static str, opening: Vec<u8>) -> Attack {
    Attack { end: End::Answered, ..closed(name, opening, Flood::Silence) }
}

/// Frames without end.
fn of_frames() -> Vec<Attack> {
    let ping = frame(PING, 0, 0, b"12345678").repeat(100);
    let settings = frame(SETTINGS, 0, 0, &[]).repeat(100);
    let begun = [opening(None), frame(HEADERS, END_HEADERS, 1, &call_headers(AUTHORIZE))].concat();
    let unfinished = [opening(None), frame(HEADERS, 0, 1, &call_headers(AUTHORIZE))].concat();
    let window_update = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(100);
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7]).repeat(100);
    let same = |bytes| Flood::Same(bytes);
    vec![
        closed("rapid reset", opening(None), Flood::Streams(reset_at_once)),
        closed(
            "CONTINUATION flood",
            unfinished,
            same(frame(CONTINUATION, 0, 1, &header("x", "y"))),
        ),
        closed("empty DATA", begun.clone(), same(frame(DATA, 0, 1, &[]).repeat(100))),
        closed("DATA of one byte", begun, same(frame(DATA, 0, 1, &[0]).repeat(100))),
        closed("SETTINGS flood", opening(None), same(settings.clone())),
        Attack {
            reads: Reads::Nothing,
            ..closed("SETTINGS flood, nothing read", opening(None), same(settings))
        },
        closed("PING flood", opening(None), same(ping.clone())),
        closed("PING flood before the handshake", PREFACE.to_vec(), same(ping.clone())),
        Attack {
            listener: Listener::Http,
            ..closed("PING flood, http", opening(None), same(ping.clone()))
        },
        Attack {
            listener: Listener::Operations,
            ..closed("PING flood, operations", opening(None), same(ping))
        },
        closed("WINDOW_UPDATE flood", opening(None), same(window_update)),
        closed("PRIORITY flood", opening(None), same(priority)),
        closed("unknown frames", opening(None), same(frame(0xEE, 0, 0, b"?").repeat(100))),
    ]
}

pub(super) fn reset_at_once(stream: u32) -> Vec<u8> {
    let cancel = 8_u32.to_be_bytes();
    [
        frame(HEADERS, END_HEADERS, stream, &call_headers(AUTHORIZE)),
        frame(RST_STREAM, 0, stream, &cancel),
    ]
    .concat()
}

/// Peers that do not do their part.
fn of_silence() -> Vec<Attack> {
    let silent = |name, opening, connections| Attack {
        connections,
        reads: Reads::Nothing,
        ..closed(name, opening, Flood::Silence)
    };
    let calls: Vec<u8> = (0..200).flat_map(|call| question(2 * call + 1)).collect();
    let window = |bytes| [opening(Some((INITIAL_WINDOW_SIZE, bytes))), calls.clone()].concat();
    let no_window_for_http = [opening(Some((INITIAL_WINDOW_SIZE, 0))), gets("/none", 200)].concat();
    let unacknowledged = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    vec![
        silent("half-open: nothing said", vec![], 334),
        silent("half-open: half a preface", PREFACE[..12].to_vec(), 333),
        silent("half-open: no acknowledgement", unacknowledged, 333),
        Attack { reads: Reads::Everything, ..silent("window of 0", window(0), 4) },
        Attack { reads: Reads::Everything, ..silent("window of 1", window(1), 4) },
        Attack {
            listener: Listener::Http,
            reads: Reads::Everything,
            ..silent("window of 0, http", no_window_for_http, 4)
        },
        Attack {
            reads: Reads::Nothing,
            ..closed("answers not read", opening(None), Flood::Streams(question))
        },
        closed("window never given back", opening(None), Flood::Streams(question)),
    ]
}

/// So many calls to this path.
pub(super) fn gets(path: &str, calls: u32) -> Vec<u8> {
    let headers = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)];
    let headers: Vec<u8> = headers.iter().flat_map(|(name, value)| header(name, value)).collect();
    let flags = END_HEADERS | END_STREAM;
    (0..calls).flat_map(|call| frame(HEADERS, flags, 2 * call + 1, &headers)).collect()
}

/// `Authorize` for a token that nobody has: an answer of some hundred bytes.
pub(super) fn question(stream: u32) -> Vec<u8> {
    let question = AuthorizeRequest {
        token: "hm_live_0000000000000000000000000000002dlYSp".into(),
        required_scope: "memory:read".into(),
        ..Default::default()
    };
    [
        frame(HEADERS, END_HEADERS, stream, &call_headers(AUTHORIZE)),
        frame(DATA, END_STREAM, stream, &grpc_message(0, &question.encode_to_vec())),
    ]
    .concat()
}

/// Too much of something.
fn of_size() -> Vec<Attack> {
    let call = |headers: &[u8]| {
        let mut block = [&call_headers(AUTHORIZE), headers].concat();
        let mut kind = HEADERS;
        let mut bytes = opening(None);
        while block.len() > 16_000 {
            let rest = block.split_off(16_000);
            bytes.extend(frame(kind, 0, 1, &block));
            (kind, block) = (CONTINUATION, rest);
        }
        bytes.extend(frame(kind, END_HEADERS, 1, &block));
        bytes
    };
    let many: Vec<u8> =
        (0..64).flat_map(|at| header(format!("x-{at}"), "y".repeat(1_000))).collect();
    // 62 is the entry just made; each byte stands for 4,000.
    let bomb = [remembered_header("x", &"y".repeat(4_000)), vec![0xbe; 12_000]].concat();
    let message = |compressed, message: &[u8]| {
        let framed = grpc_message(compressed, message);
        let data = framed.chunks(16_000).flat_map(|part| frame(DATA, 0, 1, part));
        let end = frame(DATA, END_STREAM, 1, &[]);
        call(&[]).into_iter().chain(data).chain(end).collect::<Vec<u8>>()
    };
    // A field of a number that nobody knows, which begins a group, in a group of the same.
    let nested = vec![0x7b; 10_000];
    vec![
        answered("headers of 64 KiB", call(&many)),
        answered("one header of 64 KiB", call(&header("x", "y".repeat(65_536)))),
        answered("HPACK bomb", call(&bomb)),
        answered("message of 5 MiB", message(0, &vec![0; 5 << 20])),
        answered("compressed message", message(1, &[0x1f, 0x8b, 8, 0])),
        answered("nesting of 10,000", message(0, &nested)),
        answered("message without end", [call(&[]), frame(DATA, 0, 1, &[0, 0, 0, 0, 9])].concat()),
    ]
}

/// What HTTP/1 knows of this, on the listeners that speak it.
fn over_http1() -> Vec<Attack> {
    let get = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let on = |listener, attack| Attack { listener, ..attack };
    let unending = b"x-header: some value or other\r\n".repeat(100);
    let post = b"POST /v1/forward-auth HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![
        on(
            Listener::Http,
            closed("slow head", b"GET / HTTP/1.1\r\n".to_vec(), Flood::Drip(b"x: y\r\n".to_vec())),
        ),
        on(
            Listener::Operations,
            closed("slow head, operations", vec![], Flood::Drip(b"GET / HTTP/1.1".to_vec())),
        ),
        on(
            Listener::Http,
            closed("headers without end", b"GET / HTTP/1.1\r\n".to_vec(), Flood::Same(unending)),
        ),
        on(
            Listener::Http,
            closed("request line without end", b"GET /".to_vec(), Flood::Same(vec![b'a'; 10_000])),
        ),
        on(
            Listener::Operations,
            Attack {
                reads: Reads::Nothing,
                ..closed("pipelining, nothing read", vec![], Flood::Same(get.repeat(100)))
            },
        ),
        on(
            Listener::Http,
            closed("body without end", post.to_vec(), Flood::Same(b"1\r\na\r\n".repeat(1_000))),
        ),
    ]
}
