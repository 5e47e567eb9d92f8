//! Calls whose answer does not come: repeated where that is safe, and told where something may be lost.

use std::sync::{Arc, Mutex};

use latchkey::error::{Error, Reason};
use latchkey::proto::v1::account_service_server::{AccountService, AccountServiceServer};
use latchkey::proto::v1::{
    Account, CreateAccountRequest, CreateAccountResponse, GetAccountRequest, GetAccountResponse,
    ListAccountsRequest, ListAccountsResponse, UpdateAccountRequest, UpdateAccountResponse,
};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::{Desk, refused, text};
use crate::cli::{Ended, Run};

/// A service that fails as told, and notes what it is sent.
#[derive(Clone, Default)]
struct Flaky {
    failures: Arc<Mutex<Vec<Reason>>>,
    /// Where each page of a list goes on.
    next_page_token: &'static str,
    /// Whether there is nothing on it.
    is_empty: bool,
    noted: Arc<Mutex<Vec<String>>>,
}

impl Flaky {
    /// Starts it; each call takes one of these failures away, the last first.
    async fn start(failures: &[Reason]) -> (Self, String) {
        Self { failures: Arc::new(Mutex::new(failures.to_vec())), ..Self::default() }.serve().await
    }

    async fn serve(self) -> (Self, String) {
        let flaky = self;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = AccountServiceServer::new(flaky.clone());
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpIncoming::from(listener)));
        (flaky, address)
    }

    fn answer(&self, noted: &str) -> Result<Option<Account>, Status> {
        self.noted.lock().unwrap().push(noted.to_owned());
        match self.failures.lock().unwrap().pop() {
            Some(reason) => Err(Error::new(reason, "so told").with("account_id", "acme").into()),
            None => Ok(Some(Account { account_id: "acme".into(), ..Account::default() })),
        }
    }

    fn noted(&self) -> Vec<String> {
        self.noted.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl AccountService for Flaky {
    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        let account = self.answer(&request.get_ref().request_id)?;
        Ok(Response::new(CreateAccountResponse { account, ..Default::default() }))
    }

    async fn get_account(
        &self,
        _: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        Ok(Response::new(GetAccountResponse { account: self.answer("get")? }))
    }

    async fn list_accounts(
        &self,
        _: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        let accounts = self.answer("list")?.into_iter().filter(|_| !self.is_empty).collect();
        let next_page_token = self.next_page_token.to_owned();
        Ok(Response::new(ListAccountsResponse { accounts, next_page_token }))
    }

    async fn update_account(
        &self,
        _: Request<UpdateAccountRequest>,
    ) -> Result<Response<UpdateAccountResponse>, Status> {
        let account = self.answer("update")?;
        Ok(Response::new(UpdateAccountResponse { account, ..Default::default() }))
    }
}

fn run(address: &str, arguments: &[&str]) -> Ended {
    let token = "hm_live_0000000000000000000000000000002dlYSp";
    let environment = [("LATCHKEY_ADDRESS", address), ("LATCHKEY_TOKEN", token)];
    Run { environment: &environment, ..Run::default() }.latchkey(arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_repeated_while_nothing_was_done() {
    let (flaky, address) = Flaky::start(&[Reason::NotReady, Reason::StoreUnavailable]).await;
    let ended =
        run(&address, &["account", "update", "acme", "--plan", "pro", "--expected-revision", "x"]);
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
    assert_eq!(flaky.noted().len(), 3);

    let (flaky, address) = Flaky::start(&[Reason::NotReady; 9]).await;
    let said = refused(&run(&address, &["account", "list"]));
    assert!(said.contains("NOT_READY") && said.contains("try again in a moment"), "{said}");
    assert_eq!(flaky.noted().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_made_is_asked_for_by_the_same_request_id() {
    // The first was carried out, and its answer lost.
    let (flaky, address) = Flaky::start(&[Reason::AlreadyCreated, Reason::OutcomeUnknown]).await;
    let ended = run(&address, &["account", "create", "acme"]);
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
    assert!(ended.out.contains("acme"), "{ended:?}");
    let noted = flaky.noted();
    assert_eq!((noted.len(), &noted[0], &*noted[2]), (3, &noted[1], "get"));
    assert!(uuid::Uuid::parse_str(&noted[0]).is_ok(), "{noted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_certain_revision_is_not_repeated_blindly() {
    let (flaky, address) = Flaky::start(&[Reason::OutcomeUnknown]).await;
    let update = ["account", "update", "acme", "--plan", "pro"];
    let said = refused(&run(&address, &[&update[..], &["--expected-revision", "x"]].concat()));
    assert!(said.contains("OUTCOME_UNKNOWN") && said.contains("before you repeat it"), "{said}");
    assert_eq!(flaky.noted().len(), 1);

    let (flaky, address) = Flaky::start(&[Reason::OutcomeUnknown]).await;
    assert_eq!(run(&address, &update).code, Some(0));
    assert_eq!(flaky.noted().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_end_is_not_listened_to_for_ever() {
    let endless = Flaky { next_page_token: "again", ..Flaky::default() };
    let (endless, address) = endless.serve().await;
    let said = refused(&run(&address, &["account", "list"]));
    assert!(said.contains("does not come to an end") && said.contains("defect"), "{said}");
    assert_eq!(endless.noted().len(), 2);
    assert_eq!(run(&address, &["account", "list", "--limit", "1"]).code, Some(0));
    let (empty, address) = Flaky { is_empty: true, ..endless }.serve().await;
    let said = refused(&run(&address, &["account", "list"]));
    assert!(said.contains("does not come to an end"), "{said}");
    assert_eq!(empty.noted().len(), 4);
}

#[tokio::test]
async fn the_same_request_twice_makes_one_key() {
    let desk = Desk::open().await;
    let id = ["--request-id", "c0ffee00-1234-4abc-8def-0123456789ab"];
    let (key_id, _) = desk.key("importer", &id);
    let create = ["key", "create", "--account", "acme", "--environment", "live", "--name"];
    let said = desk.refused(&[&create[..], &["importer"], &id].concat());
    assert!(said.contains(&format!("made {key_id} before")), "{said}");
    assert!(said.contains(&format!("latchkey key revoke {key_id}")), "{said}");
    let said = desk.refused(&[&create[..], &["other"], &id].concat());
    assert!(said.contains("--request-id: ") || said.contains("REQUEST_ID_REUSED"), "{said}");

    let account = ["account", "create", "other", "--plan", "pro"];
    for _ in 0..2 {
        let made = desk.json(&[&account[..], &id].concat());
        assert_eq!(text(&made["account"]["plan"]), "pro");
    }
}
