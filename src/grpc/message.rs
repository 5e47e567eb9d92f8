//! The one message of a request, gathered before anything is done with it.
//!
//! tonic's own reader makes room for a message when its length is announced, waits for it as long as its
//! sender likes, and calls bytes that are no message a defect of the server. Here an incomplete message
//! holds no more than what has come of it, and the bytes are not shared with those of other calls.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;

use crate::error::{Error, Reason};

/// One byte that says whether the message is compressed, four of its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// Resolves to the message as it was framed, once the caller has sent all of it and nothing more.
/// Knows no time: who polls it does.
#[derive(Debug)]
pub(super) struct Message<B> {
    body: B,
    bytes_max: usize,
    arrived: Arrived,
}

#[derive(Debug)]
enum Arrived {
    Nothing,
    /// A copy, for a part of what the connection has read would keep all of it.
    Parts(Vec<u8>),
    /// All in one piece, as nearly always.
    InOne(Bytes),
}

impl<B> Message<B> {
    pub(super) const fn new(body: B, bytes_max: usize) -> Self {
        Self { body, bytes_max, arrived: Arrived::Nothing }
    }

    pub(super) const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn take(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.arrived {
            Arrived::Nothing if is_whole(&data, self.bytes_max)? => {
                self.arrived = Arrived::InOne(data);
            }
            Arrived::Nothing => self.arrived = Arrived::Parts(data.to_vec()),
            Arrived::Parts(parts) => {
                make_room(parts, data.len(), PREFIX_BYTES + self.bytes_max);
                parts.extend_from_slice(&data);
                is_whole(parts, self.bytes_max)?;
            }
            Arrived::InOne(_) if data.is_empty() => {}
            Arrived::InOne(_) => return Err(more_than_one()),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Bytes, Error> {
        match std::mem::replace(&mut self.arrived, Arrived::Nothing) {
            Arrived::InOne(message) => Ok(message),
            Arrived::Parts(parts) if is_whole(&parts, self.bytes_max)? => Ok(parts.into()),
            Arrived::Parts(parts) if !parts.is_empty() => Err(cut_off()),
            Arrived::Parts(_) | Arrived::Nothing => {
                Err(unreadable("the request has no message; an empty one is five bytes of zero"))
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Future for Message<B> {
    type Output = Result<Bytes, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.take(data)?;
                    }
                }
                // Whoever broke it off hears no more of it.
                Some(Err(_)) => return Poll::Ready(Err(cut_off())),
                None => return Poll::Ready(this.finish()),
            }
        }
    }
}

/// Doubles as a vector does by itself, but not beyond the largest message.
fn make_room(parts: &mut Vec<u8>, more: usize, bytes_max: usize) {
    if parts.capacity() - parts.len() < more {
        let doubled = parts.len().min(bytes_max.saturating_sub(parts.len()));
        parts.reserve_exact(doubled.max(more));
    }
}

/// Whether the bytes are a message, rather than the start of one.
fn is_whole(bytes: &[u8], bytes_max: usize) -> Result<bool, Error> {
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(false);
    };
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(unreadable(
            "the message is marked as compressed, and compression is not served",
        ));
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > bytes_max {
        let told =
            format!("the message is too large: {length} bytes, and the limit is {bytes_max} bytes");
        return Err(Error::new(Reason::MessageTooLarge, told)
            .with("bytes", length.to_string())
            .with("limit_bytes", bytes_max.to_string()));
    }
    if message.len() > length {
        return Err(more_than_one());
    }
    Ok(message.len() == length)
}

fn more_than_one() -> Error {
    unreadable("the request goes on after its message; this method takes one")
}

fn cut_off() -> Error {
    unreadable("the request ends before its message does")
}

fn unreadable(told: &str) -> Error {
    Error::new(Reason::InvalidField, told)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    /// What is made of a request that arrives in these pieces, with messages of 8 bytes at most.
    fn read(pieces: &[&'static [u8]]) -> Result<Vec<u8>, String> {
        let frames = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece)));
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        let message = Message::new(body, 8).now_or_never().unwrap();
        message.map(|bytes| bytes.to_vec()).map_err(|error| error.message)
    }

    #[test]
    fn a_message_is_the_same_however_it_arrives() {
        let whole: &'static [u8] = &[0, 0, 0, 0, 3, b'a', b'b', b'c'];
        assert_eq!(read(&[whole]).unwrap(), whole);
        assert_eq!(read(&[whole, &[]]).unwrap(), whole);
        for at in 0..whole.len() {
            assert_eq!(read(&[&whole[..at], &whole[at..]]).unwrap(), whole, "{at}");
        }
        assert_eq!(read(&[&[0; 5]]).unwrap(), [0; 5]);
    }

    #[test]
    fn an_incomplete_message_holds_no_more_than_the_largest_takes() {
        let mut parts = Vec::new();
        for _ in 0..100 {
            make_room(&mut parts, 1, 100);
            parts.push(0);
        }
        assert_eq!(parts.capacity(), 100);
    }

    #[test]
    fn anything_but_one_message_is_told() {
        for (pieces, told) in [
            (&[][..], "no message"),
            (&[&[][..]], "no message"),
            (&[&[0, 0]], "ends before"),
            (&[&[0, 0, 0, 0, 2, b'a']], "ends before"),
            (&[&[1, 0, 0, 0, 0]], "compressed"),
            (&[&[0, 0, 0, 0, 9]], "9 bytes, and the limit is 8 bytes"),
            (&[&[0, 0, 0, 0, 0, 0]], "goes on"),
            (&[&[0, 0, 0, 0, 0], &[0; 5]], "goes on"),
            (&[&[0, 0, 0], &[0, 0, 0, 0, 0]], "goes on"),
        ] {
            let error = read(pieces).unwrap_err();
            assert!(error.contains(told), "{pieces:?}: {error}");
        }
    }
}
