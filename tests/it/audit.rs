//! The audit trail as those see it who ask a running server.

use std::sync::atomic::{AtomicU64, Ordering};

use latchkey::proto::v1::{
    Account, AuditEntry, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse, Environment,
    Key, ListKeysRequest, QueryAuditRequest, QueryAuditResponse, RecordKind, UpdateKeyRequest,
};
use prost_types::{FieldMask, Timestamp};
use tonic::{Code, Status};

use crate::support::{Server, message_of, reason_of};

mod explain;
mod log;
mod verify;

/// A server with accounts `acme` and `other`, of which each has an operator who may do everything there.
struct Office {
    server: Server,
    root: String,
    acme: String,
}

impl Office {
    async fn open() -> Self {
        let server = Server::start().await;
        let root = server.root_token();
        for id in ["acme", "other"] {
            account(&server, &root, id).await;
        }
        let acme = create(&server, &root, "acme", &["latchkey:admin"]).await.token;
        Self { server, root, acme }
    }

    async fn query(&self, token: &str, query: QueryAuditRequest) -> QueryAuditResponse {
        self.try_query(token, query).await.unwrap()
    }

    async fn try_query(
        &self,
        token: &str,
        query: QueryAuditRequest,
    ) -> Result<QueryAuditResponse, Status> {
        let answer = self.server.audits(token).await.query_audit(query).await;
        answer.map(tonic::Response::into_inner)
    }

    /// All entries that a caller sees.
    async fn entries(&self, token: &str) -> Vec<AuditEntry> {
        self.query(token, QueryAuditRequest { page_size: 1_000, ..Default::default() })
            .await
            .entries
    }
}

async fn account(server: &Server, root: &str, id: &str) -> Account {
    let request = CreateAccountRequest {
        account_id: id.into(),
        plan: "enterprise".into(),
        ..Default::default()
    };
    let mut accounts = server.accounts(root).await;
    accounts.create_account(request).await.unwrap().into_inner().account.unwrap()
}

async fn create(server: &Server, maker: &str, account: &str, scopes: &[&str]) -> CreateKeyResponse {
    create_with(server, maker, account, scopes, |_| ()).await
}

/// Makes a key that is wanted a little different.
async fn create_with(
    server: &Server,
    maker: &str,
    account: &str,
    scopes: &[&str],
    wish: impl FnOnce(&mut CreateKeyRequest),
) -> CreateKeyResponse {
    let mut request = CreateKeyRequest {
        account_id: account.into(),
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        request_id: a_request_id(),
        ..Default::default()
    };
    wish(&mut request);
    server.keys(maker).await.create_key(request).await.unwrap().into_inner()
}

async fn disable(server: &Server, maker: &str, key_id: &str) -> Key {
    let request = UpdateKeyRequest {
        key: Some(Key { key_id: key_id.into(), disabled: true, ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["disabled".into()] }),
        expected_revision: String::new(),
    };
    server.keys(maker).await.update_key(request).await.unwrap().into_inner().key.unwrap()
}

/// A UUID that no request had before.
fn a_request_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("c0ffee00-1234-4abc-8def-{:012x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn id_of(made: &CreateKeyResponse) -> String {
    made.key.as_ref().unwrap().key_id.clone()
}

