//! `PolicyService`: each call admits its operator, converts, asks the [`Keyring`] and converts back.

use tonic::{Request, Response, Status};

use super::Admission;
use super::convert::{self, policy as read};
use crate::authorizer::operator::{ReadPolicy, WritePolicy};
use crate::keyring::{Applied, Keyring};
use crate::proto::v1::policy_service_server::PolicyService;
use crate::proto::v1::{
    ApplyPolicyRequest, ApplyPolicyResponse, GetPolicyRequest, GetPolicyResponse,
};

/// Administers the policy.
pub(super) struct Policies {
    admission: Admission,
    keyring: Keyring,
}

impl Policies {
    pub(super) fn new(admission: Admission, keyring: Keyring) -> Self {
        Self { admission, keyring }
    }
}

#[tonic::async_trait]
impl PolicyService for Policies {
    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        let (operator, GetPolicyRequest {}) =
            self.admission.admit::<ReadPolicy, _>(request).await?;
        let (policy, revision) = self.keyring.get_policy(&operator).await?;
        let policy = Some(read::policy_to_proto(&policy, revision.to_revision()));
        Ok(Response::new(GetPolicyResponse { policy }))
    }

    async fn apply_policy(
        &self,
        request: Request<ApplyPolicyRequest>,
    ) -> Result<Response<ApplyPolicyResponse>, Status> {
        let (operator, message) = self.admission.admit::<WritePolicy, _>(request).await?;
        let update = read::apply(message)?;
        let is_dry_run = update.is_dry_run;
        let applied = self.keyring.apply_policy(operator, update).await?;
        let Applied { policy, revision, receipt, notices } = applied;
        Ok(Response::new(ApplyPolicyResponse {
            policy: Some(read::policy_to_proto(&policy, revision.to_revision())),
            receipt: (!is_dry_run).then(|| convert::receipt(receipt)),
            notices,
        }))
    }
}
