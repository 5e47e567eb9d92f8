//! `latchkey explain` against what the server answered at the time.

use latchkey::proto::v1::{
    Account, ApplyPolicyRequest, AuthorizeRequest, DecisionReason, Environment, GetPolicyRequest,
    Key, Policy, Restrictions, RevokeKeyRequest, RotateKeyRequest, Scope, UpdateAccountRequest,
    UpdateKeyRequest, create_key_request, revoke_key_request,
};
use prost_types::{FieldMask, Timestamp};
use serde_json::Value;

use super::{Office, account, create, create_with};
use crate::cli::{Ended, Run};
use crate::process::sqlite;
use crate::support::Server;

/// A server with a history, in which every question and its answer is noted.
struct Story {
    server: Server,
    root: String,
    numbers: u64,
    keys: Vec<(String, String)>,
    is_suspended: bool,
    /// The time of the latest change.
    now: Timestamp,
    asked: Vec<Asked>,
}

/// A question that was asked after the change of this time, and before the next one.
struct Asked {
    time: Timestamp,
    key_id: String,
    token: String,
    scope: String,
    address: String,
    environment: Environment,
    /// The reason, the status and when the key expires; or that the question was refused.
    answer: Result<(DecisionReason, i32, Option<Timestamp>), String>,
}

impl Story {
    async fn begin(seed: u64) -> Self {
        let server = Server::start().await;
        let root = server.root_token();
        let made = account(&server, &root, "acme").await;
        let now = made.update_time.unwrap();
        Self {
            server,
            root,
            numbers: seed,
            keys: Vec::new(),
            is_suspended: false,
            now,
            asked: Vec::new(),
        }
    }

    /// A number below the bound (an LCG, of which the high bits are used).
    fn below(&mut self, bound: usize) -> usize {
        self.numbers = self.numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.numbers >> 33).unwrap() % bound
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    fn any_key(&mut self) -> String {
        let index = self.below(self.keys.len());
        self.keys[index].0.clone()
    }

    async fn create(&mut self) {
        let scope = self.one_of(&["memory:read", "memory:write", "memory:*", "memory:admin"]);
        let expires = self.below(3) == 0;
        let cidrs = if self.below(3) == 0 { vec!["192.0.2.0/24".to_owned()] } else { Vec::new() };
        let test = self.below(4) == 0;
        let made = create_with(&self.server, &self.root, "acme", &[scope], |request| {
            if expires {
                let ttl = prost_types::Duration { seconds: 0, nanos: 80_000_000 };
                request.expiration = Some(create_key_request::Expiration::Ttl(ttl));
            }
            request.restrictions = Some(Restrictions { allowed_cidrs: cidrs });
            if test {
                request.environment = Environment::Test.into();
            }
        })
        .await;
        let key = made.key.unwrap();
        self.now = key.create_time.unwrap();
        self.keys.push((key.key_id, made.token));
    }

    /// Changes fields of a key; what is refused (it is revoked, or has expired) changed nothing.
    async fn update(&mut self, key: Key, paths: &[&str]) {
        let request = UpdateKeyRequest {
            key: Some(key),
            update_mask: Some(FieldMask {
                paths: paths.iter().map(|it| (*it).to_owned()).collect(),
            }),
            expected_revision: String::new(),
        };
        if let Ok(answer) = self.server.keys(&self.root).await.update_key(request).await {
            self.changed(answer.into_inner().key.unwrap().update_time);
        }
    }

    fn changed(&mut self, time: Option<Timestamp>) {
        let at = |time: &Timestamp| (time.seconds, time.nanos);
        // A change that changed nothing has an old time.
        self.now = std::cmp::max_by_key(self.now, time.unwrap(), at);
    }

    async fn step(&mut self) {
        let key_id = self.any_key();
        let key = Key { key_id: key_id.clone(), ..Key::default() };
        match self.below(10) {
            // Of a suspended account no keys are made.
            0..2 if self.is_suspended => self.suspend(false).await,
            0..2 => self.create().await,
            2 => self.update(Key { disabled: true, ..key }, &["disabled"]).await,
            3..5 => self.update(Key { disabled: false, ..key }, &["disabled"]).await,
            5 => {
                let scopes = vec![self.one_of(&["memory:read", "memory:write"]).to_owned()];
                self.update(Key { scopes, ..key }, &["scopes"]).await;
            }
            6 => self.rotate(key_id).await,
            7 => self.revoke(key_id).await,
            8 => {
                let suspended = self.below(3) == 0;
                self.suspend(suspended).await;
            }
            _ => self.apply_policy().await,
        }
    }

