//! One connection of an attack, from its beginning to its end.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection};

use super::attacks::{Attack, End, Flood, Reads};
use super::tls::sealed;
use super::{PATIENCE, now};
use crate::support::frames::{GOAWAY, HEADERS, RST_STREAM};

/// Whom to attack, and how TLS is spoken there, if it is.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// A kernel whose queue of the listener is full drops connections that their makers take for open.
pub(super) async fn stagger(nth: usize) {
    sleep(Duration::from_millis(2) * u32::try_from(nth).unwrap()).await;
}

/// Attacks over one connection; how long until it was ended, `PATIENCE` at most.
pub(super) async fn once(attack: Arc<Attack>, target: Target) -> Duration {
    let socket = TcpSocket::new_v4().unwrap();
    if attack.reads == Reads::Nothing {
        socket.set_recv_buffer_size(4_096).unwrap(); // else its kernel reads for it
    }
    let stream = socket.connect(target.address).await.expect("it accepts connections");
    let since = now();
    stream.set_nodelay(true).unwrap();
    let _ = timeout(PATIENCE, until_ended(&attack, stream, target.tls)).await;
    since.elapsed()
}

async fn until_ended(attack: &Attack, mut stream: TcpStream, tls: Option<Arc<ClientConfig>>) {
    let mut session = None;
    if let Some(config) = tls {
        let name = ServerName::try_from("localhost").unwrap();
        // One that is refused has ended.
        let Ok(tls) = TlsConnector::from(config).connect(name, stream).await else { return };
        let (of_tls, mut made) = tls.into_inner();
        made.set_buffer_limit(None);
        (stream, session) = (of_tls, Some(made));
    }
    let (reader, writer) = stream.into_split();
    tokio::select! {
        () = listen(reader, attack.reads, attack.end) => {}
        () = send(attack, writer, session) => {}
    }
}

/// Returns when the other side has gone, or the attacker goes.
async fn send(attack: &Attack, mut writer: OwnedWriteHalf, mut session: Option<ClientConnection>) {
    let opening = wrapped(session.as_mut(), &attack.opening);
    if writer.write_all(&opening).await.is_err() {
        return;
    }
    match &attack.flood {
        Flood::Silence => {}
        Flood::Leave => return,
        Flood::Same(bytes) => {
            while writer.write_all(&wrapped(session.as_mut(), bytes)).await.is_ok() {}
        }
        Flood::Streams(make) => {
            for call in 1.. {
                let bytes = wrapped(session.as_mut(), &make(2 * call - 1));
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
        Flood::Drip(bytes) => {
            for byte in bytes.iter().cycle() {
                if writer.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        Flood::Records(make) => {
            let mut records = make(session.expect("records are of TLS"));
            while writer.write_all(&records()).await.is_ok() {}
        }
    }
    std::future::pending::<()>().await;
}

/// These bytes, or what TLS makes of them.
fn wrapped(session: Option<&mut ClientConnection>, bytes: &[u8]) -> Vec<u8> {
    let Some(session) = session else { return bytes.to_vec() };
    session.writer().write_all(bytes).unwrap();
    sealed(session)
}

/// Returns at the end of the stream; or, if it is that which is waited for, at the answer to the call.
async fn listen(mut reader: OwnedReadHalf, reads: Reads, end: End) {
    if reads == Reads::Nothing {
        return until_gone(reader).await;
    }
    if end == End::Closed {
        let mut buffer = vec![0; 64 * 1024];
        while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
        return;
    }
    let mut header = [0; 9];
    while reader.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        if [HEADERS, RST_STREAM, GOAWAY].contains(&header[3]) {
            return;
        }
    }
}

/// Waits for the end of a connection from which nothing is read, as its kernel knows it.
async fn until_gone(reader: OwnedReadHalf) {
    while reader.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
        sleep(Duration::from_millis(20)).await;
    }
}
