//! Administration: the caller is admitted, then the message is read, then the call runs as a task of its
//! own; all within the caller's deadline.
//!
//! Until the message is whole, whatever ends the waiting ends the call, and nothing was done. From then on
//! a deadline ends the waiting, never the work.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use super::message::Message;
use super::method::Method;
use super::{Admission, status};
use crate::error::{Error, Reason};
use crate::serve::Peer;
use crate::telemetry::{self, Observer};

/// The longest that a call of administration is waited for, whatever its caller asks. A stream counts
/// as answered when it begins.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest that a message takes to arrive.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(4);
/// The most that messages of administration may come to which are read or dealt with at once, each
/// counted as the largest of its method: 1,024 calls, or 64 policies.
const ROOM_KIB: usize = 64 * 1024;
/// The most messages that may be slow to arrive at once, of callers who need not be admitted; one that may be larger
/// than [`STRANGER_BYTES`] counts as several.
const STRANGERS_MAX: usize = 4_096;
const STRANGER_BYTES: usize = 16 * 1024;
/// A message that arrives so soon after its head is not slow.
const PROMPT_TIME_MAX: Duration = Duration::from_millis(200);
/// Reflection goes on for as long as its caller asks, but no longer.
const REFLECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// Everybody may ask for reflection, and few do.
const REFLECTIONS_MAX: usize = 1_024;

/// Everything but decisions. A cheap handle.
#[derive(Clone)]
pub(super) struct Administration {
    routes: Routes,
    background: Handle,
    admission: Admission,
    strangers: Strangers,
    room: Arc<Semaphore>,
    reflections: Arc<Semaphore>,
    observer: Observer,
}

impl Administration {
    pub(super) fn new(
        routes: Routes,
        background: Handle,
        admission: Admission,
        strangers: Strangers,
        observer: Observer,
    ) -> Self {
        let room = Arc::new(Semaphore::new(ROOM_KIB));
        let reflections = Arc::new(Semaphore::new(REFLECTIONS_MAX));
        Self { routes, background, admission, strangers, room, reflections, observer }
    }

    /// Answers a call with one message.
    pub(super) async fn call<B>(
        self,
        method: Method,
        request: Request<B>,
    ) -> Result<Response<Body>, Infallible>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin,
    {
        let observer = self.observer.clone();
        let path = request.uri().path().to_owned();
        let watch = observer.call(name(&path), request.headers(), peer(&request));
        let answer = watch.scope(self.answer(method, request)).await;
        watch.end(status::name_of(&answer));
        Ok(answer)
    }

    /// Answers a call to what is not there. Its path is the caller's own, and is not repeated.
    pub(super) fn no_such_method<B>(&self, request: &Request<B>) -> Response<Body> {
        let watch = self.observer.call("_OTHER", request.headers(), peer(request));
        let answer = trailers_only(status::no_such_method());
        watch.end(status::name_of(&answer));
        answer
    }

    async fn answer<B>(mut self, method: Method, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin,
    {
        let wait_max = WAIT_MAX + method.more_time();
        let wait = asked_wait(request.headers()).map_or(wait_max, |asked| asked.min(wait_max));
        let mut limit = pin!(sleep(wait));
        let read = select! {
            biased;
            read = self.read(method, request) => read,
            () = &mut limit => Err(too_late()),
        };
        let (mut request, place) = match read {
            Ok(read) => read,
            Err(error) => return trailers_only(error.into()),
        };
        // Lives as long as the answer is waited for here.
        let waiting = Arc::new(());
        request.extensions_mut().insert(Waiting(Arc::downgrade(&waiting)));
        let task = self.background.spawn(telemetry::carry(async move {
            let Ok(answer) = self.routes.call(request).await;
            drop(place);
            answer
        }));
        select! {
            biased;
            answer = task => answer
                .unwrap_or_else(|broken| trailers_only(status::broken_off(&broken, method))),
            () = &mut limit => trailers_only(status::deadline_exceeded(method)),
        }
    }

    /// The request with its whole message, of a caller who may send it; and its place.
    async fn read<B>(
        &self,
        method: Method,
        request: Request<B>,
    ) -> Result<(Request<Full<Bytes>>, Option<OwnedSemaphorePermit>), Error>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin,
    {
        let (head, body) = request.into_parts();
        method.admit(&self.admission, &head).await?;
        let message = Message::new(body, method.bytes_max());
        // Health is open to everybody, and whoever asks for it would take a full house for a dead one.
        let (message, place) = if method == Method::Health {
            (self.strangers.wait_for(message).await?, None)
        } else {
            let place = self.place(method)?;
            (in_time(message).await?, Some(place))
        };
        Ok((Request::from_parts(head, Full::new(message)), place))
    }

    fn place(&self, method: Method) -> Result<OwnedSemaphorePermit, Error> {
        let kib = u32::try_from(method.bytes_max() / 1024).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.room).try_acquire_many_owned(kib);
        place.map_err(|_| full("too many calls of administration are in flight"))
    }

