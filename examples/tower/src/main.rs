//! A service that asks latchkey about each request. `needs` and what it calls are to be copied; the rest shows its use.

use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Router, serve};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use proto::authorization_service_client::AuthorizationServiceClient;
use proto::{AuthorizeRequest, AuthorizeResponse};

mod proto {
    #![allow(dead_code, reason = "the messages of other calls come with it")]
    tonic::include_proto!("latchkey.v1");
}

const DEADLINE: Duration = Duration::from_secs(1);

/// Lets a request through whose key holds the scope, and hands over whose key it is as an extension.
async fn needs(
    State((latchkey, scope)): State<(Latchkey, &'static str)>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let question = AuthorizeRequest {
        token: key_of(request.headers()),
        required_scope: scope.to_owned(),
        client_address: client.map(|client| client.ip().to_string()).unwrap_or_default(),
        ..AuthorizeRequest::default()
    };
    match latchkey.decide(question).await {
        Ok(decision) if decision.allowed => {
            request.extensions_mut().insert(decision);
            next.run(request).await
        }
        Ok(denied) => refused(&denied),
        Err(error) => {
            eprintln!("latchkey does not decide: {:?}, {}", error.code(), error.message());
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

fn refused(denied: &AuthorizeResponse) -> Response {
    let status = denied.http_status.try_into().ok().and_then(|it| StatusCode::from_u16(it).ok());
    let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    match denied.www_authenticate.as_str() {
        "" => status.into_response(),
        challenge => (status, [(WWW_AUTHENTICATE, challenge)]).into_response(),
    }
}

#[derive(Clone)]
struct Latchkey {
    client: AuthorizationServiceClient<Channel>,
    own_key: Option<AsciiMetadataValue>, // where latchkey has `grpc.callers = "key"`
}

impl Latchkey {
    /// The decision, within the deadline. Only what is UNAVAILABLE is asked once more.
    async fn decide(&self, question: AuthorizeRequest) -> Result<AuthorizeResponse, Status> {
        let ask = async || {
            let mut request = tonic::Request::new(question.clone());
            if let Some(own) = &self.own_key {
                request.metadata_mut().insert("authorization", own.clone());
            }
            self.client.clone().authorize(request).await.map(tonic::Response::into_inner)
        };
        let at_most_twice = async {
            match ask().await {
                Err(error) if error.code() == Code::Unavailable => ask().await,
                answer => answer,
            }
        };
        let late = |_| Err(Status::deadline_exceeded("no answer in time"));
        timeout(DEADLINE, at_most_twice).await.unwrap_or_else(late)
    }
}

/// The one key of a request. None is an empty one, and two are none that latchkey knows: it is left to say so.
fn key_of(headers: &HeaderMap) -> String {
    let bearers = headers.get_all(AUTHORIZATION).iter().map(|value| match value.as_bytes() {
        value if value.len() > 7 && value[..7].eq_ignore_ascii_case(b"bearer ") => &value[7..],
        _ => b"?",
    });
    let bare = headers.get_all("x-api-key").iter().map(|value| value.as_bytes());
    let keys: Vec<_> = bearers.chain(bare).map(String::from_utf8_lossy).collect();
    keys.join(" ").chars().take(200).collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("LATCHKEY_URL").unwrap_or_else(|_| "http://127.0.0.1:50051".to_owned());
    let own_key = env::var("LATCHKEY_KEY").ok().map(|key| format!("Bearer {key}").parse());
    let client = AuthorizationServiceClient::new(Endpoint::from_shared(url)?.connect_lazy());
    let latchkey = Latchkey { client, own_key: own_key.transpose()? };

    let layer = |scope| from_fn_with_state((latchkey.clone(), scope), needs);
    let memories = get(whose).layer(layer("memory:read"));
    let memories = memories.merge(post(whose).layer(layer("memory:write")));
    let service = Router::new().route("/memories", memories);

    let port = env::var("PORT").unwrap_or_else(|_| "8000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    serve(listener, service.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

async fn whose(Extension(key): Extension<AuthorizeResponse>) -> String {
    format!(r#"{{"account": "{}", "key": "{}"}}"#, key.account_id, key.key_id)
}
