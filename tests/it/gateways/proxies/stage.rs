//! What every proxy is asked, and what has to come of it: latchkey, an upstream, keys, and a list of requests.

use std::path::Path;

use latchkey::policy::Policy;
use latchkey::proto::v1::{CreateKeyRequest, Environment, Restrictions};

use super::program::{Example, Program, Proxy};
use super::requests::{Expected, Request, Upstream, requests, while_latchkey_is_away};
use super::wire::{CLIENT, Line, send};
use crate::gateways::forward_auth::Answer;
use crate::gateways::with_policy;
use crate::support::{Echo, Received, Server, plain};

/// How the example says what a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Scopes,
    Rules,
    /// Rules that go by tools.
    Mcp,
    /// Scopes, and an environment for each of two places.
    Sandbox,
}

/// The rules that say the same as the scopes that stand in the examples, and more.
const RULES: &str = r#"
[[rules]]
name = "read"
hosts = ["api.example.com"]
methods = ["GET", "HEAD", "POST"]
path = "/items/{*rest}"
required_scope = "memory:read"

[[rules]]
name = "delete"
hosts = ["api.example.com"]
methods = ["DELETE"]
path = "/items/{*rest}"
required_scope = "memory:admin"

[[rules]]
name = "admin"
hosts = ["api.example.com"]
path = "/admin/{*rest}"
required_scope = "memory:admin"

[[rules]]
name = "health"
path = "/health"
public = true
"#;

/// Keys of one account.
pub(super) struct Keys {
    /// May read.
    pub(super) reader: String,
    pub(super) writer: String,
    pub(super) admin: String,
    /// May read from where the clients are, and from nowhere else.
    pub(super) here: String,
    /// May read from where no client is.
    pub(super) elsewhere: String,
    /// May read, in tests.
    pub(super) test: String,
    /// The same, with the prefix that tokens had before.
    pub(super) older_test: String,
}

impl Keys {
    async fn make(server: &Server, older_test: String) -> Self {
        use Environment::{Live, Test};
        Self {
            reader: server.live_key(),
            writer: key(server, "memory:write", Live, None).await,
            admin: key(server, "memory:admin", Live, None).await,
            here: key(server, "memory:read", Live, Some(CLIENT)).await,
            elsewhere: key(server, "memory:read", Live, Some("192.0.2.7")).await,
            test: key(server, "memory:read", Test, None).await,
            older_test,
        }
    }

    /// Each with its scope and its environment.
    fn all(&self) -> [(&str, &'static str, &'static str); 7] {
        let Self { reader, writer, admin, here, elsewhere, test, older_test } = self;
        [
            (reader, "memory:readonly", "live"),
            (writer, "memory:write", "live"),
            (admin, "memory:admin", "live"),
            (here, "memory:read", "live"),
            (elsewhere, "memory:read", "live"),
            (test, "memory:read", "test"),
            (older_test, "memory:read", "test"),
        ]
    }
}

pub(super) struct Stage {
    pub(super) by: By,
    server: Server,
    pub(super) echo: Echo,
    pub(super) sandbox: Echo,
    /// To latchkey: over HTTP, and over gRPC.
    pub(super) http: Line,
    pub(super) grpc: Line,
    pub(super) keys: Keys,
}

impl Stage {
    pub(super) async fn set(by: By) -> Self {
        // The tokens of its first start have another prefix.
        let builder = Server::build().environment("LATCHKEY__TOKEN__PREFIX", "older");
        let mut first = with_policy(builder, &policy(by)).await;
        let older_test = key(&first, "memory:read", Environment::Test, None).await;
        first.kill().await;
        let server = with_policy(first.again(), "").await;
        let keys = Keys::make(&server, older_test).await;
        let (http, grpc) = (Line::to(server.http()).await, Line::to(server.grpc()).await);
        let (echo, sandbox) = (Echo::start(), Echo::start());
        Self { by, server, echo, sandbox, http, grpc, keys }
    }

    /// Starts the example; the error is what the proxy says when it refuses to.
    pub(super) async fn start(&self, example: &Example) -> Result<Proxy, String> {
        let servers = [
            ("8080", self.http.address()),
            ("50051", self.grpc.address()),
            ("3000", self.echo.address()),
            ("3001", self.sandbox.address()),
        ];
        Proxy::start(example, &servers).await
    }

