//! `POST /v1/authorize`: `Authorize` for services without gRPC, in JSON as protobuf prescribes it.
//!
//! A decision is always a 200, whatever it says: a status of its own is about the question or its caller.

use std::sync::LazyLock;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use tokio::time::timeout;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Public, refused};
use crate::authorizer::Credential;
use crate::decision::Decision;
use crate::error::{Error, Reason};
use crate::gateway::Refusal;
use crate::grpc::convert::authorization::{answer, question as asked};
use crate::grpc::status;
use crate::metrics::Lookup;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::v1::AuthorizeResponse;
use crate::serve::Peer;
use crate::telemetry::{DecisionWatch, Ended};

mod question;

const ROUTE: &str = "/v1/authorize";
/// As much as `Authorize` takes.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024;
/// The longest that a body takes to arrive.
pub(super) const BODY_TIME_MAX: Duration = Duration::from_secs(4);

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptors were made by our own build")
});

/// `/v1/authorize`.
pub(super) fn router() -> Router<Public> {
    Router::new().route(ROUTE, post(authorize))
}

async fn authorize(
    State(public): State<Public>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer);
    let peer = peer.as_ref();
    let mut watch = public.observer.http_decision(ROUTE, &Method::POST, &headers, peer);
    let decided = public.decide(&headers, peer, body, &mut watch.lookup).await;
    public.answer_service(watch, &decided, |decision| {
        json_of(&answer(decision.clone(), &public.gateway.realm))
    })
}

impl Public {
    async fn decide(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        body: Body,
        lookup: &mut Lookup,
    ) -> Result<Decision, Error> {
        self.admit(bearer(headers), peer).await?;
        let body = read(body).await?;
        let mut request = question::read(&body)?;
        let decision = match asked(&request) {
            Ok(question) => self.authorizer.authorize_noting(&question, lookup).await,
            Err(error) => Err(error),
        };
        request.token.zeroize();
        decision
    }

    /// What a service is told of this, in JSON.
    pub(super) fn answer_service(
        &self,
        watch: DecisionWatch<'_>,
        decided: &Result<Decision, Error>,
        told: impl FnOnce(&Decision) -> Vec<u8>,
    ) -> Response {
        let response = match decided {
            Ok(decision) => json(told(decision)),
            Err(error) => {
                status::log(error);
                refused(Refusal::of_service(error, &self.gateway.realm))
            }
        };
        let decided = decided.as_ref().map_err(|error| error.reason);
        watch.end(decided, Ended::Http(response.status().as_u16()));
        response
    }

    /// Demands that whoever asks may.
    pub(super) async fn admit(
        &self,
        credential: Credential<'_>,
        peer: Option<&Peer>,
    ) -> Result<(), Error> {
        self.callers.admit(&self.authorizer, credential, peer).await
    }
}

/// The caller's own credential.
pub(super) fn bearer(headers: &HeaderMap) -> Credential<'_> {
    Credential::from_headers(headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes), [])
}

/// A body that arrives in time and is not too large.
pub(super) async fn read(body: Body) -> Result<Zeroizing<Vec<u8>>, Error> {
    let whole = timeout(BODY_TIME_MAX, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let whole = whole.map_err(|_| {
        let told = format!("the body did not arrive within {BODY_TIME_MAX:?}");
        Error::new(Reason::DeadlineExceeded, told)
    })?;
    let bytes: Bytes = whole
        .map_err(|_| {
            let told = format!("the body is cut off, or larger than {BODY_BYTES_MAX} bytes");
            Error::new(Reason::MessageTooLarge, told)
        })?
        .to_bytes();
    Ok(Zeroizing::new(bytes.into()))
}

// === JSON ===

fn descriptor(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name).expect("the message is ours")
}

/// With every field, so that what is false or empty is seen to be so.
fn json_of(answer: &AuthorizeResponse) -> Vec<u8> {
    let mut message = DynamicMessage::new(descriptor("latchkey.v1.AuthorizeResponse"));
    message.transcode_from(answer).expect("the message is of that type");
    let mut json = serde_json::Serializer::new(Vec::new());
    let options = SerializeOptions::new().skip_default_fields(false);
    message.serialize_with_options(&mut json, &options).expect("a buffer takes everything");
    json.into_inner()
}

fn json(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_every_field() {
        let told: serde_json::Value =
            serde_json::from_slice(&json_of(&AuthorizeResponse::default())).unwrap();
        assert_eq!(told["allowed"], false);
        assert_eq!(told["keyId"], "");
        assert_eq!(told["reason"], "DECISION_REASON_UNSPECIFIED");
    }
}
