//! Walks through lists while others write: what is there all the time is seen once; and page tokens lead on
//! in the list that gave them, or nowhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{
    CreateAccountRequest, CreateKeyRequest, Environment, KeyState, ListAccountsRequest,
    ListKeysRequest, QueryAuditRequest, RevokeKeyRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::Server;

const THERE: usize = 60;
const WALKS: i32 = 12;
const WRITERS: usize = 4;

/// How often each id was seen, and how many pages it took.
type Seen = (BTreeMap<String, usize>, usize);

#[tokio::test]
async fn keys_that_are_there_all_the_time_are_listed_once() {
    let office = Office::open().await;
    let there = office.make_keys(THERE).await;
    let writers = office.write().await;
    for size in 1..=WALKS {
        let filter = ListKeysRequest {
            account_id: "acme".into(),
            page_size: size,
            states: vec![KeyState::Active.into()],
            ..Default::default()
        };
        let (seen, pages) = office.walk_keys(filter).await;
        assert_once(&there, &seen);
        assert!(pages >= THERE / usize::try_from(size).unwrap(), "{pages} pages of {size}");
    }
    writers.end().await;
}

#[tokio::test]
async fn accounts_that_are_there_all_the_time_are_listed_once() {
    let office = Office::open().await;
    let mut there = Vec::new();
    for number in 0..THERE {
        // Between those that are made meanwhile, before and after.
        there.push(office.make_account(&format!("{number:02}-there")).await);
    }
    let writers = office.write().await;
    for size in 1..=WALKS {
        let (seen, pages) = office.walk_accounts(size).await;
        assert_once(&there, &seen);
        assert!(pages >= THERE / usize::try_from(size).unwrap(), "{pages} pages of {size}");
    }
    writers.end().await;
}

#[tokio::test]
async fn entries_of_the_audit_trail_that_are_there_are_listed_once() {
    let office = Office::open().await;
    office.make_keys(THERE).await;
    let (there, _) = office.walk_audit(1_000).await;
    let there: Vec<_> = there.into_keys().collect();
    let writers = office.write().await;
    for size in 3..=WALKS {
        let (seen, _) = office.walk_audit(size).await;
        assert_once(&there, &seen);
    }
    writers.end().await;
}

#[tokio::test]
async fn a_page_token_with_other_arguments_or_damaged_leads_nowhere() {
    let office = Office::open().await;
    office.make_keys(5).await;
    let mut keys = office.server.keys(&office.root).await;
    let first = ListKeysRequest { account_id: "acme".into(), page_size: 2, ..Default::default() };
    let token = keys.list_keys(first.clone()).await.unwrap().into_inner().next_page_token;
    let next = ListKeysRequest { page_token: token.clone(), ..first };
    // As many as one likes are shown of it, and as often.
    for page_size in [1, 2, 1_000, 2] {
        let page = ListKeysRequest { page_size, ..next.clone() };
        keys.list_keys(page).await.unwrap();
    }
    let others: [fn(&mut ListKeysRequest); 4] = [
        |it| it.account_id = "latchkey".into(),
        |it| it.states = vec![KeyState::Active.into()],
        |it| it.created_by = "key:key_00000000000000000000000000".into(),
        |it| it.environment = Environment::Live.into(),
    ];
    for change in others {
        let mut other = next.clone();
        change(&mut other);
        assert_leads_nowhere(&keys.list_keys(other).await.unwrap_err());
    }
    let elsewhere = ListAccountsRequest { page_token: token.clone(), ..Default::default() };
    let mut accounts = office.server.accounts(&office.root).await;
    assert_leads_nowhere(&accounts.list_accounts(elsewhere).await.unwrap_err());
    let elsewhere = QueryAuditRequest { page_token: token.clone(), ..Default::default() };
    let mut audits = office.server.audits(&office.root).await;
    assert_leads_nowhere(&audits.query_audit(elsewhere).await.unwrap_err());
    // The list is the same for an operator of its account, the token is not.
    let mut own = office.server.keys(&office.operator().await).await;
    assert_leads_nowhere(&own.list_keys(next.clone()).await.unwrap_err());
    for damaged in damaged(&token) {
        let request = ListKeysRequest { page_token: damaged, ..next.clone() };
        assert_leads_nowhere(&keys.list_keys(request).await.unwrap_err());
    }
}

/// Each character changed, each end cut off, and more behind.
fn damaged(token: &str) -> Vec<String> {
    let changed = (0..token.len()).map(|at| {
        let to = if &token[at..=at] == "A" { "B" } else { "A" };
        [&token[..at], to, &token[at + 1..]].concat()
    });
    let cut = (1..token.len()).map(|at| token[..at].to_owned());
    let more = ["=", "A", " ", "\u{0}", "ä"].map(|more| format!("{token}{more}"));
    changed.chain(cut).chain(more).chain(["A".repeat(100_000 / 2)]).collect()
}

