//! The gRPC coat: which call goes where, on which thread, and within what bounds.
//!
//! No handler begins before the whole message is there, within its bounds of size and time. Decisions are
//! answered on the thread that has the connection. Everything else is administration: its callers are
//! admitted before a byte of their message is read, and it runs as a task of its own on the background
//! runtime, so that it never occupies a thread of the hot path, and so that a caller who goes away, or
//! whose deadline passes, does not stop a change half-way: [`Keyring`] relies on it.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use tokio::runtime::Handle;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use crate::authorizer::{Authorizer, Credential, Operator, Permission};
use crate::error::Error;
use crate::gateway::Gateway;
use crate::keyring::Keyring;
use crate::proto::{self, v1};
use crate::serve::Peer;
use crate::telemetry::Observer;

mod deadline;
mod message;
mod method;

mod accounts;
mod audit;
mod authorize;
mod callers;
mod check;
mod keys;
mod nodes;
mod policy;

pub(crate) mod convert;
mod health;
pub(crate) mod status;

pub use callers::{CallerNames, Callers, InvalidCallerName};
pub use health::Health;

use self::deadline::{Administration, Strangers, trailers_only};
use self::message::Message;
use self::method::Method;

use v1::account_service_server::AccountServiceServer;
use v1::audit_service_server::AuditServiceServer;
use v1::authorization_service_server::AuthorizationServiceServer;
use v1::key_service_server::KeyServiceServer;
use v1::node_service_server::NodeServiceServer;
use v1::policy_service_server::PolicyServiceServer;

/// What the service is made of.
pub struct Parts {
    /// Decides, and admits operators.
    pub authorizer: Authorizer,
    /// Administers.
    pub keyring: Keyring,
    /// Who may ask for decisions.
    pub callers: Callers,
    /// What gateways are told.
    pub gateway: Gateway,
    /// Whether clients may ask for the descriptors.
    pub reflection: bool,
    /// Where administration runs.
    pub background: Handle,
    /// Watches every call.
    pub observer: Observer,
    /// Whether the server is about to end: then nobody waits for anything but answers.
    pub is_stopping: Arc<AtomicBool>,
}

/// All of latchkey's gRPC services, and what is told of their health: that nothing is served yet.
#[must_use]
pub fn service(parts: Parts) -> (Health, Dispatch) {
    let Parts {
        authorizer,
        keyring,
        callers,
        gateway,
        reflection,
        background,
        observer,
        is_stopping,
    } = parts;
    let health = Health::new();
    let admission = Admission(authorizer.clone());
    let keys = keys::Keys::new(admission.clone(), keyring.clone(), is_stopping);
    let accounts = accounts::Accounts::new(admission.clone(), keyring.clone());
    let policy = policy::Policies::new(admission.clone(), keyring.clone());
    let nodes = nodes::Nodes::new(admission.clone(), keyring.clone());
    let audit = audit::Audit::new(admission.clone(), keyring);
    // What a message may come to is settled before it is handed on.
    let mut routes = Routes::builder();
    routes
        .add_service(health.server())
        .add_service(KeyServiceServer::new(keys))
        .add_service(AccountServiceServer::new(accounts))
        .add_service(PolicyServiceServer::new(policy))
        .add_service(AuditServiceServer::new(audit))
        .add_service(NodeServiceServer::new(nodes));
    if reflection {
        add_reflection(&mut routes);
    }
    let strangers = Strangers::new();
    let realm = Arc::clone(&gateway.realm);
    let decisions =
        authorize::Decisions::new(authorizer.clone(), callers.clone(), realm, observer.clone());
    let dispatch = Dispatch {
        decisions: AuthorizationServiceServer::new(decisions),
        checks: check::Checks::new(authorizer, callers, gateway, observer.clone()),
        administration: Arc::new(Administration::new(
            routes.routes().prepare(),
            background,
            admission,
            strangers.clone(),
            observer,
        )),
        strangers,
        offer: Offer::All,
    };
    (health, dispatch)
}

