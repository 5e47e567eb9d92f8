//! Nodes on one PostgreSQL, as an operator runs them: real processes, each with its own ports, and whatever can happen to
//! one of them.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::postgres::PgConnection;
use tonic::transport::Channel;

use super::postgres::Postgres;
use super::redis::Redis;
use super::relay::Relay;
use super::server::{Builder, Server};

/// The root key's, given to all of them, so that none has to write one down.
pub(crate) const ROOT: &str = "hm_live_0000000000000000000000000000002dlYSp";

/// Some nodes, and what they share.
pub(crate) struct Cluster {
    /// They go before what they share.
    pub(crate) nodes: Vec<Server>,
    pub(crate) postgres: Postgres,
    pub(crate) redis: Option<Redis>,
    database: String,
    settings: Vec<(String, String)>,
}

impl Cluster {
    /// So many, started at once on an empty database of a server of their own.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_on(nodes, Postgres::start(&[]).await, None).await
    }

    /// The same, each with these settings, written as in the environment but for the `LATCHKEY__`.
    pub(crate) async fn start_with(nodes: usize, settings: &[(&str, &str)]) -> Self {
        Self::start_all(nodes, Postgres::start(&[]).await, None, settings).await
    }

    /// The same with a Redis of their own between them.
    pub(crate) async fn start_with_redis(nodes: usize) -> Self {
        Self::start_on(nodes, Postgres::start(&[]).await, Some(Redis::start().await)).await
    }

    /// So many on an empty database of this server.
    pub(crate) async fn start_on(nodes: usize, postgres: Postgres, redis: Option<Redis>) -> Self {
        Self::start_all(nodes, postgres, redis, &[]).await
    }

    /// The same, with all of this.
    pub(crate) async fn start_all(
        nodes: usize,
        postgres: Postgres,
        redis: Option<Redis>,
        settings: &[(&str, &str)],
    ) -> Self {
        let named = |(name, value): &(&str, &str)| (format!("LATCHKEY__{name}"), (*value).into());
        let settings = settings.iter().map(named).collect();
        let database = postgres.database().await;
        let mut cluster = Self { nodes: Vec::new(), postgres, redis, database, settings };
        cluster.nodes = join_all((0..nodes).map(|_| cluster.node(Server::build()).start())).await;
        cluster
    }

    /// A connection to the database, past the nodes.
    pub(crate) async fn connect(&self) -> PgConnection {
        self.postgres.connect(&self.database).await
    }

    /// One more, or one again.
    pub(crate) fn node(&self, builder: Builder) -> Builder {
        let url = self.postgres.url(&self.database);
        let redis = self.redis.as_ref().map(|redis| ("LATCHKEY__REDIS__URL".into(), redis.url()));
        let settings = redis.into_iter().chain(self.settings.clone());
        let builder = builder.environments(settings.collect());
        builder.store(&url).environment("LATCHKEY__ROOT_TOKEN", ROOT)
    }

    /// The same, by a way of its own to the database.
    pub(crate) fn node_behind(&self, relay: &Relay, builder: Builder) -> Builder {
        self.node(builder).store(&relay.url(&self.postgres, &self.database))
    }

    /// One more, by a way of its own to the database.
    pub(crate) async fn start_behind(&mut self, relay: &Relay, read_time_max: Duration) {
        let millis = read_time_max.as_millis().to_string();
        let node = Server::build().environment("LATCHKEY__STORE__READ_TIMEOUT_MS", &millis);
        self.nodes.push(self.node_behind(relay, node).start().await);
    }

    /// Ends all connections to the database.
    pub(crate) async fn end_connections(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        self.postgres.sql(&self.database, end).await;
    }

    /// Starts one again that has ended, where it was.
    pub(crate) async fn start_again(&mut self, node: usize) {
        let ended = &self.nodes[node];
        let (grpc, operations) = (ended.grpc().to_string(), ended.operations().to_string());
        let again = ended.again().listen("grpc", &grpc).listen("operations", &operations);
        self.nodes[node] = self.node(again).start().await;
    }

    /// Where each decides.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Server::grpc).collect()
    }

    /// A connection to each.
    pub(crate) async fn channels(&self) -> Vec<Channel> {
        join_all(self.nodes.iter().map(Server::channel)).await
    }
}
