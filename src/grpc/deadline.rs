//! Administration as tasks of their own, answered within the caller's deadline.
//!
//! A deadline ends the waiting, never the work.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::runtime::Handle;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use super::status;

/// The longest that a call of administration is waited for, whatever its caller asks. A stream counts
/// as answered when it begins.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Runs the call on `background` and waits for its answer.
pub(super) fn in_background<B>(
    routes: &mut Routes,
    background: &Handle,
    request: Request<B>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<B>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let wait = asked_wait(request.headers()).map_or(WAIT_MAX, |asked| asked.min(WAIT_MAX));
    let task = background.spawn(routes.call(request));
    async move {
        match tokio::time::timeout(wait, task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(broken)) => Ok(trailers_only(status::broken_off(&broken))),
            Err(_) => Ok(trailers_only(status::deadline_exceeded())),
        }
    }
}

fn trailers_only(status: Status) -> Response<Body> {
    let (head, ()) = status.into_http::<()>().into_parts();
    Response::from_parts(head, Body::empty())
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
