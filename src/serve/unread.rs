//! What a call sends that nobody reads: who is refused by the head of the call is answered at once, and the message
//! arrives later.
//!
//! Let go of unread, h2 resets the call, and keeps that in mind of a few calls for a moment. A message of another one is
//! then the peer's fault, and after some of these faults h2 ends the connection, with all that is in flight on it: a
//! node that refuses many calls, since it cannot reach its store, would cut off those whom it answers. So the rest of
//! a message is read, and thrown away.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How much is thrown away of one call; one that sends more is reset.
const BYTES_MAX: usize = 64 * 1024;
/// How long it may take to arrive.
const TIME_MAX: Duration = Duration::from_secs(1);

/// What a call sends.
#[derive(Debug)]
pub struct Sent {
    /// Until it has come to its end.
    body: Option<Incoming>,
    is_http2: bool,
}

impl Sent {
    pub(super) fn of(request: Request<Incoming>) -> Request<Self> {
        let is_http2 = request.version() == Version::HTTP_2;
        request.map(|body| Self { body: Some(body), is_http2 })
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| self.is_http2 && !body.is_end_stream());
        // Without a runtime the connection is gone as well.
        if let (Some(body), Ok(runtime)) = (unread, Handle::try_current()) {
            runtime.spawn(timeout(TIME_MAX, throw_away(body)));
        }
    }
}

async fn throw_away(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > BYTES_MAX {
            return;
        }
    }
}
