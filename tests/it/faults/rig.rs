//! A node over a store in which there is something of everything, and what it does there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use latchkey::account::{AccountChange, AccountId, NewAccount};
use latchkey::app::Node;
use latchkey::authorizer::operator::{
    ReadAccounts, ReadAudit, ReadKeys, ReadPolicy, WriteAccounts, WriteKeys, WritePolicy,
};
use latchkey::authorizer::{Credential, Operator, Permission, Question, Required};
use latchkey::clock::{Entropy as _, Timestamp};
use latchkey::decision::Denial;
use latchkey::error::{Error, Reason};
use latchkey::key::{Expiry, KeyChange, KeyId, KeyRecord, NewKey, RevokeReason};
use latchkey::keyring::{
    AccountList, AccountUpdate, AuditList, KeyList, KeyUpdate, LookupBy, Patience, PolicyUpdate,
    Revoke,
};
use latchkey::machine::{self, MachineEntropy};
use latchkey::policy::Policy;
use latchkey::revision::Position;
use latchkey::scope::ScopePattern;
use latchkey::store::{self, Command, KeyTarget, Maker, Mutation, ReadAsk, Store};
use latchkey::token::{Digest, Environment, Prefix, Token};
use tokio::sync::OnceCell;

use crate::support::{FaultyStore, Folder};

/// Longer than any read takes that is not disturbed, on a busy machine too.
const READ_TIME_MAX: Duration = Duration::from_millis(400);
const DESCRIPTION: &str = "as it is now";
const REQUEST: &str = "01890000-0000-7000-8000-000000000001";

/// Something that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Create,
    /// In an account of one key.
    CreateLast,
    Update,
    Rotate,
    Revoke,
    RevokeByToken,
    Suspend,
    ApplyPolicy,
    Look,
    Fill,
}

/// Who was asked about, and what was answered.
pub(super) type Answers = Vec<(Digest, Result<Option<Denial>, Error>)>;

/// What was answered to a deed.
#[derive(Debug)]
pub(super) enum Told {
    Made(KeyId),
    Renamed,
    Rotated(KeyId),
    Revoked,
    Suspended,
    Applied,
    Seen,
}

/// What the store holds, read past everything that is disturbed.
pub(super) struct Truth {
    pub(super) position: Position,
    keys: Vec<KeyRecord>,
    is_suspended: bool,
    policy: Policy,
}

pub(super) struct Rig {
    pub(super) store: Arc<FaultyStore>,
    /// A key of another account, which nothing is done to.
    pub(super) bystander: Token,
    inner: Arc<dyn Store>,
    node: Node,
    root: Token,
    subject: (KeyId, Token),
    reader: tokio::task::JoinHandle<()>,
    _folder: Folder,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A closed store to begin from, and what opens it.
struct Template {
    bytes: Vec<u8>,
    root: String,
    subject: (KeyId, String),
    bystander: String,
}

impl Rig {
    /// A node that holds everything; for [`Deed::Fill`] one that has room for a single key.
    pub(super) async fn new(deed: Deed) -> Self {
        static TEMPLATE: OnceCell<Template> = OnceCell::const_new();
        let template = TEMPLATE.get_or_init(Template::make).await;
        let folder = Folder::new();
        std::fs::write(file(&folder), &template.bytes).unwrap();
        let inner = open(&folder).await;
        let store = FaultyStore::new(Arc::clone(&inner));
        let keys_max = if deed == Deed::Fill { 1 } else { 100 };
        let node = node(&(Arc::clone(&store) as Arc<dyn Store>), keys_max);
        let feed = node.feed.clone();
        let reader = tokio::spawn(async move { feed.run().await });
        let token = |text: &str| Token::from_text(text).unwrap();
        let rig = Self {
            store,
            bystander: token(&template.bystander),
            inner,
            node,
            root: token(&template.root),
            subject: (template.subject.0, token(&template.subject.1)),
            reader,
            _folder: folder,
        };
        rig.node.feed.show(None).await.unwrap();
        while rig.node.cache.is_loading() {
            rig.node.feed.show(None).await.unwrap();
        }
        // Whoever is asked about later is held, where there is room.
        for held in [&rig.subject.1, &rig.root, &rig.bystander] {
            assert!(rig.ask(held).await.is_ok());
        }
        rig
    }