    /// Sends every request until so many came out otherwise than they have to, and tells how.
    pub(super) async fn ask_everything(&self, proxy: &Proxy, wrong_max: usize) -> Vec<String> {
        let mut wrong = self.ask_all(proxy, requests(self.by, &self.keys), wrong_max).await;
        self.http.cut().await;
        self.grpc.cut().await;
        wrong.extend(
            self.ask_all(proxy, while_latchkey_is_away(self.by, &self.keys), wrong_max).await,
        );
        self.http.mend();
        self.grpc.mend();
        let again = vec![Request::plain(self.by).key(&self.keys.reader)];
        wrong.extend(self.ask_all(proxy, again, wrong_max).await);
        wrong
    }

    /// The same while latchkey takes connections and says nothing.
    pub(super) async fn ask_while_latchkey_hangs(&self, proxy: &Proxy) -> Vec<String> {
        let request = Request::get("/items/7").key(&self.keys.reader);
        self.server.pause().await;
        let mut wrong = self.ask_all(proxy, vec![request.clone().refused(503)], 1).await;
        self.server.resume();
        wrong.extend(self.ask_all(proxy, vec![request], 1).await);
        wrong
    }

    async fn ask_all(&self, proxy: &Proxy, all: Vec<Request>, wrong_max: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        for request in all.into_iter().map(|request| request.before(proxy.program())) {
            wrong.extend(self.ask(proxy, &request).await.err());
            if wrong.len() >= wrong_max {
                break;
            }
        }
        wrong
    }

    async fn ask(&self, proxy: &Proxy, request: &Request) -> Result<(), String> {
        let (upstream, other) = match request.upstream {
            Upstream::Production => (&self.echo, &self.sandbox),
            Upstream::Sandbox => (&self.sandbox, &self.echo),
        };
        upstream.take();
        let answer = send(proxy.address(), &request.bytes()).await;
        let received = upstream.take();
        let astray = other.take();
        let wrong = |what: String| {
            Err(format!("{request:?}\nis wrong: {what}\n{answer:?}\nthe upstream saw {received:?}"))
        };
        let told = match (&request.expected, &answer) {
            (
                Expected::Stopped | Expected::PassedOrStopped | Expected::StoppedOrCleaned,
                Err(_),
            ) if received.is_empty() => Ok(()),
            (_, Err(error)) => Err(error.clone()),
            (Expected::Refused(503), Ok(answer)) => undecided(proxy, answer, &received),
            (Expected::Refused(status), Ok(answer)) => refused(answer, *status, &received),
            (Expected::StoppedOrCleaned, Ok(_)) if proxy.cleans_paths() && !received.is_empty() => {
                cleaned(&received)
            }
            (Expected::Stopped | Expected::StoppedOrCleaned, Ok(answer)) => {
                stopped(answer, &received)
            }
            (Expected::PassedOrStopped, Ok(answer)) if received.is_empty() => {
                stopped(answer, &received)
            }
            (Expected::Passed | Expected::PassedOrStopped, Ok(answer)) => {
                passed(request, answer, &received, &self.keys)
                    .and_then(|()| tells_the_client(proxy.program(), &received))
            }
        };
        let told = if astray.is_empty() { told } else { Err(format!("it gets to {astray:?}")) };
        told.or_else(wrong)
    }
}

/// The policy that the example asks for, for any number of keys.
fn policy(by: By) -> String {
    let mut policy = match by {
        By::Mcp => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policy/hypermemory.toml");
            Policy::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap()
        }
        By::Scopes | By::Rules | By::Sandbox => Policy::default(),
    };
    policy.accepted_prefixes = vec!["hm".to_owned(), "older".to_owned()];
    for plan in &mut policy.plans {
        plan.max_keys = None;
    }
    let rules = if by == By::Rules { RULES } else { "" };
    format!("{}\n{rules}", policy.to_toml())
}

/// A key of the development account, and perhaps for one address.
async fn key(
    server: &Server,
    scope: &str,
    environment: Environment,
    address: Option<&str>,
) -> String {
    let restrictions =
        address.map(|address| Restrictions { allowed_cidrs: vec![format!("{address}/32")] });
    let request = CreateKeyRequest {
        account_id: "demo".into(),
        display_name: "k".into(),
        environment: environment.into(),
        scopes: vec![scope.into()],
        restrictions,
        ..Default::default()
    };
    let mut keys = server.keys(&server.root_token()).await;
    keys.create_key(request).await.unwrap().into_inner().token
}

