//! Several nodes on one PostgreSQL, and what they are asked.

use std::time::Duration;

use latchkey::proto::v1::{
    ApplyPolicyRequest, AuthorizeRequest, AuthorizeResponse, CreateKeyRequest, Environment,
    GetPolicyRequest, ListNodesRequest, Node, NodeState, Policy, Receipt, RevokeKeyRequest,
    revoke_key_request::Target,
};
use tonic::Status;

use crate::support::postgres::{self, Postgres};
use crate::support::{Folder, Server};

/// A token whose checksum is right.
const ROOT: &str = "hm_live_0000000000000000000000000000002dlYSp";
pub(super) const BOUND: Duration = Duration::from_secs(1);
pub(super) const GRACE: Duration = Duration::from_secs(4);

/// Short bounds, and a scope that is strict.
const POLICY: &str = r#"
bound_ms = 1_000
grace_ms = 4_000
[[scopes]]
name = "memory:read"
[[scopes]]
name = "bank:pay"
strict = true
[[plans]]
name = "free"
[[plans]]
name = "enterprise"
"#;

/// Nodes, in order of their start.
pub(super) struct Cluster {
    pub(super) servers: Vec<Server>,
    pub(super) root: String,
    names: Vec<String>,
    place: &'static Postgres,
    database: String,
    _folder: Folder,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.place.leave(&self.database);
    }
}

impl Cluster {
    pub(super) async fn start(count: usize) -> Self {
        let folder = Folder::new();
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, POLICY).unwrap();
        let place = postgres::shared().await;
        let database = place.database().await;
        let mut servers = Vec::new();
        for _ in 0..count {
            let node = Server::build()
                .store(&place.url(&database))
                .environment("LATCHKEY__POLICY__FILE", policy.to_str().unwrap())
                .environment("LATCHKEY__ROOT_TOKEN", ROOT);
            servers.push(node.start().await);
        }
        let listed = list(&servers[0], ROOT).await;
        let names = listed.into_iter().map(|node| node.name).collect();
        Self { servers, root: ROOT.to_owned(), names, place, database, _folder: folder }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    pub(super) fn sorted_names(&self) -> Vec<String> {
        let mut names = self.names();
        names.sort();
        names
    }

    /// Waits until every node has told that it has applied everything.
    pub(super) async fn is_caught_up(&self) {
        let told = |nodes: &[Node]| nodes.iter().all(|node| node.changes_behind == Some(0));
        self.until("every node has caught up", told).await;
    }

    /// Waits until the list of the first node says this of a node.
    pub(super) async fn is_told(&self, node: usize, state: NodeState) {
        let name = &self.names[node];
        let told = |nodes: &[Node]| nodes.iter().any(|it| it.name == *name && it.state() == state);
        self.until(state.as_str_name(), told).await;
    }

    /// Has nodes that are cut off go on for so long.
    pub(super) async fn apply_grace(&self, grace: Duration) {
        let mut policies = self.servers[0].policies(&self.root).await;
        let policy = policies.get_policy(GetPolicyRequest {}).await.unwrap().into_inner().policy;
        let policy = Policy { grace: Some(grace.try_into().unwrap()), ..policy.unwrap() };
        let request = ApplyPolicyRequest { policy: Some(policy), ..Default::default() };
        policies.apply_policy(request).await.unwrap();
    }

    async fn until(&self, what: &str, is_so: impl Fn(&[Node]) -> bool) {
        let asking = async {
            while !is_so(&list(&self.servers[0], &self.root).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let asked = tokio::time::timeout(super::SOON, asking).await;
        asked.unwrap_or_else(|_| panic!("it is never told: {what}"));
    }
}

pub(super) async fn list(server: &Server, root: &str) -> Vec<Node> {
    let answer = server.nodes(root).await.list_nodes(ListNodesRequest {}).await;
    answer.unwrap().into_inner().nodes
}

/// A key of latchkey's own account with one scope: its id and its token.
pub(super) async fn key(server: &Server, root: &str, scope: &str) -> (String, String) {
    let request = CreateKeyRequest { scopes: vec![scope.into()], ..new_key() };
    let made = server.keys(root).await.create_key(request).await.unwrap().into_inner();
    (made.key.unwrap().key_id, made.token)
}

/// A key without scopes, of the same account.
pub(super) fn new_key() -> CreateKeyRequest {
    CreateKeyRequest {
        account_id: "latchkey".into(),
        display_name: "k".into(),
        environment: Environment::Live.into(),
        ..Default::default()
    }
}

pub(super) fn request(key_id: &str, wait: Duration) -> RevokeKeyRequest {
    let target = Some(Target::KeyId(key_id.to_owned()));
    RevokeKeyRequest { target, wait: Some(wait.try_into().unwrap()), ..Default::default() }
}

pub(super) async fn revoke(server: &Server, root: &str, key_id: &str, wait: Duration) -> Receipt {
    let answer = server.keys(root).await.revoke_key(request(key_id, wait)).await;
    answer.unwrap().into_inner().receipt.unwrap()
}

pub(super) async fn ask(
    server: &Server,
    token: &str,
    scope: &str,
) -> Result<AuthorizeResponse, Status> {
    let request = AuthorizeRequest {
        token: token.into(),
        required_scope: scope.into(),
        ..Default::default()
    };
    server.decisions().await.authorize(request).await.map(tonic::Response::into_inner)
}

/// How long it is until the change holds everywhere.
pub(super) fn span(receipt: &Receipt) -> Duration {
    receipt.effective_everywhere_in.unwrap().try_into().unwrap()
}