    pub(super) async fn ask(&self, token: &Token) -> Result<Option<Denial>, Error> {
        let question = Question {
            credential: Credential::Token(token.expose().as_bytes()),
            required: Required::AuthenticateOnly,
            client_address: None,
            environment: None,
            cost: None,
            min_revision: None,
        };
        self.node.authorizer.authorize(&question).await.map(|decision| decision.denial)
    }

    async fn operator<P: Permission>(&self) -> Result<Operator<P>, Error> {
        let credential = Credential::Token(self.root.expose().as_bytes());
        self.node.authorizer.operator(credential, None, String::new()).await
    }

    pub(super) async fn act(&self, deed: Deed) -> Result<Told, Error> {
        let keyring = &self.node.keyring;
        let (id, token) = &self.subject;
        match deed {
            Deed::Create => self.create("many").await.map(Told::Made),
            Deed::CreateLast => self.create("one").await.map(Told::Made),
            Deed::Update => {
                let display_name = Some(DESCRIPTION.to_owned());
                let change =
                    KeyChange { display_name, disabled: Some(true), ..KeyChange::default() };
                let update = KeyUpdate { id: *id, change, expected: None };
                let updated = keyring.update_key(self.operator().await?, update).await;
                updated.map(|_| Told::Renamed)
            }
            Deed::Rotate => {
                let request = Some(REQUEST.to_owned());
                let operator = self.operator::<WriteKeys>().await?;
                let rotated = keyring.rotate_key(operator, *id, Duration::ZERO, request).await;
                rotated.map(|rotated| Told::Rotated(rotated.key.id))
            }
            Deed::Revoke => self.revoke(KeyTarget::Id(*id)).await,
            Deed::RevokeByToken => self.revoke(KeyTarget::Digest(token.digest())).await,
            Deed::Suspend => {
                let change = AccountChange { suspended: Some(true), ..AccountChange::default() };
                let id = AccountId::parse("many").unwrap();
                let update = AccountUpdate { id, change, expected: None };
                let operator = self.operator::<WriteAccounts>().await?;
                keyring.update_account(operator, update).await.map(|_| Told::Suspended)
            }
            Deed::ApplyPolicy => {
                let (mut policy, _) =
                    keyring.get_policy(&self.operator::<ReadPolicy>().await?).await?;
                DESCRIPTION.clone_into(&mut policy.scopes[0].description);
                let update = PolicyUpdate {
                    policy,
                    expected: None,
                    is_dry_run: false,
                    allow_orphans: false,
                };
                let operator = self.operator::<WritePolicy>().await?;
                keyring.apply_policy(operator, update).await.map(|_| Told::Applied)
            }
            Deed::Look => self.look().await,
            Deed::Fill => {
                // There is room for one of them at a time.
                self.ask(&self.bystander).await?;
                self.ask(token).await?;
                self.ask(&self.bystander).await?;
                Ok(Told::Seen)
            }
        }
    }

    async fn create(&self, account: &str) -> Result<KeyId, Error> {
        let operator = self.operator::<WriteKeys>().await?;
        let made =
            self.node.keyring.create_key(operator, a_key(account), Some(REQUEST.to_owned())).await;
        made.map(|made| made.key.id)
    }

    async fn revoke(&self, target: KeyTarget) -> Result<Told, Error> {
        let (reason, comment) = (RevokeReason::Compromised, String::new());
        let revoke = Revoke { target, reason, comment, with_created: false };
        let operator = self.operator::<WriteKeys>().await?;
        let revoked = self.node.keyring.revoke_key(operator, revoke, &Patience::none()).await;
        revoked.map(|_| Told::Revoked)
    }

