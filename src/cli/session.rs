//! A server that was connected to, and how it is called: in time, again where that is safe, and page by page.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::Service;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::console::Console;
use super::refusal::{NoAnswer, Refusal, not_connected};
use super::rpc::{Paged, Rpc};
use crate::error::Reason;
use crate::failure::{Failure, Failures};
use crate::machine;
use crate::proto::codec::SmallCodec;
use crate::token::Token;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Long enough for a store that is slow today, beside what the call itself asks to wait.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The pauses before a call is repeated; after the last it fails.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(800), Duration::from_secs(2)];
/// As many as the server gives at once.
const PAGE_SIZE_MAX: usize = 1_000;
/// What the server takes for a list is bounded in items; so large may each be.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A server that was connected to, with the runtime on which it is called.
#[derive(Debug, Clone)]
pub(super) struct Session {
    runtime: Arc<Runtime>,
    server: Server,
    address: String,
    authorization: Option<MetadataValue<Ascii>>,
    /// When all calls have to be over, in time since the machine was started.
    end: Option<Duration>,
}

impl Session {
    /// Connects; with TLS when that is given.
    pub(super) fn connect(
        address: String,
        tls: Option<ClientTlsConfig>,
        authorization: Option<MetadataValue<Ascii>>,
    ) -> Result<Self, Failures> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::of("cannot start a runtime", &error))?;
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| {
            Failure::of(format!("{address} is no address of a server"), &error)
                .help("write https://HOST:PORT, http://HOST:PORT or unix:PATH")
        })?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        let endpoint = match tls {
            Some(tls) => endpoint.tls_config(tls).map_err(|error| {
                Failure::of("cannot use the certificates that were named", &error)
                    .help("look at --ca-file, --cert-file and --key-file: each is a file in PEM")
            })?,
            None => endpoint,
        };
        let connected = runtime.block_on(endpoint.connect());
        let channel = connected.map_err(|error| not_connected(&address, &error))?;
        let runtime = Arc::new(runtime);
        Ok(Self { runtime, server: Server(channel), address, authorization, end: None })
    }

    /// The same, for calls of which the last has to be over when this span is, repeated or not.
    pub(super) fn within(&self, span: Duration) -> Self {
        let end = machine::uptime().saturating_add(span);
        Self { end: Some(self.end.map_or(end, |sooner| sooner.min(end))), ..self.clone() }
    }

    /// Where the server is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What people are shown of the token that calls are made with.
    pub(super) fn hint(&self) -> Option<String> {
        let header = self.authorization.as_ref()?.to_str().ok()?;
        Token::from_text(header.strip_prefix("Bearer ")?).ok().map(|token| token.hint())
    }

    /// The connection as such, for calls that are not of the API, and the runtime for them.
    pub(super) fn parts(&self) -> (&Runtime, Server) {
        (&self.runtime, self.server.clone())
    }

    /// Calls, and repeats the call while that is safe and may help.
    #[expect(clippy::needless_pass_by_value, reason = "requests are made where they are sent")]
    pub(super) fn call<Q: Rpc>(&self, request: Q) -> Result<Q::Answer, Refusal> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let status = match self.runtime.block_on(self.attempt(request.clone())) {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let refusal = Refusal::new(status, &self.address);
            let pause = pauses.next().filter(|pause| self.left().is_none_or(|left| left > *pause));
            let Some(pause) = pause.filter(|_| helps_to_repeat(&refusal, &request)) else {
                return Err(refusal);
            };
            self.pause(pause);
        }
    }

    /// Calls for one page after the other, and puts their items together; stops at `limit`.
    pub(super) fn pages<Q: Paged>(
        &self,
        mut request: Q,
        limit: Option<usize>,
        console: &mut Console,
    ) -> Result<Q::Answer, Refusal> {
        let mut all = Q::Answer::default();
        loop {
            let so_far = Q::parts(&mut all).0.len();
            let wanted = limit.map_or(PAGE_SIZE_MAX, |limit| (limit - so_far).min(PAGE_SIZE_MAX));
            let token = std::mem::take(Q::parts(&mut all).1);
            request.at(token, i32::try_from(wanted).unwrap_or(i32::MAX));
            let before = request.page_token().to_owned();
            let mut page = self.call(request.clone())?;
            let (items, next) = Q::parts(&mut page);
            // A server never does either, and one that did could be listened to for ever.
            if !next.is_empty() && (items.is_empty() || *next == before) {
                return Err(Refusal::new(status_of(NoAnswer::Endless.into()), &self.address));
            }
            let (gathered, token) = Q::parts(&mut all);
            gathered.append(items);
            *token = std::mem::take(next);
            let is_full = limit.is_some_and(|limit| gathered.len() >= limit);
            if token.is_empty() || is_full {
                return Ok(all);
            }
            console.progress(&format!("{} so far …", gathered.len()));
        }
    }

    /// Waits between two calls.
    pub(super) fn pause(&self, span: Duration) {
        // Within the runtime: its clock is asked for when the wait is made.
        self.runtime.block_on(async { tokio::time::sleep(span).await });
    }

    /// How long calls may still take.
    fn left(&self) -> Option<Duration> {
        self.end.map(|end| end.saturating_sub(machine::uptime()))
    }

    async fn attempt<Q: Rpc>(&self, request: Q) -> Result<Q::Answer, Status> {
        let limit = CALL_TIMEOUT.saturating_add(request.wait());
        let limit = self.left().map_or(limit, |left| left.min(limit));
        let answer = tokio::time::timeout(limit, self.send(request)).await;
        answer.unwrap_or_else(|_| Err(status_of(NoAnswer::Late(limit).into())))
    }

    async fn send<Q: Rpc>(&self, request: Q) -> Result<Q::Answer, Status> {
        let mut grpc = Grpc::new(self.server.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        // A status that tells of a broken connection, as an error of the call itself does.
        let not_ready = |error: Box<dyn Error + Send + Sync>| status_of(error);
        grpc.ready().await.map_err(not_ready)?;
        let mut request = Request::new(request);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let path = PathAndQuery::from_static(Q::PATH);
        let answer = grpc.unary(request, path, SmallCodec::<Q, Q::Answer>::default()).await?;
        Ok(answer.into_inner())
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the caller's side, where no error is told")]
fn status_of(error: Box<dyn Error + Send + Sync>) -> Status {
    Status::from_error(error)
}

/// Whether the same request may be sent again, and may then be carried out.
fn helps_to_repeat<Q: Rpc>(refusal: &Refusal, request: &Q) -> bool {
    if refusal.is(Reason::OutcomeUnknown) || refusal.is_broken_off() {
        return request.may_repeat();
    }
    // UNAVAILABLE says that nothing was done.
    refusal.code() == Code::Unavailable
}

/// A connection. An answer that is not of gRPC is not taken apart as if it were.
#[derive(Debug, Clone)]
pub(super) struct Server(Channel);

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context).map_err(|error| NoAnswer::Broken(error).into())
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await.map_err(NoAnswer::Broken)?;
            let kind = answer.headers().get(http::header::CONTENT_TYPE);
            if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
                Ok(answer)
            } else {
                Err(NoAnswer::Foreign(answer.status()).into())
            }
        })
    }
}
