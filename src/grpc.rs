//! The gRPC coat: which call goes where, on which thread, and within what bounds.
//!
//! Decisions are answered on the thread that has the connection. Everything else is administration and
//! runs as a task of its own on the background runtime, so that it never occupies a thread of the hot
//! path, and so that a caller who goes away, or whose deadline passes, does not stop a change half-way:
//! [`Keyring`] relies on it.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tokio::runtime::Handle;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;
use tower_service::Service;

use crate::authorizer::{Authorizer, Credential, Operator, Permission};
use crate::error::Error;
use crate::keyring::Keyring;
use crate::proto::{self, v1};
use crate::serve::Peer;

mod deadline;

mod accounts;
mod authorize;
mod keys;
mod policy;

pub(crate) mod convert;
mod health;
pub(crate) mod status;

pub use authorize::Callers;
pub use health::Health;

use v1::account_service_server::AccountServiceServer;
use v1::authorization_service_server::AuthorizationServiceServer;
use v1::key_service_server::KeyServiceServer;
use v1::policy_service_server::PolicyServiceServer;

/// What stands before the name of a method that decides.
const HOT_PATH: &str = "/latchkey.v1.AuthorizationService/";
/// The largest question: a token and an expression.
const QUESTION_BYTES_MAX: usize = 64 * 1024;
/// The largest message of administration: a policy.
const ADMINISTRATION_BYTES_MAX: usize = 1024 * 1024;

/// What the service is made of.
pub struct Parts {
    /// Decides, and admits operators.
    pub authorizer: Authorizer,
    /// Administers.
    pub keyring: Keyring,
    /// Who may ask for decisions.
    pub callers: Callers,
    /// The realm of challenges; no quotes or backslashes.
    pub realm: Arc<str>,
    /// Whether clients may ask for the descriptors.
    pub reflection: bool,
    /// Where administration runs.
    pub background: Handle,
}

/// All of latchkey's gRPC services, and what is told of their health: that nothing is served yet.
#[must_use]
pub fn service(parts: Parts) -> (Health, Dispatch) {
    let Parts { authorizer, keyring, callers, realm, reflection, background } = parts;
    let health = Health::new();
    let admission = Admission(authorizer.clone());
    let keys = keys::Keys::new(admission.clone(), keyring.clone());
    let accounts = accounts::Accounts::new(admission.clone(), keyring.clone());
    let policy = policy::Policies::new(admission, keyring);
    let mut routes = Routes::builder();
    routes
        .add_service(health.server().max_decoding_message_size(ADMINISTRATION_BYTES_MAX))
        .add_service(
            KeyServiceServer::new(keys).max_decoding_message_size(ADMINISTRATION_BYTES_MAX),
        )
        .add_service(
            AccountServiceServer::new(accounts).max_decoding_message_size(ADMINISTRATION_BYTES_MAX),
        )
        .add_service(
            PolicyServiceServer::new(policy).max_decoding_message_size(ADMINISTRATION_BYTES_MAX),
        );
    if reflection {
        add_reflection(&mut routes);
    }
    let decisions = authorize::Decisions::new(authorizer, callers, realm);
    let dispatch = Dispatch {
        decisions: AuthorizationServiceServer::new(decisions)
            .max_decoding_message_size(QUESTION_BYTES_MAX),
        administration: routes.routes().prepare(),
        background,
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
            routes
                .add_service(v1.max_decoding_message_size(QUESTION_BYTES_MAX))
                .add_service(v1alpha.max_decoding_message_size(QUESTION_BYTES_MAX));
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
    administration: Routes,
    background: Handle,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<B> Service<Request<B>> for Dispatch
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// Paths are compared byte by byte: nothing that merely looks like the path of a method, with
    /// another case, another slash or an escape, reaches its handler.
    fn call(&mut self, request: Request<B>) -> Answer {
        let path = request.uri().path();
        if path.starts_with(HOT_PATH) {
            return self.decisions.call(request);
        }
        if !path.starts_with('/') {
            let (head, ()) = status::no_such_method().into_http::<()>().into_parts();
            return Box::pin(ready(Ok(Response::from_parts(head, Body::empty()))));
        }
        Box::pin(deadline::in_background(&mut self.administration, &self.background, request))
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
        let operator = self.0.operator(credential(&metadata), address(peer), shown).await?;
        Ok((operator, message))
    }
}

fn credential(metadata: &MetadataMap) -> Credential<'_> {
    let values = metadata.get_all("authorization");
    Credential::from_headers(values.iter().map(MetadataValue::as_bytes), [])
}

/// From where somebody calls; a Unix socket is in no network.
fn address(peer: Option<&Peer>) -> Option<std::net::IpAddr> {
    match peer? {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Unix => None,
    }
}