    async fn rotate(&mut self, key_id: String) {
        let nanos = self.one_of(&[0, 50_000_000]);
        let overlap = Some(prost_types::Duration { seconds: 0, nanos });
        let request = RotateKeyRequest { key_id, overlap, request_id: String::new() };
        if let Ok(answer) = self.server.keys(&self.root).await.rotate_key(request).await {
            let answer = answer.into_inner();
            let key = answer.key.unwrap();
            self.changed(answer.previous_key.unwrap().update_time);
            self.keys.push((key.key_id, answer.token));
        }
    }

    async fn revoke(&mut self, key_id: String) {
        let request = RevokeKeyRequest {
            target: Some(revoke_key_request::Target::KeyId(key_id)),
            comment: "seen in a log".into(),
            ..RevokeKeyRequest::default()
        };
        let answer = self.server.keys(&self.root).await.revoke_key(request).await.unwrap();
        self.changed(answer.into_inner().key.unwrap().update_time);
    }

    async fn suspend(&mut self, suspended: bool) {
        self.is_suspended = suspended;
        let account = Account { account_id: "acme".into(), suspended, ..Account::default() };
        let request = UpdateAccountRequest {
            account: Some(account),
            update_mask: Some(FieldMask { paths: vec!["suspended".into()] }),
            expected_revision: String::new(),
        };
        let answer = self.server.accounts(&self.root).await.update_account(request).await.unwrap();
        self.changed(answer.into_inner().account.unwrap().update_time);
    }

    /// Has writing imply reading or not, and a scope `orders:read` or not.
    async fn apply_policy(&mut self) {
        let mut policies = self.server.policies(&self.root).await;
        let read = policies.get_policy(GetPolicyRequest {}).await.unwrap().into_inner();
        let mut policy: Policy = read.policy.unwrap();
        let has_orders = self.below(2) == 0;
        let implies = if self.below(2) == 0 { vec!["memory:read".to_owned()] } else { Vec::new() };
        policy.scopes.retain(|scope| scope.name != "orders:read");
        if has_orders {
            policy.scopes.push(Scope { name: "orders:read".into(), ..Scope::default() });
        }
        let write = policy.scopes.iter_mut().find(|scope| scope.name == "memory:write").unwrap();
        write.implies = implies;
        let request = ApplyPolicyRequest {
            policy: Some(policy),
            allow_orphans: true,
            ..ApplyPolicyRequest::default()
        };
        let answer = policies.apply_policy(request).await.unwrap().into_inner();
        // The receipt was written after the change, and before anything that is asked from now on.
        self.changed(answer.receipt.unwrap().effective_everywhere_time);
    }

    async fn ask(&mut self) {
        let index = self.below(self.keys.len());
        let (key_id, token) = self.keys[index].clone();
        let scope = self.one_of(&[
            "memory:read",
            "memory:write",
            "memory:read and memory:admin or memory:write",
            "orders:read",
            "",
        ]);
        let address = self.one_of(&["", "192.0.2.7", "198.51.100.1"]).to_owned();
        let environment =
            self.one_of(&[Environment::Unspecified, Environment::Live, Environment::Test]);
        let request = AuthorizeRequest {
            token: token.clone(),
            required_scope: scope.into(),
            authenticate_only: scope.is_empty(),
            client_address: address.clone(),
            required_environment: environment.into(),
            ..AuthorizeRequest::default()
        };
        let answer = self.server.decisions().await.authorize(request).await;
        let answer = match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                Ok((answer.reason(), answer.http_status, answer.expire_time))
            }
            Err(status) => Err(crate::support::message_of(&status)),
        };
        let scope = scope.to_owned();
        self.asked.push(Asked {
            time: self.now,
            key_id,
            token,
            scope,
            address,
            environment,
            answer,
        });
    }

    /// What the command says of a question at this time.
    fn explain(&self, asked: &Asked, by_token: bool) -> Ended {
        let at = rfc3339(asked.time);
        let key = if by_token { "-" } else { &asked.key_id };
        let mut arguments = vec!["explain", key, "--at", &at, "--output", "json"];
        if asked.scope.is_empty() {
            arguments.push("--authenticate-only");
        } else {
            arguments.extend(["--scope", &asked.scope]);
        }
        if !asked.address.is_empty() {
            arguments.extend(["--client-address", &asked.address]);
        }
        match asked.environment {
            Environment::Unspecified => {}
            Environment::Live => arguments.extend(["--environment", "live"]),
            Environment::Test => arguments.extend(["--environment", "test"]),
        }
        let stdin = if by_token { asked.token.as_bytes() } else { b"" };
        command(&self.server, &self.root, stdin, &arguments)
    }
}

