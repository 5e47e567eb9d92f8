//! A bound listener, and accepting from it without ever failing or spinning.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, net, os};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, sleep};

use super::count::Counters;
use super::listen::Listen;
use super::peer::{Origin, Peer};
use super::tls::Tls;
use super::untaken::{Outlet, Untaken};

/// A bound listener, not yet served: over TCP whoever connects is refused, and not kept waiting, until it is told to
/// listen. Dropping it closes it and removes its socket file.
#[derive(Debug)]
pub struct Bound {
    name: &'static str,
    address: Listen,
    listener: Listener,
    tls: Option<Tls>,
    counters: Arc<Counters>,
    last_shortage: Option<Instant>,
}

impl Bound {
    /// Binds `listen`; `None` if it is off. The name is the listener's in errors and logs. Must be
    /// called on a tokio runtime. A socket file that nobody listens on any more is replaced.
    pub async fn bind(name: &'static str, listen: &Listen) -> Result<Option<Self>, BindError> {
        let bound = match listen {
            Listen::Tcp(address) => bind_tcp(*address),
            Listen::Unix(path) => bind_unix(path).await,
            Listen::Off => return Ok(None),
        };
        let (listener, address) =
            bound.map_err(|error| BindError { name, listen: listen.clone(), error })?;
        let counters = Arc::default();
        Ok(Some(Self { name, address, listener, tls: None, counters, last_shortage: None }))
    }

    /// The same listener; from here on who connects is kept until it is served.
    pub fn listen(mut self) -> Result<Self, BindError> {
        if let Listener::TcpBound(socket) = self.listener {
            let listening = socket.listen(BACKLOG).map_err(|error| BindError {
                name: self.name,
                listen: self.address.clone(),
                error,
            })?;
            self.listener = Listener::Tcp(listening);
        }
        Ok(self)
    }

    /// The same listener, serving TLS where there is some.
    #[must_use]
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// What it serves TLS with; `None` where it serves plaintext.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The name given to it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The address bound, with the port that was taken.
    #[must_use]
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// The counts of this listener, which stay readable while it is served.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The next connection. Waits while the machine is short of files or memory; can be cancelled and
    /// called again.
    pub(super) async fn accept(&mut self) -> Socket {
        loop {
            match self.listener.accept().await {
                Ok(socket) => return socket,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => self.back_off(&error).await,
            }
        }
    }

    /// Without this pause a process out of file descriptors would spin: the connection that could not
    /// be accepted stays first in the queue.
    async fn back_off(&mut self, error: &io::Error) {
        const PAUSE: Duration = Duration::from_millis(100);
        /// Shortages closer together than this are one episode, which is logged once.
        const LULL: Duration = Duration::from_secs(10);

        let pause = sleep(PAUSE);
        let next_try = pause.deadline();
        let previous = self.last_shortage.replace(next_try);
        if previous.is_none_or(|previous| next_try - previous > LULL) {
            tracing::warn!(listener = self.name, %error, "cannot accept connections now; trying on");
        }
        pause.await;
    }
}

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("the {name} listener cannot listen on {listen}: {error}; {}", remedy(.listen, .error))]
pub struct BindError {
    name: &'static str,
    listen: Listen,
    error: io::Error,
}

fn remedy(listen: &Listen, error: &io::Error) -> &'static str {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, NotFound, PermissionDenied};
    match (listen, error.kind()) {
        (Listen::Tcp(_), AddrInUse) => {
            "stop the program that listens there or choose another port (0 takes a free one)"
        }
        (Listen::Tcp(_), AddrNotAvailable) => {
            "choose an address of this machine (0.0.0.0 or [::] for all of them)"
        }
        (Listen::Tcp(_), PermissionDenied) => "choose a port from 1024 on",
        (Listen::Unix(_), AddrInUse) => {
            "stop the program that listens there or choose another path"
        }
        (Listen::Unix(_), PermissionDenied) => "choose a folder that this user may write to",
        (Listen::Unix(_), NotFound) => "make its folder first",
        _ => "choose another address",
    }
}

/// Whether the error is that of a connection which was gone before it could be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[derive(Debug)]
enum Listener {
    TcpBound(TcpSocket),
    Tcp(TcpListener),
    /// The file goes first, while it still answers: another process can only take over a path that
    /// does not.
    Unix {
        _file: SocketFile,
        listener: UnixListener,
    },
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // it is gone, or cannot be removed: the next start replaces it
    }
}

/// Connections that the kernel holds until they are accepted; the usual 128 are fewer than a fleet that
/// reconnects at once. The machine may hold it lower (`net.core.somaxconn`).
const BACKLOG: u32 = 1_024;

/// What the kernel holds of answers that it has not sent yet. Without this it gathers 4 MiB for a peer that takes
/// nothing, and asks for more only when a third of that has gone, which a slow peer takes minutes for.
const UNSENT_BYTES_MAX: u32 = 16 * 1024;

fn bind_tcp(address: SocketAddr) -> io::Result<(Listener, Listen)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?; // each connection inherits it
    socket.bind(address)?;
    let address = socket.local_addr()?;
    Ok((Listener::TcpBound(socket), Listen::Tcp(address)))
}

async fn bind_unix(path: &Path) -> io::Result<(Listener, Listen)> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path).await => {
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    let listener = Listener::Unix { _file: SocketFile(path.to_owned()), listener };
    Ok((listener, Listen::Unix(path.to_owned())))
}

/// A socket file outlives a process that was killed. Only a refusal proves that nobody listens on it.
async fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let connected = UnixStream::connect(path).await.map(drop);
    is_socket && connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::TcpBound(_) => std::future::pending().await,
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Socket::Tcp(stream.into_std()?, address))
            }
            Self::Unix { listener, .. } => Ok(Socket::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

/// An accepted connection on its way to its thread, registered with no runtime.
pub(super) enum Socket {
    Tcp(net::TcpStream, SocketAddr),
    Unix(os::unix::net::UnixStream),
}

/// A stream of any kind. One dynamic type, so that the HTTP machinery is compiled once.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Socket {
    /// Who is there, as far as can be told before a byte is read.
    pub(super) fn peer(&self) -> Peer {
        let origin = match self {
            Self::Tcp(_, address) => Origin::Tcp(*address),
            Self::Unix(_) => Origin::Unix,
        };
        Peer { origin, identity: None }
    }

    /// Registers the socket with the runtime this is called on. `untaken` is of its connection.
    pub(super) fn open(self, untaken: Untaken) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(stream, _) => {
                stream.set_nodelay(true)?;
                Ok(Box::new(Outlet::new(TcpStream::from_std(stream)?, untaken)))
            }
            Self::Unix(stream) => Ok(Box::new(Outlet::new(UnixStream::from_std(stream)?, untaken))),
        }
    }
}
