//! Who is at the other end of a connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Who is at the other end of a connection. Every request carries it as an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// From where it connected.
    pub origin: Origin,
    /// Who it is by its certificate, where the listener asks for one and the certificate says so.
    pub identity: Option<Arc<str>>,
}

/// From where a connection comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The address of a TCP connection.
    Tcp(SocketAddr),
    /// A process on this machine, through a Unix socket.
    Unix,
}

impl Peer {
    /// The address that it connected from; a Unix socket is in no network.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.origin {
            Origin::Tcp(address) => Some(address.ip()),
            Origin::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    /// `127.0.0.1:40000 spiffe://acme/billing`. There is no space in an identity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Tcp(address) => write!(f, "{address}")?,
            Origin::Unix => write!(f, "unix")?,
        }
        self.identity.iter().try_for_each(|identity| write!(f, " {identity}"))
    }
}
