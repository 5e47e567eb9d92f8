//! Listeners: bound before anything else is done, then served, then drained.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::stop::{Stage, Stop};
use super::watched::Told;
use super::{End, Node, readiness};
use crate::config::{self, Config, LoadedTls};
use crate::failure::Failure;
use crate::gateway::{Gateway, Mistakes};
use crate::grpc;
use crate::http;
use crate::serve::{BindError, Bound, Counters, Limits, Listen, Protocol, Tls, Workers};

/// Bound, so that a taken port is found out before anything else is done. Nothing listens before it is served: who
/// connects too early shall go elsewhere, and not wait for the start to come to its end.
pub(super) struct Listeners {
    grpc: Option<Bound>,
    administration: Option<Bound>,
    http: Option<Bound>,
    operations: Option<Bound>,
}

/// Listeners at work.
pub(super) struct Serving {
    tasks: JoinSet<()>,
    health: grpc::Health,
    is_stopping: Arc<AtomicBool>,
    notice: Duration,
    /// Dropping it closes the listeners.
    open: watch::Sender<()>,
    pub(super) addresses: Addresses,
}

/// Where clients find us.
pub(super) struct Addresses {
    pub(super) grpc: Option<Listen>,
    pub(super) http: Option<Listen>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config, tls: LoadedTls) -> Result<Self, Failure> {
        Ok(Self {
            grpc: bind("grpc", &config.grpc.listen, tls.grpc).await?,
            administration: bind(
                "administration",
                &config.administration.listen,
                tls.administration,
            )
            .await?,
            http: bind("http", &config.http.listen, tls.http).await?,
            operations: bind("operations", &config.operations.listen, tls.operations).await?,
        })
    }

    /// What TLS is served with, where it is.
    pub(super) fn tls(&self) -> impl Iterator<Item = Tls> {
        let listeners = [&self.grpc, &self.administration, &self.http, &self.operations];
        listeners.into_iter().flatten().filter_map(Bound::tls).cloned()
    }

    pub(super) fn counters(&self) -> Vec<(&'static str, Arc<Counters>)> {
        let bound = [&self.grpc, &self.administration, &self.http, &self.operations];
        bound.into_iter().flatten().map(|bound| (bound.name(), bound.counters())).collect()
    }

    pub(super) fn serve(
        self,
        config: &Config,
        node: &Node,
        Told { observer, scrape, watched }: Told<'_>,
    ) -> Result<Serving, Failure> {
        let threads = usize::try_from(config.serve.threads).ok().and_then(NonZeroUsize::new);
        let workers =
            Workers::start(threads).map_err(|error| Failure::of("cannot start threads", &error))?;
        let limits = Limits {
            max_connections: usize::try_from(config.serve.connections_max).unwrap_or(usize::MAX),
            max_age: Duration::from_secs(config.serve.connection_age_seconds),
            drain_timeout: Duration::from_secs(config.serve.drain_seconds),
            ..Limits::default()
        };
        let is_stopping = Arc::new(AtomicBool::new(false));
        let callers = callers(config);
        warn_of_refusing_all(&callers, self.http.as_ref());
        let gateway = gateway(config);
        // With a listener of its own for administration, a call does not tell on which one it came.
        let listener = self.grpc.as_ref().filter(|_| self.administration.is_none());
        let (health, grpc_service) = grpc::service(grpc::Parts {
            authorizer: node.authorizer.clone(),
            keyring: node.keyring.clone(),
            callers: callers.clone(),
            gateway: gateway.clone(),
            reflection: config.grpc.reflection,
            background: tokio::runtime::Handle::current(),
            observer: observer.clone().at(listener),
            is_stopping: Arc::clone(&is_stopping),
        });
        let http_service = http::public(http::Public {
            authorizer: node.authorizer.clone(),
            callers,
            gateway,
            observer: observer.at(self.http.as_ref()),
        });
        let readiness = watched.readiness(node, &is_stopping);
        let operations_service = http::operations(http::Operations {
            checks: Arc::new(move || readiness.checks()),
            scrape,
            levels: watched.levels.clone(),
        });

        let address = |bound: &Option<Bound>| bound.as_ref().map(|bound| bound.address().clone());
        let addresses = Addresses { grpc: address(&self.grpc), http: address(&self.http) };
        let (mut tasks, open) = (JoinSet::new(), watch::Sender::new(()));
        let mut start = |bound: Option<Bound>, protocol, service: AnyService| {
            let Some(bound) = bound else { return Ok(()) };
            let name = bound.name();
            let bound = bound.listen().map_err(|error| refused(name, &error))?;
            announce(&bound);
            let (workers, limits, closed) =
                (workers.clone(), limits.clone(), closed(open.subscribe()));
            match service {
                AnyService::Grpc(service) => tasks
                    .spawn(crate::serve::run(bound, workers, protocol, limits, service, closed)),
                AnyService::Http(service) => tasks
                    .spawn(crate::serve::run(bound, workers, protocol, limits, service, closed)),
            };
            Ok(())
        };
        match self.administration {
            None => start(self.grpc, Protocol::Http2, AnyService::Grpc(grpc_service))?,
            own => {
                let decisions = grpc_service.clone().offering(grpc::Offer::Decisions);
                let administration = grpc_service.offering(grpc::Offer::Administration);
                start(self.grpc, Protocol::Http2, AnyService::Grpc(decisions))?;
                start(own, Protocol::Http2, AnyService::Grpc(administration))?;
            }
        }
        start(self.http, Protocol::Auto, AnyService::Http(http_service))?;
        start(self.operations, Protocol::Auto, AnyService::Http(operations_service))?;
        let notice = Duration::from_secs(config.serve.notice_seconds);
        Ok(Serving { tasks, health, is_stopping, notice, open, addresses })
    }
}

