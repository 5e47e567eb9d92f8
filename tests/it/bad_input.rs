//! Every request that cannot be right is told its field and a remedy, changes nothing, and leaves the
//! server serving.

use std::collections::BTreeMap;

use latchkey::proto::v1::account_service_client::AccountServiceClient;
use latchkey::proto::v1::authorization_service_client::AuthorizationServiceClient;
use latchkey::proto::v1::create_key_request::Expiration;
use latchkey::proto::v1::key_service_client::KeyServiceClient;
use latchkey::proto::v1::policy_service_client::PolicyServiceClient;
use latchkey::proto::v1::{
    Account, AuthorizeRequest, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse,
    Environment, GetKeyRequest, Key, ListAccountsRequest, ListKeysRequest, LookupKeyRequest,
    Restrictions, RevokeKeyRequest, RotateKeyRequest, UpdateAccountRequest, UpdateKeyRequest,
    lookup_key_request::By, revoke_key_request::Target,
};
use prost_types::{Duration, FieldMask, Timestamp};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::support::{Authed, Server, message_of, reason_of};

mod bodies;
mod callers;
mod policy;
mod wire;

const UNPRINTABLE: &str = "no control or bidirectional-override characters";

/// A server with one account and one key, and a client of each kind with the root token.
struct Rig {
    server: Server,
    keys: KeyServiceClient<Authed>,
    accounts: AccountServiceClient<Authed>,
    policies: PolicyServiceClient<Authed>,
    decisions: AuthorizationServiceClient<Channel>,
    root: String,
    key_id: String,
    token: String,
}

impl Rig {
    async fn start() -> Self {
        let server = Server::start().await;
        let root = server.root_token();
        let mut keys = server.keys(&root).await;
        let mut accounts = server.accounts(&root).await;
        let request = new_account("acme");
        accounts.create_account(request).await.unwrap();
        let made = keys.create_key(new_key("acme")).await.unwrap().into_inner();
        Self {
            keys,
            accounts,
            policies: server.policies(&root).await,
            decisions: server.decisions().await,
            root,
            key_id: made.key.unwrap().key_id,
            token: made.token,
            server,
        }
    }

    async fn make_key(&mut self, request: CreateKeyRequest) -> CreateKeyResponse {
        self.keys.create_key(request).await.unwrap().into_inner()
    }

    /// The last change of the store, by a decision that must come out as ever: the server serves.
    async fn head(&mut self) -> String {
        let question = AuthorizeRequest {
            token: self.token.clone(),
            required_scope: "memory:read".into(),
            ..Default::default()
        };
        let said = self.decisions.authorize(question).await.unwrap().into_inner();
        assert!(said.allowed, "{said:?}");
        said.revision
    }
}

fn new_account(id: &str) -> CreateAccountRequest {
    CreateAccountRequest {
        account_id: id.into(),
        display_name: id.into(),
        plan: "enterprise".into(),
        ..Default::default()
    }
}

fn new_key(account: &str) -> CreateKeyRequest {
    CreateKeyRequest {
        account_id: account.into(),
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    }
}

fn texts(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "the field takes it so")]
fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: texts(paths) })
}

/// Fails unless the answer is `INVALID_ARGUMENT` and names the field and the remedy.
fn assert_invalid<T: std::fmt::Debug>(
    answer: Result<Response<T>, Status>,
    field: &str,
    remedy: &str,
) {
    let case = format!("{field}, {remedy}");
    let refused = answer.expect_err(&case);
    assert_eq!(refused.code(), Code::InvalidArgument, "{case}: {refused:?}");
    assert_eq!(reason_of(&refused), "INVALID_FIELD", "{case}");
    let details = refused.get_error_details();
    let violations = &details.bad_request().expect(&case).field_violations;
    let named = violations.iter().find(|it| it.field == field && it.description.contains(remedy));
    assert!(named.is_some(), "{case}: {violations:?}");
    assert!(refused.message().contains(remedy), "{case}: {}", message_of(&refused));
}

/// A field, what is told of it, and how to get it wrong.
type Fault<M> = (&'static str, &'static str, fn(&mut M));

fn spoilt<M: Clone>(right: &M, spoil: fn(&mut M)) -> M {
    let mut wrong = right.clone();
    spoil(&mut wrong);
    wrong
}

