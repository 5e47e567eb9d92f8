//! HTTP/2 by hand (RFC 9113), for what no client library would send.

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Of SETTINGS and PING.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame (§4.1) on a stream.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The preface, SETTINGS with one setting or none, and the acknowledgement of the server's.
pub(crate) fn opening(setting: Option<(u16, u32)>) -> Vec<u8> {
    let setting = setting
        .map_or(vec![], |(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
    [PREFACE, &frame(SETTINGS, 0, 0, &setting), &frame(SETTINGS, ACK, 0, &[])].concat()
}

/// A header as HPACK writes it without any table (RFC 7541 §6.2.2).
pub(crate) fn header(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![0], text(name.as_ref()), text(value.as_ref())].concat()
}

/// The same, but it enters the table of the other side (§6.2.1): its first entry is number 62.
pub(crate) fn remembered_header(name: &str, value: &str) -> Vec<u8> {
    [vec![0x40], text(name.as_bytes()), text(value.as_bytes())].concat()
}

/// The headers of a gRPC call to this path.
pub(crate) fn call_headers(path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.iter().flat_map(|(name, value)| header(name, value)).collect()
}

/// A gRPC message in its frame: whether it is compressed, its length, its bytes.
pub(crate) fn grpc_message(compressed: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[compressed][..], &length, message].concat()
}

/// A string as HPACK writes it: its length with a prefix of seven bits (§5.1), its bytes.
fn text(text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    match u8::try_from(text.len()) {
        Ok(length) if length < 0x7f => bytes.push(length),
        _ => {
            bytes.push(0x7f);
            let mut rest = text.len() - 0x7f;
            while rest >= 0x80 {
                bytes.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
                rest /= 0x80;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
    }
    bytes.extend_from_slice(text);
    bytes
}
