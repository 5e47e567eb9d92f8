//! The serving loop: accepts connections, hands each to a thread of its own, bounds it, and ends it
//! without failing a call.
//!
//! Nothing here knows of keys or of gRPC; any tower service over HTTP can be served. tonic's and
//! hyper's own loops are not used because they spin when file descriptors run out, wait for ever on a
//! silent peer at shutdown, and know no deadline for the handshake.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::select;
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};
use tokio::time::timeout;
use tower_service::Service;

pub use self::bound::{BindError, Bound};
pub use self::count::{Counter, Counters, Gauge};
pub use self::listen::{InvalidListen, Listen};
pub use self::peer::{Origin, Peer};
pub use self::tls::{Tls, TlsError, TlsFiles};
pub use self::unread::Sent;
pub use self::workers::Workers;

use self::bound::Socket;
use self::connection::Terms;
use self::workers::Seats;

mod listen;

mod bound;
mod workers;

mod connection;
mod peer;
mod tls;
mod wire;

mod count;
mod frames;
mod greeting;
mod split;
mod unread;
mod untaken;

/// What can be served: any tower service over HTTP that is always ready, for it is not asked. A
/// shorthand for bounds, implemented by nobody.
pub trait HttpService:
    Service<
        Request<Sent>,
        Response = Response<Self::Body>,
        Error: Into<Box<dyn Error + Send + Sync>>,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Sent>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    type Body = B;
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 only, as gRPC wants it.
    Http2,
    /// HTTP/1 or HTTP/2, by the first bytes of the connection.
    Auto,
}

/// The bounds of one listener and its connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at once. When they are, no more are accepted; the kernel's queue holds the
    /// next ones.
    pub max_connections: usize,
    /// Streams (calls) open at once on an HTTP/2 connection.
    pub max_streams: u32,
    /// The header block of a request: decoded (HTTP/2), or as sent (HTTP/1, and then at least 8,192).
    pub max_header_bytes: u32,
    /// The payload of an HTTP/2 frame.
    pub max_frame_bytes: u32,
    /// What a peer may send on a stream before somebody reads it.
    pub stream_window_bytes: u32,
    /// What a peer may send on all streams together before somebody reads it.
    pub connection_window_bytes: u32,
    /// What is gathered of one answer for a peer that is slow to take it.
    pub send_buffer_bytes: usize,
    /// Streams reset by the peer before we took them up; more end the connection (Rapid Reset).
    pub max_pending_reset_streams: usize,
    /// Streams reset by us for the peer's errors; more end the connection.
    pub max_local_reset_streams: usize,
    /// Time to complete the handshake: that of TLS, then preface, SETTINGS and its acknowledgement, or
    /// the first request's head (HTTP/1).
    pub handshake_timeout: Duration,
    /// Time to take a piece (16 KiB) of an answer; a peer may have half of it, and never has more.
    pub answer_timeout: Duration,
    /// Time to the end of the next request's head on an HTTP/1 connection. Proxies keep an idle one
    /// for less (nginx 60, Traefik and Go 90, Caddy 120 seconds), so it is they who close it, and they
    /// never send on one that we have just closed.
    pub http1_idle_timeout: Duration,
    /// An HTTP/2 peer is pinged this often…
    pub keepalive_interval: Duration,
    /// …and dropped when it has not answered for this long.
    pub keepalive_timeout: Duration,
    /// Age at which a connection is sent away (GOAWAY), so that clients spread over new nodes.
    pub max_age: Duration,
    /// The fraction of `max_age` by which the ages of connections differ, up and down.
    pub max_age_jitter: f64,
    /// Time that the calls in flight have to complete then.
    pub max_age_grace: Duration,
    /// Time between telling a peer that its connection will end and ending it. Longer than it takes the
    /// peer to read the one and to write what calls it had begun.
    pub goaway_notice: Duration,
    /// Time that the calls in flight have to complete once the listener shuts down.
    pub drain_timeout: Duration,
    /// Time that a connection with nothing in flight has, once the listener shuts down, to confirm
    /// the GOAWAY.
    pub quiet_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 2_000,
            max_streams: 256,
            max_header_bytes: 16 * 1024,
            max_frame_bytes: 16 * 1024,
            stream_window_bytes: 64 * 1024,
            connection_window_bytes: 1024 * 1024,
            send_buffer_bytes: 64 * 1024,
            max_pending_reset_streams: 20,
            max_local_reset_streams: 128,
            handshake_timeout: Duration::from_secs(4),
            answer_timeout: Duration::from_secs(4),
            http1_idle_timeout: Duration::from_mins(3),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(5),
            max_age: Duration::from_mins(30),
            max_age_jitter: 0.1,
            max_age_grace: Duration::from_secs(30),
            goaway_notice: Duration::from_millis(500),
            drain_timeout: Duration::from_secs(10),
            quiet_timeout: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// The age at which the `nth` connection of a listener is sent away. Multiples of the golden
    /// ratio spread the ages better than chance does: connections opened at once do not end at once.
    fn age_of(&self, nth: u32) -> Duration {
        let golden = f64::from(nth.wrapping_mul(0x9E37_79B9)) / f64::from(u32::MAX);
        let seconds =
            self.max_age.as_secs_f64() * (1.0 + self.max_age_jitter * (2.0 * golden - 1.0));
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max_age)
    }
}

