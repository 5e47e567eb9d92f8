//! When a peer has shown that it speaks HTTP, told from the bytes that it sends.
//!
//! hyper says nothing about the handshake of a connection. It is complete when the peer has acknowledged
//! our SETTINGS (HTTP/2; it takes the preface, the peer's own SETTINGS, and a peer that reads), or has
//! sent the head of a request (HTTP/1).

use http::Version;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Payload length (3 bytes), type SETTINGS, flag ACK, stream 0: RFC 9113 §4.1 and §6.5.
const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

/// What has been heard from the peer so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// So many bytes of the HTTP/2 preface.
    Preface {
        matched: usize,
    },
    /// So many bytes of the header of an HTTP/2 frame.
    Frame {
        header: [u8; 9],
        filled: usize,
    },
    /// A frame but for so many bytes of its payload.
    Payload {
        left: u32,
    },
    /// Empty lines, which hyper skips before the head of an HTTP/1 request (RFC 9112 §2.2).
    Blank,
    /// Part of the head of an HTTP/1 request, which ends with an empty line.
    Head {
        line_is_empty: bool,
    },
    Complete(Version),
}

impl Greeting {
    /// Nothing has been heard.
    pub(super) const START: Self = Self::Preface { matched: 0 };
    const FRAME: Self = Self::Frame { header: [0; 9], filled: 0 };

    /// What has been heard after one more byte.
    pub(super) fn then(self, byte: u8) -> Self {
        match self {
            Self::Preface { matched: 0 } if PREFACE[0] != byte => Self::Blank.then(byte),
            Self::Preface { matched } if PREFACE[matched] != byte => {
                Self::Head { line_is_empty: false }.then(byte)
            }
            Self::Preface { matched } if matched + 1 == PREFACE.len() => Self::FRAME,
            Self::Preface { matched } => Self::Preface { matched: matched + 1 },
            Self::Frame { mut header, filled } => {
                header[filled] = byte;
                if filled + 1 < header.len() {
                    return Self::Frame { header, filled: filled + 1 };
                }
                match u32::from_be_bytes([0, header[0], header[1], header[2]]) {
                    0 if header == SETTINGS_ACK => Self::Complete(Version::HTTP_2),
                    0 => Self::FRAME,
                    left => Self::Payload { left },
                }
            }
            Self::Payload { left: 1 } => Self::FRAME,
            Self::Payload { left } => Self::Payload { left: left - 1 },
            Self::Blank if matches!(byte, b'\r' | b'\n') => Self::Blank,
            Self::Blank => Self::Head { line_is_empty: false },
            Self::Head { line_is_empty: true } if byte == b'\n' => Self::Complete(Version::HTTP_11),
            Self::Head { line_is_empty } => {
                Self::Head { line_is_empty: byte == b'\n' || (line_is_empty && byte == b'\r') }
            }
            Self::Complete(_) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(bytes: &[u8]) -> Greeting {
        bytes.iter().fold(Greeting::START, |heard, byte| heard.then(*byte))
    }

    fn is_complete(bytes: &[u8]) -> bool {
        matches!(greeting(bytes), Greeting::Complete(_))
    }

    /// The preface, SETTINGS with one setting, and a window update.
    fn http2_before_the_acknowledgement() -> Vec<u8> {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 1, 0];
        let window_update = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        [&PREFACE[..], &settings, &window_update].concat()
    }

    #[test]
    fn http2_has_greeted_when_it_acknowledges_settings() {
        let mut bytes = http2_before_the_acknowledgement();
        assert!((0..=bytes.len()).all(|end| !is_complete(&bytes[..end])));
        bytes.extend(SETTINGS_ACK);
        assert!(!is_complete(&bytes[..bytes.len() - 1]));
        assert_eq!(greeting(&bytes), Greeting::Complete(Version::HTTP_2));
    }

    #[test]
    fn an_acknowledgement_inside_a_payload_is_none() {
        let data = [&[0, 0, 9, 0, 0, 0, 0, 0, 1], &SETTINGS_ACK[..]].concat();
        assert!(!is_complete(&[&PREFACE[..], &data].concat()));
    }

    #[test]
    fn http1_has_greeted_when_the_head_of_its_request_ends() {
        for request in [
            &b"POST /a HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"GET / HTTP/1.0\n\n",
            b"PRI / HTTP/1.1\r\n\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"\n\nP / HTTP/1.1\n\n",
        ] {
            assert!((0..request.len()).all(|end| !is_complete(&request[..end])));
            assert_eq!(greeting(request), Greeting::Complete(Version::HTTP_11));
        }
    }
}