/// The command in this operator's name.
fn command(server: &Server, token: &str, stdin: &[u8], arguments: &[&str]) -> Ended {
    let address = server.grpc().to_string();
    let environment = &[("LATCHKEY_ADDRESS", address.as_str()), ("LATCHKEY_TOKEN", token)];
    let ended = Run { stdin, environment }.latchkey(arguments);
    assert!(!ended.out.contains(token) && !ended.err.contains(token), "{ended:?}");
    ended
}

fn rfc3339(time: Timestamp) -> String {
    let micros = time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000;
    latchkey::clock::Timestamp::from_micros(micros).to_rfc3339()
}

#[tokio::test]
async fn the_past_is_explained_as_it_was_answered() {
    let mut story = Story::begin(7).await;
    let first = story.now;
    story.create().await;
    for _ in 0..45 {
        for _ in 0..2 {
            story.ask().await;
        }
        story.step().await;
    }
    let mut reasons = std::collections::BTreeSet::new();
    let mut refused = 0;
    for (index, asked) in story.asked.iter().enumerate() {
        let next = story.asked[index..].iter().find(|later| later.time != asked.time);
        let next = next.map_or(story.now, |later| later.time);
        let ended = story.explain(asked, index % 3 == 0);
        let (reason, status, expires) = match &asked.answer {
            Ok(answer) => answer,
            Err(message) => {
                assert!(message.contains("required_scope"), "{message}");
                assert_eq!(ended.code, Some(1), "{ended:?}");
                assert!(ended.err.contains("error: --scope: the scope `orders:read`"), "{ended:?}");
                refused += 1;
                continue;
            }
        };
        // It may have expired before or after it was asked.
        let at = |time: &Timestamp| (time.seconds, time.nanos);
        if expires.is_some_and(|end| at(&end) > at(&asked.time) && at(&end) <= at(&next)) {
            continue;
        }
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let told: Value = serde_json::from_str(&ended.out).unwrap();
        let wanted = (reason.as_str_name(), i64::from(*status));
        let found = (told["reason"].as_str().unwrap(), told["httpStatus"].as_i64().unwrap());
        assert_eq!(found, wanted, "question {index}: {told:#}");
        reasons.insert(reason.as_str_name());
    }
    assert!(reasons.len() >= 5 && refused > 0, "{reasons:?}, {refused} refused");

    // Before there were keys, there was none.
    let before = Asked {
        time: first,
        scope: "memory:read".into(),
        address: String::new(),
        environment: Environment::Unspecified,
        answer: Err(String::new()),
        ..story.asked.remove(0)
    };
    let told: Value = serde_json::from_str(&story.explain(&before, false).out).unwrap();
    assert_eq!(told["reason"], "DECISION_REASON_UNKNOWN_KEY");
    assert!(told["why"].as_str().unwrap().starts_with("the key was made later, at 20"), "{told:#}");
}