#[expect(clippy::unnecessary_wraps, reason = "the field takes it so")]
fn time(seconds: i64, nanos: i32) -> Option<Expiration> {
    Some(Expiration::ExpireTime(Timestamp { seconds, nanos }))
}

#[expect(clippy::unnecessary_wraps, reason = "the field takes it so")]
fn ttl(seconds: i64, nanos: i32) -> Option<Expiration> {
    Some(Expiration::Ttl(Duration { seconds, nanos }))
}

#[expect(clippy::unnecessary_wraps, reason = "the field takes it so")]
fn networks(cidrs: &[&str]) -> Option<Restrictions> {
    Some(Restrictions { allowed_cidrs: texts(cidrs) })
}

const CREATE_KEY: &[Fault<CreateKeyRequest>] = &[
    ("display_name", "1 to 63 characters", |it| it.display_name.clear()),
    ("display_name", "63 characters at most", |it| it.display_name = "ä".repeat(64)),
    ("display_name", UNPRINTABLE, |it| it.display_name = "a\u{202e}b".into()),
    ("display_name", UNPRINTABLE, |it| it.display_name = "a\nb".into()),
    ("display_name", UNPRINTABLE, |it| it.display_name = "a\0b".into()),
    ("environment", "ENVIRONMENT_LIVE or ENVIRONMENT_TEST", |it| it.environment = 0),
    ("environment", "ENVIRONMENT_LIVE or ENVIRONMENT_TEST", |it| it.environment = 3),
    ("environment", "ENVIRONMENT_LIVE or ENVIRONMENT_TEST", |it| it.environment = -1),
    ("scopes[0]", "did you mean `memory:read`?", |it| it.scopes = texts(&["memory:reed"])),
    ("scopes[1]", "no bare `*`", |it| it.scopes.push("*".into())),
    ("scopes[1]", "a scope as in `memory:read`", |it| it.scopes.push(String::new())),
    ("scopes[1]", "64 bytes at most", |it| it.scopes.push(format!("a:{}", "b".repeat(63)))),
    ("scopes[1]", "64 bytes at most", |it| it.scopes.push("a:b\u{202e}".repeat(10_000))),
    ("scopes[1]", "already", |it| it.scopes.push("memory:read".into())),
    ("scopes[0]", "covers no scope", |it| it.scopes = texts(&["nothing:*"])),
    ("scopes", "64 scopes at most", |it| it.scopes = vec!["memory:read".into(); 4_000]),
    ("grantable_scopes[0]", "`memory:read`", |it| it.grantable_scopes = texts(&["memory:reed"])),
    ("ttl", "more than 0", |it| it.expiration = ttl(0, 0)),
    ("ttl", "more than 0", |it| it.expiration = ttl(-1, 0)),
    ("ttl", "more than 0", |it| it.expiration = ttl(1, 1_000_000_000)),
    ("ttl", "100 years", |it| it.expiration = ttl(i64::MAX, 0)),
    ("expire_time", "in the future", |it| it.expiration = time(1_000_000_000, 0)),
    ("expire_time", "1970 to 9999", |it| it.expiration = time(-1, 0)),
    ("expire_time", "1970 to 9999", |it| it.expiration = time(i64::MAX, 0)),
    ("expire_time", "999,999,999", |it| it.expiration = time(4_102_444_800, -1)),
    ("restrictions.allowed_cidrs[1]", "did you mean `10.0.0.0/8`?", |it| {
        it.restrictions = networks(&["::1", "10.0.0.1/8"]);
    }),
    ("restrictions.allowed_cidrs[0]", "192.0.2.0/24", |it| it.restrictions = networks(&["ten"])),
    ("restrictions.allowed_cidrs[0]", "192.0.2.0/24", |it| {
        it.restrictions = networks(&["10.0.0.0/33"]);
    }),
    ("restrictions.allowed_cidrs", "64 networks at most", |it| {
        it.restrictions = networks(&["10.0.0.0/8"; 65]);
    }),
    ("labels", "16 labels at most", |it| {
        it.labels = (0..17).map(|n| (n.to_string(), String::new())).collect();
    }),
    ("labels", "1 to 63 bytes", |it| it.labels = BTreeMap::from([(String::new(), String::new())])),
    ("labels", "at most 63", |it| it.labels = BTreeMap::from([("a".into(), "b".repeat(64))])),
    ("labels", UNPRINTABLE, |it| it.labels = BTreeMap::from([("a".into(), "\u{1b}[2J".into())])),
    ("request_id", "must be a UUID", |it| it.request_id = "once".into()),
    ("request_id", "must be a UUID", |it| it.request_id = "c0ffee00-1234-4abc-8def".into()),
];

