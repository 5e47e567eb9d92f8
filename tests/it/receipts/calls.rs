//! A store that makes the change, and then will not tell of nodes.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use latchkey::account::{AccountChange, AccountId};
use latchkey::app::Node;
use latchkey::authorizer::operator::WriteAccounts;
use latchkey::authorizer::{Credential, Operator};
use latchkey::clock::Timestamp;
use latchkey::keyring::{AccountUpdate, Receipt};
use latchkey::machine::{self, MachineEntropy};
use latchkey::policy::Policy;
use latchkey::store::{self, Command, Store};
use latchkey::token::{Environment, Prefix, Token};

use crate::support::{Fault, FaultyStore, Folder};

const DAY: Duration = Duration::from_hours(24);
/// Longer than any read takes here.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_told_as_made_though_nobody_knows_who_has_applied_it() {
    for fault in [Fault::Unavailable, Fault::Unusable, Fault::HangsBefore] {
        // How many calls come before that one depends on how many reads do, and they come as they like.
        let mut tried = (2..6).cycle().take(100);
        let (name, receipt) = loop {
            let at =
                tried.next().unwrap_or_else(|| panic!("{fault:?}: the nodes are not asked for"));
            let desk = Desk::open().await;
            if let Some(receipt) = desk.receipt_despite(fault, at).await {
                break (desk.node.name.clone(), receipt);
            }
        };
        assert_eq!(receipt.pending_nodes, ["*"], "{fault:?}");
        assert_eq!(receipt.applied_nodes, [name], "{fault:?}");
        assert!(receipt.effective_in > DAY, "{fault:?}: {receipt:?}");
    }
}

/// A node over a store that can be disturbed.
struct Desk {
    store: Arc<FaultyStore>,
    node: Node,
    root: Token,
    reader: tokio::task::JoinHandle<()>,
    _folder: Folder,
}

impl Desk {
    async fn open() -> Self {
        let folder = Folder::new();
        let url = format!("sqlite://{}/latchkey.db", folder.path().display());
        let store = FaultyStore::new(store::open(&url).await.unwrap());
        let clock = machine::clock(machine::wall_clock(), Timestamp::EPOCH);
        let shared: Arc<dyn Store> = Arc::clone(&store) as _;
        let prefix = Prefix::parse("hm").unwrap();
        let entropy = Arc::new(MachineEntropy);
        let node = Node::wire(&shared, clock, entropy, &prefix, 100, READ_TIME_MAX, None);
        let feed = node.feed.clone();
        let reader = tokio::spawn(async move { feed.run().await });
        let (root, secret) = node.keyring.new_token(Environment::Live);
        let seed = Command::Seed { policy: Policy::default(), secret };
        node.keyring.mutate_as_system("test", seed).await.unwrap();
        while node.cache.is_loading() {
            node.feed.show(None).await.unwrap();
        }
        Self { store, node, root, reader, _folder: folder }
    }

    async fn rename(&self) -> Result<Receipt, latchkey::error::Error> {
        let credential = Credential::Token(self.root.expose().as_bytes());
        let operator: Operator<WriteAccounts> =
            self.node.authorizer.operator(credential, None, String::new()).await?;
        let display_name = Some("renamed".to_owned());
        let change = AccountChange { display_name, ..AccountChange::default() };
        let update = AccountUpdate { id: AccountId::reserved(), change, expected: None };
        self.node.keyring.update_account(operator, update).await.map(|(_, receipt)| receipt)
    }

    /// What is told of a change, if the nodes are asked for by the call of this number, which is disturbed.
    async fn receipt_despite(&self, fault: Fault, at: u64) -> Option<Receipt> {
        self.store.disturb(at, fault);
        let is_of_nodes = || self.store.disturbed() == Some("nodes");
        let another_hangs = async {
            self.store.a_call_hangs().await;
            if is_of_nodes() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            told = self.rename() => is_of_nodes().then(|| told.unwrap()),
            () = another_hangs => None,
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
