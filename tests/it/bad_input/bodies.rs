//! Requests whose message does not come, or comes to more than there is room for.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use latchkey::proto::v1::{ApplyPolicyRequest, ListKeysRequest};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::wire::{APPLY_POLICY, AUTHORIZE, CREATE_KEY, HEALTH, LIST_KEYS, frame, memory};
use super::{Rig, new_key};
use crate::support::reason_of;

/// A message has four seconds to arrive; what is more is the machine's.
const END_TIME_MAX: Duration = Duration::from_secs(9);

/// A connection, and who calls on it.
struct Peer {
    send: SendRequest<Bytes>,
    authorization: Option<String>,
}

/// A call of which the peer has still to send something.
struct Open {
    answer: ResponseFuture,
    body: SendStream<Bytes>,
}

impl Peer {
    async fn connect(rig: &Rig, token: Option<&str>) -> Self {
        let tcp = TcpStream::connect(rig.server.grpc()).await.unwrap();
        let (send, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        Self { send, authorization: token.map(|token| format!("Bearer {token}")) }
    }

    /// Begins a call with these bytes, which are not all.
    async fn begin(&mut self, path: &str, headers: &[(&str, &str)], bytes: Bytes) -> Open {
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.send = self.send.clone().ready().await.unwrap();
        let request = request.body(()).unwrap();
        let (answer, mut body) = self.send.send_request(request, false).unwrap();
        body.send_data(bytes, false).unwrap();
        Open { answer, body }
    }

    async fn call(&mut self, path: &str, headers: &[(&str, &str)], bytes: Bytes) -> Status {
        let mut open = self.begin(path, headers, bytes).await;
        let _ = open.body.send_data(Bytes::new(), true);
        open.status().await
    }
}

impl Open {
    /// What the call was answered, at its beginning or at its end.
    async fn status(self) -> Status {
        let (head, mut body) = self.answer.await.unwrap().into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return status;
        }
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        let trailers: HeaderMap = body.trailers().await.unwrap().unwrap();
        Status::from_header_map(&trailers).unwrap()
    }
}

/// All but the last byte of a message of so many bytes.
fn all_but_one(bytes: usize) -> Bytes {
    let whole = frame(&vec![b'a'; bytes]);
    whole.slice(..whole.len() - 1)
}

#[tokio::test]
async fn a_stranger_is_turned_away_before_the_message_has_come() {
    let rig = Rig::start().await;
    let strangers = [None, Some("x"), Some(rig.token.as_str())];
    for (token, code) in strangers.into_iter().zip([
        Code::Unauthenticated,
        Code::Unauthenticated,
        Code::PermissionDenied,
    ]) {
        let mut peer = Peer::connect(&rig, token).await;
        for path in [APPLY_POLICY, CREATE_KEY, LIST_KEYS] {
            let open = peer.begin(path, &[], Bytes::from_static(&[0, 0])).await;
            let answered = timeout(Duration::from_secs(2), open.status()).await;
            let status = answered.expect("it is answered although nothing more comes");
            assert_eq!(status.code(), code, "{path}: {status:?}");
        }
    }
}

#[tokio::test]
async fn messages_that_never_end_are_ended_after_four_seconds() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    let mut operator = Peer::connect(&rig, Some(&rig.root)).await;
    let mut anybody = Peer::connect(&rig, None).await;
    let mut open = Vec::new();
    for bytes in [&[][..], &[0, 0], &[0, 0, 0, 0, 9, 1]] {
        for path in [APPLY_POLICY, CREATE_KEY, LIST_KEYS] {
            open.push(operator.begin(path, &[], Bytes::from_static(bytes)).await);
        }
        for path in [AUTHORIZE, HEALTH] {
            open.push(anybody.begin(path, &[], Bytes::from_static(bytes)).await);
        }
    }
    // The message is whole, and the request goes on all the same.
    let right = frame(&new_key("acme").encode_to_vec());
    open.push(operator.begin(CREATE_KEY, &[], right).await);
    let ended = timeout(END_TIME_MAX, join_all(open.into_iter().map(Open::status))).await;
    for status in ended.expect("every call ends") {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert_eq!(reason_of(&status), "DEADLINE_EXCEEDED");
        assert!(!status.message().contains("change"), "{status:?}");
    }
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn strangers_cannot_fill_the_memory_with_messages_that_do_not_end() {
    let mut rig = Rig::start().await;
    let before = memory(&rig, "VmRSS");
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::connect(&rig, None).await;
        for _ in 0..250 {
            open.push(peer.begin(APPLY_POLICY, &[], all_but_one(1 << 20)).await);
        }
    }
    for status in join_all(open.into_iter().map(Open::status)).await {
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    let height = memory(&rig, "VmHWM");
    println!("from {before} to {height} KiB");
    assert!(height < before + 48 * 1024, "from {before} to {height} KiB");
    rig.head().await;
}

#[tokio::test]
async fn strangers_with_slow_messages_leave_room_for_prompt_ones() {
    let mut rig = Rig::start().await;
    let before = memory(&rig, "VmRSS");
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut peer = Peer::connect(&rig, None).await;
        for _ in 0..250 {
            open.push(peer.begin(AUTHORIZE, &[], all_but_one(16 * 1024)).await);
        }
        rig.head().await;
    }
    let (mut late, mut full) = (0, 0);
    for status in join_all(open.into_iter().map(Open::status)).await {
        match status.code() {
            Code::DeadlineExceeded => late += 1,
            Code::Unavailable => full += 1,
            _ => panic!("{status:?}"),
        }
    }
    let height = memory(&rig, "VmHWM");
    println!("{late} were waited for, {full} were not; from {before} to {height} KiB");
    assert_eq!(late + full, 5_000);
    assert!(full >= 5_000 - 4_096, "{full}");
    assert!(height < before + 160 * 1024, "from {before} to {height} KiB");
    let mut peer = Peer::connect(&rig, None).await;
    assert_eq!(peer.call(HEALTH, &[], frame(&[])).await.code(), Code::Ok);
}