fn refused(answer: &Answer, status: u16, received: &[Received]) -> Result<(), String> {
    if answer.status != status {
        return Err(format!("{} is not {status}", answer.status));
    }
    let challenge = answer.header("www-authenticate");
    if status == 401 && !challenge.starts_with("Bearer realm=\"latchkey\"") {
        return Err(format!("the challenge is {challenge:?}"));
    }
    stopped(answer, received)
}

fn undecided(proxy: &Proxy, answer: &Answer, received: &[Received]) -> Result<(), String> {
    if (answer.status, answer.header("retry-after")) != proxy.says_when_undecided() {
        return Err("the client is told something else".to_owned());
    }
    stopped(answer, received)
}

fn cleaned(received: &[Received]) -> Result<(), String> {
    let mut paths = received.iter().map(|it| path_of(&it.target).split('?').next().unwrap());
    let is_clean = |path: &str| {
        path.starts_with("/items/")
            && !["//", "/.", ";", "%", "\\"].iter().any(|it| path.contains(it))
    };
    match paths.find(|path| !is_clean(path)) {
        Some(path) => Err(format!("the upstream is asked for {path}")),
        None => Ok(()),
    }
}

fn stopped(answer: &Answer, received: &[Received]) -> Result<(), String> {
    if answer.status < 400 || !received.is_empty() {
        return Err("it is not stopped".to_owned());
    }
    match answer.headers.keys().find(|name| name.starts_with("x-latchkey-")) {
        Some(name) => Err(format!("the client is told {name}")),
        None => Ok(()),
    }
}

fn passed(
    request: &Request,
    answer: &Answer,
    received: &[Received],
    keys: &Keys,
) -> Result<(), String> {
    let [it] = received else {
        return Err("the upstream has to see it, and once".to_owned());
    };
    if answer.status != 200 {
        return Err("the upstream's answer does not get through".to_owned());
    }
    // Some write it so, for `;` separates parameters elsewhere.
    let target = it.target.replace("%3B", ";");
    let told = (it.method.as_str(), path_of(&target), it.body.as_str());
    if told != (request.method, path_of(&request.target), &*request.body) {
        return Err("the upstream sees another request".to_owned());
    }
    let host = it.alike("host");
    if host.len() != 1 || host[0].split(':').next() != Some("api.example.com") {
        return Err(format!("the upstream is told the host {host:?}"));
    }
    for (secret, _, _) in keys.all() {
        if it.headers.iter().any(|(_, value)| value.contains(secret)) {
            return Err("the upstream is told the secret".to_owned());
        }
    }
    for name in ["x-original-url", "x-rewrite-url"] {
        if !it.alike(name).iter().all(|value| value.is_empty()) {
            return Err(format!("the upstream is told {name}"));
        }
    }
    identified(request, it, keys)
}

/// Envoy tells the upstream who the client is: last, after what the client says.
fn tells_the_client(program: Program, received: &[Received]) -> Result<(), String> {
    let told = received.iter().flat_map(|it| it.alike("x-forwarded-for"));
    match told.last().and_then(|told| told.rsplit(',').next()) {
        Some(CLIENT) => Ok(()),
        _ if program != Program::Envoy => Ok(()),
        told => Err(format!("the upstream is told the client {told:?}")),
    }
}

/// The target without an origin, which some proxies pass on and others do not.
fn path_of(target: &str) -> &str {
    target.strip_prefix("http://api.example.com").unwrap_or(target)
}

/// Whether the upstream is told who it is, and by nobody else.
fn identified(request: &Request, it: &Received, keys: &Keys) -> Result<(), String> {
    let all = keys.all();
    let whose = all.iter().find(|(token, _, _)| request.mentions(token));
    let (_, scope, environment) = whose.copied().unwrap_or_default();
    let is_billable = environment == "live" && !request.is_free;
    for (name, value) in [
        ("x-latchkey-account-id", "demo"),
        ("x-latchkey-environment", environment),
        ("x-latchkey-scopes", scope),
        ("x-latchkey-plan", "developer"),
        ("x-latchkey-billable", if is_billable { "true" } else { "false" }),
        ("x-latchkey-key-id", "key_"),
    ] {
        let told = it.alike(name);
        let is_right = if request.is_public() {
            told.iter().all(|told| told.is_empty())
        } else {
            matches!(&told[..], [told] if *told == value || value == "key_" && told.starts_with(value))
        };
        if !is_right {
            return Err(format!("the upstream is told {name}: {told:?}"));
        }
    }
    let count = it.headers.iter().filter(|(name, _)| plain(name).starts_with("x-latchkey-"));
    if count.count() > 6 { Err("there is one more".to_owned()) } else { Ok(()) }
}
