//! A client that changes keys and notes every answer.

use std::sync::atomic::{AtomicU64, Ordering};

use latchkey::proto::v1::account_service_client::AccountServiceClient;
use latchkey::proto::v1::key_service_client::KeyServiceClient;
use latchkey::proto::v1::policy_service_client::PolicyServiceClient;
use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{
    Account, ApplyPolicyRequest, CreateAccountRequest, CreateKeyRequest, Environment,
    GetKeyRequest, GetPolicyRequest, Key as KeyMessage, RevokeKeyRequest, RotateKeyRequest,
    UpdateAccountRequest, UpdateKeyRequest,
};
use prost_types::{Duration, FieldMask};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::ledger::{Key, Ledger, Operation};
use crate::support::{Authed, Caller, Dice, Server};

pub(crate) struct Client {
    keys: KeyServiceClient<Authed>,
    accounts: AccountServiceClient<Authed>,
    policies: PolicyServiceClient<Authed>,
    pub(crate) ledger: Ledger,
}

impl Client {
    pub(crate) async fn of(server: &Server, root: &str, ledger: Ledger) -> Self {
        Self::connect(server, root, ledger).await.unwrap()
    }

    /// Of a server that may be gone already.
    pub(crate) async fn connect(
        server: &Server,
        root: &str,
        ledger: Ledger,
    ) -> Result<Self, tonic::transport::Error> {
        let channel = server.try_channel().await?;
        Ok(Self {
            keys: KeyServiceClient::with_interceptor(channel.clone(), Caller::new(root)),
            accounts: AccountServiceClient::with_interceptor(channel.clone(), Caller::new(root)),
            policies: PolicyServiceClient::with_interceptor(channel, Caller::new(root)),
            ledger,
        })
    }

    /// Makes the account of its own.
    pub(crate) async fn create_account(&mut self) -> Result<(), Status> {
        let account_id = self.ledger.account.clone();
        let plan = "enterprise".to_owned();
        let request = CreateAccountRequest { account_id, plan, ..Default::default() };
        match self.accounts.create_account(request).await {
            Err(status) if status.code() != Code::AlreadyExists => Err(status),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(crate) async fn get(&mut self, id: &str) -> Result<Key, Status> {
        let answer = self.keys.get_key(GetKeyRequest { key_id: id.to_owned() }).await?;
        Ok(Key::from(answer.into_inner().key.unwrap()))
    }

    /// Goes on until the server is gone; counts what is acknowledged.
    pub(crate) async fn work(mut self, mut dice: Dice, acknowledged: &AtomicU64) -> Ledger {
        loop {
            let operation = self.ledger.choose(&mut dice);
            self.ledger.pending = Some(operation.clone());
            match self.carry_out(&operation).await {
                Ok(()) => {
                    self.ledger.acknowledged += 1;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Err(status) if is_refusal(&status) => {}
                Err(_) => return self.ledger,
            }
            self.ledger.pending = None;
        }
    }

    /// Asks, and takes the answer into the ledger.
    pub(crate) async fn carry_out(&mut self, operation: &Operation) -> Result<(), Status> {
        match operation {
            Operation::Create { account, name, request_id } => {
                self.create(account, name, request_id).await?;
            }
            Operation::Rename { id, name, expected } => {
                let changed = KeyMessage { display_name: name.clone(), ..named(id) };
                let expected = expected.clone().unwrap_or_default();
                self.update(changed, "display_name", expected).await?;
            }
            Operation::Disable { id, disabled } => {
                let changed = KeyMessage { disabled: *disabled, ..named(id) };
                self.update(changed, "disabled", String::new()).await?;
            }
            Operation::Rotate { id, has_overlap, request_id } => {
                self.rotate(operation, id, *has_overlap, request_id).await?;
            }
            Operation::Revoke { id, by_token } => {
                let target = by_token.clone().map_or(Target::KeyId(id.clone()), Target::Token);
                let request = RevokeKeyRequest { target: Some(target), ..Default::default() };
                let answer = self.keys.revoke_key(request).await?.into_inner();
                self.take(answer.key);
            }
            Operation::Suspend { suspended } => self.suspend(*suspended).await?,
            Operation::ApplyPolicy { description } => self.apply_policy(description).await?,
        }
        Ok(())
    }

    async fn create(&mut self, account: &str, name: &str, request_id: &str) -> Result<(), Status> {
        let request = CreateKeyRequest {
            account_id: account.to_owned(),
            display_name: name.to_owned(),
            environment: Environment::Live.into(),
            scopes: vec!["memory:read".into()],
            request_id: request_id.to_owned(),
            ..Default::default()
        };
        let answer = self.keys.create_key(request).await?.into_inner();
        let key = Key::from(answer.key.unwrap());
        self.ledger.put(Key { token: Some(answer.token), ..key });
        Ok(())
    }

    async fn update(
        &mut self,
        key: KeyMessage,
        field: &str,
        expected_revision: String,
    ) -> Result<(), Status> {
        let update_mask = Some(FieldMask { paths: vec![field.to_owned()] });
        let request = UpdateKeyRequest { key: Some(key), update_mask, expected_revision };
        let answer = self.keys.update_key(request).await?.into_inner();
        self.take(answer.key);
        Ok(())
    }

    async fn rotate(
        &mut self,
        operation: &Operation,
        id: &str,
        has_overlap: bool,
        request_id: &str,
    ) -> Result<(), Status> {
        let overlap = has_overlap.then_some(Duration { seconds: 86_400, nanos: 0 });
        let (key_id, request_id) = (id.to_owned(), request_id.to_owned());
        let request = RotateKeyRequest { key_id, overlap, request_id };
        let answer = self.keys.rotate_key(request).await?.into_inner();
        let key = Key::from(answer.key.unwrap());
        self.ledger.expect(operation, Some(&key.id));
        self.ledger.put(Key { token: Some(answer.token), ..key });
        self.take(answer.previous_key);
        Ok(())
    }

    async fn suspend(&mut self, suspended: bool) -> Result<(), Status> {
        let account_id = self.ledger.account.clone();
        let request = UpdateAccountRequest {
            account: Some(Account { account_id, suspended, ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["suspended".into()] }),
            ..Default::default()
        };
        let answer = self.accounts.update_account(request).await?.into_inner();
        assert_eq!(answer.account.unwrap().suspended, suspended);
        self.ledger.is_suspended = suspended;
        Ok(())
    }

    async fn apply_policy(&mut self, description: &str) -> Result<(), Status> {
        let answer = self.policies.get_policy(GetPolicyRequest {}).await?.into_inner();
        let mut policy = answer.policy.unwrap();
        description.clone_into(&mut policy.scopes[0].description);
        let request = ApplyPolicyRequest { policy: Some(policy), ..Default::default() };
        let answer = self.policies.apply_policy(request).await?.into_inner();
        assert_eq!(answer.policy.unwrap().scopes[0].description, description);
        self.ledger.policy = Some(description.to_owned());
        Ok(())
    }

    fn take(&mut self, key: Option<KeyMessage>) {
        self.ledger.put(Key::from(key.unwrap()));
    }
}

fn named(id: &str) -> KeyMessage {
    KeyMessage { key_id: id.to_owned(), ..Default::default() }
}

/// Whether the server said itself that it did not do it; all else may have been done.
pub(crate) fn is_refusal(status: &Status) -> bool {
    // What it did not reckon with, it says nothing of.
    let tells = !matches!(status.code(), Code::Unknown | Code::Internal);
    tells && status.get_error_details().error_info().is_some()
}
