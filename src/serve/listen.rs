//! Where to listen, as it is written in the configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on, written `127.0.0.1:50051`, `unix:/run/some.sock` or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// Nowhere.
    Off,
}

impl Listen {
    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) | Self::Off => true,
        }
    }
}

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        match (text, text.strip_prefix("unix:")) {
            ("off", _) => Ok(Self::Off),
            (_, Some("")) => Err(InvalidListen(text.to_owned())),
            // gRPC also writes `unix:///run/some.sock`.
            (_, Some(path)) => Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into())),
            (_, None) => text.parse().map(Self::Tcp).map_err(|_| InvalidListen(text.to_owned())),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Off => write!(f, "off"),
        }
    }
}

/// A text that is no [`Listen`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address to listen on: write IP:PORT (127.0.0.1:50051, [::1]:50051), unix:PATH or off"
)]
pub struct InvalidListen(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> Listen {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_sockets_and_off_are_read_and_written_alike() {
        for text in ["127.0.0.1:50051", "[::1]:0", "unix:/run/some.sock", "unix:some.sock", "off"] {
            assert_eq!(listen(text).to_string(), text);
        }
        assert_eq!(listen("unix:///run/some.sock"), listen("unix:/run/some.sock"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "50051", "localhost:50051", "127.0.0.1", "unix:", "OFF", "tcp:127.0.0.1:1"]
        {
            assert_eq!(text.parse::<Listen>(), Err(InvalidListen(text.to_owned())));
        }
    }

    #[test]
    fn only_this_machine_reaches_a_loopback_address() {
        for text in
            ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:a", "off"]
        {
            assert!(listen(text).is_loopback(), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(!listen(text).is_loopback(), "{text}");
        }
    }
}
