//! A maker that loses its right while a change of its own is under way makes nothing by it.
//!
//! Once step by step: the change is admitted, held on its way to the store, and let go when the right is
//! gone. And once on the running program, with many changes at any stage of their way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use latchkey::account::{AccountChange, AccountId, NewAccount};
use latchkey::app::Node;
use latchkey::authorizer::operator::WriteKeys;
use latchkey::authorizer::{Credential, Operator};
use latchkey::clock::Timestamp;
use latchkey::error::Reason;
use latchkey::key::{Expiry, KeyChange, KeyId, NewKey, RevokeReason};
use latchkey::keyring::{KeyUpdate, Keyring};
use latchkey::machine::{self, MachineEntropy};
use latchkey::policy::Policy;
use latchkey::proto::v1::key_service_client::KeyServiceClient;
use latchkey::proto::v1::{
    Account, CreateKeyRequest, Key, KeyState, ListKeysRequest, RevokeKeyRequest, RotateKeyRequest,
    UpdateAccountRequest, UpdateKeyRequest, revoke_key_request::Target,
};
use latchkey::scope::ScopePattern;
use latchkey::store::{self, Command, KeyTarget, ReadAsk, Store};
use latchkey::token::{Environment, Prefix, Token};
use prost_types::FieldMask;
use tonic::Status;

use crate::support::{Authed, FaultyStore, Folder, Server, reason_of};

/// How the maker comes to lose its right, and what its change is told then.
const ENDINGS: [(Ending, Reason); 7] = [
    (Ending::Revoked, Reason::InvalidCredential),
    (Ending::RevokedWithAll, Reason::InvalidCredential),
    (Ending::Paused, Reason::InvalidCredential),
    (Ending::Expired, Reason::InvalidCredential),
    (Ending::Suspended, Reason::CallerSuspended),
    (Ending::Narrowed, Reason::PermissionDenied),
    (Ending::GrantNarrowed, Reason::GrantExceeded),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Revoked,
    RevokedWithAll,
    Paused,
    Expired,
    Suspended,
    Narrowed,
    GrantNarrowed,
}

/// What is under way.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Create,
    Update,
    Rotate,
}

// === Step by step ===

#[tokio::test]
async fn a_change_under_way_ends_with_the_right_of_its_maker() {
    for (ending, reason) in ENDINGS {
        for wish in [Wish::Create, Wish::Update, Wish::Rotate] {
            let rig = Rig::set().await;
            let operator = rig.operator().await;
            rig.store.hold_changes_by(rig.maker);
            let (keyring, child) = (rig.node.keyring.clone(), rig.child);
            let change =
                tokio::spawn(async move { carry_out(&keyring, operator, wish, child).await });
            let held = rig.store.a_change_is_held.notified();
            tokio::time::timeout(Duration::from_secs(10), held).await.expect("it is under way");
            rig.end(ending).await;
            let before = rig.tip().await;
            rig.store.let_a_change_go();
            assert_eq!(change.await.unwrap(), Err(reason), "{wish:?}, {ending:?}");
            assert_eq!(rig.tip().await, before, "{wish:?}, {ending:?}");
        }
    }
}

#[tokio::test]
async fn a_change_under_way_is_made_while_its_maker_has_the_right() {
    for wish in [Wish::Create, Wish::Update, Wish::Rotate] {
        let rig = Rig::set().await;
        let operator = rig.operator().await;
        rig.store.hold_changes_by(rig.maker);
        rig.store.let_a_change_go();
        let before = rig.tip().await;
        assert_eq!(
            carry_out(&rig.node.keyring, operator, wish, rig.child).await,
            Ok(()),
            "{wish:?}"
        );
        assert_ne!(rig.tip().await, before, "{wish:?}");
    }
}

async fn carry_out(
    keyring: &Keyring,
    operator: Operator<WriteKeys>,
    wish: Wish,
    child: KeyId,
) -> Result<(), Reason> {
    let done = match wish {
        Wish::Create => {
            keyring.create_key(operator, a_key(&["memory:read"], &[]), None).await.map(drop)
        }
        Wish::Update => {
            let display_name = Some("changed".to_owned());
            let change = KeyChange { display_name, ..KeyChange::default() };
            let update = KeyUpdate { id: child, change, expected: None };
            keyring.update_key(operator, update).await.map(drop)
        }
        Wish::Rotate => {
            let overlap = Duration::from_hours(1);
            keyring.rotate_key(operator, child, overlap, None).await.map(drop)
        }
    };
    done.map_err(|refused| refused.reason)
}

