//! `AccountService`: each call admits its operator, converts, asks the [`Keyring`] and converts back.

use tonic::{Request, Response, Status};

use super::Admission;
use super::convert::{self, accounts as read};
use crate::authorizer::operator::{ReadAccounts, WriteAccounts};
use crate::error::{Error, Reason};
use crate::keyring::{Counted, Keyring};
use crate::proto::v1::account_service_server::AccountService;
use crate::proto::v1::{
    Account, CreateAccountRequest, CreateAccountResponse, GetAccountRequest, GetAccountResponse,
    ListAccountsRequest, ListAccountsResponse, UpdateAccountRequest, UpdateAccountResponse,
};

/// Administers accounts.
pub(super) struct Accounts {
    admission: Admission,
    keyring: Keyring,
}

impl Accounts {
    pub(super) fn new(admission: Admission, keyring: Keyring) -> Self {
        Self { admission, keyring }
    }

    /// Accounts as the answer shows them, with what their plans allow.
    async fn shown(&self, accounts: Vec<Counted>) -> Result<Vec<Account>, Error> {
        let plans = accounts.iter().map(|(account, _)| account.plan.as_str());
        let max_keys = self.keyring.max_keys(plans).await?;
        let shown = accounts.into_iter().zip(max_keys);
        Ok(shown.map(|((account, counted), most)| read::account(account, counted, most)).collect())
    }

    /// The account that a read found.
    async fn found(&self, account: Counted) -> Result<Option<Account>, Error> {
        Ok(self.shown(vec![account]).await?.pop())
    }

    /// The account that a change left. The change was made: whatever fails here must not say otherwise.
    async fn changed(&self, account: Counted) -> Result<Option<Account>, Error> {
        self.found(account).await.map_err(|error| {
            let told = "the change was made, but what its plan allows cannot be read now";
            Error::new(Reason::OutcomeUnknown, told).caused_by(error)
        })
    }
}

#[tonic::async_trait]
impl AccountService for Accounts {
    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        let (operator, message) = self.admission.admit::<WriteAccounts, _>(request).await?;
        let (new, request_id) = read::create(message)?;
        let made = self.keyring.create_account(operator, new, request_id).await?;
        let revision = made.0.revision.to_revision();
        let account = self.changed(made).await?;
        Ok(Response::new(CreateAccountResponse { account, revision }))
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let (operator, message) = self.admission.admit::<ReadAccounts, _>(request).await?;
        let GetAccountRequest { account_id } = message;
        let id = convert::account_id("account_id", &account_id)?;
        let found = self.keyring.get_account(&operator, &id).await?;
        Ok(Response::new(GetAccountResponse { account: self.found(found).await? }))
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        let (operator, message) = self.admission.admit::<ReadAccounts, _>(request).await?;
        let page = self.keyring.list_accounts(&operator, read::list(message)?).await?;
        Ok(Response::new(ListAccountsResponse {
            accounts: self.shown(page.items).await?,
            next_page_token: page.next_page_token,
        }))
    }

    async fn update_account(
        &self,
        request: Request<UpdateAccountRequest>,
    ) -> Result<Response<UpdateAccountResponse>, Status> {
        let (operator, message) = self.admission.admit::<WriteAccounts, _>(request).await?;
        let update = read::update(message)?;
        let (updated, receipt) = self.keyring.update_account(operator, update).await?;
        Ok(Response::new(UpdateAccountResponse {
            account: self.changed(updated).await?,
            receipt: Some(convert::receipt(receipt)),
        }))
    }
}
