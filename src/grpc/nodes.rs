//! `NodeService`: admits its operator, asks the [`Keyring`] and converts.

use tonic::{Request, Response, Status};

use super::Admission;
use super::convert::nodes as read;
use crate::authorizer::operator::ReadNodes;
use crate::keyring::Keyring;
use crate::proto::v1::node_service_server::NodeService;
use crate::proto::v1::{ListNodesRequest, ListNodesResponse};

/// Shows the nodes.
pub(super) struct Nodes {
    admission: Admission,
    keyring: Keyring,
}

impl Nodes {
    pub(super) fn new(admission: Admission, keyring: Keyring) -> Self {
        Self { admission, keyring }
    }
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let (operator, ListNodesRequest {}) = self.admission.admit::<ReadNodes, _>(request).await?;
        let nodes = self.keyring.list_nodes(&operator).await?;
        Ok(Response::new(ListNodesResponse { nodes: nodes.into_iter().map(read::node).collect() }))
    }
}