async fn closed(mut open: watch::Receiver<()>) {
    while open.changed().await.is_ok() {}
}

async fn bind(
    section: &'static str,
    listen: &Listen,
    tls: Option<Tls>,
) -> Result<Option<Bound>, Failure> {
    let bound = Bound::bind(section, listen).await.map_err(|error| refused(section, &error))?;
    Ok(bound.map(|bound| bound.with_tls(tls)))
}

fn refused(section: &str, error: &BindError) -> Failure {
    Failure::new(error.to_string()).about(format_args!("{section}.listen"))
}

fn announce(bound: &Bound) {
    let (listener, address) = (bound.name(), bound.address());
    match bound.tls() {
        None => tracing::info!(listener, %address, tls = "off", "listening"),
        Some(tls) => {
            let demanded = if tls.demands_certificates() { "mutual" } else { "on" };
            let not_after = tls.not_after();
            tracing::info!(listener, %address, tls = demanded, %not_after, "listening");
        }
    }
}

/// The two kinds of service that there are.
enum AnyService {
    Grpc(grpc::Dispatch),
    Http(http::HttpService),
}

impl Serving {
    /// Serves until told to stop. Then says so, to whoever looks, and goes on serving until they have had time to look;
    /// lets calls in flight end after that.
    pub(super) async fn until_drained(mut self, knows: watch::Receiver<bool>, stop: &Stop) -> End {
        let in_step = readiness::keep_in_step(&self.health, knows);
        let told = async {
            if !self.notice.is_zero() {
                stop.advance(Stage::Serving);
            }
            tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
            stop.reaches(Stage::Notice).await;
        };
        tokio::select! {
            biased;
            () = in_step => {}
            () = told => {}
        }
        self.health.set_not_serving().await;
        self.is_stopping.store(true, Ordering::Relaxed);
        if stop.stage() == Stage::Notice {
            tracing::info!(
                "stopping: no longer ready; calls are answered for another {:?} (a second signal ends that)",
                self.notice
            );
            let _ = tokio::time::timeout(self.notice, stop.reaches(Stage::Draining)).await;
        }
        stop.advance(Stage::Draining);
        tracing::info!(
            "stopping: no new connections; calls in flight may end (another signal stops at once)"
        );
        self.health.end_watches().await;
        drop(self.open);
        while self.tasks.join_next().await.is_some() {}
        End::Drained
    }
}

fn callers(config: &Config) -> grpc::Callers {
    match config.grpc.callers() {
        config::Callers::Any => grpc::Callers::Any,
        config::Callers::Key => grpc::Callers::Key,
        config::Callers::Mtls => grpc::Callers::Mtls(config.grpc.caller_names.clone()),
    }
}

fn gateway(config: &Config) -> Gateway {
    let config::Gateway { credential_headers, forward_credential, trusted_proxies } =
        &config.gateway;
    Gateway {
        realm: config.http.realm.as_str().into(),
        credential_headers: credential_headers.clone(),
        forwards_credential: *forward_credential,
        trusted_proxies: trusted_proxies.clone(),
        mistakes: Mistakes::default(),
    }
}

/// Forward-auth is on by default, and what callers have to show may be nothing that it can see.
fn warn_of_refusing_all(callers: &grpc::Callers, http: Option<&Bound>) {
    let Some(http) = http else { return };
    let shows_certificates = http.tls().is_some_and(Tls::demands_certificates);
    match callers {
        grpc::Callers::Key => tracing::warn!(
            "with grpc.callers = key, forward-auth refuses every proxy: it cannot tell one from another yet"
        ),
        grpc::Callers::Mtls(_) if !shows_certificates => tracing::warn!(
            "with grpc.callers = mtls and no http.tls_client_ca, forward-auth refuses every proxy"
        ),
        grpc::Callers::Any | grpc::Callers::Mtls(_) => {}
    }
}
