//! Who may call what: every call of the descriptor against every kind of caller, on the running program.
//!
//! Each request would succeed if rights sufficed, on a target of its own; what is refused leaves the
//! store as it was. A call without a row fails, and so does a row that the documentation tells otherwise.

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _};
use latchkey::proto;
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

use self::table::{CALLERS, Caller, Cell, ROWS, Row};
use crate::support::reason_of;
use stage::{Stage, Target};

mod races;
mod stage;
mod table;
mod walks;

#[tokio::test]
async fn every_call_answers_every_kind_of_caller_as_the_table_says() {
    let stage = Stage::set().await;
    let mut raw = Raw(stage.channel().await);
    for row in ROWS {
        for (caller, cell) in CALLERS.iter().zip(row.cells) {
            let target = stage.target().await;
            let request = (row.request)(&target);
            let place = format!("{} ({}), {caller:?}", row.call, row.what);
            let before = stage.head().await;
            let answer = raw.call(row.call, &stage.credential(*caller, row.scope), request).await;
            let after = stage.head().await;
            match (cell, answer) {
                (Cell::Done, Ok(_)) => {}
                (Cell::Hidden, Ok(answer)) => {
                    let shown = String::from_utf8_lossy(&answer);
                    let is_told = shown.contains("acme") || shown.contains(&target.key_id);
                    assert!(!is_told, "{place}: {shown}");
                }
                (Cell::Refused(code, reason), Err(status)) => {
                    assert_eq!(
                        (status.code(), reason_of(&status).as_str()),
                        (*code, *reason),
                        "{place}"
                    );
                }
                (cell, answer) => panic!("{place}: not {cell:?}, but {answer:?}"),
            }
            let is_change = *cell == Cell::Done && row.changes;
            assert_eq!(is_change, before != after, "{place}: the store's revision");
        }
    }
}

#[test]
fn every_call_of_the_descriptor_has_a_row() {
    let calls: BTreeSet<_> = methods().into_iter().collect();
    let rows: BTreeSet<_> = ROWS.iter().map(|row| row.call.to_owned()).collect();
    assert_eq!(rows, calls);
}

#[tokio::test]
async fn what_is_foreign_and_what_is_not_there_are_told_in_the_same_bytes() {
    let stage = Stage::set().await;
    let mut raw = Raw(stage.channel().await);
    let there = stage.target().await;
    let unknown = Target {
        key_id: "key_00000000000000000000000000".into(),
        account: "nobody".into(),
        ..there.clone()
    };
    let unreadable = Target { key_id: "key_?".into(), account: "no/body".into(), ..there.clone() };
    let mut told = BTreeSet::new();
    for row in ROWS.iter().filter(|row| row.cells[Caller::Foreign as usize] == Cell::NOT_FOUND) {
        for (caller, target) in [
            (Caller::Foreign, &there),
            (Caller::Foreign, &unknown),
            (Caller::Foreign, &unreadable),
            (Caller::Reserved, &unknown),
        ] {
            // A token is no id: that of no key stands in for one that is not there.
            let token = "hm_live_0000000000000000000000000000002dlYSp".to_owned();
            let token = if target.key_id == there.key_id { target.token.clone() } else { token };
            let target = Target { token, ..target.clone() };
            let credential = stage.credential(caller, row.scope);
            let refused =
                raw.call(row.call, &credential, (row.request)(&target)).await.unwrap_err();
            told.insert((
                refused.code() as i32,
                refused.message().to_owned(),
                refused.details().to_owned(),
            ));
            assert_eq!(refused.code(), Code::NotFound, "{}: {refused:?}", row.call);
        }
    }
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn the_documentation_has_the_scope_of_every_call() {
    let page = include_str!("../../docs/administration.md");
    let table = page.split("\n\n").find(|part| part.starts_with("| call | scope |")).unwrap();
    let lines: Vec<_> = table.lines().skip(2).collect();
    for Row { call, scope, .. } in ROWS {
        let name = format!("`{}`", call.rsplit('/').next().unwrap());
        let of_call: Vec<_> = lines.iter().filter(|line| line.contains(&name)).collect();
        assert!(!of_call.is_empty(), "{name} has no line");
        for line in of_call {
            assert!(line.contains(&format!("`{scope}`")), "{name} needs `{scope}`: {line}");
        }
    }
}

/// The path of every method of `latchkey.v1`.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let ours = set.file.into_iter().filter(|file| file.package() == "latchkey.v1");
    ours.flat_map(|file| file.service)
        .flat_map(|service| {
            let path = format!("/latchkey.v1.{}", service.name());
            service.method.into_iter().map(move |method| format!("{path}/{}", method.name()))
        })
        .collect()
}

/// Calls any method with bytes, and gives the bytes of the answer.
struct Raw(Channel);

impl Raw {
    async fn call(
        &mut self,
        path: &str,
        credential: &[String],
        body: Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        let mut client = tonic::client::Grpc::new(self.0.clone());
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(body);
        for value in credential {
            request.metadata_mut().append("authorization", value.parse().unwrap());
        }
        let path = path.parse().unwrap();
        client.unary(request, path, Bytes).await.map(tonic::Response::into_inner)
    }
}

#[derive(Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).into()))
    }
}
