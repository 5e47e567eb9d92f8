//! The one writer of this process: a task that takes what is queued, gives each mutation a savepoint of its own,
//! and commits them together. So they keep their order, and who waits shares one sync of the server's disk.
//!
//! A transaction begins by waiting for the lock of the feed's row, which other nodes want as well; READ COMMITTED
//! is enough then, as everything is read after the lock was got, and what others committed before is seen.
//!
//! Until COMMIT is sent nothing can have been changed, and whatever goes wrong is told as that. Afterwards only an
//! answer tells; without one the outcome is unknown, and the connection is dropped.

use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::{mpsc, watch};

use super::failure::{was_given_up, was_refused};
use super::link::{Lent, Link, Pool};
use crate::metrics::Stopwatch;
use crate::store::StoreError;
use crate::store::database::failed;
use crate::store::queue::{Job, Outcome, is_done, last_change, unchanged};
use crate::store::rows::{HEAD, Known};

/// How many jobs one commit takes at most, and for how long it takes more: other nodes wait meanwhile.
const BATCH_MAX: usize = 64;
const BATCH_TIME_MAX: Duration = Duration::from_millis(25);
/// How long each answer is waited for, that to COMMIT too. A change may take as long as all of its answers do.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_millis(900);
/// How often a transaction that the database gave up for another's sake is tried.
const TRIES_MAX: u32 = 4;

/// What a transaction is set to, for itself alone. The server ends what its client has long given up, also a client
/// that stands still and holds the lock.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = 'on'; \
     SET LOCAL lock_timeout = '800ms'; SET LOCAL statement_timeout = '30s'; \
     SET LOCAL idle_in_transaction_session_timeout = '1s'";

/// The lock of the feed's one row. Whoever waited for it sees with every later statement, and with none before, all as
/// the one before committed it.
const LOCK: &str = "SELECT one FROM feed FOR UPDATE";

/// A mutation's end, that of a refused one, after which its savepoint is open anew.
const KEEP: &str = "RELEASE SAVEPOINT mutation; SAVEPOINT mutation";
const UNDO: &str = "ROLLBACK TO SAVEPOINT mutation";

/// A commit that waits for a standby must not be cut short by a limit on statements: PostgreSQL would answer as if
/// the standby had it.
const COMMIT: &str = "SET LOCAL statement_timeout = 0; COMMIT";

/// The state of the writer.
pub(super) struct Writer {
    /// Of one connection.
    pool: Pool,
    commits: watch::Sender<u64>,
    /// The policy that was read last.
    catalogue: Known,
}

/// A transaction that was filled and not yet committed.
struct Filled<'a> {
    lent: Lent<'a>,
    /// What came of the first jobs; those after them are for another transaction.
    outcomes: Vec<Outcome>,
}

/// What is known of a commit.
enum Commit {
    Made,
    NotMade(StoreError),
    Unknown(StoreError),
}

impl Writer {
    pub(super) const fn new(pool: Pool, commits: watch::Sender<u64>) -> Self {
        Self { pool, commits, catalogue: None }
    }

    /// Works until nobody can send jobs any more, and all are done.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while jobs.recv_many(&mut batch, BATCH_MAX).await > 0 {
            while !batch.is_empty() {
                if let Err(error) = self.carry_out(&mut batch).await {
                    // Who is queued behind would only wait for the same.
                    while let Ok(job) = jobs.try_recv() {
                        batch.push(job);
                    }
                    batch.drain(..).for_each(|job| job.answer(Err(unchanged(&error))));
                }
            }
        }
        self.pool.close().await;
    }

    /// Does the first of the jobs in one transaction, from the start again when the database gave it up, and
    /// answers them. After an error nothing was changed, and none of those that are left was answered.
    async fn carry_out(&mut self, batch: &mut Vec<Job>) -> Result<(), StoreError> {
        let mut tries = 1;
        loop {
            match self.try_out(batch).await {
                Err(error) if was_given_up(&error) && tries < TRIES_MAX => {
                    tracing::debug!(%error, tries, "a transaction was given up, and is tried again");
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    async fn try_out(&mut self, batch: &mut Vec<Job>) -> Result<(), StoreError> {
        let Filled { mut lent, outcomes } = fill(&self.pool, &mut self.catalogue, batch).await?;
        let last = last_change(&outcomes);
        match commit(&mut lent.link).await {
            Commit::Made => {
                lent.give_back();
                if let Some(last) = last {
                    self.commits.send_replace(last.n);
                }
                let done = batch.drain(..outcomes.len()).zip(outcomes);
                done.for_each(|(job, outcome)| job.answer(outcome));
                Ok(())
            }
            Commit::NotMade(error) => Err(error),
            Commit::Unknown(error) => {
                tracing::error!(%error, "a commit was sent, and it is not known whether it was made");
                for job in batch.drain(..outcomes.len()) {
                    job.answer(Err(StoreError::OutcomeUnknown(error.to_string().into())));
                }
                Err(error)
            }
        }
    }
}

/// Does jobs, the first ones or all, in a transaction that is left open.
async fn fill<'a>(
    pool: &'a Pool,
    catalogue: &mut Known,
    batch: &[Job],
) -> Result<Filled<'a>, StoreError> {
    // The lock is taken before the first savepoint, so that undoing that does not let go of it.
    let first = format!("{BEGIN}; {LOCK}; {HEAD}; SAVEPOINT mutation");
    let (mut lent, mut head) = pool.begin(&first).await?;
    let begun = Stopwatch::start();
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(batch.len());
    for job in batch {
        if let Some(before) = outcomes.last() {
            if begun.elapsed() > BATCH_TIME_MAX {
                break;
            }
            head = next(&mut lent.link, before).await?;
        }
        match job.carry_out(&mut lent.link, head.take(), catalogue).await {
            Err(error) if was_given_up(&error) => return Err(error),
            outcome => outcomes.push(outcome),
        }
    }
    if outcomes.last().is_some_and(|last| !is_done(last)) {
        lent.link.command(UNDO.to_owned()).await.map_err(failed)?;
    }
    Ok(Filled { lent, outcomes })
}

/// Ends the savepoint of one mutation, and begins that of the next, in one message.
async fn next(link: &mut Link, before: &Outcome) -> Result<Option<PgRow>, StoreError> {
    let end = if is_done(before) { KEEP } else { UNDO };
    link.command(format!("{end}; {LOCK}; {HEAD}")).await.map_err(failed)
}

async fn commit(link: &mut Link) -> Commit {
    match link.command(COMMIT.to_owned()).await {
        Ok(_) => Commit::Made,
        Err(error) if was_refused(&error) => Commit::NotMade(failed(error)),
        Err(error) => Commit::Unknown(failed(error)),
    }
}
