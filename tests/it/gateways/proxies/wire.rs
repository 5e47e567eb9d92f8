//! A client that sends bytes as they stand, and a line to latchkey that can be cut.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::gateways::forward_auth::Answer;

/// Where clients come from: not the address that latchkey trusts.
pub(super) const CLIENT: &str = "127.0.0.2";
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Sends one request on a connection of its own and reads the answer, to the end unless it says its length. Names of headers come in lower case; a header
/// that comes twice is joined by `, `.
pub(super) async fn send(to: SocketAddr, request: &[u8]) -> Result<Answer, String> {
    let exchange = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(CLIENT.parse().unwrap(), 0))?;
        let mut stream = socket.connect(to).await?;
        stream.write_all(request).await?;
        let mut read = Vec::new();
        loop {
            match stream.read_buf(&mut read).await {
                Ok(0) => return Ok(read),
                Ok(_) if is_whole(&read) => return Ok(read),
                Ok(_) => {}
                // A proxy that refuses may close before it has read everything.
                Err(error) => return if read.is_empty() { Err(error) } else { Ok(read) },
            }
        }
    };
    let read = tokio::time::timeout(ANSWER_TIME_MAX, exchange).await;
    let read = read.map_err(|_| "no answer in time".to_owned())?;
    let read = read.map_err(|error| error.to_string())?;
    parse(&String::from_utf8_lossy(&read)).ok_or_else(|| "no answer".to_owned())
}

/// Whether the body is as long as the head says: some proxies leave the connection open for a while after a refusal.
fn is_whole(read: &[u8]) -> bool {
    let text = String::from_utf8_lossy(read);
    let Some(answer) = parse(&text) else { return false };
    let length = answer.headers.get("content-length").and_then(|length| length.parse().ok());
    length.is_some_and(|length: usize| answer.body.len() >= length)
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut answer = Answer { status, headers: <_>::default(), body: body.to_owned() };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let values = answer.headers.entry(name.to_ascii_lowercase()).or_default();
        let comma = if values.is_empty() { "" } else { ", " };
        *values = format!("{values}{comma}{}", value.trim());
    }
    Some(answer)
}

/// Passes connections on, until it is cut.
pub(super) struct Line {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
    task: AbortHandle,
}

impl Line {
    pub(super) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_cut, seen) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(stream, target, seen.clone()));
            }
        });
        Self { address, is_cut, task: task.abort_handle() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on connections end without an answer, as those that are open have ended.
    pub(super) async fn cut(&self) {
        self.is_cut.send_replace(true);
        while self.is_cut.receiver_count() > 1 {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let passed = async {
        let mut to = TcpStream::connect(target).await?;
        from.set_nodelay(true)?;
        to.set_nodelay(true)?;
        copy_bidirectional(&mut from, &mut to).await
    };
    tokio::select! {
        biased;
        _ = is_cut.wait_for(|is_cut| *is_cut) => {}
        _ = passed => {}
    }
}
