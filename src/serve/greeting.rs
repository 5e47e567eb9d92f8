//! When a peer has shown that it speaks HTTP, told from the bytes that it sends.
//!
//! hyper says nothing about the handshake of a connection. It is complete when the peer has sent the head of a
//! request (HTTP/1), or has acknowledged our SETTINGS (HTTP/2; it takes the preface, the peer's own SETTINGS, and
//! a peer that reads). Here is what comes before the first frame; [`super::frames`] follows those.

use http::Version;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What has been heard from the peer so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// So many bytes of the HTTP/2 preface.
    Preface { matched: usize },
    /// Empty lines, which hyper skips before the head of an HTTP/1 request (RFC 9112 §2.2).
    Blank,
    /// Part of the head of an HTTP/1 request, which ends with an empty line.
    Head { line_is_empty: bool },
    /// The head of an HTTP/1 request, or the whole preface.
    Complete(Version),
}

impl Greeting {
    /// Nothing has been heard.
    pub(super) const START: Self = Self::Preface { matched: 0 };

    /// What has been heard after one more byte.
    pub(super) fn then(self, byte: u8) -> Self {
        match self {
            Self::Preface { matched: 0 } if PREFACE[0] != byte => Self::Blank.then(byte),
            Self::Preface { matched } if PREFACE[matched] != byte => {
                Self::Head { line_is_empty: false }.then(byte)
            }
            Self::Preface { matched } if matched + 1 == PREFACE.len() => {
                Self::Complete(Version::HTTP_2)
            }
            Self::Preface { matched } => Self::Preface { matched: matched + 1 },
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

    #[test]
    fn http2_begins_with_its_preface() {
        assert!((0..PREFACE.len()).all(|end| !is_complete(&PREFACE[..end])));
        assert_eq!(greeting(PREFACE), Greeting::Complete(Version::HTTP_2));
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
