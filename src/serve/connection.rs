//! One connection from its first byte to its last.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, TryFutureExt};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::select;
use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tokio::time::sleep;

use super::bound::{Socket, Stream};
use super::count::{Counters, Gauge};
use super::tls::Tls;
use super::unread::Sent;
use super::untaken::{Answer, Patience, Untaken};
use super::wire::{Tap, Wire};
use super::workers::Seat;
use super::{HttpService, Limits, Peer, Protocol};

/// What holds for all connections of a listener.
pub(super) struct Terms {
    pub(super) protocol: Protocol,
    pub(super) limits: Limits,
    pub(super) tls: Option<Tls>,
    pub(super) counters: Arc<Counters>,
}

/// Where a connection is in its life; each has a time limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The peer has still to show that it speaks HTTP.
    Greeting,
    Serving,
    /// The peer has been told that the connection will end.
    Announced(Cause),
    /// The connection ends with the last call in flight.
    Leaving(Cause),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Age,
    /// The listener shuts down; [`super::run`] drops what takes too long then.
    Shutdown,
}

/// Serves the connection on the thread that polls this.
///
/// Sending a peer away takes two steps. First it is told, by a GOAWAY that refuses nothing, to begin no
/// more calls here. Later hyper sends the same, and a PING; the answer says that there are no more calls
/// on the way, and a second GOAWAY names the last one. Without the first step calls would be lost: the
/// h2 crate (tonic's clients) lets its answer to a PING overtake calls that it has not written yet.
/// A silent peer answers nothing, hence the limits on top.
pub(super) async fn serve<S: HttpService>(
    socket: Socket,
    service: S,
    terms: Arc<Terms>,
    seat: Seat,
    max_age: Duration,
    mut told_to_leave: oneshot::Receiver<Infallible>,
) {
    let (limits, counters) = (&terms.limits, &terms.counters);
    let _open = counters.open.enter();
    let untaken = Untaken::default();
    let mut limit = pin!(sleep(limits.handshake_timeout));
    let opened = select! {
        biased;
        opened = open(socket, &terms, untaken.clone()) => opened,
        () = &mut limit => return counters.handshake_timeouts.increment(),
        // No call has begun: the client finds another node, as those do who come from now on.
        _ = &mut told_to_leave => return,
    };
    let Some(Opened { stream, peer, certified_for }) = opened else { return };
    let max_age = max_age.min(certified_for);

    let (tap, calls) = (Tap::default(), Calls::default());
    let mut patience = Patience::new(untaken.clone(), limits.answer_timeout);
    let http = http_builder(terms.protocol, limits, calls.clone());
    let wire = TokioIo::new(Wire::new(stream, tap.clone()));
    let caller = peer.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let untaken = untaken.clone();
        // At once, without asking whether it is ready: a call's task then holds the future alone, and
        // not the service and the request beside it.
        let answer = service.clone().call(Sent::of(request));
        answer.map_ok(|answer| answer.map(|body| Answer::new(body, untaken)))
    });
    let mut connection = pin!(http.serve_connection(wire, service));

    let mut seat = Some(seat);
    let mut phase = Phase::Greeting;
    loop {
        // The connection may use up the turn that tokio allows a task, each time that it is polled: what stands after
        // it is looked at all the same.
        select! {
            biased;
            ended = &mut connection => {
                if tap.is_flooded() {
                    counters.floods.increment();
                }
                return ended.unwrap_or_else(|error| tracing::debug!(%peer, error, "connection ended"));
            }
            () = unconstrained(patience.ends()) => return counters.answer_timeouts.increment(),
            () = tap.greeted(), if phase == Phase::Greeting => {
                phase = Phase::Serving;
                limit.set(sleep(max_age));
            }
            _ = unconstrained(&mut told_to_leave), if !phase.is_shutdown() => {
                phase = Phase::Announced(Cause::Shutdown);
                tap.announce_leaving();
                limit.set(sleep(limits.goaway_notice));
            }
            () = unconstrained(&mut limit) => match phase {
                Phase::Greeting => return counters.handshake_timeouts.increment(),
                Phase::Serving => {
                    phase = Phase::Announced(Cause::Age);
                    counters.aged.increment();
                    drop(seat.take()); // the client's next connection takes it
                    tap.announce_leaving();
                    limit.set(sleep(limits.goaway_notice));
                }
                Phase::Announced(cause) => {
                    phase = Phase::Leaving(cause);
                    connection.as_mut().graceful_shutdown();
                    limit.set(sleep(cause.patience(limits)));
                }
                Phase::Leaving(Cause::Age) => return,
                Phase::Leaving(Cause::Shutdown) if is_quiet(&tap, &calls) => return,
                Phase::Leaving(Cause::Shutdown) => limit.set(sleep(limits.quiet_timeout)),
            }
        }
    }
}