#[tokio::test]
async fn a_wrong_field_of_a_new_key_is_told_and_nothing_is_made() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    for (field, remedy, spoil) in CREATE_KEY {
        let wrong = spoilt(&new_key("acme"), *spoil);
        assert_invalid(rig.keys.create_key(wrong).await, field, remedy);
    }
    assert_eq!(rig.head().await, before);
    // All faults are told at once.
    let wrong = CreateKeyRequest {
        account_id: "acme".into(),
        request_id: "x".into(),
        ..Default::default()
    };
    let refused = rig.keys.create_key(wrong).await.unwrap_err();
    let details = refused.get_error_details();
    let fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|it| &it.field).collect();
    assert_eq!(fields, ["display_name", "environment", "request_id"]);
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn a_wrong_change_of_a_key_is_told_and_nothing_is_changed() {
    const CHANGE: &[Fault<UpdateKeyRequest>] = &[
        ("update_mask", "say what to change", |it| it.update_mask = None),
        ("update_mask", "say what to change", |it| it.update_mask = mask(&[])),
        ("update_mask", "`disabled`", |it| it.update_mask = mask(&["*"])),
        ("update_mask", "`account_id` cannot be changed", |it| {
            it.update_mask = mask(&["account_id"]);
        }),
        ("update_mask", "`scopes.x` cannot", |it| it.update_mask = mask(&["labels", "scopes.x"])),
        ("update_mask", "\\u{202e}", |it| it.update_mask = mask(&["\u{202e}"])),
        ("key", "is missing", |it| it.key = None),
        ("expected_revision", "send back one", |it| it.expected_revision = "7".into()),
    ];
    const VALUES: &[Fault<Key>] = &[
        ("key.display_name", "1 to 63 characters", |it| it.display_name.clear()),
        ("key.scopes[0]", "did you mean `memory:write`?", |it| it.scopes = texts(&["memory:wrte"])),
        ("key.grantable_scopes[0]", "no bare `*`", |it| it.grantable_scopes = texts(&["*"])),
        ("key.restrictions.allowed_cidrs[0]", "did you mean `10.0.0.0/8`?", |it| {
            it.restrictions = networks(&["10.0.0.1/8"]);
        }),
        ("key.labels", UNPRINTABLE, |it| it.labels = BTreeMap::from([("a".into(), "\n".into())])),
        ("key.expire_time", "in the future", |it| {
            it.expire_time = Some(Timestamp { seconds: 1, nanos: 0 });
        }),
    ];
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    let key = Key { key_id: rig.key_id.clone(), display_name: "n".into(), ..Default::default() };
    let right = UpdateKeyRequest {
        key: Some(key.clone()),
        update_mask: mask(&["labels"]),
        ..Default::default()
    };
    for (field, remedy, spoil) in CHANGE {
        assert_invalid(rig.keys.update_key(spoilt(&right, *spoil)).await, field, remedy);
    }
    for (field, remedy, spoil) in VALUES {
        let path = field.split('.').nth(1).unwrap().split('[').next().unwrap();
        let key = Some(spoilt(&key, *spoil));
        let wrong = UpdateKeyRequest { key, update_mask: mask(&[path]), ..Default::default() };
        assert_invalid(rig.keys.update_key(wrong).await, field, remedy);
    }
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn a_wrong_end_of_a_key_is_told_and_the_key_goes_on() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    let by_id = Some(Target::KeyId(rig.key_id.clone()));
    let revoke = RevokeKeyRequest { target: by_id, ..Default::default() };
    let faults: &[Fault<RevokeKeyRequest>] = &[
        ("target", "`key_id` or `token`", |it| it.target = None),
        ("token", "is not a token", |it| it.target = Some(Target::Token("hm_live_x".into()))),
        ("reason", "REVOKE_REASON_COMPROMISED", |it| it.reason = 9),
        ("comment", "500 characters at most", |it| it.comment = "x".repeat(501)),
        ("comment", UNPRINTABLE, |it| it.comment = "a\u{2066}b".into()),
        ("wait", "0 to 60 s", |it| it.wait = Some(Duration { seconds: 61, nanos: 0 })),
        ("wait", "0 to 60 s", |it| it.wait = Some(Duration { seconds: 0, nanos: -1 })),
    ];
    for (field, remedy, spoil) in faults {
        assert_invalid(rig.keys.revoke_key(spoilt(&revoke, *spoil)).await, field, remedy);
    }
    let rotate = RotateKeyRequest { key_id: rig.key_id.clone(), ..Default::default() };
    let faults: &[Fault<RotateKeyRequest>] = &[
        ("overlap", "0 to 7 days", |it| it.overlap = Some(Duration { seconds: -1, nanos: 0 })),
        ("overlap", "0 to 7 days", |it| it.overlap = Some(Duration { seconds: 604_800, nanos: 1 })),
        ("request_id", "must be a UUID", |it| it.request_id = "x".into()),
    ];
    for (field, remedy, spoil) in faults {
        assert_invalid(rig.keys.rotate_key(spoilt(&rotate, *spoil)).await, field, remedy);
    }
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn a_wrong_list_or_look_up_is_told() {
    let mut rig = Rig::start().await;
    let list: &[Fault<ListKeysRequest>] = &[
        ("page_size", "must not be negative", |it| it.page_size = -1),
        ("page_token", "leave it empty to start over", |it| it.page_token = "x".into()),
        ("page_token", "leave it empty to start over", |it| it.page_token = "A".repeat(60_000)),
        ("states[1]", "KEY_STATE_ACTIVE", |it| it.states = vec![1, 0]),
        ("states[0]", "KEY_STATE_ACTIVE", |it| it.states = vec![9]),
        ("created_by", "`key:ID`", |it| it.created_by = "me".into()),
        ("environment", "ENVIRONMENT_LIVE", |it| it.environment = 7),
    ];
    for (field, remedy, spoil) in list {
        let wrong = spoilt(&ListKeysRequest::default(), *spoil);
        assert_invalid(rig.keys.list_keys(wrong).await, field, remedy);
    }
    let accounts: &[Fault<ListAccountsRequest>] = &[
        ("page_size", "must not be negative", |it| it.page_size = i32::MIN),
        ("page_token", "leave it empty to start over", |it| it.page_token = "//".into()),
        ("plan", "as in `free`", |it| it.plan = "a plan".into()),
    ];
    for (field, remedy, spoil) in accounts {
        let wrong = spoilt(&ListAccountsRequest::default(), *spoil);
        assert_invalid(rig.accounts.list_accounts(wrong).await, field, remedy);
    }
    let typo = "hm_live_abc123xyz456def789ghi012jkl345mno678";
    for (by, field, remedy) in [
        (None, "by", "`token` or `hint`"),
        (Some(By::Hint(String::new())), "hint", "`Key.token_hint`"),
        (Some(By::Token(typo.into())), "token", "checksum"),
    ] {
        let answer = rig.keys.lookup_key(LookupKeyRequest { by }).await;
        let told = format!("{answer:?}");
        assert!(!told.contains("xyz456"), "a token is not repeated: {told}");
        assert_invalid(answer, field, remedy);
    }
}

#[tokio::test]
async fn a_wrong_field_of_an_account_is_told_and_nothing_is_made() {
    let create: &[Fault<CreateAccountRequest>] = &[
        ("account_id", "1 to 64 characters", |it| it.account_id = "a b".into()),
        ("account_id", "1 to 64 characters", |it| it.account_id = "x".repeat(65)),
        ("account_id", "1 to 64 characters", |it| it.account_id = "../etc".into()),
        ("display_name", "63", |it| it.display_name = "x".repeat(64)),
        ("display_name", UNPRINTABLE, |it| it.display_name = "\u{200f}".into()),
        ("plan", "did you mean `enterprise`?", |it| it.plan = "entreprise".into()),
        ("plan", "plan of the policy", |it| it.plan = "a plan\n".into()),
        ("labels", UNPRINTABLE, |it| {
            it.labels = BTreeMap::from([("\u{7f}".into(), String::new())]);
        }),
        ("request_id", "must be a UUID", |it| it.request_id = "x".into()),
    ];
    let update: &[Fault<UpdateAccountRequest>] = &[
        ("account", "is missing", |it| it.account = None),
        ("update_mask", "say what to change", |it| it.update_mask = None),
        ("update_mask", "`max_keys` cannot", |it| it.update_mask = mask(&["max_keys"])),
        ("update_mask", "`account_id` cannot", |it| it.update_mask = mask(&["account_id"])),
        ("account.plan", "plan of the policy", |it| it.update_mask = mask(&["plan"])),
        ("expected_revision", "send back one", |it| it.expected_revision = "x".into()),
    ];
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    for (field, remedy, spoil) in create {
        let wrong = spoilt(&new_account("new"), *spoil);
        assert_invalid(rig.accounts.create_account(wrong).await, field, remedy);
    }
    let account = Account { account_id: "acme".into(), plan: "gold".into(), ..Default::default() };
    let right = UpdateAccountRequest {
        account: Some(account),
        update_mask: mask(&["labels"]),
        ..Default::default()
    };
    for (field, remedy, spoil) in update {
        let wrong = spoilt(&right, *spoil);
        assert_invalid(rig.accounts.update_account(wrong).await, field, remedy);
    }
    assert_eq!(rig.head().await, before);
    let taken = rig.accounts.create_account(new_account("acme")).await.unwrap_err();
    assert_eq!((taken.code(), &*reason_of(&taken)), (Code::AlreadyExists, "ACCOUNT_EXISTS"));
}

#[tokio::test]
async fn an_account_without_a_name_is_called_by_its_id() {
    let mut rig = Rig::start().await;
    let nameless = CreateAccountRequest { display_name: String::new(), ..new_account("new") };
    let made = rig.accounts.create_account(nameless).await.unwrap().into_inner();
    assert_eq!(made.account.unwrap().display_name, "new");
    let before = rig.head().await;
    let account = Account { account_id: "acme".into(), ..Default::default() };
    let clear = UpdateAccountRequest {
        account: Some(account),
        update_mask: mask(&["display_name"]),
        ..Default::default()
    };
    assert_invalid(rig.accounts.update_account(clear).await, "account.display_name", "1 to 63");
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn an_id_that_is_missing_is_told_by_its_field() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    let nobody = CreateKeyRequest { account_id: String::new(), ..new_key("acme") };
    assert_invalid(rig.keys.create_key(nobody).await, "account_id", "1 to 64 characters");
    assert_invalid(rig.keys.get_key(GetKeyRequest::default()).await, "key_id", "`key_`");
    let nothing = UpdateKeyRequest {
        key: Some(Key { disabled: true, ..Default::default() }),
        update_mask: mask(&["disabled"]),
        ..Default::default()
    };
    assert_invalid(rig.keys.update_key(nothing).await, "key.key_id", "`key_`");
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn a_wrong_question_is_told_and_never_an_allow() {
    const QUESTION: &[Fault<AuthorizeRequest>] = &[
        ("required_scope", "name a scope", |it| it.required_scope.clear()),
        ("required_scope", "must be empty", |it| it.authenticate_only = true),
        ("required_scope", "memory:read", |it| it.required_scope = "memory:reed".into()),
        ("required_scope", "expected", |it| it.required_scope = "memory:read or".into()),
        ("required_scope", "expected", |it| it.required_scope = "(memory:read".into()),
        ("required_scope", "1,000 characters", |it| it.required_scope = "memory:read ".repeat(84)),
        ("required_scope", "deeper than 16", |it| {
            it.required_scope = format!("{}memory:read{}", "(".repeat(17), ")".repeat(17));
        }),
        ("client_address", "without a port", |it| it.client_address = "192.0.2.7:80".into()),
        ("client_address", "without a port", |it| it.client_address = "localhost".into()),
        ("required_environment", "ENVIRONMENT_LIVE", |it| it.required_environment = 9),
        ("min_revision", "send back one", |it| it.min_revision = "7".into()),
    ];
    let mut rig = Rig::start().await;
    let right = AuthorizeRequest {
        token: rig.token.clone(),
        required_scope: "memory:read".into(),
        ..Default::default()
    };
    for (field, remedy, spoil) in QUESTION {
        let wrong = spoilt(&right, *spoil);
        assert_invalid(rig.decisions.authorize(wrong).await, field, remedy);
    }
    // A revision of another store.
    let min_revision = Rig::start().await.head().await;
    let other = AuthorizeRequest { min_revision, ..right };
    let refused = rig.decisions.authorize(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&refused), "REVISION_OF_ANOTHER_EPOCH");
    rig.head().await;
}