    async fn look(&self) -> Result<Told, Error> {
        let (keyring, (id, token)) = (&self.node.keyring, &self.subject);
        let operator = self.operator::<ReadKeys>().await?;
        assert_eq!(keyring.get_key(&operator, *id).await?.id, *id);
        let found = keyring.lookup_key(&operator, LookupBy::Digest(token.digest())).await?;
        assert_eq!(found.len(), 1);
        let found = keyring.lookup_key(&operator, LookupBy::Hint(token.hint())).await?;
        assert_eq!(found.len(), 1);
        let list = KeyList {
            account: AccountId::parse("many"),
            created_by: None,
            environment: None,
            states: Vec::new(),
            page_size: 10,
            page_token: String::new(),
        };
        assert_eq!(keyring.list_keys(&operator, list).await?.items.len(), 1);
        let operator = self.operator::<ReadAccounts>().await?;
        keyring.get_account(&operator, &AccountId::parse("many").unwrap()).await?;
        let list = AccountList { plan: None, page_size: 10, page_token: String::new() };
        assert_eq!(keyring.list_accounts(&operator, list).await?.items.len(), 4);
        let list = AuditList {
            account: None,
            key: Some(*id),
            kind: None,
            actor: None,
            start: None,
            end: None,
            page_size: 10,
            page_token: String::new(),
        };
        let operator = self.operator::<ReadAudit>().await?;
        assert_eq!(keyring.query_audit(&operator, list).await?.items.len(), 1);
        Ok(Told::Seen)
    }

    pub(super) async fn truth(&self) -> Truth {
        let ask = ReadAsk { page: Some(all()), changes_max: 100, ..ReadAsk::default() };
        let batch = self.inner.read(&ask).await.unwrap();
        let many = AccountId::parse("many").unwrap();
        Truth {
            position: batch.position,
            is_suspended: batch
                .accounts
                .iter()
                .any(|account| account.id == many && account.suspended),
            keys: batch.keys,
            policy: batch.policy.unwrap(),
        }
    }

    /// Whether what was answered is so in the store.
    pub(super) fn is_so(&self, told: &Told, truth: &Truth) -> bool {
        let subject = truth.key(self.subject.0).unwrap();
        match told {
            Told::Made(id) => truth.key(*id).is_some_and(|key| key.revocation.is_none()),
            Told::Renamed => subject.display_name == DESCRIPTION && subject.disabled,
            Told::Rotated(id) => {
                subject.rotated_to == Some(*id)
                    && subject.revocation.is_some()
                    && truth.key(*id).is_some_and(|key| key.rotated_from == Some(subject.id))
            }
            Told::Revoked => subject.revocation.is_some(),
            Told::Suspended => truth.is_suspended,
            Told::Applied => truth.policy.scopes[0].description == DESCRIPTION,
            Told::Seen => true,
        }
    }

    /// What everybody is answered at this moment, an unknown key last.
    pub(super) async fn answers(&self) -> Answers {
        let (unknown, _) = self.node.keyring.new_token(Environment::Live);
        let mut answers = Vec::new();
        for token in [&self.subject.1, &self.bystander, &self.root, &unknown] {
            answers.push((token.digest(), self.ask(token).await));
        }
        answers
    }

    /// The node stands where the store does, and nothing of it has come to an end.
    pub(super) async fn check_whole(&self, truth: &Truth) -> Result<(), String> {
        self.node.feed.show(None).await.map_err(|error| super::tell("no read", &error))?;
        let applied = self.node.cache.applied();
        if applied != Some(truth.position) {
            return Err(format!("it stands at {applied:?}, the store at {:?}", truth.position));
        }
        if self.node.feed.fences() > 0 || self.reader.is_finished() {
            return Err("it does not trust the store any more, or does not read".into());
        }
        Ok(())
    }

    /// The same request again makes no second key, and what comes after it works.
    pub(super) async fn go_on(&self) -> Result<(), String> {
        let count = |truth: &Truth, name: &str| {
            let is_his =
                |key: &&KeyRecord| key.account.as_str() == name && key.revocation.is_none();
            truth.keys.iter().filter(is_his).count()
        };
        let before = self.truth().await;
        for name in ["one", "many"] {
            match self.create(name).await {
                Ok(_) => {}
                Err(error) if error.reason == Reason::AlreadyCreated => {}
                Err(error) if error.reason == Reason::AccountSuspended && before.is_suspended => {}
                Err(error) => return Err(super::tell("a key cannot be made", &error)),
            }
        }
        let after = self.truth().await;
        if count(&after, "one") != 1 || count(&after, "many") > count(&before, "many") + 1 {
            return Err("a request made more than one key".into());
        }
        let operator =
            self.operator::<WriteKeys>().await.map_err(|error| super::tell("no", &error))?;
        match self.node.keyring.create_key(operator, a_key("one"), None).await {
            Err(error) if error.reason == Reason::PlanLimitReached => Ok(()),
            _ => Err("the plan is not held".into()),
        }
    }
}

impl Truth {
    /// Whether everybody was answered; whoever was, was answered as the store has it.
    pub(super) fn check(&self, answers: Answers) -> Result<bool, String> {
        let mut all = true;
        for (digest, said) in answers {
            let is = self.denial(&digest);
            match said {
                Ok(said) if said == is => {}
                Ok(said) => return Err(format!("answered with {said:?}, and it is {is:?}")),
                Err(error) if error.reason == Reason::NotReady => all = false,
                Err(error) => return Err(super::tell("a question is answered", &error)),
            }
        }
        Ok(all)
    }