#[tokio::test]
async fn operators_find_room_for_so_many_messages_and_no_more() {
    let mut rig = Rig::start().await;
    let mut peer = Peer::connect(&rig, Some(&rig.root)).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(peer.begin(APPLY_POLICY, &[], Bytes::from_static(&[0])).await);
    }
    let list = frame(&ListKeysRequest::default().encode_to_vec());
    let status = peer.call(LIST_KEYS, &[], list.clone()).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let details = status.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    // Decisions and health go on.
    rig.head().await;
    assert_eq!(peer.call(HEALTH, &[], frame(&[])).await.code(), Code::Ok);
    // There is room again as soon as the peers go away.
    drop(open);
    let until_there_is_room =
        async { while peer.call(LIST_KEYS, &[], list.clone()).await.code() != Code::Ok {} };
    timeout(Duration::from_secs(4), until_there_is_room).await.expect("the calls have ended");
}

#[tokio::test]
async fn each_method_takes_messages_of_its_own_size() {
    let mut rig = Rig::start().await;
    let before = rig.head().await;
    let mut peer = Peer::connect(&rig, Some(&rig.root)).await;
    for (path, kib) in
        [(APPLY_POLICY, 1024), (CREATE_KEY, 64), (LIST_KEYS, 64), (AUTHORIZE, 16), (HEALTH, 4)]
    {
        let length = u32::try_from(kib * 1024 + 1).unwrap().to_be_bytes();
        let status = peer.call(path, &[], [&[0], &length[..]].concat().into()).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{path}: {status:?}");
        assert_eq!(reason_of(&status), "MESSAGE_TOO_LARGE", "{path}");
        assert!(status.message().contains("the limit is"), "{path}: {status:?}");
        // One that is just not too large is read, and then told to be none.
        let status = peer.call(path, &[], frame(&vec![0xff; kib * 1024])).await;
        assert_eq!(reason_of(&status), "INVALID_FIELD", "{path}: {status:?}");
    }
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn every_error_carries_its_reason() {
    let rig = Rig::start().await;
    let mut peer = Peer::connect(&rig, Some(&rig.root)).await;
    let right = frame(&new_key("acme").encode_to_vec());
    let compressed = [&[1], &right[1..]].concat().into();
    let cut_off = right.slice(..right.len() - 1);
    let twice = [&right[..], &right].concat().into();
    let odd_flag = [&[7], &right[1..]].concat().into();
    let unknown_service = frame(&[0x0a, 1, b'x']);
    let gzip = [("grpc-encoding", "gzip")];
    let policy = frame(&ApplyPolicyRequest::default().encode_to_vec());
    for (path, headers, bytes, code, reason) in [
        (CREATE_KEY, &[][..], Bytes::new(), Code::InvalidArgument, "INVALID_FIELD"),
        (CREATE_KEY, &[], compressed, Code::InvalidArgument, "INVALID_FIELD"),
        (CREATE_KEY, &[], odd_flag, Code::InvalidArgument, "INVALID_FIELD"),
        (CREATE_KEY, &[], cut_off, Code::InvalidArgument, "INVALID_FIELD"),
        (CREATE_KEY, &[], twice, Code::InvalidArgument, "INVALID_FIELD"),
        (CREATE_KEY, &gzip, right.clone(), Code::Unimplemented, "INVALID_FIELD"),
        (AUTHORIZE, &gzip, right.clone(), Code::Unimplemented, "INVALID_FIELD"),
        (AUTHORIZE, &[], Bytes::new(), Code::InvalidArgument, "INVALID_FIELD"),
        (APPLY_POLICY, &[], policy, Code::InvalidArgument, "INVALID_FIELD"),
        (HEALTH, &[], unknown_service, Code::NotFound, "NOT_FOUND"),
        (HEALTH, &[], frame(&[0xff]), Code::InvalidArgument, "INVALID_FIELD"),
        ("/a/b", &[], right.clone(), Code::Unimplemented, "UNKNOWN_METHOD"),
        ("/latchkey.v1.KeyService/No", &[], right, Code::Unimplemented, "UNKNOWN_METHOD"),
    ] {
        let status = peer.call(path, headers, bytes).await;
        assert_eq!((status.code(), &*reason_of(&status)), (code, reason), "{path}: {status:?}");
    }
}

#[tokio::test]
async fn a_deadline_is_told_as_what_it_may_have_left_behind() {
    let rig = Rig::start().await;
    let mut peer = Peer::connect(&rig, Some(&rig.root)).await;
    let list = frame(&ListKeysRequest::default().encode_to_vec());
    let create = frame(&new_key("acme").encode_to_vec());
    for (path, message, reason, is_a_change) in [
        (LIST_KEYS, list, "DEADLINE_EXCEEDED", false),
        (CREATE_KEY, create, "OUTCOME_UNKNOWN", true),
    ] {
        // The answer may be faster than the shortest deadline.
        let until_it_passes = async {
            loop {
                let status = peer.call(path, &[("grpc-timeout", "1n")], message.clone()).await;
                let details = status.get_error_details();
                let told = details.error_info().map(|info| info.reason.clone());
                if status.code() == Code::DeadlineExceeded && told.as_deref() == Some(reason) {
                    return status;
                }
                assert!(is_a_change || told.is_none(), "{status:?}");
            }
        };
        let status = timeout(Duration::from_secs(20), until_it_passes).await.expect(path);
        assert_eq!(status.message().contains("a change may have been made"), is_a_change);
    }
}
