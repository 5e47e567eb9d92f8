//! Health per service, as `grpc.health.v1` tells it; nobody needs a credential to ask.

use futures_util::FutureExt as _;
use tonic::server::NamedService as _;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::authorize::Decisions;
use super::{
    AccountServiceServer, AuditServiceServer, AuthorizationServiceServer, KeyServiceServer,
    NodeServiceServer, PolicyServiceServer, accounts, audit, keys, nodes, policy,
};

/// Every service whose health is told; the empty name stands for the whole server.
const SERVICES: [&str; 7] = [
    "",
    AuthorizationServiceServer::<Decisions>::NAME,
    KeyServiceServer::<keys::Keys>::NAME,
    AccountServiceServer::<accounts::Accounts>::NAME,
    PolicyServiceServer::<policy::Policies>::NAME,
    AuditServiceServer::<audit::Audit>::NAME,
    NodeServiceServer::<nodes::Nodes>::NAME,
];

/// What is told of the services' health; a cheap handle.
#[derive(Debug, Clone)]
pub struct Health(HealthReporter);

impl Health {
    /// Tells that nothing is served yet.
    pub(super) fn new() -> Self {
        let health = Self(HealthReporter::new());
        // Nobody else holds the reporter's lock yet, so this is done at once.
        let _ = health.set_not_serving().now_or_never();
        health
    }

    /// Tells whoever asks or watches that every service answers calls.
    pub async fn set_serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// Tells whoever asks or watches that no service answers calls any more.
    pub async fn set_not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }

    pub(super) fn server(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.0.clone()))
    }
}
