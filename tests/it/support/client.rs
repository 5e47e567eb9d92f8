//! Real clients: tonic's with an operator's token, and grpcurl.

use std::process::{Command, Output, Stdio};

use latchkey::proto::v1::account_service_client::AccountServiceClient;
use latchkey::proto::v1::audit_service_client::AuditServiceClient;
use latchkey::proto::v1::authorization_service_client::AuthorizationServiceClient;
use latchkey::proto::v1::key_service_client::KeyServiceClient;
use latchkey::proto::v1::node_service_client::NodeServiceClient;
use latchkey::proto::v1::policy_service_client::PolicyServiceClient;
use latchkey::proto::v1::{AuthorizeRequest, AuthorizeResponse};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::server::Server;
use super::tools_path;

/// Puts an operator's token on every call.
#[derive(Clone)]
pub(crate) struct Caller(String);

impl Caller {
    pub(crate) fn new(token: &str) -> Self {
        Self(token.to_owned())
    }
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value: MetadataValue<_> = format!("Bearer {}", self.0).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// A channel that carries an operator's token.
pub(crate) type Authed = InterceptedService<Channel, Caller>;

impl Server {
    pub(crate) async fn channel(&self) -> Channel {
        self.try_channel().await.unwrap()
    }

    /// Of a server that may be gone.
    pub(crate) async fn try_channel(&self) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_shared(format!("http://{}", self.grpc())).unwrap().connect().await
    }

    pub(crate) async fn keys(&self, token: &str) -> KeyServiceClient<Authed> {
        KeyServiceClient::with_interceptor(self.channel().await, Caller(token.to_owned()))
    }

    pub(crate) async fn accounts(&self, token: &str) -> AccountServiceClient<Authed> {
        AccountServiceClient::with_interceptor(self.channel().await, Caller(token.to_owned()))
    }

    pub(crate) async fn policies(&self, token: &str) -> PolicyServiceClient<Authed> {
        PolicyServiceClient::with_interceptor(self.channel().await, Caller(token.to_owned()))
    }

    pub(crate) async fn audits(&self, token: &str) -> AuditServiceClient<Authed> {
        AuditServiceClient::with_interceptor(self.channel().await, Caller(token.to_owned()))
    }

    pub(crate) async fn nodes(&self, token: &str) -> NodeServiceClient<Authed> {
        NodeServiceClient::with_interceptor(self.channel().await, Caller(token.to_owned()))
    }

    pub(crate) async fn decisions(&self) -> AuthorizationServiceClient<Channel> {
        AuthorizationServiceClient::new(self.channel().await)
    }

    /// Of a server that may be gone.
    pub(crate) async fn try_decisions(
        &self,
    ) -> Result<AuthorizationServiceClient<Channel>, tonic::transport::Error> {
        self.try_channel().await.map(AuthorizationServiceClient::new)
    }

    /// One `Authorize` on a connection of its own.
    pub(crate) async fn authorize(&self, token: &str, scope: &str) -> AuthorizeResponse {
        let request = AuthorizeRequest {
            token: token.into(),
            required_scope: scope.into(),
            ..Default::default()
        };
        self.decisions().await.authorize(request).await.unwrap().into_inner()
    }

    /// The real grpcurl, through reflection; the token travels by the environment.
    pub(crate) fn grpcurl(&self, token: &str, method: &str, json: &str) -> Output {
        self.grpcurl_with(token, &[], method, json)
    }

    /// The real grpcurl with more arguments.
    pub(crate) fn grpcurl_with(
        &self,
        token: &str,
        arguments: &[&str],
        method: &str,
        json: &str,
    ) -> Output {
        use std::io::Write as _;
        let mut command = Command::new("grpcurl");
        command.env("PATH", tools_path()).env("TOKEN", token).args([
            "-plaintext",
            "-max-time",
            "30",
        ]);
        if !token.is_empty() {
            command.args(["-expand-headers", "-H", "authorization: Bearer ${TOKEN}"]);
        }
        command.args(arguments).args(["-d", "@"]).arg(self.grpc().to_string()).arg(method);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("grpcurl cannot be started ({error}); `./check` installs it")
            });
        // grpcurl may end before it has read everything, when the call fails.
        let _ = child.stdin.take().unwrap().write_all(json.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What grpcurl answered, as JSON; panics when the call failed.
    pub(crate) fn grpcurl_json(&self, token: &str, method: &str, json: &str) -> serde_json::Value {
        let output = self.grpcurl(token, method, json);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{method} {json}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// The reason in the status's `ErrorInfo`; panics when it carries none.
pub(crate) fn reason_of(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "latchkey");
    info.reason.clone()
}

/// The message, with what the fields at fault are.
pub(crate) fn message_of(status: &Status) -> String {
    let details = status.get_error_details();
    let violations =
        details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let fields: Vec<_> =
        violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
    format!("{} [{}]", status.message(), fields.join("; "))
}
