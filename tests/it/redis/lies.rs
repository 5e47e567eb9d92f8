//! A Redis that lies: bits flipped, what was true once, what was never true, in the right form and under the right key.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::*;

/// Where an epoch, a number and a tag stand in a record, and where what is told begins and ends.
const EPOCH: usize = 1;
const N: usize = 9;
const TAG: usize = 17;
const TOLD: usize = 25;
const MAC: usize = 32;

/// A node with a key that is revoked, and what was kept of it before.
struct Liar {
    redis: Redis,
    server: Server,
    others: Vec<(String, String)>,
    token: String,
    name: String,
    /// What was kept when the key was not revoked yet.
    before: Vec<u8>,
    /// What is kept now.
    now: Vec<u8>,
    mac_key: Vec<u8>,
}

impl Liar {
    async fn prepare() -> Self {
        let redis = Redis::start().await;
        let server = forgetful(Server::build(), &redis.url()).start().await;
        uses_redis(&server).await;
        let others = make_keys(&server, "acme", KEYS).await;
        all_are_kept(&server, &others, &redis).await;
        let (token, id) = make_key(&server, "acme").await;
        let own = [&others[..], &[(token.clone(), id.clone())]].concat();
        let name = is_kept(&server, &own, || record_of(&redis, &token)).await;
        let read = |name: &str| redis.ask::<Vec<u8>>(&["GET", name]);
        let before = read(&name);
        revoke(&server, &id).await;
        let is_other = || Some(read(&name)).filter(|now| *now != before);
        let now = async {
            loop {
                if let Some(now) = is_other() {
                    break now;
                }
                ask(&server, &token).await;
                ask_all(&server, &others).await;
            }
        };
        let now = tokio::time::timeout(IN_TIME, now).await.expect("the revocation is kept");
        let sql = "SELECT hex(mac_key) FROM feed";
        let asked = std::process::Command::new("sqlite3")
            .args(["-readonly", &server.database(), sql])
            .output()
            .unwrap();
        let hex = String::from_utf8(asked.stdout).unwrap();
        let bytes = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let mac_key = (0..64).step_by(2).map(bytes).collect();
        Self { redis, server, others, token, name, before, now, mac_key }
    }

    /// The old record, as if it had been true when the present one was.
    fn forged(&self) -> Vec<u8> {
        [&self.now[..TOLD], &self.before[TOLD..self.before.len() - MAC]].concat()
    }

    fn sealed(&self, sealed: Vec<u8>) -> Vec<u8> {
        seal(sealed, &self.name, &self.mac_key)
    }

    fn put(&self, value: &[u8]) {
        let mut connection = self.redis.connect();
        redis::cmd("SET").arg(&self.name).arg(value).exec(&mut connection).unwrap();
    }

    /// Tells this lie until it was looked up and came to `result`: the key is refused all the time.
    async fn is_not_believed(&self, value: &[u8], result: &str) {
        let before = looked(&self.server, result);
        let told = async {
            while looked(&self.server, result) <= before {
                self.put(value);
                let said = ask(&self.server, &self.token).await;
                assert_eq!(said.reason(), DecisionReason::KeyRevoked, "{result}: {said:?}");
                ask_all(&self.server, &self.others).await;
            }
        };
        let told = tokio::time::timeout(IN_TIME, told).await;
        told.unwrap_or_else(|_| panic!("never looked up: {result}\n{}", self.server.log()));
    }
}

/// Authenticates a record as a node would.
fn seal(mut sealed: Vec<u8>, name: &str, key: &[u8]) -> Vec<u8> {
    let hex = &name[26..];
    let digest: Vec<_> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in [&b"latchkey: a record in Redis\0"[..], &digest, &sealed] {
        mac.update(part);
    }
    sealed.extend(mac.finalize().into_bytes());
    sealed
}

#[tokio::test]
async fn no_lie_is_believed() {
    let liar = Liar::prepare().await;
    let whole = |value: &[u8]| value[..value.len() - MAC].to_vec();
    let with = |at: usize, number: u64| {
        let mut forged = liar.forged();
        forged[at..at + 8].copy_from_slice(&number.to_be_bytes());
        liar.sealed(forged)
    };
    let number = |at: usize| u64::from_be_bytes(liar.now[at..at + 8].try_into().unwrap());

    // What was true before.
    liar.is_not_believed(&liar.before, "changed").await;
    // Not by a node of this store, or not under this name.
    for at in [0, EPOCH, N + 7, TAG, TOLD + 9, liar.now.len() - 1] {
        let mut flipped = liar.now.clone();
        flipped[at] ^= 1;
        liar.is_not_believed(&flipped, "bad_mac").await;
    }
    let unsealed = [liar.forged(), vec![0; MAC]].concat();
    liar.is_not_believed(&unsealed, "bad_mac").await;
    let by_another = seal(liar.forged(), &liar.name, &[0; 32]);
    liar.is_not_believed(&by_another, "bad_mac").await;
    let records = liar.redis.records();
    let other = records.iter().find(|name| **name != liar.name).unwrap();
    let of_another: Vec<u8> = liar.redis.ask(&["GET", other]);
    liar.is_not_believed(&of_another, "bad_mac").await;
    liar.is_not_believed(b"nonsense", "bad_mac").await;
    liar.is_not_believed(&vec![7; 1 << 20], "bad_mac").await;
    // By one who knows the key of the store, from another time.
    liar.is_not_believed(&with(EPOCH, number(EPOCH) ^ 1), "another_epoch").await;
    liar.is_not_believed(&with(N, number(N) + 1), "ahead").await;
    liar.is_not_believed(&with(N, u64::MAX), "ahead").await;
    liar.is_not_believed(&with(TAG, number(TAG) ^ 1), "another_tag").await;
    liar.is_not_believed(&with(N, 0), "too_old").await;
    // In another form.
    let mut newer = whole(&liar.now);
    newer[0] = 2;
    liar.is_not_believed(&liar.sealed(newer), "unreadable").await;
}

#[tokio::test]
async fn who_knows_the_key_of_the_store_can_lie_about_the_present() {
    // The control of the test above: its forgeries fail for their positions and keys, not for their form.
    let liar = Liar::prepare().await;
    let forged = liar.sealed(liar.forged());
    let believed = async {
        loop {
            liar.put(&forged);
            if ask(&liar.server, &liar.token).await.allowed {
                break;
            }
            ask_all(&liar.server, &liar.others).await;
        }
    };
    tokio::time::timeout(IN_TIME, believed).await.expect("it is believed");
}
