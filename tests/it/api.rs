//! The API as a whole: which calls there are, and that none of them is open to everybody.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use latchkey::app::Node;
use latchkey::clock::Timestamp;
use latchkey::gateway::{CredentialHeaders, Gateway, Mistakes, Networks};
use latchkey::grpc::{self, Callers, Dispatch};
use latchkey::machine::{self, MachineEntropy};
use latchkey::policy::Policy;
use latchkey::proto;
use latchkey::store::{self, Command};
use latchkey::token::{Environment, Prefix};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower_service::Service as _;

use crate::support::{Folder, reason_of};

/// A message with no fields, as it is framed on the wire.
const EMPTY_MESSAGE: [u8; 5] = [0; 5];
const HOT_SERVICE: &str = "latchkey.v1.AuthorizationService";

#[tokio::test]
async fn every_call_of_administration_needs_a_credential() {
    let mut api = Api::with(Callers::Any).await;
    let methods = methods();
    assert!(methods.len() > 10, "only {methods:?}");
    for (service, path) in methods {
        if service == HOT_SERVICE {
            continue;
        }
        let status = api.call(&path, &[]).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{path}: {status:?}");
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        assert_eq!(reason, Some("MISSING_CREDENTIAL"), "{path}");
    }
}

#[tokio::test]
async fn decisions_need_a_credential_where_callers_must_have_a_key() {
    let mut api = Api::with(Callers::Key).await;
    for (service, path) in methods() {
        if service == HOT_SERVICE {
            let status = api.call(&path, &[]).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{path}: {status:?}");
        }
    }
    let mut open = Api::with(Callers::Any).await;
    let status = open.call("/latchkey.v1.AuthorizationService/Authorize", &[]).await;
    assert_eq!(status.code(), Code::InvalidArgument, "it is the empty question that is wrong");
}

#[tokio::test]
async fn a_credential_that_is_not_one_key_is_not_valid() {
    let mut api = Api::with(Callers::Any).await;
    let path = "/latchkey.v1.KeyService/GetKey";
    for values in [vec!["Bearer x"], vec!["Basic eDp4"], vec!["Bearer x", "Bearer x"]] {
        let status = api.call(path, &values).await;
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        assert_eq!(reason, Some("INVALID_CREDENTIAL"), "{values:?}");
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_path_that_only_looks_like_a_method_reaches_none() {
    let mut api = Api::with(Callers::Any).await;
    for path in [
        "/",
        "/latchkey.v1.KeyService/",
        "/latchkey.v1.KeyService/getKey",
        "/latchkey.v1.KeyService//GetKey",
        "//latchkey.v1.KeyService/GetKey",
        "/latchkey.v1.KeyService/GetKey/",
        "/latchkey.v1.KeyService/Get%4Bey",
        "/LATCHKEY.v1.KeyService/GetKey",
        "/latchkey.v1.AuthorizationService/authorize",
        "/latchkey.v1.AuthorizationService//Authorize",
        "/latchkey.v1.AuthorizationService/",
        "/latchkey.v2.KeyService/GetKey",
    ] {
        let status = api.call(path, &[]).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
        assert_eq!(reason_of(&status), "UNKNOWN_METHOD", "{path}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_by_its_length_alone() {
    let mut api = Api::with(Callers::Any).await;
    for path in ["/grpc.health.v1.Health/Check", "/latchkey.v1.AuthorizationService/Authorize"] {
        // Only the five bytes that announce 100 MB; the rest never comes.
        let status = api.send(path, &[], &[0, 6, 0, 0, 0]).await;
        assert_eq!(reason_of(&status), "MESSAGE_TOO_LARGE", "{path}");
        assert!(status.message().contains("the limit is"), "{status:?}");
    }
}

#[tokio::test]
async fn a_deadline_that_passes_is_told_as_such() {
    let mut api = Api::with(Callers::Any).await;
    let request = Request::post("/latchkey.v1.KeyService/GetKey")
        .header("grpc-timeout", "1n")
        .body(Full::new(Bytes::from_static(&EMPTY_MESSAGE)))
        .unwrap();
    let status = status(&api.dispatch.call(request).await.unwrap());
    // The task may be faster than the timer.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Unauthenticated), "{status:?}");
}

#[test]
fn every_service_of_ours_is_known_to_the_descriptor() {
    let services: BTreeSet<_> = methods().into_iter().map(|(service, _)| service).collect();
    let expected = [
        "AccountService",
        "AuditService",
        "AuthorizationService",
        "KeyService",
        "NodeService",
        "PolicyService",
    ];
    assert_eq!(services, expected.map(|name| format!("latchkey.v1.{name}")).into());
}

/// All services in this process, over a store of their own.
struct Api {
    dispatch: Dispatch,
    reader: tokio::task::JoinHandle<()>,
    _folder: Folder,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Api {
    async fn with(callers: Callers) -> Self {
        let folder = Folder::new();
        let url = format!("sqlite://{}/latchkey.db", folder.path().display());
        let store = store::open(&url).await.unwrap();
        let clock = machine::clock(machine::wall_clock(), Timestamp::EPOCH);
        let prefix = Prefix::parse("hm").unwrap();
        let node = Node::wire(
            &store,
            clock,
            Arc::new(MachineEntropy),
            &prefix,
            100,
            std::time::Duration::from_millis(250),
            None,
        );
        let feed = node.feed.clone();
        let reader = tokio::spawn(async move { feed.run().await });
        let (_, secret) = node.keyring.new_token(Environment::Live);
        let seed = Command::Seed { policy: Policy::default(), secret };
        node.keyring.mutate_as_system("test", seed).await.unwrap();
        let (_, dispatch) = grpc::service(grpc::Parts {
            authorizer: node.authorizer,
            keyring: node.keyring,
            callers,
            gateway: Gateway {
                realm: "latchkey".into(),
                credential_headers: CredentialHeaders::default(),
                forwards_credential: false,
                trusted_proxies: Networks::default(),
                mistakes: Mistakes::default(),
            },
            reflection: true,
            background: tokio::runtime::Handle::current(),
            observer: latchkey::telemetry::Observer::new(Arc::default(), None),
            is_stopping: Arc::default(),
        });
        Self { dispatch, reader, _folder: folder }
    }

    /// Sends a message with no fields and these values of `authorization`.
    async fn call(&mut self, path: &str, authorization: &[&str]) -> Status {
        self.send(path, authorization, &EMPTY_MESSAGE).await
    }

    async fn send(&mut self, path: &str, authorization: &[&str], body: &[u8]) -> Status {
        let mut request = Request::post(path).header("content-type", "application/grpc");
        for value in authorization {
            request = request.header("authorization", *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        status(&self.dispatch.call(request).await.unwrap())
    }
}

/// The status of an answer that has no message: it stands in the headers.
fn status<B>(response: &Response<B>) -> Status {
    Status::from_header_map(response.headers()).expect("an error, and not a message")
}

/// The service and the path of every method of `latchkey.v1`.
fn methods() -> Vec<(String, String)> {
    let set = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let files = set.file.iter().filter(|file| file.package() == "latchkey.v1");
    files
        .flat_map(|file| &file.service)
        .flat_map(|service| service.method.iter().map(move |method| (service, method)))
        .map(|(service, method)| {
            let service = format!("latchkey.v1.{}", service.name());
            let path = format!("/{service}/{}", method.name());
            (service, path)
        })
        .collect()
}
