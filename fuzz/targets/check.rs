//! Questions of gateways, through all of the service: whatever comes is answered by a message, and lets nobody through
//! who does not bring the one key that there is.

#![no_main]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use latchkey::app::Node;
use latchkey::clock::Timestamp;
use latchkey::gateway::{CredentialHeaders, Gateway, Mistakes, Networks};
use latchkey::grpc::{self, Callers, Dispatch};
use latchkey::machine::{self, MachineEntropy};
use latchkey::policy::Policy;
use latchkey::proto::check;
use latchkey::proto::vendored::envoy::config::core::v3::address::Address;
use latchkey::proto::vendored::envoy::config::core::v3::{HeaderMap, HeaderValue};
use latchkey::proto::vendored::envoy::service::auth::v3::attribute_context::HttpRequest;
use latchkey::proto::vendored::envoy::service::auth::v3::check_response::HttpResponse;
use latchkey::proto::vendored::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, attribute_context,
};
use latchkey::store::{self, Command, NewSecret};
use latchkey::telemetry::Observer;
use latchkey::token::{Prefix, Token};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tokio::runtime::Runtime;
use tower_service::Service as _;

/// The root key, and the only one.
const TOKEN: &str = "hm_live_0000000000000000000000000000002dlYSp";
const CHECK: &str = "http://latchkey/envoy.service.auth.v3.Authorization/Check";
const RULES: &str = r#"
[[rules]]
name = "tool"
path = "/mcp"
mcp_tools = ["a"]
required_scope = "latchkey:authorize"

[[rules]]
name = "items"
path = "/v1/{*rest}"
authenticate_only = true

[[rules]]
name = "rest"
path = "/{*rest}"
required_scope = "memory:read"
"#;

static SERVICE: LazyLock<(Runtime, Mutex<Dispatch>)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let dispatch = Mutex::new(runtime.block_on(start()));
    (runtime, dispatch)
});

// The first byte says which it is: `m` is a message, anything else lines to make one of.
fuzz_target!(|data: &[u8]| {
    if let Some((b'm', message)) = data.split_first() {
        check_reading(message);
        let is_brought = message.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes());
        let status = ask(message);
        assert!(status != 200 || is_brought, "a request passes without a key");
    } else if let Ok(text) = std::str::from_utf8(data) {
        check_lines(text);
    }
});

/// Compares what is read in place with what the generated code reads.
fn check_reading(message: &[u8]) {
    let (Ok(ours), Ok(theirs)) =
        (check::CheckRequest::read(message), CheckRequest::decode(message))
    else {
        return;
    };
    let theirs = theirs.attributes.unwrap_or_default();
    let http = theirs.request.and_then(|it| it.http).unwrap_or_default();
    assert_eq!(ours.method, http.method.as_bytes());
    assert_eq!(ours.path, http.path.as_bytes());
    assert_eq!(ours.host, http.host.as_bytes());
    // Of what stands in a map twice, the generated code keeps the last.
    let map = |pairs: &[check::Pair<'_>]| -> HashMap<Vec<u8>, Vec<u8>> {
        pairs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    };
    let bytes = |map: HashMap<String, String>| -> HashMap<Vec<u8>, Vec<u8>> {
        map.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
    };
    assert_eq!(map(&ours.joined_headers), bytes(http.headers));
    assert_eq!(map(&ours.context_extensions), bytes(theirs.context_extensions));
    let raw = http.header_map.unwrap_or_default().headers.into_iter().map(|header| {
        let HeaderValue { key, value, raw_value } = header;
        (key.into_bytes(), if raw_value.is_empty() { value.into_bytes() } else { raw_value })
    });
    let own = ours.raw_headers.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
    assert!(own.eq(raw));
    let address = theirs.source.and_then(|it| it.address).and_then(|it| it.address);
    let address = match address {
        Some(Address::SocketAddress(socket)) => socket.address,
        _ => String::new(),
    };
    assert_eq!(ours.client_address, address.as_bytes());
}

/// Compares the answer with a naive reading of the question.
fn check_lines(text: &str) {
    let asked = Asked::read(text);
    let mut keys = asked.credentials();
    let (first, second) = (keys.pop(), keys.pop());
    let is_right = second.is_none() && first.as_deref() == Some(TOKEN);
    let extensions: Vec<_> =
        asked.extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let is_whole = ![&asked.method, &asked.host, &asked.path].iter().any(|part| part.is_empty());
    let status = ask(&asked.message().encode_to_vec());

    assert!(status != 200 || is_right, "{text:?} passes");
    match extensions[..] {
        [("authenticate_only", "true")] | [("required_scope", "latchkey:authorize")]
            if is_whole =>
        {
            assert_eq!(status, if is_right { 200 } else { 401 }, "{text:?}");
        }
        [("required_scope", "memory:read")] if is_whole => {
            assert_eq!(status, if is_right { 403 } else { 401 }, "{text:?}");
        }
        _ => {}
    }
    let is_known = |name: &str| {
        ["required_scope", "authenticate_only", "required_environment", "cost", "realm"]
            .contains(&name)
    };
    if extensions.iter().any(|(name, _)| !is_known(name)) {
        assert_eq!(status, 500, "{text:?}");
    }
}

