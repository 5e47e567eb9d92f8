//! The reader's read in PostgreSQL: one transaction of REPEATABLE READ, whose first statement takes the snapshot
//! that all of it sees.
//!
//! One statement would see one snapshot too, but would have to bring changes, keys, accounts and the policy in one
//! form, and to be planned as one. When nothing has changed and nobody waits, this comes to two messages,
//! the one that renews the lease included.

use std::time::Duration;

use super::link::ReaderLink;
use super::nodes;
use super::open::newer;
use crate::store::sql::Columns as _;
use crate::store::{ReadAsk, ReadBatch, StoreError, reading};

/// Brings what is asked for. A reader that gives up drops this, and the connection with it.
pub(super) async fn read(reader: &ReaderLink, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
    let sql = |is_new| begin(ask, ask.must_renew || is_new);
    let (mut link, is_new, row) = reader.begin(sql).await?;
    if row.flag(6)? {
        return Err(StoreError::Unavailable(
            "this server is a standby, and may be behind: store.url has to name the primary".into(),
        ));
    }
    if let Some(why) = newer(&row, LEAST_COLUMN)? {
        return Err(StoreError::Outgrown(why));
    }
    let mut batch = reading::read(&mut link, &row, ask).await?;
    batch.is_renewed = ask.node.is_some() && (ask.must_renew || is_new);
    reader.end(link).await?;
    Ok(batch)
}

/// From which column on the head says what must be known.
const LEAST_COLUMN: usize = 7;

/// How long a statement may take where nobody said when the read is given up.
const TIME_MAX: Duration = Duration::from_secs(15);

/// Writes the node's row and commits it, where it has to be; then begins the transaction, with the head, what stands at
/// a number, and whether this is a standby: there a read would be of the past. All in one message, so that a pooler
/// cannot send the row to one server and the read to another. The server gives up for itself what the reader has long
/// given up.
fn begin(ask: &ReadAsk, renews: bool) -> String {
    let after = ask.after.map_or(0, |position| position.n);
    let renewal = ask.node.as_ref().filter(|_| renews).map(nodes::renewal).unwrap_or_default();
    let time_max = if ask.time_max.is_zero() { TIME_MAX } else { ask.time_max }.as_millis();
    format!(
        "{renewal}BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {time_max}; \
         SET LOCAL lock_timeout = {time_max}; SET LOCAL idle_in_transaction_session_timeout = '15s'; \
         SELECT epoch, n, tag, (SELECT tag FROM changes WHERE changes.n = {after}), mac_key, mac_key_before, \
         pg_is_in_recovery(), least_format, least_schema FROM feed"
    )
}