    /// Answers a call whose caller sends a stream.
    pub(super) async fn stream<B>(self, request: Request<B>) -> Result<Response<Body>, Infallible>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let observer = self.observer.clone();
        let path = request.uri().path().to_owned();
        let watch = observer.call(name(&path), request.headers(), peer(&request));
        let answer = watch.scope(self.begin_stream(request)).await;
        watch.end(status::name_of(&answer));
        Ok(answer)
    }

    async fn begin_stream<B>(mut self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Ok(place) = Arc::clone(&self.reflections).try_acquire_owned() else {
            return trailers_only(full("too many callers ask for reflection").into());
        };
        let limit = Box::pin(sleep(REFLECTION_TIME_MAX));
        let request = request.map(|body| Timed { body, limit, _place: place });
        let task = self.background.spawn(async move { self.routes.call(request).await });
        let answer = task.await.map(|Ok(answer)| answer);
        answer.unwrap_or_else(|broken| trailers_only(status::broken_off(&broken, Method::Reflect)))
    }
}

/// Whether a caller waits for the answer; goes with the call.
#[derive(Clone)]
pub(super) struct Waiting(Weak<()>);

impl Waiting {
    /// Whether the caller is there still, and in time.
    pub(super) fn goes_on(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// Callers of whom nothing is known, with messages that have still to arrive. A cheap handle.
#[derive(Clone)]
pub(super) struct Strangers(Arc<Semaphore>);

impl Strangers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(STRANGERS_MAX)))
    }

    /// The message, unless it takes too long to arrive, or is slow while too many others are.
    pub(super) async fn wait_for<B>(&self, mut message: Message<B>) -> Result<Bytes, Error>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        if let Ok(message) = timeout(PROMPT_TIME_MAX, &mut message).await {
            return message;
        }
        let places = message.bytes_max().div_ceil(STRANGER_BYTES);
        let Ok(_place) = self.0.try_acquire_many(u32::try_from(places).unwrap_or(u32::MAX)) else {
            return Err(full("the message is slow to arrive, and too many others are"));
        };
        in_time(message).await
    }
}

/// The message, unless it takes too long to arrive.
async fn in_time<B>(message: Message<B>) -> Result<Bytes, Error>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    timeout(MESSAGE_TIME_MAX, message).await.unwrap_or_else(|_| {
        let told = format!("the message did not arrive within {MESSAGE_TIME_MAX:?}");
        Err(Error::new(Reason::DeadlineExceeded, told))
    })
}

fn too_late() -> Error {
    Error::new(Reason::DeadlineExceeded, "the deadline passed before the message had arrived")
}

fn full(told: &str) -> Error {
    Error::new(Reason::NotReady, told).retry_after(Duration::from_secs(1))
}

/// A method as it is counted and traced: without the slash.
fn name(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

fn peer<B>(request: &Request<B>) -> Option<&Peer> {
    request.extensions().get::<Peer>()
}

pub(super) fn trailers_only(status: Status) -> Response<Body> {
    let (head, ()) = status.into_http::<()>().into_parts();
    Response::from_parts(head, Body::empty())
}

/// A stream of messages that ends with an error when its time is up.
struct Timed<B> {
    body: B,
    limit: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<B> HttpBody for Timed<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                self.limit.as_mut().poll(cx).map(|()| Some(Err(Status::from(too_late()).into())))
            }
        }
    }
}

/// `grpc-timeout`: at most eight digits and a unit. One that cannot be read counts as none.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = is_number.then(|| digits.parse().ok()).flatten()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            asked_wait(&headers)
        };
        assert_eq!(of("5S"), Some(Duration::from_secs(5)));
        assert_eq!(of("1500m"), Some(Duration::from_millis(1_500)));
        assert_eq!(of("99999999H"), Some(Duration::from_hours(99_999_999)));
        for bad in ["", "S", "5", "5s", "-1S", "+1S", "123456789S", "5 S", "ä"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(asked_wait(&HeaderMap::new()), None);
    }
}
