//! What a peer has still to take, and for how long it may leave it.
//!
//! A peer that gives no window, or does not read, leaves its answers in our memory, and hyper waits for it for
//! ever. So each piece of an answer counts as untaken from when it is handed to hyper until it is written, and so
//! does a socket that takes no more; a connection with anything untaken for too long is ended. The socket is asked
//! below TLS, which takes what is small and gathers it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Larger answers are handed over in pieces, so that a slow peer has time for each.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// A socket that took no more must take so much before it counts as one that takes: a kernel whose program does not read
/// makes room for a little at times.
const STEP_BYTES: usize = 8 * 1024;

/// What one connection has untaken, by the turn in which it was handed over: this or the one before. All that
/// use it belong to one thread.
#[derive(Clone, Default)]
pub(super) struct Untaken(Arc<Turns>);

#[derive(Default)]
struct Turns {
    turn: AtomicUsize,
    untaken: [AtomicUsize; 2],
}

impl Untaken {
    /// Something is untaken until the answer is dropped.
    pub(super) fn begin(&self) -> Begun {
        let slot = self.0.turn.load(Ordering::Relaxed) % 2;
        self.0.untaken[slot].fetch_add(1, Ordering::Relaxed);
        Begun { of: self.clone(), slot }
    }

    fn is_none(&self) -> bool {
        self.0.untaken.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }

    /// Whether something is left of the turn before this one; if not, the next begins.
    fn turn(&self) -> Turn {
        let turn = self.0.turn.load(Ordering::Relaxed);
        if self.0.untaken[(turn + 1) % 2].load(Ordering::Relaxed) > 0 {
            return Turn::Overdue;
        }
        self.0.turn.store(turn + 1, Ordering::Relaxed);
        Turn::Next
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Next,
    Overdue,
}

/// Something that the peer has still to take.
pub(super) struct Begun {
    of: Untaken,
    slot: usize,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.of.0.untaken[self.slot].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until something has been untaken for too long.
pub(super) struct Patience {
    untaken: Untaken,
    turn_time: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Ends when something was untaken for this long, or for half as long and then more.
    pub(super) fn new(untaken: Untaken, at_most: Duration) -> Self {
        Self { untaken, turn_time: at_most / 2, timer: None }
    }

    /// Resolves when it is at its end. Must be polled after the connection, which wakes its task whenever
    /// something is handed over; while nothing is untaken there is no timer.
    pub(super) async fn ends(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.untaken.is_none() {
            self.timer = None;
            return Poll::Pending;
        }
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.turn_time)));
            ready!(timer.as_mut().poll(cx));
            if self.untaken.turn() == Turn::Overdue {
                return Poll::Ready(());
            }
            self.timer = None;
        }
    }
}

/// A socket, which is untaken while it takes no more. When it is dropped then, what the kernel holds for the peer goes
/// as well; else it would be kept for minutes, by a connection that nobody counts.
pub(super) struct Outlet<T: AsFd> {
    socket: T,
    untaken: Untaken,
    blocked: Option<Blocked>,
}

/// A socket takes no more, or has taken no more than this since.
struct Blocked {
    taken_bytes: usize,
    _begun: Begun,
}

impl<T: AsFd> Drop for Outlet<T> {
    fn drop(&mut self) {
        if self.blocked.is_some() {
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}

impl<T: AsFd> Outlet<T> {
    pub(super) const fn new(socket: T, untaken: Untaken) -> Self {
        Self { socket, untaken, blocked: None }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (&written, &mut self.blocked) {
            (Poll::Ready(Ok(bytes)), Some(blocked)) => {
                blocked.taken_bytes += bytes;
                if blocked.taken_bytes >= STEP_BYTES {
                    self.blocked = None;
                }
            }
            (Poll::Pending, None) => {
                self.blocked = Some(Blocked { taken_bytes: 0, _begun: self.untaken.begin() });
            }
            (Poll::Pending, Some(_)) | (Poll::Ready(_), _) => {}
        }
        written
    }
}

impl<T: AsyncRead + AsFd + Unpin> AsyncRead for Outlet<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + AsFd + Unpin> AsyncWrite for Outlet<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// Comes when all was written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.blocked = None;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The body of an answer, whose pieces are untaken until they are written.
pub(super) struct Answer<B> {
    body: B,
    /// What the body has given and is still to be handed over.
    rest: Bytes,
    untaken: Untaken,
}

impl<B> Answer<B> {
    pub(super) const fn new(body: B, untaken: Untaken) -> Self {
        Self { body, rest: Bytes::new(), untaken }
    }

    fn piece(&mut self) -> Piece {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE_BYTES_MAX));
        Piece { bytes, _begun: self.untaken.begin() }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            Ok(frame?.map_data(|bytes| {
                self.rest = bytes;
                self.piece()
            }))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// Asked before the first frame only.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of an answer; whoever has written it, or will not, drops it.
pub(super) struct Piece {
    bytes: Bytes,
    _begun: Begun,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[test]
    fn what_is_taken_in_time_is_never_overdue() {
        let untaken = Untaken::default();
        let mut begun = untaken.begin();
        for _ in 0..10 {
            assert_eq!(untaken.turn(), Turn::Next);
            begun = untaken.begin(); // and what was there is taken
        }
        drop(begun);
        assert!(untaken.is_none());
    }

    #[test]
    fn what_is_left_is_overdue_although_other_pieces_are_taken() {
        let untaken = Untaken::default();
        let left = untaken.begin();
        assert_eq!(untaken.turn(), Turn::Next);
        drop(untaken.begin());
        assert_eq!(untaken.turn(), Turn::Overdue);
        drop(left);
        assert_eq!(untaken.turn(), Turn::Next);
    }

    #[tokio::test]
    async fn an_answer_is_the_same_in_pieces() {
        let bytes: Vec<u8> = (0..50_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        let untaken = Untaken::default();
        let mut answer = Answer::new(Full::new(Bytes::from(bytes.clone())), untaken.clone());
        let mut read = Vec::new();
        while let Some(frame) = answer.frame().await {
            assert!(!untaken.is_none());
            let mut piece = frame.unwrap().into_data().unwrap_or_else(|_| panic!("no data"));
            assert!(piece.remaining() <= PIECE_BYTES_MAX);
            read.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        assert!(untaken.is_none() && read == bytes);
    }
}
