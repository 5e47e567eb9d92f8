//! Requests that must not be carried out twice: unique per account and RPC, remembered for two days.

use std::time::Duration;

use super::{Door, Halt, Made, Rows};
use crate::account::AccountId;
use crate::clock::Timestamp;
use crate::error::{Error, Reason};
use crate::store::{RequestMark, StoreError};

/// How long a request is remembered; the API promises half of it.
const REMEMBERED: Duration = Duration::from_hours(48);

impl<R: Rows> Door<'_, R> {
    /// Refuses a request that was carried out before, and one that reuses its id.
    pub(super) async fn check_request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        mark: Option<&RequestMark>,
    ) -> Result<(), Halt> {
        let Some(mark) = mark else { return Ok(()) };
        let Some(before) = self.rows.request(account, rpc, &mark.id).await? else {
            return Ok(());
        };
        if before.content != mark.content {
            let mut error = Error::invalid(
                "request_id",
                "was used before with other content; take a new UUID for a new request",
            );
            error.reason = Reason::RequestIdReused;
            return Err(error.into());
        }
        Err(already(&before.made).into())
    }

    /// Remembers a request with what it made, and forgets old ones in passing.
    pub(super) async fn remember(
        &mut self,
        account: &AccountId,
        rpc: &str,
        mark: Option<&RequestMark>,
        made: &Made,
    ) -> Result<(), StoreError> {
        let Some(mark) = mark else { return Ok(()) };
        self.rows.insert_request(account, rpc, mark, made, self.at).await?;
        self.rows.forget_requests(forgotten_before(self.at)).await
    }
}

/// Of when requests may be forgotten at this instant; those from then on are remembered.
pub(in crate::store) fn forgotten_before(at: Timestamp) -> Timestamp {
    let span = i64::try_from(REMEMBERED.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(at.micros().saturating_sub(span))
}

fn already(made: &Made) -> Error {
    let Made { account, key } = made;
    match key {
        Some(key) => Error::new(
            Reason::AlreadyCreated,
            format!(
                "this request made `{key}` before; its token cannot be shown again. If it was lost, \
                 revoke that key and send a new request"
            ),
        )
        .with("key_id", key.to_string()),
        None => Error::new(Reason::AlreadyCreated, format!("this request made `{account}` before")),
    }
    .with("account_id", account.to_string())
}
