//! Counts the TLS records of a peer, and ends it when too many of them bring nothing.
//!
//! A record without data, a key update, an alert: each costs its sender next to nothing. rustls bounds them only
//! while no data comes in between, and HTTP sees none. Whoever sends its data a byte at a time has one record
//! for each byte, so nobody needs more than that.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::serve::frames::Flood;
use crate::serve::split::Split;

const HEADER_BYTES: usize = 5;

/// Records beyond one for each byte of data that a connection may have saved up; those of the handshake count.
const SAVED_MAX: u64 = 1_000;

/// What TLS reads from and writes to.
pub(super) struct Records<T> {
    stream: T,
    headers: Split<HEADER_BYTES>,
    /// Records that may still come, save for those with data.
    allowed: u64,
}

/// What TLS makes of it: the data.
pub(super) struct Secured<T>(pub(super) TlsStream<Records<T>>);

impl<T> Records<T> {
    pub(super) const fn new(stream: T) -> Self {
        Self { stream, headers: Split::new(payload_bytes), allowed: SAVED_MAX }
    }

    pub(super) fn into_inner(self) -> T {
        self.stream
    }

    fn hear(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while self.headers.next(&mut bytes).is_some() {
            self.allowed = self.allowed.checked_sub(1).ok_or(Flood)?;
        }
        Ok(())
    }
}

/// Type, version, length: RFC 8446 §5.1.
const fn payload_bytes([.., high, low]: [u8; HEADER_BYTES]) -> usize {
    u16::from_be_bytes([high, low]) as usize
}

impl<T: AsyncRead + Unpin> AsyncRead for Records<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.hear(&buf.filled()[before..]).map_err(io::Error::other))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        let brought = (buf.filled().len() - before) as u64;
        let records = self.0.get_mut().0;
        records.allowed = (records.allowed + brought).min(SAVED_MAX);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Records<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_bring_nothing_are_taken_until_they_are_a_flood() {
        let empty = [&[23, 3, 3, 0, 17][..], &[0; 17]].concat();
        let mut records = Records::new(());
        assert_eq!((0..5_000).take_while(|_| records.hear(&empty).is_ok()).count(), 1_000);
    }
}
