//! How databases are asked: a statement with its values, and a connection that it is run on.
//!
//! A statement is the same for all, word by word, and has `$1` where its first value goes. Where databases have to be told
//! the same thing in other words, those stand side by side, as [`Each`].

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::StoreError;
use super::sql::Columns;

/// A connection to a database.
#[async_trait]
pub(super) trait Database: Send {
    /// What it brings.
    type Row: Columns + Send + Sync;

    /// Its own of what each is told.
    fn own<T>(each: Each<T>) -> T;

    /// Runs a statement and tells how many rows it wrote.
    async fn run(&mut self, statement: Statement) -> Result<u64, StoreError>;

    /// The one row, or none.
    async fn one(&mut self, statement: Statement) -> Result<Option<Self::Row>, StoreError>;

    /// All rows.
    async fn all(&mut self, statement: Statement) -> Result<Vec<Self::Row>, StoreError>;

    /// All rows of what may take long.
    async fn scan(&mut self, statement: Statement) -> Result<Vec<Self::Row>, StoreError> {
        self.all(statement).await
    }

    /// The rows, one after the other, however many.
    fn rows(&mut self, statement: Statement) -> BoxStream<'_, Result<Self::Row, StoreError>>;
}

/// What each database is told in words of its own.
#[derive(Clone, Copy)]
pub(super) struct Each<T = &'static str> {
    pub(super) postgres: T,
    pub(super) sqlite: T,
}

/// A statement with its values.
#[derive(Clone)]
pub(super) struct Statement {
    pub(super) sql: &'static str,
    pub(super) values: Vec<Value>,
}

impl Statement {
    pub(super) const fn new(sql: &'static str) -> Self {
        Self { sql, values: Vec::new() }
    }

    /// With one more value.
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }
}

/// A value of a statement. One that is missing is NULL, of the same type.
#[derive(Clone)]
pub(super) enum Value {
    Number(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Flag(bool),
    /// A list, which each database is given in a form of its own.
    Texts(Vec<String>),
    ManyBytes(Vec<Vec<u8>>),
}

macro_rules! values {
    ($($from:ty => $kind:ident),+) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$kind(value.into())
            }
        })+
    };
}

values! {
    i64 => Number,
    Option<i64> => Number,
    String => Text,
    Option<String> => Text,
    Vec<u8> => Bytes,
    Option<Vec<u8>> => Bytes,
    bool => Flag,
    Vec<String> => Texts,
    Vec<Vec<u8>> => ManyBytes
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<Option<&str>> for Value {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(str::to_owned))
    }
}

/// The one edge at which errors of a driver become [`StoreError`]. A statement failed, or its connection: without a commit nothing stays, so nothing was changed.
pub(super) fn failed(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::ColumnDecode { index, source } => StoreError::Corrupt {
            table: "?",
            row: "?".into(),
            what: format!("column {index}: {source}"),
        },
        _ => StoreError::Unavailable(Box::new(error)),
    }
}
