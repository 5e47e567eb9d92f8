//! The rows of a verification, and the records of a page with their entries: for all databases alike.

use futures_util::{Stream, TryStreamExt as _};

use super::{
    ActorRow, FeedRow, HeadRow, History, RequestRow, SchemaRow, Standing, StepRow, TrailRow,
    Verifier,
};
use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::store::row::{PositionRow, policy};
use crate::store::sql::{Columns, position};

/// `epoch, n, tag, at, seeded` of the feed.
pub(super) fn head_row(row: &impl Columns) -> Result<HeadRow, StoreError> {
    Ok(HeadRow {
        position: PositionRow::from(position(row, 0)?),
        at: row.number(3)?,
        is_seeded: row.flag(4)?,
    })
}

/// The first columns of a change with its entry.
pub(super) fn feed_row(row: &impl Columns) -> Result<FeedRow, StoreError> {
    Ok(FeedRow {
        n: row.number(0)?,
        tag: row.number(1)?,
        kind: row.text(2)?,
        subject: row.text(3)?,
        at: row.number(4)?,
    })
}

/// The other columns of a change with its entry, and with the key that acted.
pub(super) fn trail_row(row: &impl Columns) -> Result<Option<TrailRow>, StoreError> {
    let Some(at) = row.maybe_number(5)? else { return Ok(None) };
    Ok(Some(TrailRow {
        at,
        actor: row.text(6)?,
        action: row.text(7)?,
        account_id: row.maybe_text(8)?,
        key_id: row.maybe_text(9)?,
        change: row.text(10)?,
        peer: row.text(11)?,
        request_id: row.maybe_text(12)?,
        actor_key: actor_row(row)?,
    }))
}

fn actor_row(row: &impl Columns) -> Result<Option<ActorRow>, StoreError> {
    let Some(account_id) = row.maybe_text(13)? else { return Ok(None) };
    Ok(Some(ActorRow {
        account_id,
        revoke_time: row.maybe_number(14)?,
        first_entry: row.maybe_number(15)?,
    }))
}

/// An entry with its change, after the id of what it is about.
pub(super) fn step_row(row: &impl Columns) -> Result<StepRow, StoreError> {
    Ok(StepRow {
        n: row.number(1)?,
        tag: row.maybe_number(2)?,
        at: row.number(3)?,
        account_id: row.maybe_text(4)?,
        change: row.text(5)?,
        digest: row.maybe_bytes(6)?,
    })
}

/// `rpc, request_id, at` of a request.
pub(super) fn request_row(row: &impl Columns) -> Result<RequestRow, StoreError> {
    Ok(RequestRow { rpc: row.text(0)?, id: row.text(1)?, at: row.number(2)? })
}

/// `epoch, n, tag, format, document, version, at` of the policy.
pub(super) fn policy_standing(row: &impl Columns) -> Result<Standing, StoreError> {
    let policy = policy(row.number(3)?, &row.text(4)?)?;
    let (version, at) = (row.number(5)?.cast_unsigned(), Timestamp::from_micros(row.number(6)?));
    Ok(Standing::policy(&policy, position(row, 0)?, version, at))
}

/// A part of the schema: its kind and name, and by what it is made.
pub(in crate::store) fn schema_row(row: &impl Columns) -> Result<SchemaRow, StoreError> {
    Ok(SchemaRow { name: row.text(0)?, sql: row.text(1)? })
}

/// Takes the records of a page, of a kind and in order, with the entries about them and those about records
/// that are not there.
pub(super) async fn page(
    verifier: &mut Verifier<'_>,
    kind: &str,
    records: Vec<(String, Result<Standing, StoreError>)>,
    mut entries: impl Stream<Item = Result<(String, StepRow), StoreError>> + Unpin,
) -> Result<(), StoreError> {
    let history = |id: &str| History::of(format!("{kind} {id}"));
    let mut records = records.into_iter().peekable();
    let mut open: Option<(String, History)> = None;
    loop {
        let (id, step) = entries.try_next().await?.unzip();
        // What came before this entry's record is whole, with entries or without.
        if open.as_ref().is_some_and(|(open, _)| Some(open) != id.as_ref())
            && let Some((id, history)) = open.take()
        {
            let standing = records.next_if(|(known, _)| *known == id).map(|(_, standing)| standing);
            verifier.record(history, standing);
        }
        while let Some((id, standing)) =
            records.next_if(|(known, _)| id.as_ref().is_none_or(|id| known < id))
        {
            verifier.record(history(&id), Some(standing));
        }
        let (Some(id), Some(step)) = (id, step) else { return Ok(()) };
        open.get_or_insert_with(|| (id.clone(), history(&id))).1.step(step);
    }
}