#[tokio::test]
async fn each_row_says_why_in_words() {
    let office = Office::open().await;
    let Office { server, root, .. } = &office;
    let made = create(server, root, "acme", &["memory:read"]).await;
    let id = made.key.as_ref().unwrap().key_id.as_str();
    let explain = |arguments: &[&str]| {
        let all: Vec<_> = ["explain", id].iter().chain(arguments).copied().collect();
        let ended = command(server, root, b"", &all);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    let told = explain(&["--scope", "memory:write"]);
    assert!(told.contains("denied: INSUFFICIENT_SCOPE, HTTP 403"), "{told}");
    let why =
        "memory:write needed, and the key holds memory:read; memory:admin would imply memory:write";
    assert!(told.contains(why), "{told}");
    let rows: Vec<_> = told.lines().filter(|line| line.contains("  passed  ")).collect();
    assert_eq!(rows.len(), 7, "rows 3 to 9: {told}");
    assert!(told.contains("RATE_LIMITED          not looked at"), "{told}");
    assert!(explain(&["--scope", "memory:read"]).contains("allowed, HTTP 200"));

    let request = RevokeKeyRequest {
        target: Some(revoke_key_request::Target::KeyId(id.to_owned())),
        reason: latchkey::proto::v1::RevokeReason::Compromised.into(),
        comment: "seen in a log".into(),
        ..RevokeKeyRequest::default()
    };
    let revoked = server.keys(root).await.revoke_key(request).await.unwrap().into_inner();
    let told = explain(&["--authenticate-only"]);
    assert!(told.contains("denied: KEY_REVOKED, HTTP 401"), "{told}");
    let time = rfc3339(revoked.key.unwrap().revoke_time.unwrap());
    let words = format!("revoked at {time} by key:key_");
    assert!(told.contains(&words) && told.contains("(RevokeKey, from 127.0.0.1:"), "{told}");
    assert!(told.contains(") as compromised: seen in a log"), "{told}");
    let created = rfc3339(made.key.as_ref().unwrap().create_time.unwrap());
    let told = explain(&["--authenticate-only", "--at", &created]);
    assert!(
        told.contains("allowed, HTTP 200") && told.contains("revoked only later, at 20"),
        "{told}"
    );
}

#[tokio::test]
async fn an_operator_of_an_account_explains_its_own_keys_and_no_other() {
    let office = Office::open().await;
    let Office { server, root, acme, .. } = &office;
    let own = create(server, root, "acme", &["memory:read"]).await;
    let foreign = create(server, root, "other", &["memory:read"]).await;
    let ask = |key: &str, stdin: &str| {
        let arguments = ["explain", key, "--scope", "memory:read", "-o", "json"];
        command(server, acme, stdin.as_bytes(), &arguments)
    };
    let told: Value = serde_json::from_str(&ask(&own.key.unwrap().key_id, "").out).unwrap();
    assert_eq!((&told["allowed"], &told["accountId"]), (&true.into(), &"acme".into()));
    let refused = ask(&foreign.key.unwrap().key_id, "");
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("NOT_FOUND"), "{refused:?}");
    let told: Value = serde_json::from_str(&ask("-", &foreign.token).out).unwrap();
    assert_eq!(told["reason"], "DECISION_REASON_UNKNOWN_KEY");
    assert!(told["why"].as_str().unwrap().contains("that your operator may see"), "{told:#}");
    let told: Value = serde_json::from_str(&ask("-", "hm_live_what").out).unwrap();
    assert_eq!(told["reason"], "DECISION_REASON_MALFORMED_CREDENTIAL");
    // As an argument it would be seen by everybody on the machine.
    let refused = ask(&own.token, "");
    assert_eq!(refused.code, Some(2));
    assert!(!refused.err.contains(&own.token) && refused.err.contains("stdin"), "{refused:?}");
}

#[tokio::test]
async fn now_is_not_before_a_change_that_was_made() {
    let mut server = Server::start().await;
    let root = server.root_token();
    account(&server, &root, "acme").await;
    server.stop().await;
    // As if this machine's clock were behind the server's by an hour.
    let ahead = "UPDATE feed SET kept_time = at + 3600000000";
    sqlite(&server.database(), ahead);
    let server = server.again().start().await;
    let key_id = create(&server, &root, "acme", &["memory:read"]).await.key.unwrap().key_id;
    let ask = ["explain", &key_id, "--scope", "memory:read", "-o", "json"];
    let told: Value = serde_json::from_str(&command(&server, &root, b"", &ask).out).unwrap();
    assert_eq!(told["reason"], "DECISION_REASON_ALLOWED", "{told:#}");
}
