//! A request of a storm, in pieces: so that it is known which of them is a credential, and any can be left out.

use super::cast::{Actor, Cast, Who};
use crate::support::Dice;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, frame, header, opening,
};

/// The header that numbers requests: `17`, or `17.1` of what comes after it on the same connection.
pub(super) const TAG: &str = "x-storm";
const FRAME_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Http1,
    Http2,
}

#[derive(Debug, Clone)]
pub(super) struct Shot {
    pub(super) kind: &'static str,
    pub(super) over: Over,
    pub(super) target: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
    /// Where its headers begin, and how many there are.
    pub(super) fields_at: usize,
    pub(super) fields: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// What it is brought as, where it stands in the place of a credential.
    pub(super) brings: Option<Who>,
    /// 0, or 1 of what comes after the request.
    pub(super) message: u8,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body,
    Trailer,
}

impl Shot {
    /// Whose key the message brings: the only credential in it.
    pub(super) fn brings(&self, message: u8) -> Option<Who> {
        let mut brought =
            self.pieces.iter().filter(|it| it.message == message).filter_map(|it| it.brings);
        brought.next().filter(|_| brought.next().is_none())
    }

    /// Whether the client tells this where no credential is looked for.
    pub(super) fn mentions(&self, token: &str) -> bool {
        let holds = |it: &Piece| it.bytes.windows(token.len()).any(|part| part == token.as_bytes());
        self.pieces.iter().any(|it| it.brings.is_none() && holds(it))
    }

    pub(super) fn has_more(&self) -> bool {
        self.pieces.iter().any(|it| it.message > 0)
    }

    /// What is sent on the connection.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let of = |part: Part| {
            let pieces = self.pieces.iter().filter(move |it| it.part == part);
            pieces.map(|it| it.bytes.as_slice()).collect::<Vec<_>>().concat()
        };
        match self.over {
            Over::Http1 => {
                self.pieces.iter().map(|it| it.bytes.as_slice()).collect::<Vec<_>>().concat()
            }
            Over::Http2 => {
                let (head, body, trailer) = (of(Part::Head), of(Part::Body), of(Part::Trailer));
                let mut sent = opening(None);
                let ends = |is_last: bool| if is_last { END_STREAM } else { 0 };
                sent.extend(headers(&head, ends(body.is_empty() && trailer.is_empty())));
                if !body.is_empty() {
                    sent.extend(frame(DATA, ends(trailer.is_empty()), 1, &body));
                }
                if !trailer.is_empty() {
                    sent.extend(headers(&trailer, END_STREAM));
                }
                sent
            }
        }
    }

    /// Without one of its pieces.
    pub(super) fn without(&self, piece: usize) -> Self {
        let mut less = self.clone();
        less.pieces.remove(piece);
        if (less.fields_at..less.fields_at + less.fields).contains(&piece) {
            less.fields -= 1;
        }
        less
    }

    /// As somebody would type it in.
    pub(super) fn shown(&self) -> String {
        let pieces = self.pieces.iter().map(|it| {
            let brings = it.brings.map_or(String::new(), |who| format!("   <- {who:?}"));
            let text = it.bytes.escape_ascii().to_string();
            let cut: String = text.chars().take(600).collect();
            format!("    {cut}{brings}\n")
        });
        format!("{} over {:?}:\n{}", self.kind, self.over, pieces.collect::<String>())
    }
}

/// A block of headers in as many frames as it takes.
fn headers(block: &[u8], flags: u8) -> Vec<u8> {
    let mut chunks = block.chunks(FRAME_BYTES_MAX).peekable();
    let mut frames = vec![];
    let (mut kind, mut flags) = (HEADERS, flags);
    while let Some(chunk) = chunks.next() {
        let end = if chunks.peek().is_none() { END_HEADERS } else { 0 };
        frames.extend(frame(kind, flags | end, 1, chunk));
        (kind, flags) = (CONTINUATION, 0);
    }
    frames
}

// === What one is made of ===