/// Reflection over all that is served, so that grpcurl needs no proto file. Our descriptors are built
/// in and tested; should they be unreadable all the same, the service goes on without reflection.
fn add_reflection(routes: &mut tonic::service::RoutesBuilder) {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            let bytes_max = Method::Reflect.bytes_max();
            routes
                .add_service(v1.max_decoding_message_size(bytes_max))
                .add_service(v1alpha.max_decoding_message_size(bytes_max));
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection is not served");
        }
    }
}

// === Which call goes where ===

/// All gRPC services behind one; a clone goes to each connection.
#[derive(Clone)]
pub struct Dispatch {
    decisions: AuthorizationServiceServer<authorize::Decisions>,
    checks: check::Checks,
    /// Behind one pointer, as every decision clones the whole.
    administration: Arc<Administration>,
    strangers: Strangers,
    offer: Offer,
}

/// What a listener offers of the services; health and reflection always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Everything.
    All,
    /// Decisions; administration has a listener of its own.
    Decisions,
    /// Administration alone.
    Administration,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The answer to a call; every error in it carries its reason.
pub struct Answer(Answering);

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_ok(status::with_reason)
    }
}

impl<B> Service<Request<B>> for Dispatch
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let method = Method::of(request.uri().path());
        Answer(match method {
            Some(method) if !method.is_of(self.offer) => {
                Box::pin(ready(Ok(trailers_only(status::served_elsewhere()))))
            }
            Some(method @ (Method::Decide | Method::Check)) => self.decide(method, request),
            Some(Method::Reflect) => {
                Box::pin(Administration::clone(&self.administration).stream(request))
            }
            Some(method) => {
                Box::pin(Administration::clone(&self.administration).call(method, request))
            }
            None => {
                let answer = self.administration.no_such_method(&request);
                Box::pin(ready(Ok(answer)))
            }
        })
    }
}

impl Dispatch {
    /// The same services, of which a listener offers some.
    #[must_use]
    pub fn offering(self, offer: Offer) -> Self {
        Self { offer, ..self }
    }

    /// A question often comes in one piece with its head; then nothing is boxed and no time is measured
    /// for its sake.
    fn decide<B>(&mut self, method: Method, request: Request<B>) -> Answering
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let (head, body) = request.into_parts();
        let mut message = Message::new(body, method.bytes_max());
        if let Some(message) = (&mut message).now_or_never() {
            return self.answer(method, head, message);
        }
        let (mut this, strangers) = (self.clone(), self.strangers.clone());
        Box::pin(async move {
            let message = strangers.wait_for(message).await;
            this.answer(method, head, message).await
        })
    }

    /// Answers a question by its message, or by why there is none.
    fn answer(&mut self, method: Method, head: Head, message: Result<Bytes, Error>) -> Answering {
        if method == Method::Check {
            return Box::pin(self.checks.clone().answer(head, message));
        }
        match message {
            Ok(message) => self.decisions.call(Request::from_parts(head, Full::new(message))),
            Err(error) => Box::pin(ready(Ok(trailers_only(error.into())))),
        }
    }
}

// === Who calls ===

/// Admits operators: by their key, and by the address that they call from.
#[derive(Clone)]
struct Admission(Authorizer);

impl Admission {
    /// The caller as an operator with this permission, and the message.
    async fn admit<P: Permission, M>(
        &self,
        request: tonic::Request<M>,
    ) -> Result<(Operator<P>, M), Error> {
        let (metadata, extensions, message) = request.into_parts();
        let peer = extensions.get::<Peer>();
        let shown = peer.map(ToString::to_string).unwrap_or_default();
        let credential = credential(metadata.as_ref());
        let operator = self.0.operator(credential, peer.and_then(Peer::ip), shown).await?;
        Ok((operator, message))
    }

    /// Whether the caller would be admitted.
    async fn check<P: Permission>(&self, head: &Head) -> Result<(), Error> {
        let address = head.extensions.get::<Peer>().and_then(Peer::ip);
        // The peer is for the audit trail, which this does not enter.
        self.0.operator::<P>(credential(&head.headers), address, String::new()).await?;
        Ok(())
    }
}

fn credential(headers: &HeaderMap) -> Credential<'_> {
    let values = headers.get_all("authorization");
    Credential::from_headers(values.iter().map(HeaderValue::as_bytes), [])
}
