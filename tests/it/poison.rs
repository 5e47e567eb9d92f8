//! Rows that make no sense, put behind the running program's back: who meets one is told that it cannot be judged, and
//! all others are served as before.

use std::collections::HashSet;
use std::time::Duration;

use latchkey::proto::v1::{
    AuthorizeRequest, AuthorizeResponse, CreateAccountRequest, CreateKeyRequest, Environment,
};
use tonic::{Code, Status};

use crate::store::support::place::{Place, on_postgres, on_sqlite};
use crate::support::Server;
use crate::support::cluster::ROOT;
use crate::telemetry::metric;

mod ways;

use ways::{ACCOUNTS, CHANGES, KEYS, KEYS_WITHOUT_DIGEST, MARK};

const SOON: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// A key whose token is known.
struct Held {
    id: String,
    account: String,
    token: String,
}

/// A server whose rows can be made senseless.
struct Victim {
    server: Server,
    place: Place,
}

impl Victim {
    async fn start(place: Place) -> Self {
        let server = Server::build().store(&place.url()).start().await;
        place.sql(ways::loosen(&place)).await;
        Self { server, place }
    }

    async fn key_of(&self, account: &str) -> Held {
        let request = CreateKeyRequest {
            account_id: account.into(),
            display_name: "a key".into(),
            environment: Environment::Live.into(),
            scopes: vec!["memory:read".into()],
            ..Default::default()
        };
        let mut keys = self.server.keys(ROOT).await;
        let making = async {
            loop {
                match keys.create_key(request.clone()).await {
                    Ok(made) => return made.into_inner(),
                    // It starts over.
                    Err(status) => assert!(is_unsure(&status), "{status:?}"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let made = tokio::time::timeout(SOON, making).await.expect("no key can be made");
        Held { id: made.key.unwrap().key_id, account: account.into(), token: made.token }
    }

    async fn key(&self) -> Held {
        self.key_of("latchkey").await
    }

    async fn account(&self, number: usize) -> Held {
        let account = format!("account-{number}");
        let request = CreateAccountRequest {
            account_id: account.clone(),
            display_name: account.clone(),
            plan: "enterprise".into(),
            ..Default::default()
        };
        self.server.accounts(ROOT).await.create_account(request).await.unwrap();
        self.key_of(&account).await
    }

    /// Changes a row, and appends this change of it, in one step.
    async fn change(&self, kind: &str, subject: &str, digest: &str, update: &str) {
        let sql = format!(
            "{}; BEGIN; UPDATE feed SET n = n + 1, tag = tag + 1; \
             INSERT INTO changes (n, tag, kind, subject, digest, at) \
             SELECT feed.n, feed.tag, {kind}, {subject}, {digest}, feed.at FROM feed; {update}; COMMIT",
            ways::careless(&self.place)
        );
        self.place.sql(&sql).await;
    }

    async fn change_key(&self, key: &Held, set: &str) {
        let Held { id, .. } = key;
        let digest = format!("(SELECT digest FROM keys WHERE id = '{id}')");
        let update = format!("UPDATE keys SET {set} WHERE id = '{id}'");
        self.change("'key'", &format!("'{id}'"), &digest, &update).await;
    }

    async fn change_account(&self, account: &str, set: &str) {
        let update = format!("UPDATE accounts SET {set} WHERE id = '{account}'");
        self.change("'account'", &format!("'{account}'"), "NULL", &update).await;
    }

    /// What comes of a change by somebody else is known here: after one of its own.
    async fn has_read(&self) {
        let canary = self.key().await;
        assert!(allowed(&self.server, &canary).await);
    }
}

async fn ask(server: &Server, key: &Held) -> Result<AuthorizeResponse, Status> {
    let request = AuthorizeRequest {
        token: key.token.clone(),
        required_scope: "memory:read".into(),
        ..Default::default()
    };
    Ok(server.decisions().await.authorize(request).await?.into_inner())
}

async fn allowed(server: &Server, key: &Held) -> bool {
    ask(server, key).await.unwrap().allowed
}

fn is_unsure(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown)
}

/// It cannot be judged, and no other answer is given.
async fn demand_unavailable(server: &Server, key: &Held, way: &str) {
    let said = ask(server, key).await;
    assert!(
        said.as_ref().is_err_and(|status| status.code() == Code::Unavailable),
        "{way}: {said:?}"
    );
}

async fn until_allowed(server: &Server, key: &Held) {
    let asking = async {
        while !ask(server, key).await.is_ok_and(|said| said.allowed) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(SOON, asking).await.expect("it is never allowed again");
}

/// Each row was told and counted once, and nothing of what stands in it.
fn demand_told_once(server: &Server, rows: usize) {
    let log = server.log();
    let told: Vec<_> =
        log.lines().filter(|line| line.contains("a row of the store cannot be read")).collect();
    let why =
        |line: &&str| serde_json::from_str::<serde_json::Value>(line).unwrap()["why"].to_string();
    assert_eq!(told.iter().map(why).collect::<HashSet<_>>().len(), told.len());
    assert!(told.len() >= rows, "{told:#?}");
    let counted = metric(server, "latchkey_feed_unreadable_rows_total");
    assert_eq!(told.len().to_string(), counted.to_string());
    assert!(!log.contains(MARK), "{log}");
}

async fn keys_and_accounts(place: Place) {
    let victim = Victim::start(place).await;
    let server = &victim.server;
    let warm = victim.key().await;
    let mut poisoned = Vec::new();
    for way in KEYS {
        poisoned.push((victim.key().await, *way));
    }
    for (number, way) in ACCOUNTS.iter().enumerate() {
        poisoned.push((victim.account(number).await, *way));
    }
    let nobodys = [victim.key().await, victim.key().await];
    for (key, _) in &poisoned {
        assert!(allowed(server, key).await);
    }
    for (number, (key, way)) in poisoned.iter().enumerate() {
        let set = way.replace("HUGE", &"x".repeat(100_000));
        if number < KEYS.len() {
            victim.change_key(key, &set).await;
        } else {
            victim.change_account(&key.account, &set).await;
        }
    }
    for (key, way) in nobodys.iter().zip(KEYS_WITHOUT_DIGEST) {
        victim.change_key(key, ways::digest(&victim.place, way)).await;
    }
    for _ in 0..2 {
        victim.has_read().await;
        assert!(allowed(server, &warm).await);
        for (key, way) in &poisoned {
            demand_unavailable(server, key, way).await;
        }
        for key in &nobodys {
            assert!(!allowed(server, key).await);
        }
    }
    // Ids that make no sense are told as one.
    demand_told_once(server, poisoned.len() - 4);

    // A row that makes sense again is served again.
    let repaired = poisoned.iter().find(|(_, way)| *way == "format = 2").unwrap();
    victim.change_key(&repaired.0, "format = 1").await;
    let (account, _) = poisoned.iter().rev().find(|(_, way)| *way == "format = 2").unwrap();
    victim.change_account(&account.account, "format = 1").await;
    victim.has_read().await;
    assert!(allowed(server, &repaired.0).await && allowed(server, account).await);

    if let Place::Postgres(..) = victim.place {
        // Whoever meets them when it starts.
        let other = Server::build().store(&victim.place.url()).start().await;
        until_allowed(&other, &warm).await;
        assert!(allowed(&other, account).await);
        for (key, way) in poisoned.iter().filter(|(_, way)| *way != "format = 2") {
            demand_unavailable(&other, key, way).await;
        }
        demand_told_once(&other, poisoned.len() - 6);
    }
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_refused_alone_on_sqlite() {
    keys_and_accounts(on_sqlite().await).await;
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_refused_alone_on_postgres() {
    keys_and_accounts(on_postgres().await).await;
}

/// Whatever it may have changed is read anew.
async fn changes(place: Place) {
    let victim = Victim::start(place).await;
    let server = &victim.server;
    let warm = victim.key().await;
    for (number, (kind, subject, digest)) in CHANGES.iter().enumerate() {
        let key = victim.key().await;
        assert!(allowed(server, &key).await);
        let taken = if victim.place.is_postgres() { "TRUE" } else { "1" };
        let update = format!("UPDATE keys SET disabled = {taken} WHERE id = '{}'", key.id);
        let digest = ways::digest_value(&victim.place, digest);
        victim.change(kind, subject, digest, &update).await;
        victim.has_read().await;
        assert!(!allowed(server, &key).await, "{kind}, {subject}");
        until_allowed(server, &warm).await;
        demand_told_once(server, number + 1);
    }
}

#[tokio::test]
async fn a_change_that_makes_no_sense_may_have_changed_anything_on_sqlite() {
    changes(on_sqlite().await).await;
}

#[tokio::test]
async fn a_change_that_makes_no_sense_may_have_changed_anything_on_postgres() {
    changes(on_postgres().await).await;
}

/// Without a policy nothing can be judged; the one before it may allow what this one forbids.
async fn policy(place: Place) {
    let victim = Victim::start(place).await;
    let server = &victim.server;
    let warm = victim.key().await;
    let bait = victim.key().await;
    victim.change_key(&bait, "format = 2").await;
    victim.has_read().await;
    assert!(allowed(server, &warm).await);
    let document = victim.place.sql("SELECT document FROM policy").await.concat().concat();
    let keeping = |set: &str| format!("UPDATE policy SET {set}");
    for way in ["format = 2", "document = '{\"P0IS0N\":1}'", "document = ''", "document = NULL"] {
        victim.change("'policy'", "''", "NULL", &keeping(way)).await;
        // Where nobody else is expected to change the store, it is read when somebody needs it.
        let refused = async {
            while ask(server, &warm).await.is_ok() {
                let _ = ask(server, &bait).await;
            }
        };
        tokio::time::timeout(SOON, refused).await.expect("it is answered without a policy");
        demand_unavailable(server, &warm, way).await;
        let set = format!("format = 1, document = '{}'", document.replace('\'', "''"));
        victim.change("'policy'", "''", "NULL", &keeping(&set)).await;
        until_allowed(server, &warm).await;
    }
    let fenced = "what is held must not be used";
    assert_eq!(server.log().lines().filter(|line| line.contains(fenced)).count(), 4);
    assert!(!server.log().contains(MARK));
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_allows_nothing_on_sqlite() {
    policy(on_sqlite().await).await;
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_allows_nothing_on_postgres() {
    policy(on_postgres().await).await;
}
