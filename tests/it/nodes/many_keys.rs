//! More keys than anybody would make by hand: written past the program, before any node is there that could not hear of it.

use std::fmt::Write as _;
use std::sync::Arc;

use latchkey::clock::Timestamp;
use latchkey::key::{Actor, KeyId};
use latchkey::machine::MachineEntropy;
use latchkey::token::{Environment, Prefix, Token};
use sqlx::postgres::PgConnection;

use super::log::Question;
use crate::support::Server;
use crate::support::cluster::Cluster;

/// How many keys an account has.
const OF_AN_ACCOUNT: usize = 250;
/// How many are sent to the store at once.
const AT_ONCE: usize = 10_000;
const SCOPE: &str = "memory:read";

/// Keys by their numbers, in the order of their ids.
pub(super) struct ManyKeys {
    tokens: Vec<Arc<str>>,
    stand: Stand,
}

/// What the store is at.
#[derive(Clone, Copy)]
struct Stand {
    epoch: i64,
    n: i64,
    tag: i64,
    at: i64,
}

impl ManyKeys {
    /// Writes so many into a store that has no node yet. They are as of its last change: nobody hears of them.
    pub(super) async fn write(cluster: &Cluster, count: usize) -> Self {
        Self::write_in_groups(cluster, count, 1).await
    }

    /// The same; the first of so many has made the others.
    pub(super) async fn write_in_groups(cluster: &Cluster, count: usize, of_each: usize) -> Self {
        // It makes the schema, the policy and the root key.
        let mut first = cluster.node(Server::build()).start().await;
        assert!(first.stop().await.success());
        let mut store = cluster.connect().await;
        let (epoch, n, tag, at) = sqlx::query_as("SELECT epoch, n, tag, at FROM feed")
            .fetch_one(&mut store)
            .await
            .unwrap();
        let stand = Stand { epoch, n, tag, at };
        write_accounts(&mut store, count.div_ceil(OF_AN_ACCOUNT)).await;
        let tokens = write_keys(&mut store, count, of_each, stand).await;
        sqlx::raw_sql("ANALYZE keys").execute(&mut store).await.unwrap();
        Self { tokens, stand }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn token(&self, number: usize) -> &str {
        &self.tokens[number]
    }

    pub(super) fn id(&self, number: usize) -> KeyId {
        self.stand.id(number)
    }

    /// A question that this key is allowed.
    pub(super) fn question(&self, number: usize) -> Question {
        Question { token: Arc::clone(&self.tokens[number]), scope: SCOPE.into() }
    }
}

/// A well-formed token that nobody has.
pub(super) fn nobodys(prefix: &Prefix) -> Question {
    let token = Token::generate(prefix, Environment::Live, &MachineEntropy);
    Question { token: token.expose().into(), scope: SCOPE.into() }
}

async fn write_accounts(store: &mut PgConnection, count: usize) {
    sqlx::query(
        "INSERT INTO accounts (id, format, version, epoch, n, tag, display_name, plan, suspended, \
         suspend_reason, labels, create_time, update_time) \
         SELECT 'account-' || number, 1, 1, epoch, n, tag, 'an account', 'enterprise', FALSE, '', '{}', at, at \
         FROM feed, generate_series(0, $1 - 1) AS number",
    )
    .bind(i64::try_from(count).unwrap())
    .execute(store)
    .await
    .unwrap();
}

impl Stand {
    fn id(self, number: usize) -> KeyId {
        KeyId::new(Timestamp::from_micros(self.at), number as u64, 0)
    }
}

async fn write_keys(
    store: &mut PgConnection,
    count: usize,
    of_each: usize,
    stand: Stand,
) -> Vec<Arc<str>> {
    let prefix = Prefix::parse("hm").unwrap();
    let mut tokens = Vec::with_capacity(count);
    let mut copy = store
        .copy_in_raw(
            "COPY keys (id, format, version, epoch, n, tag, account_id, display_name, environment, class, \
             scopes, grantable_scopes, digest, digest_algorithm, hint, create_time, update_time, disabled, \
             allowed_cidrs, labels, created_by) FROM STDIN",
        )
        .await
        .unwrap();
    let mut rows = String::new();
    for number in 0..count {
        let token = Token::generate(&prefix, Environment::Live, &MachineEntropy);
        let maker = match number % of_each {
            0 => Actor::System("test".to_owned()),
            part => Actor::Key(stand.id(number - part)),
        };
        push_row(&mut rows, number, &token, &maker, stand);
        tokens.push(token.expose().into());
        if tokens.len() % AT_ONCE == 0 || tokens.len() == count {
            copy.send(rows.as_bytes()).await.unwrap();
            rows.clear();
        }
    }
    assert_eq!(copy.finish().await.unwrap(), count as u64);
    tokens
}

/// As COPY takes it.
fn push_row(rows: &mut String, number: usize, token: &Token, maker: &Actor, stand: Stand) {
    let (Stand { epoch, n, tag, at }, id) = (stand, stand.id(number));
    let (account, hint) = (number / OF_AN_ACCOUNT, token.hint());
    write!(rows, "{id}\t1\t1\t{epoch}\t{n}\t{tag}\taccount-{account}\ta key\tlive\tdata\t")
        .unwrap();
    write!(rows, "[\"{SCOPE}\"]\t[]\t\\\\x").unwrap();
    for byte in token.digest().as_bytes() {
        write!(rows, "{byte:02x}").unwrap();
    }
    writeln!(rows, "\tsha256\t{hint}\t{at}\t{at}\tf\t[]\t{{}}\t{maker}").unwrap();
}
