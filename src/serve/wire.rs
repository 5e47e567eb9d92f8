//! What hyper does not do for a connection, done on its bytes: notice that the handshake is complete, and
//! announce the end of the connection before hyper begins it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::greeting::Greeting;

/// A connection's hold on its [`Wire`], which hyper owns. Both belong to one task.
#[derive(Clone, Default)]
pub(super) struct Tap(Arc<Tapped>);

#[derive(Default)]
struct Tapped {
    greeted: OnceLock<Version>,
    is_leaving: AtomicBool,
}

impl Tap {
    /// What the peer speaks; `None` until its greeting is complete.
    pub(super) fn version(&self) -> Option<Version> {
        self.0.greeted.get().copied()
    }

    /// Resolves when the greeting is complete. Must be polled after the connection: the bytes that wake
    /// the one are those that complete the other.
    pub(super) async fn greeted(&self) {
        poll_fn(|_| match self.version() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        })
        .await;
    }

    /// Tells an HTTP/2 peer to begin no more calls here, with the next poll of the connection. Refuses
    /// none.
    pub(super) fn announce_leaving(&self) {
        self.0.is_leaving.store(true, Ordering::Relaxed);
    }
}

/// GOAWAY without an error for all streams there could be: RFC 9113 §6.8, which advises to send it one
/// round trip before the GOAWAY that names the last stream.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The stream of a connection.
pub(super) struct Wire<T> {
    stream: T,
    tap: Tap,
    greeting: Greeting,
    /// What is still to be written of the announcement; `None` before it is due.
    announcement: Option<&'static [u8]>,
}

impl<T> Wire<T> {
    pub(super) fn new(stream: T, tap: Tap) -> Self {
        Self { stream, tap, greeting: Greeting::START, announcement: None }
    }
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    fn poll_announcement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.announcement {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.announcement = Some(&rest[written..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let mut read = buf.filled()[before..].iter();
        while let (None, Some(byte)) = (self.tap.version(), read.next()) {
            self.greeting = self.greeting.then(*byte);
            if let Greeting::Complete(version) = self.greeting {
                self.tap.0.greeted.get_or_init(|| version);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_announcement(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_announcement(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// h2 flushes whenever it is polled, and only between two frames, never within a header block: there
    /// a frame can be put in.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_due = self.tap.0.is_leaving.load(Ordering::Relaxed);
        if is_due && self.announcement.is_none() && self.tap.version() == Some(Version::HTTP_2) {
            self.announcement = Some(&GOAWAY);
        }
        ready!(self.poll_announcement(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
