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

    /// Ends the streams of those who watch, when they have been told the last; they would hold up a server that stops.
    pub async fn end_watches(&self) {
        let mut reporter = self.0.clone();
        for service in SERVICES {
            // With the status goes its channel, and whoever asks from now on finds a new one.
            reporter.clear_service_status(service).await;
            reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
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
