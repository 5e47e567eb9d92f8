//! Something between the program and its server: it passes calls on, notes them, and leaves some without an answer.

use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::transport::Endpoint;

/// What is between.
pub(super) struct Between {
    pub(super) address: String,
    noted: Arc<Mutex<Vec<String>>>,
}

impl Between {
    /// In front of this server; these methods are never answered.
    pub(super) async fn start(server: SocketAddr, silent: &'static [&'static str]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let noted = Arc::new(Mutex::new(Vec::new()));
        let channel = Endpoint::from_shared(format!("http://{server}")).unwrap().connect_lazy();
        let calls = Arc::clone(&noted);
        let pass_on = service_fn(move |request: Request<Incoming>| {
            let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
            calls.lock().unwrap().push(method.clone());
            let mut channel = channel.clone();
            async move {
                if silent.contains(&&*method) {
                    pending::<()>().await;
                }
                poll_fn(|context| channel.poll_ready(context)).await?;
                channel.call(request.map(Body::new)).await
            }
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), pass_on.clone()));
            }
        });
        Self { address, noted }
    }

    /// The methods that were called, in order.
    pub(super) fn noted(&self) -> Vec<String> {
        self.noted.lock().unwrap().clone()
    }
}
