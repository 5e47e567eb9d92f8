//! What hyper does not do for a connection, done on its bytes: notice that the handshake is complete, end it when
//! its peer sends frames without end, and announce the end of the connection before hyper begins it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Flood, Frames};
use super::greeting::Greeting;

/// A connection's hold on its [`Wire`], which hyper owns. Both belong to one task.
#[derive(Clone, Default)]
pub(super) struct Tap(Arc<Tapped>);

#[derive(Default)]
struct Tapped {
    greeted: OnceLock<Version>,
    is_leaving: AtomicBool,
    is_flooded: AtomicBool,
}

impl Tap {
    /// What the peer speaks; `None` until its greeting is complete.
    pub(super) fn version(&self) -> Option<Version> {
        self.0.greeted.get().copied()
    }

    /// Whether the connection has ended because its peer sent frames without end.
    pub(super) fn is_flooded(&self) -> bool {
        self.0.is_flooded.load(Ordering::Relaxed)
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

/// GOAWAY with `ENHANCE_YOUR_CALM` (RFC 9113 §7), for all streams there could be as well: of one above the last that
/// is named nothing was done, so that clients repeat it, and what was begun may have been done.
const CALM_DOWN: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb];

/// The stream of a connection.
pub(super) struct Wire<T> {
    stream: T,
    tap: Tap,
    hearing: Hearing,
    /// What is still to be written of the announcement; `None` before it is due.
    announcement: Option<&'static [u8]>,
    /// Nothing was written since the last flush, so that a frame can be put in.
    is_between_frames: bool,
}

/// What is heard from the peer.
enum Hearing {
    Greeting(Greeting),
    /// A request's head has been heard, and the rest is hyper's.
    Http1,
    Http2(Frames),
}

impl<T> Wire<T> {
    pub(super) fn new(stream: T, tap: Tap) -> Self {
        let hearing = Hearing::Greeting(Greeting::START);
        Self { stream, tap, hearing, announcement: None, is_between_frames: true }
    }

    fn hear(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while let (Hearing::Greeting(greeting), [byte, rest @ ..]) = (&mut self.hearing, bytes) {
            bytes = rest;
            *greeting = greeting.then(*byte);
            match *greeting {
                Greeting::Complete(Version::HTTP_2) => {
                    self.hearing = Hearing::Http2(Frames::new(now()));
                }
                Greeting::Complete(version) => {
                    self.tap.0.greeted.get_or_init(|| version);
                    self.hearing = Hearing::Http1;
                }
                _ => {}
            }
        }
        let Hearing::Http2(frames) = &mut self.hearing else { return Ok(()) };
        frames.hear(bytes, now)?;
        if frames.are_settled() {
            self.tap.0.greeted.get_or_init(|| Version::HTTP_2);
        }
        Ok(())
    }

    /// Notes what came of a write.
    const fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        self.is_between_frames = false;
        if let (Hearing::Http2(frames), Poll::Ready(Ok(bytes))) = (&mut self.hearing, written) {
            frames.wrote(*bytes);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where the pace of a peer is measured")]
fn now() -> Instant {
    Instant::now()
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

    /// Notes that the connection ends; the peer is told where that is possible at once.
    fn flooded(&mut self, cx: &mut Context<'_>) {
        self.tap.0.is_flooded.store(true, Ordering::Relaxed);
        let is_between_frames =
            self.is_between_frames && !matches!(self.announcement, Some([_, ..]));
        if is_between_frames && matches!(self.hearing, Hearing::Http2(_)) {
            let _ = Pin::new(&mut self.stream).poll_write(cx, &CALM_DOWN);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let heard =
            read.and_then(|()| self.hear(&buf.filled()[before..]).map_err(io::Error::other));
        Poll::Ready(heard.inspect_err(|error| {
            buf.set_filled(before); // a read that fails brings nothing
            if matches!(error.get_ref(), Some(cause) if cause.is::<Flood>()) {
                self.flooded(cx);
            }
        }))
    }
}

/// Not vectored: then h2 gathers answers of up to 1 KiB for one write, and not only those of up to 255 bytes.
impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_announcement(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    /// h2 flushes whenever it is polled, and only between two frames, never within a header block: there
    /// a frame can be put in.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_due = self.tap.0.is_leaving.load(Ordering::Relaxed);
        if is_due && self.announcement.is_none() && self.tap.version() == Some(Version::HTTP_2) {
            self.announcement = Some(&GOAWAY);
        }
        ready!(self.poll_announcement(cx))?;
        self.is_between_frames = true;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_flood_is_ended_and_no_call_is_said_to_have_been_left_undone() {
        const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

        let (mut peer, stream) = duplex(64 * 1024);
        let tap = Tap::default();
        let mut wire = Wire::new(stream, tap.clone());
        peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        peer.write_all(&PING.repeat(2_000)).await.unwrap();
        wire.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert!(tap.is_flooded());

        let mut told = [0; 17];
        peer.read_exact(&mut told).await.unwrap();
        let (last_stream, code) = (&told[9..13], &told[13..]);
        assert_eq!(
            (told[3], last_stream, code),
            (7, &[0x7f, 0xff, 0xff, 0xff][..], &[0, 0, 0, 0xb][..])
        );
    }
}