/// A node, and in the account `acme` a maker with a key that it made.
struct Rig {
    node: Node,
    store: Arc<FaultyStore>,
    reader: tokio::task::JoinHandle<()>,
    maker: KeyId,
    token: Token,
    child: KeyId,
    _folder: Folder,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Rig {
    async fn set() -> Self {
        let folder = Folder::new();
        let url = format!("sqlite://{}/latchkey.db", folder.path().display());
        let store = FaultyStore::new(store::open(&url).await.unwrap());
        let node = Node::wire(
            &(Arc::clone(&store) as Arc<dyn Store>),
            machine::clock(machine::wall_clock(), Timestamp::EPOCH),
            Arc::new(MachineEntropy),
            &Prefix::parse("hm").unwrap(),
            100,
            Duration::from_secs(5),
            None,
        );
        let feed = node.feed.clone();
        let reader = tokio::spawn(async move { feed.run().await });
        let (_, secret) = node.keyring.new_token(Environment::Live);
        make(&node, Command::Seed { policy: Policy::default(), secret }).await;
        let new = NewAccount {
            id: Some(acme()),
            display_name: String::new(),
            plan: "enterprise".into(),
            labels: BTreeMap::new(),
        };
        make(&node, Command::CreateAccount { new, request: None }).await;
        let (token, secret) = node.keyring.new_token(Environment::Live);
        let new = a_key(&["latchkey:keys.write"], &["memory:read"]);
        let maker = make(&node, Command::CreateKey { new, secret, request: None }).await.unwrap();
        let mut rig = Self { node, store, reader, maker, token, child: maker, _folder: folder };
        let new = a_key(&["memory:read"], &[]);
        let made = rig.node.keyring.create_key(rig.operator().await, new, None).await.unwrap();
        rig.child = made.key.id;
        rig
    }

    /// The maker, admitted by what this node knows of it.
    async fn operator(&self) -> Operator<WriteKeys> {
        let credential = Credential::Token(self.token.expose().as_bytes());
        self.node.authorizer.operator(credential, None, String::new()).await.unwrap()
    }

    async fn end(&self, ending: Ending) {
        let scopes = |scopes: &[&str]| Some(patterns(scopes));
        let change = match ending {
            Ending::Revoked | Ending::RevokedWithAll => {
                let command = Command::RevokeKey {
                    target: KeyTarget::Id(self.maker),
                    reason: RevokeReason::Compromised,
                    comment: String::new(),
                    with_created: ending == Ending::RevokedWithAll,
                };
                make(&self.node, command).await;
                return;
            }
            Ending::Suspended => {
                let change = AccountChange { suspended: Some(true), ..AccountChange::default() };
                let command = Command::UpdateAccount { id: acme(), change, expected: None };
                make(&self.node, command).await;
                return;
            }
            Ending::Expired => {
                let end = self.node.keyring.now().after(Duration::from_millis(1));
                KeyChange { expire_time: Some(Some(end)), ..KeyChange::default() }
            }
            Ending::Paused => KeyChange { disabled: Some(true), ..KeyChange::default() },
            Ending::Narrowed => {
                KeyChange { scopes: scopes(&["latchkey:keys.read"]), ..KeyChange::default() }
            }
            Ending::GrantNarrowed => {
                KeyChange { grantable_scopes: Some(Vec::new()), ..KeyChange::default() }
            }
        };
        let command = Command::UpdateKey { id: self.maker, change, expected: None };
        make(&self.node, command).await;
        if ending == Ending::Expired {
            self.let_it_expire().await;
        }
    }

    /// Time goes by what the store wrote last, so something else has to be written after the end.
    async fn let_it_expire(&self) {
        let end = self.store.key(self.maker).await.unwrap().unwrap().expire_time.unwrap();
        while self.node.keyring.now() <= end {
            tokio::task::yield_now().await;
        }
        let display_name = Some("later".to_owned());
        let change = AccountChange { display_name, ..AccountChange::default() };
        make(&self.node, Command::UpdateAccount { id: acme(), change, expected: None }).await;
    }

    async fn tip(&self) -> u64 {
        let ask = ReadAsk { changes_max: 1_000, ..ReadAsk::default() };
        self.store.read(&ask).await.unwrap().position.n
    }
}

async fn make(node: &Node, command: Command) -> Option<KeyId> {
    let done = node.keyring.mutate_as_system("test", command).await.unwrap();
    done.keys.first().map(|key| key.id)
}

fn acme() -> AccountId {
    AccountId::parse("acme").unwrap()
}

fn patterns(scopes: &[&str]) -> Vec<ScopePattern> {
    scopes.iter().map(|scope| ScopePattern::parse(scope).unwrap()).collect()
}

fn a_key(scopes: &[&str], grantable: &[&str]) -> NewKey {
    NewKey {
        account: acme(),
        display_name: "a key".into(),
        environment: Environment::Live,
        scopes: patterns(scopes),
        grantable_scopes: patterns(grantable),
        expiry: Expiry::Never,
        allowed_cidrs: Vec::new(),
        labels: BTreeMap::new(),
    }
}

// === On the running program ===

const WORKERS: usize = 8;
/// How many keys there are before the maker loses its right.
const MADE_MIN: usize = 20;

#[tokio::test]
async fn after_the_answer_nothing_is_made_by_a_maker_that_lost_its_right() {
    let server = Server::start().await;
    let root = server.root_token();
    let endings = ENDINGS.iter().filter(|(ending, _)| *ending != Ending::Expired);
    for (round, (ending, reason)) in endings.enumerate() {
        let account = format!("acme-{round}");
        let race = Race::set(&server, &root, &account).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| tokio::spawn(work(race.maker.clone(), account.clone(), Arc::clone(&is_over))))
            .collect();
        while race.made().await.len() < MADE_MIN {}
        race.end(*ending).await;
        is_over.store(true, Ordering::SeqCst);
        let made = race.made().await;
        for worker in workers {
            let refused = worker.await.unwrap();
            assert_eq!(reason_of(&refused), reason.as_str(), "{ending:?}: {refused:?}");
        }
        assert_eq!(race.made().await, made, "{ending:?}");
        if *ending == Ending::RevokedWithAll {
            let left = made.iter().filter(|key| key.state() != KeyState::Revoked);
            assert_eq!(left.count(), 0);
        }
    }
}

