//! Something in front of latchkey that is out of order when it is told to, and counts what it was asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

/// What is answered in latchkey's place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Instead {
    /// 503, or UNAVAILABLE.
    Unavailable,
    /// 500, or INTERNAL.
    Broken,
    /// A 200 that is none of latchkey's.
    Nonsense,
    /// The same in JSON.
    Empty,
}

/// What is in front.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) address: SocketAddr,
    server: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    asked: u32,
    next: VecDeque<Instead>,
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;

impl Front {
    /// It passes everything on.
    pub(super) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let front = Self { address, server, state: Arc::default() };
        let serving = front.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let front = serving.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |request| front.clone().answer(request));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        front
    }

    /// Has it answer so what comes next.
    pub(super) fn answer_next(&self, instead: &[Instead]) {
        self.state.lock().unwrap().next = instead.iter().copied().collect();
    }

    /// How often it was asked since it was last asked this.
    pub(super) fn asked(&self) -> u32 {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        let instead = {
            let mut state = self.state.lock().unwrap();
            state.asked += 1;
            state.next.pop_front()
        };
        let is_grpc = request.uri().path() != "/v1/authorize";
        Ok(match instead {
            Some(instead) => instead.answer(is_grpc).map(|text| Either::Right(Full::from(text))),
            None => self.pass_on(request, is_grpc).await.unwrap().map(Either::Left),
        })
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
        is_grpc: bool,
    ) -> hyper::Result<Response<Incoming>> {
        let stream = TokioIo::new(TcpStream::connect(self.server).await.unwrap());
        if is_grpc {
            let (mut requests, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            requests.send_request(request).await
        } else {
            let (mut requests, connection) = http1::handshake(stream).await?;
            tokio::spawn(connection);
            requests.send_request(request).await
        }
    }
}

impl Instead {
    fn answer(self, is_grpc: bool) -> Response<&'static str> {
        let (http, grpc) = match self {
            Self::Unavailable => (503, 14),
            Self::Broken => (500, 13),
            Self::Nonsense | Self::Empty => (200, 0),
        };
        let answer = Response::builder();
        let answer = if is_grpc {
            answer.header("content-type", "application/grpc").header("grpc-status", grpc)
        } else {
            answer.status(http)
        };
        let body = match self {
            _ if is_grpc => "",
            Self::Empty => "{}",
            Self::Unavailable | Self::Broken | Self::Nonsense => "out of order",
        };
        answer.body(body).unwrap()
    }
}
