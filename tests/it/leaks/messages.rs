//! Messages with a canary in each field that takes text, made from the descriptors of the API: a new call or field is
//! covered by itself.

use latchkey::proto;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Messages within messages are filled to this depth.
const DEPTH_MAX: usize = 5;

/// The API's descriptors.
pub(super) struct Api {
    messages: Vec<(String, DescriptorProto)>,
    methods: Vec<(String, String)>,
}

/// Which fields of a message get the canary.
#[derive(Clone, Copy)]
enum Fill {
    All,
    /// Only that which is reached as the nth.
    Nth(usize),
}

impl Api {
    pub(super) fn load() -> Self {
        let set = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut api = Self { messages: vec![], methods: vec![] };
        for file in set.file {
            let package = format!(".{}", file.package());
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    api.methods.push((path, method.input_type().to_owned()));
                }
            }
            for message in file.message_type {
                api.add(&package, message);
            }
        }
        api
    }

    fn add(&mut self, scope: &str, message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for inner in &message.nested_type {
            self.add(&name, inner.clone());
        }
        self.messages.push((name, message));
    }

    /// Each call's path with its messages: the canary everywhere, and in one field after the other.
    pub(super) fn calls(&self, canary: &str) -> Vec<(String, Vec<Vec<u8>>)> {
        let is_ours = |path: &str| path.starts_with("/latchkey.") || path.starts_with("/envoy.");
        let made = self.methods.iter().filter(|(path, _)| is_ours(path));
        made.map(|(path, input)| {
            let mut messages = vec![self.message(input, canary, Fill::All).0];
            let fields = self.message(input, canary, Fill::All).1;
            messages.extend((0..fields).map(|nth| self.message(input, canary, Fill::Nth(nth)).0));
            (path.clone(), messages)
        })
        .collect()
    }

    /// The bytes of a message, and how many fields of text there are in it.
    fn message(&self, name: &str, canary: &str, fill: Fill) -> (Vec<u8>, usize) {
        let mut filling = Filling { api: self, canary, fill, seen: 0 };
        let bytes = filling.message(name, DEPTH_MAX);
        (bytes, filling.seen)
    }
}

struct Filling<'a> {
    api: &'a Api,
    canary: &'a str,
    fill: Fill,
    seen: usize,
}

impl Filling<'_> {
    fn message(&mut self, name: &str, depth: usize) -> Vec<u8> {
        let found = self.api.messages.iter().find(|(known, _)| known == name);
        // Google's own types come with their crate, and hold no text that matters here but `FieldMask`'s.
        let Some((_, message)) = found else {
            return if name == ".google.protobuf.FieldMask" { self.text(1) } else { vec![] };
        };
        let fields = message.field.clone();
        fields.iter().flat_map(|field| self.field(field, depth)).collect()
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: usize) -> Vec<u8> {
        let number = u64::try_from(field.number()).unwrap();
        match field.r#type() {
            Type::String | Type::Bytes => self.text(number),
            Type::Message if depth > 0 => {
                let before = self.seen;
                let inner = self.message(field.type_name(), depth - 1);
                // An empty message is a field as well, and may be one too many of a oneof.
                let is_wanted = matches!(self.fill, Fill::All)
                    || !inner.is_empty()
                    || matches!(self.fill, Fill::Nth(nth) if (before..self.seen).contains(&nth));
                if is_wanted { delimited(number, &inner) } else { vec![] }
            }
            Type::Bool | Type::Enum | Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64
                if field.label() != Label::Repeated && matches!(self.fill, Fill::All) =>
            {
                [varint(number << 3), varint(1)].concat()
            }
            _ => vec![],
        }
    }

    fn text(&mut self, number: u64) -> Vec<u8> {
        let this = self.seen;
        self.seen += 1;
        match self.fill {
            Fill::Nth(nth) if nth != this => vec![],
            Fill::All | Fill::Nth(_) => delimited(number, self.canary.as_bytes()),
        }
    }
}

fn delimited(number: u64, bytes: &[u8]) -> Vec<u8> {
    let length = u64::try_from(bytes.len()).unwrap();
    [varint(number << 3 | 2), varint(length), bytes.to_vec()].concat()
}

fn varint(mut rest: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

#[test]
fn every_field_of_text_gets_the_canary_alone_once() {
    let calls = Api::load().calls("CANARY");
    let create = calls.iter().find(|(path, _)| path.ends_with("KeyService/CreateKey")).unwrap();
    let [everywhere, alone @ ..] = &create.1[..] else { panic!("no messages") };
    let count = |bytes: &[u8]| bytes.windows(6).filter(|window| window == b"CANARY").count();
    assert!(count(everywhere) >= 7, "{}", count(everywhere));
    assert_eq!(alone.len(), count(everywhere));
    assert!(alone.iter().all(|bytes| count(bytes) == 1));
}
