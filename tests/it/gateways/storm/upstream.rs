//! An upstream that reads requests as loosely as any server does, takes what comes, and has each request judged.
//!
//! It speaks HTTP/1 by hand: a library would refuse what is odd, and nobody would learn that the gateway let it through.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
/// A server that speaks HTTP/2 without TLS may do this, and what follows is between the client and itself.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// A request as it came in.
#[derive(Debug, Default, Clone)]
pub(super) struct Hit {
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    /// Trailers too. Names are in lower case.
    pub(super) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    /// Why two servers could see two requests in it.
    pub(super) odd: Option<&'static str>,
}

pub(super) struct Upstream {
    address: SocketAddr,
    task: AbortHandle,
}

impl Upstream {
    pub(super) async fn start(judge: impl Fn(Hit) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let judge: Arc<dyn Fn(Hit) + Send + Sync> = Arc::new(judge);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let judge = Arc::clone(&judge);
                tokio::spawn(async move { serve(stream, &*judge).await });
            }
        });
        Self { address, task: task.abort_handle() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, judge: &(dyn Fn(Hit) + Send + Sync)) {
    let mut read = Vec::new();
    loop {
        let Some((mut hit, head_bytes)) = head(&read) else {
            if read.len() > REQUEST_BYTES_MAX || !more(&mut stream, &mut read).await {
                return;
            }
            continue;
        };
        read.drain(..head_bytes);
        let is_switched = hit.has(b"upgrade", b"h2c");
        // The request is there once its head is: what it does is done, whatever becomes of the body.
        let is_whole = body(&mut stream, &mut read, &mut hit).await;
        judge(hit);
        let answer = if is_switched { SWITCHING } else { OK };
        if !is_whole || stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> bool {
    stream.read_buf(read).await.is_ok_and(|bytes| bytes > 0)
}

/// The first head among these bytes, and how long it is.
fn head(read: &[u8]) -> Option<(Hit, usize)> {
    let end = read.windows(4).position(|part| part == b"\r\n\r\n")?;
    let mut hit = Hit::default();
    let mut lines = split(&read[..end]).into_iter();
    let line = lines.next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    hit.method = words.next().unwrap_or_default().to_vec();
    let rest = words.collect::<Vec<_>>().join(&b' ');
    let Some(target) = rest.strip_suffix(b" HTTP/1.1") else {
        hit.odd = Some("the request line is none of HTTP/1.1");
        hit.target = rest;
        return Some((hit, end + 4));
    };
    hit.target = target.to_vec();
    if !target.iter().all(u8::is_ascii_graphic) {
        hit.odd = Some("the target holds what is no part of one");
    }
    for line in lines {
        hit.take(line);
    }
    let of = |name: &[u8]| hit.fields.iter().filter(|(given, _)| given == name).count();
    let (lengths, encodings) = (of(b"content-length"), of(b"transfer-encoding"));
    if lengths + encodings > 1 {
        hit.odd = Some("it has two lengths");
    } else if encodings == 1 && !hit.has(b"transfer-encoding", b"chunked") {
        hit.odd = Some("its encoding is not `chunked`");
    } else if of(b"host") != 1 {
        hit.odd = Some("it does not have one host");
    }
    Some((hit, end + 4))
}

fn split(lines: &[u8]) -> Vec<&[u8]> {
    let mut split = vec![];
    let mut rest = lines;
    while let Some(at) = rest.windows(2).position(|part| part == b"\r\n") {
        split.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    split.push(rest);
    split
}

impl Hit {
    fn take(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            self.odd = Some("a line of it is no header");
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"') {
            self.odd = Some("the name of a header is none");
        }
        if value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            self.odd = Some("a header holds the end of a line");
        }
        self.fields.push((name.to_ascii_lowercase(), value.to_vec()));
    }

    /// All values of the headers whose name is this one to a server that takes `_` and `.` for `-`.
    pub(super) fn alike<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let dashed = |byte: &u8| if matches!(byte, b'_' | b'.') { b'-' } else { *byte };
        self.fields
            .iter()
            .filter(move |(given, _)| given.iter().map(dashed).eq(name.iter().copied()))
            .map(|(_, value)| value.as_slice())
    }

    fn has(&self, name: &[u8], value: &[u8]) -> bool {
        self.alike(name).any(|given| given.eq_ignore_ascii_case(value))
    }
}

/// Reads to the end of the body, as far as it comes.
async fn body(stream: &mut TcpStream, read: &mut Vec<u8>, hit: &mut Hit) -> bool {
    if hit.alike(b"transfer-encoding").next().is_some() {
        return chunks(stream, read, hit).await;
    }
    let length = hit.alike(b"content-length").next();
    let length = length.map(|value| String::from_utf8_lossy(value).parse::<usize>());
    let length = match length {
        None => 0,
        Some(Ok(length)) => length,
        Some(Err(_)) => {
            hit.odd = Some("its length is no number");
            return false;
        }
    };
    take(stream, read, length, &mut hit.body).await.is_some()
}

async fn chunks(stream: &mut TcpStream, read: &mut Vec<u8>, hit: &mut Hit) -> bool {
    loop {
        let Some(line) = line(stream, read).await else { return false };
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let Ok(size) = usize::from_str_radix(&String::from_utf8_lossy(digits), 16) else {
            hit.odd = Some("the size of a chunk is no number");
            return false;
        };
        if size == 0 {
            break;
        }
        if take(stream, read, size + 2, &mut hit.body).await.is_none() {
            return false;
        }
        hit.body.truncate(hit.body.len() - 2);
    }
    loop {
        match line(stream, read).await {
            None => return false,
            Some(line) if line.is_empty() => return true,
            Some(trailer) => hit.take(&trailer),
        }
    }
}

async fn line(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = read.windows(2).position(|part| part == b"\r\n") {
            let line = read[..at].to_vec();
            read.drain(..at + 2);
            return Some(line);
        }
        if read.len() > REQUEST_BYTES_MAX || !more(stream, read).await {
            return None;
        }
    }
}

async fn take(
    stream: &mut TcpStream,
    read: &mut Vec<u8>,
    bytes: usize,
    to: &mut Vec<u8>,
) -> Option<()> {
    if bytes > REQUEST_BYTES_MAX {
        return None;
    }
    while read.len() < bytes {
        if !more(stream, read).await {
            return None;
        }
    }
    to.extend(read.drain(..bytes));
    Some(())
}
