//! An upstream that answers with what it received, as JSON, and keeps it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A running upstream, on a thread of its own, so that a test may wait for programs meanwhile.
pub(crate) struct Echo {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    runtime: Option<Runtime>,
}

/// A request as it came in; names of headers are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Echo {
    pub(crate) fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, Arc::clone(&received)));
        Self { address, received, runtime: Some(runtime) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came in since this was asked last.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().unwrap())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Received {
    /// All values of the headers whose name is this one to a server that reads it plainly.
    pub(crate) fn alike(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(given, _)| plain(given) == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// The name as many upstreams read it, for which whatever is no letter and no digit is the same.
pub(crate) fn plain(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

async fn serve(listener: std::net::TcpListener, received: Arc<Mutex<Vec<Received>>>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&received)));
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    received: Arc<Mutex<Vec<Received>>>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = head.headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
    let it = Received {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers,
        body: text(&body.collect().await?.to_bytes()),
    };
    let response = Response::new(serde_json::to_vec(&it).unwrap_or_default().into());
    received.lock().unwrap().push(it);
    Ok(response)
}