    fn key(&self, id: KeyId) -> Option<&KeyRecord> {
        self.keys.iter().find(|key| key.id == id)
    }

    fn denial(&self, digest: &Digest) -> Option<Denial> {
        let Some(key) = self.keys.iter().find(|key| key.digest == *digest) else {
            return Some(Denial::UnknownKey);
        };
        if key.revocation.is_some() {
            Some(Denial::KeyRevoked)
        } else if key.disabled {
            Some(Denial::KeyDisabled)
        } else {
            let is_suspended = self.is_suspended && key.account.as_str() == "many";
            is_suspended.then_some(Denial::AccountSuspended)
        }
    }
}

impl Template {
    async fn make() -> Self {
        let folder = Folder::new();
        let store = open(&folder).await;
        let keyring = node(&store, 100).keyring;
        let (root, secret) = keyring.new_token(Environment::Live);
        mutate(&*store, Command::Seed { policy: Policy::default(), secret }).await;
        for (name, plan) in [("many", "enterprise"), ("one", "free"), ("other", "enterprise")] {
            let new = NewAccount {
                id: AccountId::parse(name),
                display_name: name.to_owned(),
                plan: plan.to_owned(),
                labels: BTreeMap::new(),
            };
            mutate(&*store, Command::CreateAccount { new, request: None }).await;
        }
        let mut made = Vec::new();
        for account in ["many", "other"] {
            let (token, secret) = keyring.new_token(Environment::Live);
            let command = Command::CreateKey { new: a_key(account), secret, request: None };
            made.push((mutate(&*store, command).await.unwrap(), token.expose().to_owned()));
        }
        store.close().await;
        let bytes = std::fs::read(file(&folder)).unwrap();
        let (_, bystander) = made.pop().unwrap();
        Self { bytes, root: root.expose().to_owned(), subject: made.pop().unwrap(), bystander }
    }
}

fn file(folder: &Folder) -> PathBuf {
    folder.path().join("latchkey.db")
}

pub(super) async fn open(folder: &Folder) -> Arc<dyn Store> {
    store::open(&format!("sqlite://{}", file(folder).display())).await.unwrap()
}

pub(super) fn node(store: &Arc<dyn Store>, keys_max: usize) -> Node {
    let clock = machine::clock(machine::wall_clock(), Timestamp::EPOCH);
    let prefix = Prefix::parse("hm").unwrap();
    Node::wire(store, clock, Arc::new(MachineEntropy), &prefix, keys_max, READ_TIME_MAX, None)
}

async fn mutate(store: &dyn Store, command: Command) -> Option<KeyId> {
    let mut seed = [0; 32];
    MachineEntropy.fill(&mut seed);
    let (maker, peer, now) = (Maker::System("test"), String::new(), machine::wall_clock());
    let done = store.mutate(Mutation { maker, peer, now, seed, command }).await.unwrap().unwrap();
    done.keys.first().map(|key| key.id)
}

fn a_key(account: &str) -> NewKey {
    NewKey {
        account: AccountId::parse(account).unwrap(),
        display_name: "k".into(),
        environment: Environment::Live,
        scopes: vec![ScopePattern::parse("memory:read").unwrap()],
        grantable_scopes: Vec::new(),
        expiry: Expiry::Never,
        allowed_cidrs: Vec::new(),
        labels: BTreeMap::new(),
    }
}

const fn all() -> store::PageAsk {
    store::PageAsk { after: None, keys_max: 1_000, of_digests: false }
}
