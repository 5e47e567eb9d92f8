//! How a message reaches the collector: by gRPC, or as protobuf by HTTP/1.1.
//!
//! No context is passed on to the collector: what we tell of calls is no part of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic_prost::ProstCodec;

use super::otlp::Signal;

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, usually on port 4317.
    Grpc,
    /// HTTP with protobuf, usually on port 4318.
    HttpProtobuf,
}

/// A message that did not arrive.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) why: String,
    pub(super) may_retry: bool,
}

/// The way to one collector.
pub(super) struct Wire {
    way: Way,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
}

enum Way {
    Grpc(Channel),
    Http { to: Uri, tls: Option<TlsConnector> },
}

impl Wire {
    /// The way to this address, which has a scheme and a host; nothing is connected yet. Must be called
    /// on a tokio runtime.
    pub(super) fn new(
        to: Uri,
        protocol: Protocol,
        headers: Vec<(HeaderName, HeaderValue)>,
        timeout: Duration,
    ) -> Result<Self, String> {
        let is_secure = to.scheme() == Some(&Scheme::HTTPS);
        let way = match protocol {
            Protocol::Grpc => {
                let mut endpoint =
                    Endpoint::from(to).connect_timeout(timeout).user_agent(USER_AGENT);
                if is_secure {
                    let tls = ClientTlsConfig::new().with_native_roots();
                    endpoint = endpoint.and_then(|it| it.tls_config(tls));
                }
                Way::Grpc(endpoint.map_err(|error| error.to_string())?.connect_lazy())
            }
            Protocol::HttpProtobuf => Way::Http { to, tls: is_secure.then(connector).transpose()? },
        };
        Ok(Self { way, headers, timeout })
    }

    /// Sends it once, and says how much of it was not taken.
    pub(super) async fn send<S: Signal>(&self, message: S) -> Result<u64, Unsent> {
        let sent = async {
            match &self.way {
                Way::Grpc(channel) => self.send_by_grpc(channel.clone(), message).await,
                Way::Http { to, tls } => self.send_by_http(to, tls.as_ref(), &message).await,
            }
        };
        let answer = tokio::time::timeout(self.timeout, sent).await.unwrap_or_else(|_| {
            Err(Unsent { why: format!("no answer within {:?}", self.timeout), may_retry: true })
        })?;
        Ok(S::rejected(&answer))
    }

    async fn send_by_grpc<S: Signal>(
        &self,
        channel: Channel,
        message: S,
    ) -> Result<S::Answer, Unsent> {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| lost(&error))?;
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.iter().cloned().collect());
        let path = PathAndQuery::from_static(S::GRPC_PATH);
        let codec = ProstCodec::<S, S::Answer>::default();
        match client.unary(request, path, codec).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                use tonic::Code;
                let may_retry = matches!(
                    status.code(),
                    Code::Cancelled
                        | Code::DeadlineExceeded
                        | Code::Aborted
                        | Code::OutOfRange
                        | Code::Unavailable
                        | Code::DataLoss
                );
                let why = format!("{:?}: {}", status.code(), status.message());
                Err(Unsent { why, may_retry })
            }
        }
    }

    async fn send_by_http<S: Signal>(
        &self,
        to: &Uri,
        tls: Option<&TlsConnector>,
        message: &S,
    ) -> Result<S::Answer, Unsent> {
        let host = to.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = to.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((bare, port)).await.map_err(|error| lost(&error))?;
        let request = self.request(to, message)?;
        let (status, body) = match tls {
            None => exchange(stream, request).await?,
            Some(tls) => {
                let name = ServerName::try_from(bare.to_owned()).map_err(|error| lost(&error))?;
                let stream = tls.connect(name, stream).await.map_err(|error| lost(&error))?;
                exchange(stream, request).await?
            }
        };
        if status.is_success() {
            // What cannot be read says nothing of what was not taken.
            return Ok(S::Answer::decode(body).unwrap_or_default());
        }
        let may_retry = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        Err(Unsent { why: format!("the answer was {status}"), may_retry })
    }

    fn request<S: Signal>(&self, to: &Uri, message: &S) -> Result<Request<Full<Bytes>>, Unsent> {
        let path = format!("{}{}", to.path().trim_end_matches('/'), S::HTTP_PATH);
        let host = to.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(http::header::USER_AGENT, USER_AGENT)
            .body(Full::new(Bytes::from(message.encode_to_vec())))
            .map_err(|error| Unsent { why: error.to_string(), may_retry: false })?;
        request.headers_mut().extend(self.headers.iter().cloned());
        Ok(request)
    }
}

const USER_AGENT: &str = concat!("latchkey/", env!("CARGO_PKG_VERSION"));

/// One request on one connection: one a second at most is made, and none is kept open.
async fn exchange<T>(
    stream: T,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Unsent>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| lost(&error))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| lost(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Unsent { why: error.to_string(), may_retry: false })?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // A connection that is closed after its answer may be the first of the two to be done.
        _ = &mut connection => exchange.await,
    }
}

fn lost(error: &(dyn std::error::Error + 'static)) -> Unsent {
    let mut why = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        why = format!("{why}: {cause}");
        next = cause.source();
    }
    Unsent { why, may_retry: true }
}

/// TLS as the system trusts it.
fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
