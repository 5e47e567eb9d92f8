//! The reader's read in SQLite: one transaction, on one connection that is used for nothing else.

use sqlx::Executor as _;
use sqlx::sqlite::SqliteConnection;

use crate::store::database::{Database as _, Statement, failed};
use crate::store::row::no_feed;
use crate::store::{ReadAsk, ReadBatch, StoreError, reading};

/// The head, with what stands at a number.
const HEAD: &str = "SELECT epoch, n, tag, (SELECT tag FROM changes WHERE changes.n = $1), mac_key, mac_key_before FROM feed";

/// Brings what is asked for, in one transaction. After an error the connection is in an unknown state.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    ask: &ReadAsk,
) -> Result<ReadBatch, StoreError> {
    // Its first statement takes the snapshot, and all that follow see the same one.
    connection.execute("BEGIN DEFERRED").await.map_err(failed)?;
    let after = ask.after.map_or(0, |position| position.n);
    let head = connection.one(Statement::new(HEAD).bind(after.cast_signed())).await?;
    let batch = reading::read(connection, &head.ok_or_else(no_feed)?, ask).await?;
    connection.execute("COMMIT").await.map_err(failed)?;
    Ok(batch)
}