/// Makes keys and rotates them until that is refused. What is sent once it is over must be.
async fn work(
    mut maker: KeyServiceClient<Authed>,
    account_id: String,
    is_over: Arc<AtomicBool>,
) -> Status {
    let request = CreateKeyRequest {
        account_id,
        display_name: "made".into(),
        environment: latchkey::proto::v1::Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    };
    loop {
        let was_over = is_over.load(Ordering::SeqCst);
        let key = match maker.create_key(request.clone()).await {
            Ok(made) => made.into_inner().key.unwrap(),
            Err(refused) => return refused,
        };
        assert!(!was_over, "a key was made after the answer: {key:?}");
        let request = RotateKeyRequest { key_id: key.key_id, ..Default::default() };
        let was_over = is_over.load(Ordering::SeqCst);
        match maker.rotate_key(request).await {
            Ok(_) => assert!(!was_over, "a key was rotated after the answer"),
            // Its own key may have gone with it.
            Err(refused) if reason_of(&refused) == "KEY_REVOKED" => {}
            Err(refused) => return refused,
        }
    }
}

/// An account with a maker, and the root key that ends it.
struct Race<'a> {
    server: &'a Server,
    root: &'a str,
    account: &'a str,
    keys: KeyServiceClient<Authed>,
    maker: KeyServiceClient<Authed>,
    maker_id: String,
}

impl<'a> Race<'a> {
    async fn set(server: &'a Server, root: &'a str, account: &'a str) -> Self {
        let request = latchkey::proto::v1::CreateAccountRequest {
            account_id: account.into(),
            plan: "enterprise".into(),
            ..Default::default()
        };
        server.accounts(root).await.create_account(request).await.unwrap();
        let mut keys = server.keys(root).await;
        let request = CreateKeyRequest {
            account_id: account.into(),
            display_name: "maker".into(),
            environment: latchkey::proto::v1::Environment::Live.into(),
            scopes: vec!["latchkey:keys.write".into()],
            grantable_scopes: vec!["memory:read".into()],
            ..Default::default()
        };
        let made = keys.create_key(request).await.unwrap().into_inner();
        let maker = server.keys(&made.token).await;
        let maker_id = made.key.unwrap().key_id;
        Self { server, root, account, keys, maker, maker_id }
    }

    /// Every key that the maker made, and what became of it.
    async fn made(&self) -> Vec<Key> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListKeysRequest {
                account_id: self.account.into(),
                page_size: 1_000,
                created_by: format!("key:{}", self.maker_id),
                page_token,
                ..Default::default()
            };
            let page = self.keys.clone().list_keys(request).await.unwrap().into_inner();
            all.extend(page.keys);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    }

    async fn end(&self, ending: Ending) {
        let key = |key: Key, path: &str| UpdateKeyRequest {
            key: Some(Key { key_id: self.maker_id.clone(), ..key }),
            update_mask: mask(path),
            ..Default::default()
        };
        let request = match ending {
            Ending::Revoked | Ending::RevokedWithAll | Ending::Expired => {
                let request = RevokeKeyRequest {
                    target: Some(Target::KeyId(self.maker_id.clone())),
                    revoke_created: ending == Ending::RevokedWithAll,
                    ..Default::default()
                };
                self.keys.clone().revoke_key(request).await.unwrap();
                return;
            }
            Ending::Suspended => {
                let account_id = self.account.to_owned();
                let account = Account { account_id, suspended: true, ..Account::default() };
                let request = UpdateAccountRequest {
                    account: Some(account),
                    update_mask: mask("suspended"),
                    ..Default::default()
                };
                self.server.accounts(self.root).await.update_account(request).await.unwrap();
                return;
            }
            Ending::Paused => key(Key { disabled: true, ..Key::default() }, "disabled"),
            Ending::Narrowed => {
                key(Key { scopes: vec!["latchkey:keys.read".into()], ..Key::default() }, "scopes")
            }
            Ending::GrantNarrowed => key(Key::default(), "grantable_scopes"),
        };
        self.keys.clone().update_key(request).await.unwrap();
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the field takes it so")]
fn mask(path: &str) -> Option<FieldMask> {
    Some(FieldMask { paths: vec![path.into()] })
}