#[tokio::test]
async fn an_entry_tells_who_changed_what_from_where_and_no_secret() {
    let office = Office::open().await;
    let Office { server, root, .. } = &office;
    let made = create(server, root, "acme", &["memory:read"]).await;
    let changed = disable(server, root, &id_of(&made)).await;
    // grpcurl needs nothing but reflection for it, the change included.
    let query = format!(r#"{{"key_id": "{}"}}"#, id_of(&made));
    let told = server.grpcurl_json(root, "latchkey.v1.AuditService/QueryAudit", &query);
    let entries = told["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{told:#}");
    let [second, first] = [&entries[0], &entries[1]];

    let roots = ListKeysRequest { account_id: "latchkey".into(), ..Default::default() };
    let roots = server.keys(root).await.list_keys(roots).await.unwrap().into_inner();
    let root_id = &roots.keys[0].key_id;
    for (entry, action, revision) in
        [(first, "CreateKey", &made.revision), (second, "UpdateKey", &changed.revision)]
    {
        assert_eq!(entry["action"], action);
        assert_eq!(entry["revision"], **revision);
        assert_eq!(entry["actor"], format!("key:{root_id}"));
        assert_eq!(entry["accountId"], "acme");
        assert_eq!(entry["keyId"], *id_of(&made));
        assert!(entry["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{entry:#}");
    }
    let change = serde_json::json!({"before": {"disabled": false}, "after": {"disabled": true}});
    assert_eq!(second["change"], change);
    assert!(first["change"].get("before").is_none());
    assert_eq!(first["change"]["after"]["scopes"], serde_json::json!(["memory:read"]));
    assert_eq!(first["requestId"].as_str().unwrap().len(), 36);
    assert!(second.get("requestId").is_none());
    let all = format!("{:?}", office.entries(root).await);
    let secrets = [&made.token, root, &office.acme];
    assert!(secrets.iter().all(|token| !all.contains(token.as_str())));
    assert!(!all.contains("digest"));
}

#[tokio::test]
async fn an_operator_of_an_account_sees_what_concerns_it_and_nothing_else() {
    let office = Office::open().await;
    let Office { server, root, acme } = &office;
    let foreign = create(server, root, "other", &["memory:read"]).await;
    let own = create(server, root, "acme", &["memory:read"]).await;
    let seen = office.entries(acme).await;
    let accounts: Vec<_> = seen.iter().map(|entry| entry.account_id.as_str()).collect();
    // Its key, its operator, itself, and the policy that the store was seeded with.
    assert_eq!(accounts, ["acme", "acme", "acme", ""]);
    assert_eq!(office.entries(root).await.len(), 8);

    let of = |account: &str, key: &str| QueryAuditRequest {
        account_id: account.into(),
        key_id: key.into(),
        ..Default::default()
    };
    assert_eq!(office.query(acme, of("acme", &id_of(&own))).await.entries.len(), 1);
    assert_eq!(office.query(root, of("", &id_of(&foreign))).await.entries.len(), 1);
    let unknown = "key_00000000000000000000000000";
    let mut texts = Vec::new();
    for (account, key) in [
        ("other", ""),
        ("nobody", ""),
        ("no id at all", ""),
        ("latchkey", ""),
        ("", id_of(&foreign).as_str()),
        ("", unknown),
        ("", "no id at all"),
    ] {
        let refused = office.try_query(acme, of(account, key)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{account} {key}");
        texts.push(message_of(&refused));
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(office.try_query(root, of("", unknown)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_trail_needs_its_own_permission() {
    let office = Office::open().await;
    let Office { server, root, .. } = &office;
    let all_but = ["latchkey:keys.read", "latchkey:keys.write", "latchkey:policy.read"];
    let blind = create(server, root, "latchkey", &all_but).await.token;
    let refused = office.try_query(&blind, QueryAuditRequest::default()).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason_of(&refused).as_str()),
        (Code::PermissionDenied, "PERMISSION_DENIED")
    );
    assert!(refused.message().contains("`latchkey:audit.read`"), "{refused:?}");
    let auditor = create(server, root, "latchkey", &["latchkey:audit.read"]).await.token;
    assert!(office.entries(&auditor).await.len() > 5);
}

#[tokio::test]
async fn pages_go_on_where_they_ended_whatever_was_made_meanwhile() {
    let office = Office::open().await;
    let Office { server, root, .. } = &office;
    let wanted: Vec<_> =
        office.entries(root).await.into_iter().map(|entry| entry.revision).collect();
    let mut told = Vec::new();
    let mut page_token = String::new();
    loop {
        let query = QueryAuditRequest { page_size: 2, page_token, ..Default::default() };
        let page = office.query(root, query).await;
        told.extend(page.entries.into_iter().map(|entry| entry.revision));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        create(server, root, "acme", &["memory:read"]).await;
    }
    assert_eq!(told, wanted);

    let page = office.query(root, QueryAuditRequest { page_size: 2, ..Default::default() }).await;
    let token = page.next_page_token;
    for other in [
        QueryAuditRequest { account_id: "acme".into(), ..Default::default() },
        QueryAuditRequest { record_kind: RecordKind::Key.into(), ..Default::default() },
        QueryAuditRequest { actor: "system:root".into(), ..Default::default() },
        QueryAuditRequest {
            end_time: Some(Timestamp { seconds: 5, nanos: 0 }),
            ..Default::default()
        },
    ] {
        let query = QueryAuditRequest { page_token: token.clone(), ..other };
        let refused = office.try_query(root, query).await.unwrap_err();
        assert!(message_of(&refused).contains("page_token"), "{refused:?}");
    }
    let stolen = QueryAuditRequest { page_token: token, ..Default::default() };
    let refused = office.try_query(&office.acme, stolen).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_span_of_time_that_ends_before_it_begins_is_refused() {
    let office = Office::open().await;
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let query = QueryAuditRequest { start_time: at(7), end_time: at(7), ..Default::default() };
    let refused = office.try_query(&office.root, query).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let told = message_of(&refused);
    assert!(told.contains("end_time: must be later than `start_time`"), "{told}");
    let past = QueryAuditRequest { end_time: at(7), ..Default::default() };
    assert_eq!(office.query(&office.root, past).await.entries, []);
    let since = QueryAuditRequest { start_time: at(7), ..Default::default() };
    assert_eq!(office.query(&office.root, since).await.entries.len(), 6);
}
