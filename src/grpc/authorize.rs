//! `AuthorizationService`: a coat on [`Authorizer::authorize`].

use std::sync::Arc;

use tonic::{Request, Response, Status};
use zeroize::Zeroize as _;

use super::{Callers, convert, credential, status};
use crate::authorizer::Authorizer;
use crate::decision::Decision;
use crate::error::Error;
use crate::metrics::Lookup;
use crate::proto::v1::authorization_service_server::AuthorizationService;
use crate::proto::v1::{AuthorizeRequest, AuthorizeResponse};
use crate::serve::Peer;
use crate::telemetry::{Ended, Observer};

/// Answers questions about keys.
pub(super) struct Decisions {
    authorizer: Authorizer,
    callers: Callers,
    realm: Arc<str>,
    observer: Observer,
}

impl Decisions {
    pub(super) fn new(
        authorizer: Authorizer,
        callers: Callers,
        realm: Arc<str>,
        observer: Observer,
    ) -> Self {
        Self { authorizer, callers, realm, observer }
    }

    async fn decide(
        &self,
        request: &Request<AuthorizeRequest>,
        lookup: &mut Lookup,
    ) -> Result<Decision, Error> {
        let peer = request.extensions().get::<Peer>();
        let credential = credential(request.metadata().as_ref());
        self.callers.admit(&self.authorizer, credential, peer).await?;
        let question = convert::authorization::question(request.get_ref())?;
        self.authorizer.authorize_noting(&question, lookup).await
    }
}

/// A question whose token is wiped when it was answered, or not.
struct Wiped(Request<AuthorizeRequest>);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.get_mut().token.zeroize();
    }
}

#[tonic::async_trait]
impl AuthorizationService for Decisions {
    async fn authorize(
        &self,
        request: Request<AuthorizeRequest>,
    ) -> Result<Response<AuthorizeResponse>, Status> {
        let request = Wiped(request);
        let request = &request.0;
        let peer = request.extensions().get::<Peer>();
        let mut watch = self.observer.grpc_decision(request.metadata().as_ref(), peer);
        match self.decide(request, &mut watch.lookup).await {
            Ok(decision) => {
                watch.end(Ok(&decision), Ended::Grpc("OK"));
                Ok(Response::new(convert::authorization::answer(decision, &self.realm)))
            }
            Err(error) => {
                watch.end(Err(error.reason), Ended::Grpc(status::name(error.reason)));
                Err(error.into())
            }
        }
    }
}