/// A request that is being made up.
pub(super) struct Draft<'a> {
    pub(super) number: u64,
    pub(super) dice: Dice,
    pub(super) cast: &'a Cast,
    pub(super) over: Over,
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    /// Of HTTP/1, with the space before it.
    pub(super) version: Vec<u8>,
    pub(super) hosts: Vec<Vec<u8>>,
    /// Of HTTP/2, in the place of those that follow from the rest.
    pub(super) pseudo: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    fields: Vec<Field>,
    trailers: Vec<Field>,
    body: Vec<Piece>,
}

struct Field {
    name: Vec<u8>,
    separator: &'static [u8],
    value: Vec<u8>,
    brings: Option<Who>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(number: u64, dice: Dice, cast: &'a Cast, over: Over) -> Self {
        let mut draft = Self {
            number,
            dice,
            cast,
            over,
            method: b"GET".to_vec(),
            target: vec![],
            version: b" HTTP/1.1".to_vec(),
            hosts: vec![b"api.example.com".to_vec()],
            pseudo: None,
            fields: vec![],
            trailers: vec![],
            body: vec![],
        };
        draft.field(TAG, number.to_string());
        draft
    }

    pub(super) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *self.dice.pick(of)
    }

    pub(super) fn actor(&mut self) -> &'a Actor {
        let cast = self.cast;
        self.dice.pick(cast.actors())
    }

    /// One who may do something.
    pub(super) fn guest(&mut self) -> &'a Actor {
        let who = self.one(&[Who::Reader, Who::Reader, Who::Writer, Who::Admin, Who::Test]);
        self.cast.of(who)
    }

    pub(super) fn field(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.credential(name, value, None);
    }

    /// A header in which a credential is looked for.
    pub(super) fn credential(
        &mut self,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        brings: impl Into<Option<Who>>,
    ) {
        let (name, value) = (name.as_ref().to_vec(), value.as_ref().to_vec());
        self.fields.push(Field { name, separator: b": ", value, brings: brings.into() });
    }

    /// The key as it should be brought, in one of the ways.
    pub(super) fn bring(&mut self, actor: &Actor) {
        let name = self.one(&["authorization", "x-api-key"]);
        let name = if self.over == Over::Http1 { self.spelled(name) } else { name.to_owned() };
        let scheme = self.one(&["Bearer", "bearer", "BEARER"]);
        let value = if name.len() == "x-api-key".len() {
            actor.token.clone()
        } else {
            format!("{scheme} {}", actor.token)
        };
        self.credential(name, value, actor.who);
    }

    /// In capital letters, or some of them.
    pub(super) fn spelled(&mut self, name: &str) -> String {
        let way = self.dice.below(4);
        let spell = |letter: char| match way {
            0 | 1 => letter,
            2 => letter.to_ascii_uppercase(),
            _ if self.dice.is_one_of(1, 2) => letter.to_ascii_uppercase(),
            _ => letter,
        };
        name.chars().map(spell).collect()
    }

    /// A line of HTTP/1 as it stands, its end included.
    pub(super) fn line(&mut self, line: impl AsRef<[u8]>, brings: impl Into<Option<Who>>) {
        let (name, value) = (line.as_ref().to_vec(), vec![]);
        self.fields.push(Field { name, separator: b"", value, brings: brings.into() });
    }

    pub(super) fn trailer(
        &mut self,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        brings: impl Into<Option<Who>>,
    ) {
        let (name, value) = (name.as_ref().to_vec(), value.as_ref().to_vec());
        self.trailers.push(Field { name, separator: b": ", value, brings: brings.into() });
    }

    /// Bytes after the head; over HTTP/1 their length is not told.
    pub(super) fn body(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref().to_vec();
        self.body.push(Piece::of(bytes, None, Part::Body));
    }

    /// The same, of a length that is told.
    pub(super) fn whole_body(&mut self, bytes: impl AsRef<[u8]>) {
        self.field("content-length", bytes.as_ref().len().to_string());
        self.body(bytes);
    }

    /// Another request behind this one.
    pub(super) fn another(&mut self, actor: Option<&Actor>, target: &str) -> usize {
        let tag = format!("{TAG}: {}.1\r\n", self.number);
        let method = self.one(&["GET", "POST", "DELETE"]);
        let line = format!("{method} {target} HTTP/1.1\r\nhost: api.example.com\r\n{tag}");
        let credential = actor.map(|actor| format!("x-api-key: {}\r\n", actor.token));
        let pieces = [
            (Some(line), None),
            (credential, actor.map(|actor| actor.who)),
            (Some("content-length: 0\r\n\r\n".to_owned()), None),
        ];
        let mut bytes = 0;
        for (text, brings) in pieces {
            let text = text.unwrap_or_default().into_bytes();
            bytes += text.len();
            self.body.push(Piece { bytes: text, brings, message: 1, part: Part::Body });
        }
        bytes
    }

    /// Headers as a gateway tells them that leaves everything as it is: names and values.
    pub(super) fn told(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut told: Vec<(Vec<u8>, Vec<u8>)> = vec![];
        for field in &self.fields {
            if !field.separator.is_empty() {
                told.push((field.name.clone(), field.value.clone()));
                continue;
            }
            for line in field.name.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let value =
                    line.iter().position(|byte| *byte == b':').map_or(line.len(), |at| at + 1);
                let is_folded = line.starts_with(b" ") || line.starts_with(b"\t");
                match told.last_mut() {
                    Some((_, last)) if is_folded => last.extend([b" ", line.trim_ascii()].concat()),
                    _ => {
                        let name = line[..value].trim_ascii().strip_suffix(b":").unwrap_or(line);
                        told.push((
                            name.trim_ascii().to_vec(),
                            line[value..].trim_ascii().to_vec(),
                        ));
                    }
                }
            }
        }
        told
    }

    pub(super) fn finished(mut self, kind: &'static str) -> Shot {
        let (over, target) = (self.over, self.target.clone());
        let mut pieces = self.start();
        let (fields_at, fields) = (pieces.len(), self.fields.len());
        let end = |part| Piece::of(b"\r\n".to_vec(), None, part);
        pieces.extend(self.fields.into_iter().map(|field| field.piece(over, Part::Head)));
        if over == Over::Http1 {
            pieces.push(end(Part::Head));
        }
        pieces.append(&mut self.body);
        if !self.trailers.is_empty() {
            pieces.extend(self.trailers.into_iter().map(|field| field.piece(over, Part::Trailer)));
            if over == Over::Http1 {
                pieces.push(end(Part::Trailer));
            }
        }
        Shot { kind, over, target, pieces, fields_at, fields }
    }

    /// The request line and the host, or the pseudo headers.
    fn start(&mut self) -> Vec<Piece> {
        let part = |bytes| Piece::of(bytes, None, Part::Head);
        if self.over == Over::Http1 {
            let line = [&self.method[..], b" ", &self.target, &self.version, b"\r\n"].concat();
            let host = |host: &Vec<u8>| [b"host: ", &host[..], b"\r\n"].concat();
            return [line].into_iter().chain(self.hosts.iter().map(host)).map(part).collect();
        }
        let pseudo = self.pseudo.take().unwrap_or_else(|| {
            let host = self.hosts.first().cloned().unwrap_or_default();
            [
                (":method", self.method.clone()),
                (":scheme", b"http".to_vec()),
                (":authority", host),
                (":path", self.target.clone()),
            ]
            .map(|(name, value)| (name.as_bytes().to_vec(), value))
            .to_vec()
        });
        pseudo.into_iter().map(|(name, value)| part(header(name, value))).collect()
    }
}

impl Piece {
    fn of(bytes: Vec<u8>, brings: Option<Who>, part: Part) -> Self {
        Self { bytes, brings, message: 0, part }
    }
}

impl Field {
    fn piece(self, over: Over, part: Part) -> Piece {
        let bytes = match over {
            Over::Http1 if self.separator.is_empty() => self.name,
            Over::Http1 => [&self.name, self.separator, &self.value, b"\r\n"].concat(),
            Over::Http2 => header(self.name, self.value),
        };
        Piece::of(bytes, self.brings, part)
    }
}
