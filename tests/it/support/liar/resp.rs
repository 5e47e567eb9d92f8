//! What nodes and Redis say to each other, one value after the other, as they are framed in RESP2 and RESP3.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The values that come from somebody.
pub(super) struct Values<R> {
    from: R,
    received: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Values<R> {
    pub(super) const fn from(from: R) -> Self {
        Self { from, received: Vec::new() }
    }

    /// The next one, as it was written; nothing at the end.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = length(&self.received) {
                let rest = self.received.split_off(length);
                return Some(std::mem::replace(&mut self.received, rest));
            }
            if let Ok(0) | Err(_) = self.from.read_buf(&mut self.received).await {
                return None;
            }
        }
    }
}

/// How long the first value is, once all of it is there.
fn length(received: &[u8]) -> Option<usize> {
    let line = end_of_line(received)?;
    let end = match received[0] {
        b'$' | b'!' | b'=' => usize::try_from(number(received)).map_or(line, |it| line + it + 2),
        kind @ (b'*' | b'~' | b'>' | b'%') => {
            let of_each = if kind == b'%' { 2 } else { 1 };
            let mut at = line;
            for _ in 0..number(received) * of_each {
                at += length(received.get(at..)?)?;
            }
            at
        }
        _ => line,
    };
    (end <= received.len()).then_some(end)
}

fn end_of_line(received: &[u8]) -> Option<usize> {
    Some(received.windows(2).position(|two| two == b"\r\n")? + 2)
}

/// The number in the first line.
fn number(value: &[u8]) -> i64 {
    let line = &value[1..end_of_line(value).unwrap() - 2];
    std::str::from_utf8(line).unwrap().parse().unwrap()
}

/// The words of a command.
pub(super) fn words(command: &[u8]) -> Vec<&[u8]> {
    let mut rest = &command[end_of_line(command).unwrap()..];
    let mut words = Vec::new();
    while let Some(end) = length(rest) {
        let (word, others) = rest.split_at(end);
        words.push(text(word).unwrap_or_default());
        rest = others;
    }
    words
}

/// What a string holds; nothing of another value, or of none.
pub(super) fn text(value: &[u8]) -> Option<&[u8]> {
    (value[0] == b'$' && number(value) >= 0).then(|| {
        let begin = end_of_line(value).unwrap();
        &value[begin..value.len() - 2]
    })
}

pub(super) fn string(text: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
}

pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend(string(word));
    }
    command
}

#[test]
fn values_are_told_apart() {
    let all =
        b"+OK\r\n$-1\r\n$3\r\na\r\n\r\n*2\r\n:1\r\n*1\r\n$0\r\n\r\n>1\r\n_\r\n%1\r\n+a\r\n#t\r\n";
    let mut rest = &all[..];
    let mut lengths = Vec::new();
    while let Some(length) = length(rest) {
        assert!((1..length).all(|part| self::length(&rest[..part]).is_none()));
        lengths.push(length);
        rest = &rest[length..];
    }
    assert_eq!((lengths, rest), (vec![5, 5, 9, 18, 7, 12], &b""[..]));
    let command = command(&[b"SET", b"", b"\r\n"]);
    assert_eq!(words(&command), [&b"SET"[..], b"", b"\r\n"]);
}
