//! What every proxy is asked, and what has to come of it: latchkey, an upstream, keys, and a list of requests.

use latchkey::proto::v1::{CreateKeyRequest, Environment, Restrictions};
use rustix::process::Signal;

use super::program::{Example, Proxy};
use super::requests::{Expected, Request, requests, while_latchkey_is_away};
use super::wire::{CLIENT, Line, send};
use crate::gateways::forward_auth::Answer;
use crate::gateways::with_rules;
use crate::support::{Echo, Received, Server, plain};

/// How the example says what a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Scopes,
    Rules,
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
    pub(super) admin: String,
    /// May read from where the clients are, and from nowhere else.
    pub(super) here: String,
    /// May read from where no client is.
    pub(super) elsewhere: String,
}

pub(super) struct Stage {
    pub(super) by: By,
    server: Server,
    pub(super) echo: Echo,
    pub(super) line: Line,
    pub(super) keys: Keys,
}

impl Stage {
    pub(super) async fn set(by: By) -> Self {
        let server = with_rules(RULES).await;
        let keys = Keys {
            reader: server.live_key(),
            admin: key(&server, "memory:admin", None).await,
            here: key(&server, "memory:read", Some(CLIENT)).await,
            elsewhere: key(&server, "memory:read", Some("192.0.2.7")).await,
        };
        let line = Line::to(server.http()).await;
        Self { by, server, echo: Echo::start(), line, keys }
    }

    /// Starts the example; the error is what the proxy says when it refuses to.
    pub(super) async fn start(&self, example: &Example) -> Result<Proxy, String> {
        Proxy::start(example, self.line.address(), self.echo.address()).await
    }

    /// Sends every request until so many came out otherwise than they have to, and tells how.
    pub(super) async fn ask_everything(&self, proxy: &Proxy, wrong_max: usize) -> Vec<String> {
        let mut wrong = self.ask_all(proxy, requests(self.by, &self.keys), wrong_max).await;
        self.line.cut().await;
        wrong.extend(self.ask_all(proxy, while_latchkey_is_away(&self.keys), wrong_max).await);
        self.line.mend();
        let again = vec![Request::get("/items/7").key(&self.keys.reader)];
        wrong.extend(self.ask_all(proxy, again, wrong_max).await);
        wrong
    }

    /// The same while latchkey takes connections and says nothing.
    pub(super) async fn ask_while_latchkey_hangs(&self, proxy: &Proxy) -> Vec<String> {
        let request = Request::get("/items/7").key(&self.keys.reader);
        self.server.signal(Signal::STOP);
        let mut wrong = self.ask_all(proxy, vec![request.clone().refused(503)], 1).await;
        self.server.signal(Signal::CONT);
        wrong.extend(self.ask_all(proxy, vec![request], 1).await);
        wrong
    }

    async fn ask_all(&self, proxy: &Proxy, all: Vec<Request>, wrong_max: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        for request in all {
            wrong.extend(self.ask(proxy, &request).await.err());
            if wrong.len() >= wrong_max {
                break;
            }
        }
        wrong
    }

    async fn ask(&self, proxy: &Proxy, request: &Request) -> Result<(), String> {
        self.echo.take();
        let answer = send(proxy.address(), &request.bytes()).await;
        let received = self.echo.take();
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
            }
        };
        told.or_else(wrong)
    }
}

/// A key of the development account, and perhaps for one address.
async fn key(server: &Server, scope: &str, address: Option<&str>) -> String {
    let restrictions =
        address.map(|address| Restrictions { allowed_cidrs: vec![format!("{address}/32")] });
    let request = CreateKeyRequest {
        account_id: "demo".into(),
        display_name: "k".into(),
        environment: Environment::Live.into(),
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
    if told != (request.method, path_of(&request.target), request.body) {
        return Err("the upstream sees another request".to_owned());
    }
    let host = it.alike("host");
    if host.len() != 1 || host[0].split(':').next() != Some("api.example.com") {
        return Err(format!("the upstream is told the host {host:?}"));
    }
    for secret in [&keys.reader, &keys.admin, &keys.here, &keys.elsewhere] {
        if it.headers.iter().any(|(_, value)| value.contains(secret.as_str())) {
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

/// The target without an origin, which some proxies pass on and others do not.
fn path_of(target: &str) -> &str {
    target.strip_prefix("http://api.example.com").unwrap_or(target)
}

/// Whether the upstream is told who it is, and by nobody else.
fn identified(request: &Request, it: &Received, keys: &Keys) -> Result<(), String> {
    let scope = if request.mentions(&keys.admin) {
        "memory:admin"
    } else if request.mentions(&keys.here) {
        "memory:read"
    } else {
        "memory:readonly"
    };
    for (name, value) in [
        ("x-latchkey-account-id", "demo"),
        ("x-latchkey-environment", "live"),
        ("x-latchkey-scopes", scope),
        ("x-latchkey-plan", "developer"),
        ("x-latchkey-billable", "true"),
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
