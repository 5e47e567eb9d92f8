//! The peer to measure against: a tonic server that decides nothing, as tonic serves out of the box:
//! its own loop, tokio's default runtime, its default buffers. It decodes each question and answers it with one and the
//! same message, which it reads from a file.
//!
//! `empty_tonic ADDRESS authorize|check FILE`, FILE being an encoded `AuthorizeResponse` or `CheckResponse`.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use latchkey::proto::v1::{AuthorizeRequest, AuthorizeResponse};
use latchkey::proto::vendored::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use prost::Message;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, method, file] = &arguments[..] else {
        return Err("usage: empty_tonic ADDRESS authorize|check FILE".into());
    };
    let (address, answer) = (address.parse()?, std::fs::read(file)?);
    match &**method {
        "authorize" => serve::<Authorize>(address, &answer).await,
        "check" => serve::<Check>(address, &answer).await,
        _ => Err("the method is authorize or check".into()),
    }
}

async fn serve<M: Method>(address: SocketAddr, answer: &[u8]) -> Result<(), Box<dyn Error>> {
    let answer = Arc::new(M::Answer::decode(answer)?);
    Server::builder().add_service(Empty::<M> { answer }).serve(address).await?;
    Ok(())
}

/// What is asked and answered.
trait Method: Clone + Send + Sync + 'static {
    const SERVICE: &'static str;
    type Question: Message + Default + 'static;
    type Answer: Message + Default + Clone + 'static;
}

#[derive(Clone)]
struct Authorize;

impl Method for Authorize {
    const SERVICE: &'static str = "latchkey.v1.AuthorizationService";
    type Question = AuthorizeRequest;
    type Answer = AuthorizeResponse;
}

#[derive(Clone)]
struct Check;

impl Method for Check {
    const SERVICE: &'static str = "envoy.service.auth.v3.Authorization";
    type Question = CheckRequest;
    type Answer = CheckResponse;
}

/// What tonic would generate for a service of one method. Written out, because latchkey has its code
/// generated with buffers of its own.
#[derive(Clone)]
struct Empty<M: Method> {
    answer: Arc<M::Answer>,
}

impl<M: Method> NamedService for Empty<M> {
    const NAME: &'static str = M::SERVICE;
}

impl<M: Method> Service<http::Request<Body>> for Empty<M> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<M::Answer, M::Question>::default();
            Ok(Grpc::new(codec).unary(method, request).await)
        })
    }
}

impl<M: Method> UnaryService<M::Question> for Empty<M> {
    type Response = M::Answer;
    type Future = Ready<Result<Response<M::Answer>, Status>>;

    fn call(&mut self, _: Request<M::Question>) -> Self::Future {
        ready(Ok(Response::new(M::Answer::clone(&self.answer))))
    }
}
