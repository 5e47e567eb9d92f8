//! External authorization as a gateway asks for it: straight at `Check`, with the messages that Envoy sends.

use std::collections::BTreeMap;

use latchkey::proto::v1::{
    ApplyPolicyRequest, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse, Environment,
    GetPolicyRequest, Rule,
};
use latchkey::proto::vendored::envoy::config::core::v3::address::Address as Kind;
use latchkey::proto::vendored::envoy::config::core::v3::{
    Address, HeaderMap, HeaderValue, HeaderValueOption, Metadata, SocketAddress,
};
use latchkey::proto::vendored::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request,
};
use latchkey::proto::vendored::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use latchkey::proto::vendored::envoy::service::auth::v3::check_response::HttpResponse;
use latchkey::proto::vendored::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse,
};
use prost_types::Struct;
use prost_types::value::Kind as Value;
use tonic::transport::Channel;

use crate::support::Server;

mod callers;
mod requests;
mod rules;

const UNKNOWN: &str = "hm_live_0000000000000000000000000000002dlYSp";
const IDENTITY: [&str; 6] = [
    "x-latchkey-account-id",
    "x-latchkey-environment",
    "x-latchkey-key-id",
    "x-latchkey-plan",
    "x-latchkey-billable",
    "x-latchkey-scopes",
];

// === A question ===

/// A question about `GET https://api.example.com/v1/items`.
#[derive(Clone)]
struct Ask {
    http: HttpRequest,
    extensions: Vec<(&'static str, &'static str)>,
    source: Option<Address>,
    metadata: Option<Metadata>,
}

fn ask() -> Ask {
    let http = HttpRequest {
        method: "GET".into(),
        host: "api.example.com".into(),
        path: "/v1/items?all=1".into(),
        ..HttpRequest::default()
    };
    Ask { http, extensions: vec![], source: None, metadata: None }
}

impl Ask {
    /// About a route for which the gateway's configuration names this scope.
    fn scope(scope: &'static str) -> Self {
        ask().extension("required_scope", scope)
    }

    fn extension(mut self, name: &'static str, value: &'static str) -> Self {
        self.extensions.push((name, value));
        self
    }

    /// A header as Envoy sends it by default: joined with the one that is there.
    fn header(mut self, name: &str, value: &str) -> Self {
        let joined = self.http.headers.entry(name.to_owned()).or_default();
        let comma = if joined.is_empty() { "" } else { "," };
        *joined = format!("{joined}{comma}{value}");
        self
    }

    /// A header as Envoy sends it with `encode_raw_headers`.
    fn raw(mut self, name: &str, value: &[u8]) -> Self {
        let raw_value = value.to_vec();
        let header = HeaderValue { key: name.into(), raw_value, ..HeaderValue::default() };
        self.http.header_map.get_or_insert_with(HeaderMap::default).headers.push(header);
        self
    }

    fn key(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    fn target(mut self, method: &str, host: &str, path: &str) -> Self {
        self.http.method = method.into();
        self.http.host = host.into();
        self.http.path = path.into();
        self
    }

    fn from(mut self, address: &str) -> Self {
        let address = SocketAddress { address: address.into(), ..SocketAddress::default() };
        self.source = Some(Address { address: Some(Kind::SocketAddress(address)) });
        self
    }

    fn message(self) -> CheckRequest {
        let Self { http, extensions, source, metadata } = self;
        let extensions = extensions.into_iter().map(|(name, value)| (name.into(), value.into()));
        let attributes = AttributeContext {
            source: Some(Peer { address: source, ..Peer::default() }),
            request: Some(Request { http: Some(http), ..Request::default() }),
            context_extensions: extensions.collect(),
            metadata_context: metadata,
            ..AttributeContext::default()
        };
        CheckRequest { attributes: Some(attributes) }
    }
}

// === An answer ===

/// What a gateway makes of an answer.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    /// 200 when the request passes.
    status: u16,
    /// What is set on the upstream's request, or on the client's answer.
    headers: BTreeMap<String, String>,
    removed: Vec<String>,
    body: String,
    metadata: Struct,
}

impl Answer {
    #[expect(deprecated, reason = "there are versions of Envoy that read nothing else")]
    fn read(response: CheckResponse) -> Self {
        let CheckResponse { status, dynamic_metadata, http_response } = response;
        let code = status.expect("never left out").code;
        let set = |headers: Vec<HeaderValueOption>| {
            let one = |option: HeaderValueOption| {
                assert_eq!((option.append, option.append_action), (Some(false), 2), "{option:?}");
                let header = option.header.unwrap();
                assert!(!header.value.is_empty() && header.raw_value.is_empty());
                (header.key, header.value)
            };
            headers.into_iter().map(one).collect::<BTreeMap<_, _>>()
        };
        let (status, headers, removed, body) = match http_response.expect("never left out") {
            HttpResponse::OkResponse(passed) => {
                assert_eq!(code, 0);
                assert!(passed.response_headers_to_add.is_empty());
                (200, set(passed.headers), passed.headers_to_remove, String::new())
            }
            HttpResponse::DeniedResponse(denied) => {
                let status = u16::try_from(denied.status.unwrap().code).unwrap();
                assert_ne!(code, 0);
                (status, set(denied.headers), vec![], denied.body)
            }
            HttpResponse::ErrorResponse(_) => panic!("older Envoys do not know it"),
        };
        Self { status, headers, removed, body, metadata: dynamic_metadata.unwrap() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn told(&self, name: &str) -> Option<&Value> {
        self.metadata.fields.get(name)?.kind.as_ref()
    }

    fn told_text(&self, name: &str) -> &str {
        match self.told(name) {
            Some(Value::StringValue(text)) => text,
            _ => "",
        }
    }

    fn problem(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        problem
    }

    /// Checks that nothing identifies the request to the upstream, not even what the client made up.
    fn assert_nobodys(&self) {
        assert_eq!((self.status, self.headers.len()), (200, 0), "{self:?}");
        for name in IDENTITY {
            assert!(self.removed.iter().any(|it| it == name), "{name}: {self:?}");
        }
    }
}

// === A gateway ===

struct Gateway(AuthorizationClient<Channel>);

impl Gateway {
    async fn of(server: &Server) -> Self {
        Self(AuthorizationClient::new(server.channel().await))
    }

    async fn ask(&mut self, ask: Ask) -> Answer {
        Answer::read(self.0.check(ask.message()).await.unwrap().into_inner())
    }
}

/// Puts these rules in place of those of the policy.
async fn rules(server: &Server, rules: Vec<Rule>) {
    let mut policies = server.policies(&server.root_token()).await;
    let policy = policies.get_policy(GetPolicyRequest::default()).await.unwrap().into_inner();
    let mut policy = policy.policy.unwrap();
    policy.rules = rules;
    let request = ApplyPolicyRequest { policy: Some(policy), ..Default::default() };
    policies.apply_policy(request).await.unwrap();
}

/// The account `demo`, where `--dev` does not make it.
async fn demo(server: &Server) {
    let request = CreateAccountRequest {
        account_id: "demo".into(),
        display_name: "demo".into(),
        plan: "developer".into(),
        ..Default::default()
    };
    server.accounts(&server.root_token()).await.create_account(request).await.unwrap();
}

/// A key of the account `demo`.
async fn key(server: &Server, key: CreateKeyRequest) -> CreateKeyResponse {
    let request = CreateKeyRequest {
        account_id: "demo".into(),
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        ..key
    };
    let mut keys = server.keys(&server.root_token()).await;
    keys.create_key(request).await.unwrap().into_inner()
}
