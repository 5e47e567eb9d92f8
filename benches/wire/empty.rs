//! The peer to measure against: a tonic server that decides nothing, as tonic serves out of the box:
//! its own loop, tokio's default runtime, its default buffers. It answers every `Authorize` with one
//! response, which it reads from a file.
//!
//! `empty_tonic ADDRESS FILE`, FILE being an encoded `AuthorizeResponse`.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use latchkey::proto::v1::{AuthorizeRequest, AuthorizeResponse};
use prost::Message as _;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: empty_tonic ADDRESS FILE".into());
    };
    let address: SocketAddr = address.parse()?;
    let answer = AuthorizeResponse::decode(&*std::fs::read(file)?)?;
    let empty = Empty { answer: Arc::new(answer) };
    Server::builder().add_service(empty).serve(address).await?;
    Ok(())
}

/// What tonic would generate for a service of one method. Written out, because latchkey has its code
/// generated with buffers of its own.
#[derive(Clone)]
struct Empty {
    answer: Arc<AuthorizeResponse>,
}

impl NamedService for Empty {
    const NAME: &'static str = "latchkey.v1.AuthorizationService";
}

impl Service<http::Request<Body>> for Empty {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<AuthorizeResponse, AuthorizeRequest>::default();
            Ok(Grpc::new(codec).unary(method, request).await)
        })
    }
}

impl UnaryService<AuthorizeRequest> for Empty {
    type Response = AuthorizeResponse;
    type Future = Ready<Result<Response<AuthorizeResponse>, Status>>;

    fn call(&mut self, _: Request<AuthorizeRequest>) -> Self::Future {
        ready(Ok(Response::new(AuthorizeResponse::clone(&self.answer))))
    }
}