/// A connection on which HTTP can begin.
struct Opened {
    stream: Box<dyn Stream>,
    peer: Peer,
    /// How long the client's certificate is valid; for ever where none was asked for.
    certified_for: Duration,
}

/// Registers the socket with this thread's runtime, and makes the TLS connection where there is to be
/// one; `None` when nothing comes of it.
async fn open(socket: Socket, terms: &Terms, untaken: Untaken) -> Option<Opened> {
    let mut peer = socket.peer();
    let stream = socket.open(untaken).ok()?;
    let Some(tls) = &terms.tls else {
        return Some(Opened { stream, peer, certified_for: Duration::MAX });
    };
    // Boxed, lest a connection in plaintext be as large as one that makes TLS.
    match Box::pin(tls.accept(stream)).await {
        Ok((stream, None)) => Some(Opened { stream, peer, certified_for: Duration::MAX }),
        Ok((stream, Some(client))) => {
            peer.identity = client.identity;
            Some(Opened { stream, peer, certified_for: tls.time_left(client.not_after) })
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "no TLS connection came about");
            terms.counters.tls_refused.increment();
            None
        }
    }
}

impl Phase {
    fn is_shutdown(self) -> bool {
        matches!(self, Self::Announced(Cause::Shutdown) | Self::Leaving(Cause::Shutdown))
    }
}

impl Cause {
    fn patience(self, limits: &Limits) -> Duration {
        match self {
            Self::Age => limits.max_age_grace,
            Self::Shutdown => limits.quiet_timeout,
        }
    }
}

/// Whether nothing is in flight. HTTP/1 closes by itself then, and its calls are not counted.
fn is_quiet(tap: &Tap, calls: &Calls) -> bool {
    tap.version() != Some(Version::HTTP_11) && calls.0.get() == 0
}

fn http_builder(protocol: Protocol, limits: &Limits, calls: Calls) -> Builder<Calls> {
    let mut builder = Builder::new(calls);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http1_idle_timeout)
        .max_buf_size(limits.max_header_bytes.max(8_192) as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_bytes)
        .max_frame_size(limits.max_frame_bytes)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buf_size(limits.send_buffer_bytes)
        .max_pending_accept_reset_streams(limits.max_pending_reset_streams)
        .max_local_error_reset_streams(limits.max_local_reset_streams);
    match protocol {
        Protocol::Http2 => {
            // gRPC has no use for it, and it costs each answer a look at the clock.
            builder.http2().auto_date_header(false);
            builder.http2_only()
        }
        Protocol::Auto => builder,
    }
}

/// Runs the calls of an HTTP/2 connection as tasks on its thread, and counts those in flight: from
/// the request's head to the last byte of the answer. A call that panics takes only itself along.
#[derive(Clone, Default)]
struct Calls(Gauge);

impl<F> Executor<F> for Calls
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, call: F) {
        let in_flight = self.0.enter();
        tokio::spawn(call.map(move |_| drop(in_flight)));
    }
}
