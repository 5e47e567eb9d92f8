//! Peers of the program: an HTTP/2 client that shows what happens on the wire, and raw bytes.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// A gRPC message of no bytes: all that `Health/Check` needs.
const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);

/// What a peer may say before it falls silent for ever: incomplete handshakes, and a complete one.
pub(super) fn silent_greetings() -> [Vec<u8>; 5] {
    [
        vec![],
        PREFACE[..12].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &EMPTY_SETTINGS].concat(),
        [PREFACE, &EMPTY_SETTINGS, &SETTINGS_ACK].concat(),
    ]
}

/// Connects, says this, and reads nothing.
pub(super) async fn say(address: SocketAddr, greeting: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(greeting).await.unwrap();
    stream
}

pub(super) async fn until_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await; // a reset is an end, too
}

pub(super) struct Client {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A call whose request is not complete yet: in flight for as long as the test likes, and the server.
pub(super) struct Call {
    body: SendStream<Bytes>,
    rest: Bytes,
    response: ResponseFuture,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    pub(super) async fn try_connect(address: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address).await?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        Ok(Self { requests, connection: tokio::spawn(connection) })
    }

    pub(super) async fn begin_call(&mut self) -> Call {
        self.try_begin_call().await.unwrap()
    }

    /// The error is the GOAWAY that the server has sent.
    pub(super) async fn try_begin_call(&mut self) -> Result<Call, h2::Error> {
        self.begin(HEALTH, EMPTY_MESSAGE).await
    }

    /// Begins a stream of questions, for which the server has more patience than for a message.
    pub(super) async fn begin_stream(&mut self) -> Call {
        self.begin(REFLECTION, Bytes::new()).await.unwrap()
    }

    async fn begin(&mut self, path: &str, rest: Bytes) -> Result<Call, h2::Error> {
        let request = http::Request::post(format!("http://latchkey{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        self.requests = self.requests.clone().ready().await?;
        let (response, body) = self.requests.send_request(request, false)?;
        Ok(Call { body, rest, response })
    }

    pub(super) async fn call(&mut self) -> Result<(), String> {
        self.begin_call().await.finish().await
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<u16, h2::Error> {
        let request = http::Request::get(format!("http://latchkey{path}")).body(()).unwrap();
        self.requests = self.requests.clone().ready().await?;
        Ok(self.requests.send_request(request, true)?.0.await?.status().as_u16())
    }

    /// Waits until the server has closed the connection, without an error.
    pub(super) async fn closed(self) {
        drop(self.requests);
        let closed = timeout(Duration::from_secs(5), self.connection).await;
        assert!(matches!(closed, Ok(Ok(Ok(())))), "{closed:?}");
    }
}

impl Call {
    /// Completes the request, and reads the answer to its end: an error is the call's own, or a status.
    pub(super) async fn finish(mut self) -> Result<(), String> {
        let shown = |error: h2::Error| error.to_string();
        self.body.send_data(self.rest, true).map_err(shown)?;
        let mut body = self.response.await.map_err(shown)?.into_body();
        while let Some(data) = body.data().await {
            data.map_err(shown)?;
        }
        let trailers = body.trailers().await.map_err(shown)?.ok_or("no trailers")?;
        match trailers["grpc-status"].as_bytes() {
            b"0" => Ok(()),
            _ => Err(format!("{trailers:?}")),
        }
    }

    /// Waits for the call to fail, never completing its request.
    pub(super) async fn failed(self) -> bool {
        let _body = self.body;
        let Ok(response) = self.response.await else { return true };
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            if data.is_err() {
                return true;
            }
        }
        body.trailers().await.is_err()
    }
}

pub(super) fn is_goaway(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}
