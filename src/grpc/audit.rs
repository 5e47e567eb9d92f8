//! `AuditService`: admits its operator, converts, asks the [`Keyring`] and converts back.

use tonic::{Request, Response, Status};

use super::Admission;
use super::convert::audit as read;
use crate::authorizer::operator::ReadAudit;
use crate::keyring::Keyring;
use crate::proto::v1::audit_service_server::AuditService;
use crate::proto::v1::{QueryAuditRequest, QueryAuditResponse};

/// Shows the audit trail.
pub(super) struct Audit {
    admission: Admission,
    keyring: Keyring,
}

impl Audit {
    pub(super) fn new(admission: Admission, keyring: Keyring) -> Self {
        Self { admission, keyring }
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn query_audit(
        &self,
        request: Request<QueryAuditRequest>,
    ) -> Result<Response<QueryAuditResponse>, Status> {
        let (operator, message) = self.admission.admit::<ReadAudit, _>(request).await?;
        let page = self.keyring.query_audit(&operator, read::list(message)?).await?;
        let entries = page.items.into_iter().map(read::entry).collect();
        Ok(Response::new(QueryAuditResponse { entries, next_page_token: page.next_page_token }))
    }
}