/// Serves `bound`, which listens, until `shutdown` resolves, then drains it. Each connection gets a clone of
/// `service`, and each request carries its [`Peer`] as an extension.
///
/// The loop itself runs where it is awaited, the connections on `workers`. It returns when the last
/// connection is closed, and no later than `limits.drain_timeout` after `shutdown`, whatever the
/// peers do. Dropping it drops all connections.
pub async fn run<S: HttpService>(
    mut bound: Bound,
    workers: Workers,
    protocol: Protocol,
    limits: Limits,
    service: S,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut connections = Connections::new(&bound, workers, protocol, limits);
    loop {
        let socket = select! {
            biased;
            () = &mut shutdown => break,
            () = connections.ended(), if !connections.tasks.is_empty() => continue,
            socket = bound.accept(), if connections.have_room() => socket,
        };
        connections.open(socket, service.clone());
    }
    let name = bound.name();
    drop(bound); // closes the listener: who connects from now on is refused, and finds another node
    connections.drain(name).await;
}

/// The open connections of one listener.
struct Connections {
    terms: Arc<Terms>,
    seats: Seats,
    tasks: JoinSet<()>,
    /// Dropping the sender tells its connection to leave. One channel for each connection, because a
    /// connection looks at it whenever it is polled: a channel shared by all of them would be a lock
    /// shared by all threads.
    leave: HashMap<Id, oneshot::Sender<Infallible>>,
    opened: u32,
}

impl Connections {
    fn new(bound: &Bound, workers: Workers, protocol: Protocol, limits: Limits) -> Self {
        Self {
            terms: Arc::new(Terms {
                protocol,
                limits,
                tls: bound.tls().cloned(),
                counters: bound.counters(),
            }),
            seats: Seats::new(workers),
            tasks: JoinSet::new(),
            leave: HashMap::new(),
            opened: 0,
        }
    }

    fn have_room(&self) -> bool {
        self.tasks.len() < self.terms.limits.max_connections
    }

    fn open<S: HttpService>(&mut self, socket: Socket, service: S) {
        self.opened = self.opened.wrapping_add(1);
        self.terms.counters.accepted.increment();
        let max_age = self.terms.limits.age_of(self.opened);
        let (seat, thread) = self.seats.take();
        let (leave, told_to_leave) = oneshot::channel();
        let terms = Arc::clone(&self.terms);
        let task = connection::serve(socket, service, terms, seat, max_age, told_to_leave);
        self.leave.insert(self.tasks.spawn_on(task, &thread).id(), leave);
    }

    /// Waits for a connection to end; one must be open.
    async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => self.leave.remove(&id),
            Some(Err(error)) => {
                tracing::error!(%error, "a connection broke off");
                self.leave.remove(&error.id())
            }
            None => None,
        };
    }

    async fn drain(mut self, name: &str) {
        self.leave.clear();
        let limit = self.terms.limits.drain_timeout;
        let drained = timeout(limit, async {
            while !self.tasks.is_empty() {
                self.ended().await;
            }
        });
        if drained.await.is_err() {
            let connections = self.tasks.len();
            tracing::warn!(
                listener = name,
                connections,
                "dropped connections that were still busy after {limit:?}"
            );
            // Whoever waits for this must know that nothing is answered any more.
            self.tasks.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_over_the_jitter_and_never_beyond() {
        let limits = Limits { max_age: Duration::from_secs(1_000), ..Limits::default() };
        let mut ages: Vec<u64> = (0..100).map(|nth| limits.age_of(nth).as_secs()).collect();
        ages.sort_unstable();
        assert!(ages[0] >= 900 && ages[99] <= 1_100, "{ages:?}");
        let widest = ages.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest <= Some(6), "100 connections end evenly over 200 s, not {widest:?} apart");
    }
}
