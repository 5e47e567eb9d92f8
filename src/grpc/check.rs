//! `envoy.service.auth.v3.Authorization`: Envoy, and whatever speaks as it does, asks before it passes a request on.
//!
//! The answer is always a message. After an error of gRPC it would be for the gateway's configuration whether the request
//! passes; so what cannot be decided, what is asked wrongly and what cannot be read are denials as well, by 503 and 500.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body_util::{BodyExt as _, Full};
use tonic::body::Body;

use super::convert::check as convert;
use super::message::PREFIX_BYTES;
use super::{Callers, credential};
use crate::authorizer::{Authorizer, Question, Required};
use crate::decision::Decision;
use crate::error::{Error, Reason};
use crate::gateway::{Gateway, Refusal, Secret};
use crate::metrics::Lookup;
use crate::policy::target::Target;
use crate::proto::check::CheckRequest;
use crate::serve::Peer;
use crate::telemetry::{Ended, Observer};

/// Answers gateways. A cheap handle.
#[derive(Clone)]
pub(super) struct Checks(Arc<Parts>);

struct Parts {
    authorizer: Authorizer,
    callers: Callers,
    gateway: Gateway,
    observer: Observer,
}

impl Checks {
    pub(super) fn new(
        authorizer: Authorizer,
        callers: Callers,
        gateway: Gateway,
        observer: Observer,
    ) -> Self {
        Self(Arc::new(Parts { authorizer, callers, gateway, observer }))
    }

    /// Answers a call by the message that came, or by why none did.
    pub(super) async fn answer(
        self,
        head: Head,
        message: Result<Bytes, Error>,
    ) -> Result<Response<Body>, Infallible> {
        let parts = &*self.0;
        let mut watch = parts.observer.check(&head.headers, head.extensions.get::<Peer>());
        let (bytes, check);
        let read = match message {
            Ok(message) => {
                bytes = message;
                read(&bytes)
            }
            Err(error) => Err(error),
        };
        let decided = match read {
            Ok(read) => {
                check = read;
                parts.decide(&check, &head, &mut watch.lookup).await
            }
            Err(error) => {
                check = CheckRequest::default();
                Err(error)
            }
        };
        let response = match decided {
            Ok((decision, response)) => {
                watch.end(Ok(&decision), Ended::Check(decision.http_status()));
                response
            }
            Err(error) => {
                let refusal = Refusal::undecided(&error);
                parts.gateway.mistakes.log(&error, &refusal);
                let response = convert::answer::undecided(&check, &refusal);
                watch.end(Err(error.reason), Ended::Check(refusal.status));
                response
            }
        };
        Ok(with_status(response))
    }
}

impl Parts {
    async fn decide(
        &self,
        check: &CheckRequest<'_>,
        head: &Head,
        lookup: &mut Lookup,
    ) -> Result<(Decision, Bytes), Error> {
        let peer = head.extensions.get::<Peer>();
        self.callers.admit(&self.authorizer, credential(&head.headers), peer).await?;
        let asked = convert::Asked::read(check)?;
        let (mcp, target);
        let required = match asked.required {
            Some(required) if convert::is_whole(check) => required,
            Some(_) => Required::ByRules(&Target::INCOMPLETE),
            None => {
                mcp = convert::mcp(check);
                target = convert::target(check, mcp.as_ref());
                Required::ByRules(&target)
            }
        };
        let (credential, found) = self.gateway.credential_headers.find(convert::headers(check));
        let question = Question {
            credential,
            required,
            client_address: convert::client_address(check),
            environment: asked.environment,
            cost: asked.cost,
            min_revision: None,
        };
        let decision = self.authorizer.authorize_noting(&question, lookup).await?;
        let realm = asked.realm.unwrap_or(&self.gateway.realm);
        let secret = Secret { found, headers: &self.gateway.credential_headers };
        let secret = Some(secret).filter(|_| !self.gateway.forwards_credential);
        let response = convert::answer::decided(check, &decision, realm, secret)?;
        Ok((decision, response))
    }
}

fn read(message: &Bytes) -> Result<CheckRequest<'_>, Error> {
    CheckRequest::read(&message[PREFIX_BYTES..]).map_err(|error| {
        Error::new(Reason::InvalidField, format!("the message cannot be read: {error}"))
    })
}

/// The one message of an answer, with the status that follows it.
fn with_status(message: Bytes) -> Response<Body> {
    const STATUS: HeaderName = HeaderName::from_static("grpc-status");
    let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]);
    let body = Full::new(message).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}