/// The HTTP status of the answer, which is always one message.
fn ask(message: &[u8]) -> u16 {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    let request = Request::post(CHECK).body(Full::new(framed.freeze())).expect("a request");
    let (runtime, dispatch) = &*SERVICE;
    let answering = dispatch.lock().expect("no panic before").call(request);
    let bytes: Bytes = runtime.block_on(async {
        let answer = answering.await.expect("never an error");
        assert!(!answer.headers().contains_key("grpc-status"), "{:?}", answer.headers());
        answer.into_body().collect().await.expect("a body").to_bytes()
    });
    let answer = CheckResponse::decode(&bytes[5..]).expect("a message");
    let code = answer.status.expect("never left out").code;
    match answer.http_response.expect("never left out") {
        HttpResponse::OkResponse(_) => {
            assert_eq!(code, 0);
            200
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(code, 0);
            denied.status.expect("never left out").code as u16
        }
        HttpResponse::ErrorResponse(_) => panic!("never sent"),
    }
}

// === Questions out of lines ===

#[derive(Default)]
struct Asked {
    method: String,
    host: String,
    path: String,
    joined: Vec<(String, String)>,
    raw: Vec<(String, String)>,
    extensions: HashMap<String, String>,
}

impl Asked {
    /// A line is `M`ethod, `H`ost, `P`ath, `h`eader, `r`aw header or `e`xtension; `$` in it is the key.
    fn read(text: &str) -> Self {
        let mut asked = Self::default();
        for line in text.lines() {
            let mut chars = line.chars();
            let kind = chars.next();
            let rest = chars.as_str().replace('$', TOKEN);
            let (name, value) = rest.split_once('=').unwrap_or((&rest, ""));
            let pair = (name.to_owned(), value.to_owned());
            match kind {
                Some('M') => asked.method = rest,
                Some('H') => asked.host = rest,
                Some('P') => asked.path = rest,
                Some('h') => asked.joined.push(pair),
                Some('r') => asked.raw.push(pair),
                Some('e') => drop(asked.extensions.insert(pair.0, pair.1)),
                _ => {}
            }
        }
        asked
    }

    /// What was brought as a key; what is none counts as an empty one.
    fn credentials(&self) -> Vec<String> {
        let joined: Vec<_> = self.joined().into_iter().collect();
        let headers = if self.raw.is_empty() { &joined } else { &self.raw };
        let key = |(name, value): &(String, String)| match name.to_ascii_lowercase().as_str() {
            "x-api-key" => Some(value.clone()),
            "authorization" => match value.split(' ').collect::<Vec<_>>()[..] {
                [word, key] if word.eq_ignore_ascii_case("bearer") => Some(key.to_owned()),
                _ => Some(String::new()),
            },
            _ => None,
        };
        headers.iter().filter_map(key).collect()
    }

    /// As Envoy joins what is repeated.
    fn joined(&self) -> HashMap<String, String> {
        let mut joined = HashMap::new();
        for (name, value) in &self.joined {
            let comma = |all: &mut String| *all = format!("{all},{value}");
            joined.entry(name.clone()).and_modify(comma).or_insert_with(|| value.clone());
        }
        joined
    }

    fn message(&self) -> CheckRequest {
        let headers = self.joined();
        let raw = |(key, value): &(String, String)| HeaderValue {
            key: key.clone(),
            raw_value: value.clone().into_bytes(),
            ..HeaderValue::default()
        };
        let header_map = (!self.raw.is_empty())
            .then(|| HeaderMap { headers: self.raw.iter().map(raw).collect() });
        let http = HttpRequest {
            method: self.method.clone(),
            host: self.host.clone(),
            path: self.path.clone(),
            headers,
            header_map,
            ..HttpRequest::default()
        };
        let request = attribute_context::Request { http: Some(http), ..Default::default() };
        let attributes = AttributeContext {
            request: Some(request),
            context_extensions: self.extensions.clone(),
            ..AttributeContext::default()
        };
        CheckRequest { attributes: Some(attributes) }
    }
}

// === The service ===

async fn start() -> Dispatch {
    let folder = std::env::temp_dir().join(format!("latchkey-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let url = format!("sqlite://{}/latchkey.db", folder.display());
    let store = store::open(&url).await.expect("a store");
    // What is open needs no name, and nothing is left behind.
    let clock = machine::clock(machine::wall_clock(), Timestamp::EPOCH);
    let prefix = Prefix::parse("hm").expect("a prefix");
    let span = std::time::Duration::from_secs(1);
    let node = Node::wire(&store, clock, Arc::new(MachineEntropy), &prefix, 100, span, None);
    let feed = node.feed.clone();
    tokio::spawn(async move { feed.run().await });
    let token = Token::from_text(TOKEN).expect("a token");
    let policy = Policy::from_toml(&format!("{}\n{RULES}", Policy::default().to_toml()));
    let secret = NewSecret { digest: token.digest(), hint: token.hint() };
    let seed = Command::Seed { policy: policy.expect("a policy"), secret };
    node.keyring.mutate_as_system("fuzz", seed).await.expect("seeded");
    std::fs::remove_dir_all(&folder).expect("removed");
    let (_, dispatch) = grpc::service(grpc::Parts {
        authorizer: node.authorizer,
        keyring: node.keyring,
        callers: Callers::Any,
        gateway: Gateway {
            realm: "latchkey".into(),
            credential_headers: CredentialHeaders::default(),
            forwards_credential: false,
            trusted_proxies: Networks::default(),
            mistakes: Mistakes::default(),
        },
        reflection: false,
        background: tokio::runtime::Handle::current(),
        observer: Observer::new(Arc::default(), None),
        is_stopping: Arc::default(),
    });
    dispatch
}