fn assert_leads_nowhere(refused: &Status) {
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let details = refused.get_error_details();
    let fields = &details.bad_request().unwrap().field_violations;
    assert_eq!(fields.iter().map(|it| it.field.as_str()).collect::<Vec<_>>(), ["page_token"]);
}

fn assert_once(there: &[String], seen: &BTreeMap<String, usize>) {
    for id in there {
        assert_eq!(seen.get(id), Some(&1), "{id}");
    }
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// A server with an account `acme`, and writers who come and go.
struct Office {
    server: Server,
    root: String,
}

/// Tasks that write until they are told to end.
struct Writers(Arc<AtomicBool>, Vec<tokio::task::JoinHandle<()>>);

impl Writers {
    async fn end(self) {
        self.0.store(true, Ordering::SeqCst);
        for writer in self.1 {
            writer.await.unwrap();
        }
    }
}

impl Office {
    async fn open() -> Self {
        let server = Server::start().await;
        let root = server.root_token();
        let office = Self { server, root };
        office.make_account("acme").await;
        office
    }

    /// Makes keys and accounts, and revokes the keys again.
    async fn write(&self) -> Writers {
        let is_over = Arc::new(AtomicBool::new(false));
        let keys = self.server.keys(&self.root).await;
        let accounts = self.server.accounts(&self.root).await;
        let writers = (0..WRITERS).map(|writer| {
            let (mut keys, mut accounts) = (keys.clone(), accounts.clone());
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move {
                for number in 0_u32.. {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let made = keys.create_key(new_key()).await.unwrap().into_inner().key.unwrap();
                    // Ids that lie before, between and behind those that are there.
                    let place = (number * 37 + u32::try_from(writer).unwrap() * 11) % 100;
                    let request = new_account(&format!("{place:02}-{writer}-{number}"));
                    accounts.create_account(request).await.unwrap();
                    let target = Some(Target::KeyId(made.key_id));
                    let request = RevokeKeyRequest { target, ..Default::default() };
                    keys.revoke_key(request).await.unwrap();
                }
            })
        });
        Writers(Arc::clone(&is_over), writers.collect())
    }

    async fn make_keys(&self, number: usize) -> Vec<String> {
        let mut keys = self.server.keys(&self.root).await;
        let mut made = Vec::new();
        for _ in 0..number {
            made.push(keys.create_key(new_key()).await.unwrap().into_inner().key.unwrap().key_id);
        }
        made
    }

    async fn make_account(&self, id: &str) -> String {
        let mut accounts = self.server.accounts(&self.root).await;
        accounts.create_account(new_account(id)).await.unwrap();
        id.to_owned()
    }

    /// The token of an operator of `acme`.
    async fn operator(&self) -> String {
        let request = CreateKeyRequest { scopes: vec!["latchkey:keys.read".into()], ..new_key() };
        let mut keys = self.server.keys(&self.root).await;
        keys.create_key(request).await.unwrap().into_inner().token
    }

    async fn walk_keys(&self, first: ListKeysRequest) -> Seen {
        let mut keys = self.server.keys(&self.root).await;
        let (mut seen, mut pages, mut request) = (BTreeMap::new(), 0, first);
        loop {
            let page = keys.list_keys(request.clone()).await.unwrap().into_inner();
            for key in page.keys {
                *seen.entry(key.key_id).or_default() += 1;
            }
            pages += 1;
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return (seen, pages);
            }
        }
    }

    async fn walk_accounts(&self, page_size: i32) -> Seen {
        let mut accounts = self.server.accounts(&self.root).await;
        let (mut seen, mut pages) = (BTreeMap::new(), 0);
        let mut request = ListAccountsRequest { page_size, ..Default::default() };
        loop {
            let page = accounts.list_accounts(request.clone()).await.unwrap().into_inner();
            for account in page.accounts {
                *seen.entry(account.account_id).or_default() += 1;
            }
            pages += 1;
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return (seen, pages);
            }
        }
    }

    async fn walk_audit(&self, page_size: i32) -> Seen {
        let mut audits = self.server.audits(&self.root).await;
        let (mut seen, mut pages) = (BTreeMap::new(), 0);
        let mut request = QueryAuditRequest { page_size, ..Default::default() };
        loop {
            let page = audits.query_audit(request.clone()).await.unwrap().into_inner();
            for entry in page.entries {
                *seen.entry(entry.revision).or_default() += 1;
            }
            pages += 1;
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return (seen, pages);
            }
        }
    }
}

fn new_key() -> CreateKeyRequest {
    CreateKeyRequest {
        account_id: "acme".into(),
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    }
}

fn new_account(id: &str) -> CreateAccountRequest {
    CreateAccountRequest { account_id: id.into(), plan: "enterprise".into(), ..Default::default() }
}
