//! Verification of a file, beside a server that uses it or without one: opened for reading alone, past the
//! lock, as one snapshot. While it goes on, the server's log cannot be cut back, and so grows with what is written.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Executor as _};

use super::failure::unusable;
use super::open;
use crate::store::StoreError;
use crate::store::database::{Database as _, Statement, failed};
use crate::store::verify::{Checked, SchemaRow, Tell, Verifier, pass, schema_row};

/// The parts of the schema that are latchkey's own.
const SCHEMA: &str = "SELECT type || ' ' || name, coalesce(sql, '') FROM sqlite_schema \
     WHERE name NOT GLOB 'sqlite_*' AND name <> '_sqlx_migrations' ORDER BY type, name";

/// Verifies the database of this path, and tells each fault.
pub(in crate::store) async fn verify(path: &Path, tell: Tell<'_>) -> Result<Checked, StoreError> {
    let mut connection = open::open_to_read(path).await?;
    let checked = check(&mut connection, Verifier::new(tell)).await;
    let closed = connection.close().await;
    let checked = checked?;
    closed.map_err(|error| unusable(path, &error))?;
    Ok(checked)
}

async fn check(
    connection: &mut SqliteConnection,
    mut verifier: Verifier<'_>,
) -> Result<Checked, StoreError> {
    // The first statement takes the snapshot, and all that follow see the same one.
    connection.execute("BEGIN DEFERRED").await.map_err(failed)?;
    pass::run(connection, &mut verifier).await?;
    let found = schema_of(connection).await?;
    let mut released = open::released(connection).await?;
    let released = schema_of(&mut released).await?;
    verifier.schema(&released, &found);
    connection.execute("COMMIT").await.map_err(failed)?;
    Ok(verifier.checked)
}

async fn schema_of(connection: &mut SqliteConnection) -> Result<Vec<SchemaRow>, StoreError> {
    connection.all(Statement::new(SCHEMA)).await?.iter().map(schema_row).collect()
}
