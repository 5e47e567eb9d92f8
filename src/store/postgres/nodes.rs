//! The rows of the nodes: a node writes its own before it reads, and whoever gives a receipt reads all.

use std::fmt::Write as _;
use std::time::Duration;

use sqlx::postgres::PgRow;

use super::link::Link;
use crate::clock::Timestamp;
use crate::lease::Bounds;
use crate::revision::Position;
use crate::store::database::{Database as _, Statement, failed};
use crate::store::row::no_feed;
use crate::store::sql::{Columns as _, position};
use crate::store::{NodeQuery, NodeRow, NodeState, Nodes, StoreError, query};

/// The server's time, in microseconds since the Unix epoch.
const NOW: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";

/// For how long the row of a node is kept that nobody reckons with any more: so that it is seen that the node is gone.
const GONE_KEPT_MICROS: u64 = 3_600 * 1_000_000;

/// Writes and commits this row, by statements for one message. Whoever waits for the answer gives up long before the
/// server does; were that to give up waiting for a standby first, it would answer as if the standby had it.
pub(super) fn renewal(row: &NodeRow) -> String {
    let NodeRow { boot_id, name, version, started, applied, bounds } = row;
    let number =
        |of: fn(Position) -> i64| applied.map_or("NULL".to_owned(), |it| of(it).to_string());
    let (epoch, n, tag) = (
        number(|it| it.epoch.cast_signed()),
        number(|it| it.n.cast_signed()),
        number(|it| it.tag.cast_signed()),
    );
    let (boot_id, started) = (boot_id.cast_signed(), started.micros());
    let (name, version) = (quoted(name), quoted(version));
    let (bound, grace) = (bounds.bound.as_micros(), bounds.grace.as_micros());
    // With what a node says first: rows stay behind where nodes are killed, and others are started.
    let clear = if applied.is_none() {
        format!(
            "DELETE FROM nodes WHERE renewed + GREATEST(bound, grace) < {NOW} - {GONE_KEPT_MICROS};"
        )
    } else {
        String::new()
    };
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = 'on'; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '12s'; \
         {clear} \
         INSERT INTO nodes (boot_id, name, version, started, epoch, n, tag, bound, grace, renewed) \
         VALUES ({boot_id}, {name}, {version}, {started}, {epoch}, {n}, {tag}, {bound}, {grace}, {NOW}) \
         ON CONFLICT (boot_id) DO UPDATE SET epoch = excluded.epoch, n = excluded.n, tag = excluded.tag, \
         bound = excluded.bound, grace = excluded.grace, renewed = excluded.renewed; COMMIT; "
    )
}

/// A literal. There is nothing in it that would have to be escaped: what a name of a machine cannot hold is left out.
fn quoted(text: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "._-+".contains(*c);
    let mut literal = "'".to_owned();
    let plain: String = text.chars().filter(is_plain).take(64).collect();
    let _ = write!(literal, "{plain}'");
    literal
}

/// All nodes, with the time and the head of the feed, from a server that shows what was asked for.
pub(super) async fn all(link: &mut Link, query: NodeQuery) -> Result<Nodes, StoreError> {
    let shows = query.shown.map_or("TRUE".to_owned(), |shown| {
        let (n, tag) = (shown.n.cast_signed(), shown.tag.cast_signed());
        format!("EXISTS (SELECT 1 FROM changes WHERE changes.n = {n} AND changes.tag = {tag})")
    });
    let head =
        format!("SELECT epoch, n, tag, {NOW}, {shows} AND NOT pg_is_in_recovery() FROM feed");
    let head = link.command(head).await.map_err(failed)?.ok_or_else(no_feed)?;
    if !head.flag(4)? {
        let past = "this server shows the past: it is a standby, or no longer the primary";
        return Err(StoreError::Unavailable(past.into()));
    }
    let rows = Statement::new(
        "SELECT boot_id, name, version, started, epoch, n, tag, bound, grace, renewed, \
         COALESCE(n = 0 OR EXISTS (SELECT 1 FROM changes WHERE changes.n = nodes.n AND changes.tag = nodes.tag), FALSE) \
         FROM nodes ORDER BY started, boot_id",
    );
    let (now, head) = (Timestamp::from_micros(head.number(3)?), position(&head, 0)?);
    let rows = link.all(rows).await?;
    let nodes = rows.iter().map(|row| node(row, head)).collect::<Result<_, _>>()?;
    let policy = if query.with_policy { query::policy(link).await? } else { None };
    Ok(Nodes { now, head, nodes, policy })
}

/// Takes a row out.
pub(super) fn leave(boot_id: u64) -> Statement {
    Statement::new("DELETE FROM nodes WHERE boot_id = $1").bind(boot_id.cast_signed())
}

/// The server's time.
pub(super) async fn now(link: &mut Link) -> Result<Timestamp, StoreError> {
    let now = link.command(format!("SELECT {NOW} AS told")).await.map_err(failed)?;
    Ok(Timestamp::from_micros(now.ok_or_else(no_feed)?.number(0)?))
}

fn node(row: &PgRow, head: Position) -> Result<NodeState, StoreError> {
    let applied = match row.maybe_number(4)? {
        None => None,
        Some(_) => Some(position(row, 4)?),
    };
    let span = |at| -> Result<_, StoreError> {
        Ok(Duration::from_micros(u64::try_from(row.number(at)?).unwrap_or(0)))
    };
    Ok(NodeState {
        row: NodeRow {
            boot_id: row.number(0)?.cast_unsigned(),
            name: row.text(1)?,
            version: row.text(2)?,
            started: Timestamp::from_micros(row.number(3)?),
            applied,
            bounds: Bounds { bound: span(7)?, grace: span(8)? },
        },
        renewed: Timestamp::from_micros(row.number(9)?),
        is_held: row.flag(10)? && applied.is_some_and(|applied| applied.epoch == head.epoch),
    })
}
