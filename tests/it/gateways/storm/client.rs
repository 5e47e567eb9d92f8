//! A client that sends bytes as they stand, over HTTP/1 or HTTP/2, and looks no further than at the status.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::shot::{Over, Shot};
use crate::support::frames::{GOAWAY, HEADERS, RST_STREAM};

/// What there is in the place of a status: nothing in time, or the end of the connection or the stream.
pub(super) const NO_ANSWER: u16 = 0;
pub(super) const CLOSED: u16 = 1;

/// Sends a request on a connection of its own; the status of the answer, if there is one in time.
pub(super) async fn send(to: SocketAddr, shot: &Shot, patience: Duration) -> u16 {
    let Ok(mut stream) = TcpStream::connect(to).await else { return CLOSED };
    let (mut reading, mut writing) = stream.split();
    let bytes = shot.bytes();
    let mut read = Vec::new();
    // Who refuses may close before everything is written, and answers before everything is read.
    let write = async {
        let _ = writing.write_all(&bytes).await;
        std::future::pending().await
    };
    let answered = async {
        loop {
            if let Some(status) = status(shot.over, &read) {
                return status;
            }
            if !reading.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) {
                return CLOSED;
            }
        }
    };
    let status = tokio::select! {
        status = timeout(patience, answered) => status.unwrap_or(NO_ANSWER),
        never = write => never,
    };
    if shot.has_more() {
        // What came after it may be on its way.
        let ended =
            async { while stream.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) {} };
        let _ = timeout(patience.min(Duration::from_millis(50)), ended).await;
    }
    status
}

fn status(over: Over, read: &[u8]) -> Option<u16> {
    match over {
        Over::Http1 => {
            let end = read.windows(4).position(|part| part == b"\r\n\r\n")?;
            let line = String::from_utf8_lossy(&read[..end]);
            let status = line.split(' ').nth(1)?.parse().ok()?;
            // 100 and 103 come before the answer.
            if (100..200).contains(&status) && status != 101 {
                return self::status(over, &read[end + 4..]);
            }
            Some(status)
        }
        Over::Http2 => frames(read),
    }
}

fn frames(mut read: &[u8]) -> Option<u16> {
    while let [high, middle, low, kind, flags, _, _, _, stream, rest @ ..] = read {
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        let payload = rest.get(..length)?;
        match *kind {
            HEADERS if *stream == 1 => return Some(status_of_block(payload, *flags)),
            RST_STREAM | GOAWAY => return Some(CLOSED),
            _ => {}
        }
        read = &rest[length..];
    }
    None
}

/// The status, which comes first (RFC 7541 appendix A): an entry of the static table, or written out.
fn status_of_block(block: &[u8], flags: u8) -> u16 {
    assert_eq!(flags & 0b10_1000, 0, "neither padded nor with a priority");
    match block {
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8a, ..] => 206,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        [_, 0x03, digits @ ..] if digits.len() >= 3 => {
            digits[..3].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
        }
        [_, length, huffman @ ..] if length & 0x80 != 0 => digits(huffman),
        _ => NO_ANSWER,
    }
}

/// Three digits as Huffman has them (RFC 7541 appendix B): `0`, `1` and `2` in five bits, the others in six.
fn digits(huffman: &[u8]) -> u16 {
    let bit =
        |at: usize| u16::from(huffman.get(at / 8).copied().unwrap_or_default() >> (7 - at % 8) & 1);
    let bits =
        |from: usize, count: usize| (from..from + count).fold(0, |bits, at| bits << 1 | bit(at));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let (digit, width) = match bits(at, 5) {
            short @ 0..3 => (short, 5),
            _ => (bits(at, 6).saturating_sub(0b01_1001) + 3, 6),
        };
        status = status * 10 + digit;
        at += width;
    }
    status
}
