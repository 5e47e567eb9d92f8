//! What PostgreSQL's errors say; see [`failed`](crate::store::database::failed) for what they become.

use std::io;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::store::StoreError;

/// It did not come to an end in time, and was given up.
pub(super) fn too_slow(what: &str) -> StoreError {
    StoreError::Unavailable(format!("PostgreSQL did not answer in time: {what}").into())
}

/// Whether another try, from the first statement on, may come to a better end: the database gave the transaction
/// up for the sake of another. PostgreSQL has no reason to, since each begins by waiting for the same row; its
/// relatives, which only know serializable transactions, do it often.
pub(super) fn was_given_up(error: &StoreError) -> bool {
    let StoreError::Unavailable(cause) = error else { return false };
    cause.downcast_ref::<sqlx::Error>().and_then(sqlstate).is_some_and(is_conflict)
}

/// Whether the answer to a COMMIT says that there is none: refused as a whole, or sent to a session that had
/// ended before. Any other failure leaves it open; even the end of the session may come after the commit, while
/// it waited for a standby.
pub(super) fn was_refused(error: &sqlx::Error) -> bool {
    const IDLE_IN_TRANSACTION: &str = "25P03";
    const INTEGRITY: &str = "23";
    let Some(refusal) = database_error(error) else { return false };
    let code = refusal.code();
    match refusal.severity() {
        PgSeverity::Error => is_conflict(code) || code.starts_with(INTEGRITY),
        _ => code == IDLE_IN_TRANSACTION,
    }
}

/// Whether the session is over, and not only a statement, or slow.
pub(super) fn ended_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != io::ErrorKind::TimedOut,
        _ => database_error(error).is_none_or(|told| told.severity() != PgSeverity::Error),
    }
}

/// The database cannot be used: what to say of it.
pub(super) fn unusable(place: &str, error: &sqlx::Error) -> StoreError {
    let remedy = match error {
        sqlx::Error::Database(_) => remedy(sqlstate(error).unwrap_or_default()),
        sqlx::Error::Io(_) => {
            "it cannot be reached; see that it runs, and that host and port are right"
        }
        sqlx::Error::Tls(_) => {
            "TLS with it fails; see that it serves TLS, and that `sslrootcert` names the CA of its certificate"
        }
        _ => "see the cause",
    };
    StoreError::Unusable(format!("the database {place}: {remedy} ({error})"))
}

fn remedy(sqlstate: &str) -> &'static str {
    match sqlstate {
        "28P01" | "28000" => {
            "it does not let this user in; see user and password in store.url, and pg_hba.conf"
        }
        "3D000" => "there is no such database; make it first: `createdb`",
        "42501" => {
            "this user may not do that; let it own the database, or make the schema as one who does: \
             `latchkey migrate`"
        }
        "42P07" => {
            "there are tables of these names already, which are another program's; name another database"
        }
        "53300" => "it has no room for more connections; raise max_connections",
        "57P03" => "it is starting or stopping; try again",
        "25006" => "it is a standby, or read-only; name the primary",
        "26000" | "42P05" => {
            "a pooler in front of it mixes up prepared statements; add `prepared_statements=off` to store.url, or set \
             max_prepared_statements of PgBouncer 1.21 or newer"
        }
        _ => "see the cause",
    }
}

fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    database_error(error).map(PgDatabaseError::code)
}

/// A transaction that failed to be serialized, or was a deadlock's victim. Of the class, 40003 is left out: by it
/// a statement says that it does not know.
fn is_conflict(sqlstate: &str) -> bool {
    matches!(sqlstate, "40001" | "40P01" | "40002")
}
