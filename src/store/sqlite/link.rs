//! How a statement is run on a connection to a file.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::Sqlite;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};

use crate::store::StoreError;
use crate::store::database::{Database, Each, Statement, Value, failed};
use crate::store::row::json;

#[async_trait]
impl Database for SqliteConnection {
    type Row = SqliteRow;

    fn own<T>(each: Each<T>) -> T {
        each.sqlite
    }

    async fn run(&mut self, statement: Statement) -> Result<u64, StoreError> {
        Ok(query(statement).execute(self).await.map_err(failed)?.rows_affected())
    }

    async fn one(&mut self, statement: Statement) -> Result<Option<SqliteRow>, StoreError> {
        query(statement).fetch_optional(self).await.map_err(failed)
    }

    async fn all(&mut self, statement: Statement) -> Result<Vec<SqliteRow>, StoreError> {
        query(statement).fetch_all(self).await.map_err(failed)
    }

    fn rows(&mut self, statement: Statement) -> BoxStream<'_, Result<SqliteRow, StoreError>> {
        query(statement).fetch(self).map_err(failed).boxed()
    }
}

/// SQLite has no lists: they are JSON, of bytes as hexadecimal digits.
fn query<'q>(statement: Statement) -> sqlx::query::Query<'q, Sqlite, SqliteArguments> {
    let Statement { sql, values } = statement;
    values.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Number(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
        Value::Bytes(bytes) => query.bind(bytes),
        Value::Flag(flag) => query.bind(flag),
        Value::Texts(texts) => query.bind(json(&texts)),
        Value::ManyBytes(many) => {
            query.bind(json(&many.iter().map(|bytes| hex(bytes)).collect::<Vec<_>>()))
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
