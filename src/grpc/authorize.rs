//! `AuthorizationService`: a coat on [`Authorizer::authorize`].

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Callers, convert, credential};
use crate::authorizer::Authorizer;
use crate::authorizer::operator::Decide;
use crate::error::Error;
use crate::proto::v1::authorization_service_server::AuthorizationService;
use crate::proto::v1::{AuthorizeRequest, AuthorizeResponse};
use crate::serve::Peer;

/// Answers questions about keys.
pub(super) struct Decisions {
    authorizer: Authorizer,
    callers: Callers,
    realm: Arc<str>,
}

impl Decisions {
    pub(super) fn new(authorizer: Authorizer, callers: Callers, realm: Arc<str>) -> Self {
        Self { authorizer, callers, realm }
    }

    async fn admit(&self, request: &Request<AuthorizeRequest>) -> Result<(), Error> {
        let peer = request.extensions().get::<Peer>();
        match &self.callers {
            Callers::Any => Ok(()),
            Callers::Mtls(names) => names.admit(peer),
            Callers::Key => {
                let address = peer.and_then(Peer::ip);
                let credential = credential(request.metadata().as_ref());
                // The peer is for the audit trail, which decisions do not enter.
                self.authorizer.operator::<Decide>(credential, address, String::new()).await?;
                Ok(())
            }
        }
    }
}

#[tonic::async_trait]
impl AuthorizationService for Decisions {
    async fn authorize(
        &self,
        request: Request<AuthorizeRequest>,
    ) -> Result<Response<AuthorizeResponse>, Status> {
        self.admit(&request).await?;
        let question = convert::authorization::question(request.get_ref())?;
        let decision = self.authorizer.authorize(&question).await?;
        Ok(Response::new(convert::authorization::answer(decision, &self.realm)))
    }
}
