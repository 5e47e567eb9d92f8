//! `KeyService`: each call admits its operator, converts, asks the [`Keyring`] and converts back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::{Request, Response, Status};

use super::Admission;
use super::convert::{self, keys as read};
use super::deadline::Waiting;
use crate::authorizer::operator::{ReadKeys, WriteKeys};
use crate::keyring::{Created, Keyring, Patience, Revoked, Rotated};
use crate::proto::v1::key_service_server::KeyService;
use crate::proto::v1::{
    CreateKeyRequest, CreateKeyResponse, GetKeyRequest, GetKeyResponse, ListKeysRequest,
    ListKeysResponse, LookupKeyRequest, LookupKeyResponse, RevokeKeyRequest, RevokeKeyResponse,
    RotateKeyRequest, RotateKeyResponse, UpdateKeyRequest, UpdateKeyResponse,
};

/// Administers keys.
pub(super) struct Keys {
    admission: Admission,
    keyring: Keyring,
    is_stopping: Arc<AtomicBool>,
}

impl Keys {
    pub(super) fn new(
        admission: Admission,
        keyring: Keyring,
        is_stopping: Arc<AtomicBool>,
    ) -> Self {
        Self { admission, keyring, is_stopping }
    }
}

#[tonic::async_trait]
impl KeyService for Keys {
    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<CreateKeyResponse>, Status> {
        let (operator, message) = self.admission.admit::<WriteKeys, _>(request).await?;
        let (new, request_id) = read::create(message)?;
        let Created { key, token } = self.keyring.create_key(operator, new, request_id).await?;
        Ok(Response::new(CreateKeyResponse {
            revision: key.revision.to_revision(),
            key: Some(read::key(key, self.keyring.now())),
            token: token.expose().to_owned(),
        }))
    }

    async fn get_key(
        &self,
        request: Request<GetKeyRequest>,
    ) -> Result<Response<GetKeyResponse>, Status> {
        let (operator, message) = self.admission.admit::<ReadKeys, _>(request).await?;
        let GetKeyRequest { key_id } = message;
        let key = self.keyring.get_key(&operator, convert::key_id("key_id", &key_id)?).await?;
        let key = Some(read::key(key, self.keyring.now()));
        Ok(Response::new(GetKeyResponse { key }))
    }

    async fn lookup_key(
        &self,
        request: Request<LookupKeyRequest>,
    ) -> Result<Response<LookupKeyResponse>, Status> {
        let (operator, message) = self.admission.admit::<ReadKeys, _>(request).await?;
        let keys = self.keyring.lookup_key(&operator, read::lookup(message)?).await?;
        let now = self.keyring.now();
        let keys = keys.into_iter().map(|key| read::key(key, now)).collect();
        Ok(Response::new(LookupKeyResponse { keys }))
    }

    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        let (operator, message) = self.admission.admit::<ReadKeys, _>(request).await?;
        let page = self.keyring.list_keys(&operator, read::list(message)?).await?;
        let now = self.keyring.now();
        Ok(Response::new(ListKeysResponse {
            keys: page.items.into_iter().map(|key| read::key(key, now)).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn update_key(
        &self,
        request: Request<UpdateKeyRequest>,
    ) -> Result<Response<UpdateKeyResponse>, Status> {
        let (operator, message) = self.admission.admit::<WriteKeys, _>(request).await?;
        let update = read::update(message)?;
        let (key, receipt) = self.keyring.update_key(operator, update).await?;
        Ok(Response::new(UpdateKeyResponse {
            key: Some(read::key(key, self.keyring.now())),
            receipt: Some(convert::receipt(receipt)),
        }))
    }

    async fn revoke_key(
        &self,
        request: Request<RevokeKeyRequest>,
    ) -> Result<Response<RevokeKeyResponse>, Status> {
        let caller = request.extensions().get::<Waiting>().cloned();
        let (operator, message) = self.admission.admit::<WriteKeys, _>(request).await?;
        let (revoke, wait) = read::revoke(message)?;
        let is_stopping = Arc::clone(&self.is_stopping);
        let is_wanted = move || {
            caller.as_ref().is_some_and(Waiting::goes_on) && !is_stopping.load(Ordering::Relaxed)
        };
        let patience = Patience { wait, is_wanted: Box::new(is_wanted) };
        let revoked = self.keyring.revoke_key(operator, revoke, &patience).await?;
        let Revoked { key, revoked, receipt } = revoked;
        Ok(Response::new(RevokeKeyResponse {
            key: Some(read::key(key, self.keyring.now())),
            receipt: Some(convert::receipt(receipt)),
            revoked_key_ids: revoked.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn rotate_key(
        &self,
        request: Request<RotateKeyRequest>,
    ) -> Result<Response<RotateKeyResponse>, Status> {
        let (operator, message) = self.admission.admit::<WriteKeys, _>(request).await?;
        let read::Rotate { id, overlap, request_id } = read::rotate(message)?;
        let rotated = self.keyring.rotate_key(operator, id, overlap, request_id).await?;
        let Rotated { key, token, previous, receipt } = rotated;
        let now = self.keyring.now();
        Ok(Response::new(RotateKeyResponse {
            key: Some(read::key(key, now)),
            token: token.expose().to_owned(),
            previous_key: Some(read::key(previous, now)),
            receipt: Some(convert::receipt(receipt)),
        }))
    }
}
