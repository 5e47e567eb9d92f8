//! The one writer: a task that owns the connection which writes, commits and checkpoints.
//!
//! It takes what is queued, gives each mutation a savepoint of its own, and commits them together: one
//! sync of the disk for all who wait. Nothing is answered before that commit.

use std::fs::File;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::{mpsc, watch};

use super::failure::is_io_error;
use crate::store::StoreError;
use crate::store::database::{Database as _, Statement, failed};
use crate::store::queue::{Job, Outcome, is_done, last_change, unchanged};
use crate::store::row::no_feed;
use crate::store::rows::HEAD;
use crate::store::sql::Columns as _;

/// How many jobs one commit takes at most.
const BATCH_MAX: usize = 64;

const UNDO: &str = "ROLLBACK TO mutation; RELEASE mutation";

/// A commit of no consequence. A value that stays the same is not written, so it goes up by a microsecond.
const TAKE_ITS_PLACE: &str = "UPDATE feed SET kept_time = kept_time + 1";

/// The state of the writer.
pub(super) struct Writer {
    /// `None` after a failure, which leaves it in doubt; it is opened anew for the next batch.
    connection: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    commits: watch::Sender<u64>,
    /// Let go of when the last job is done and the files are closed.
    lock: File,
}

/// What is known of a commit.
enum Commit {
    Made,
    NotMade(StoreError),
    Unknown(sqlx::Error),
}

/// The number and tag of the last change, as the feed has them.
pub(super) type Tip = (i64, i64);

impl Writer {
    pub(super) const fn new(
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        commits: watch::Sender<u64>,
        lock: File,
    ) -> Self {
        Self { connection: Some(connection), options, commits, lock }
    }

    /// Works until nobody can send jobs any more, and all are done.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while jobs.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.carry_out(&mut batch).await;
        }
        self.end().await;
    }

    async fn carry_out(&mut self, batch: &mut Vec<Job>) {
        let mut connection = match self.take_connection().await {
            Ok(connection) => connection,
            Err(error) => return refuse(batch, &error),
        };
        let (commit, outcomes) = match write(&mut connection, batch).await {
            Ok(outcomes) => (commit(&mut connection, last_tip(&outcomes)).await, outcomes),
            Err(error) => (abandon(&mut connection, error).await, Vec::new()),
        };
        match commit {
            Commit::Made => {
                self.connection = Some(connection);
                if let Some(last) = last_change(&outcomes) {
                    self.commits.send_replace(last.n);
                }
                batch.drain(..).zip(outcomes).for_each(|(job, outcome)| job.answer(outcome));
            }
            Commit::NotMade(error) => refuse(batch, &error),
            Commit::Unknown(error) => {
                for job in batch.drain(..) {
                    job.answer(Err(StoreError::OutcomeUnknown(error.to_string().into())));
                }
            }
        }
    }

    async fn take_connection(&mut self) -> Result<SqliteConnection, StoreError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.options.connect().await.map_err(failed),
        }
    }

    /// The log is written into the database, so that what is left is one file.
    async fn end(self) {
        let Self { connection, options: _, commits: _, lock } = self;
        if let Some(mut connection) = connection {
            if let Err(error) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
                tracing::warn!(%error, "the log was left beside the database; nothing is lost");
            }
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "the database was not closed in order; nothing is lost");
            }
        }
        drop(lock);
    }
}

/// Does the jobs in one transaction that is left open. An error says that the transaction is in doubt.
async fn write(
    connection: &mut SqliteConnection,
    batch: &[Job],
) -> Result<Vec<Outcome>, StoreError> {
    connection.execute("BEGIN IMMEDIATE").await.map_err(failed)?;
    let mut outcomes = Vec::with_capacity(batch.len());
    for job in batch {
        outcomes.push(write_one(connection, job).await?);
    }
    Ok(outcomes)
}

/// One job in a savepoint. An error says that the savepoint could not be undone.
async fn write_one(connection: &mut SqliteConnection, job: &Job) -> Result<Outcome, StoreError> {
    connection.execute("SAVEPOINT mutation").await.map_err(failed)?;
    let outcome = match connection.one(Statement::new(HEAD)).await {
        // No policy is kept from one to the next: what somebody wrote into the file counts at once.
        Ok(head) => job.carry_out(connection, head, &mut None).await,
        Err(error) => Err(error),
    };
    let end = if is_done(&outcome) { "RELEASE mutation" } else { UNDO };
    // SQLite ends the whole transaction by itself after some failures, the savepoint with it.
    connection.execute(end).await.map_err(failed)?;
    Ok(outcome)
}

/// Commits. When that fails, what was committed is read back before anything is said.
async fn commit(connection: &mut SqliteConnection, last: Option<Tip>) -> Commit {
    let Err(error) = connection.execute("COMMIT").await else { return Commit::Made };
    tracing::error!(%error, "a commit failed");
    roll_back(connection).await;
    match (read_tip(connection).await, last) {
        (Ok(tip), Some(last)) if tip == last => Commit::Made,
        (Ok(_), _) if !is_io_error(&error) => Commit::NotMade(failed(error)),
        // The disk may hold the commit all the same, and bring it back after a crash. Another commit
        // in its place, written over it and synced anew, makes sure that it does not.
        (Ok(_), _) => match connection.execute(TAKE_ITS_PLACE).await {
            Ok(_) => Commit::NotMade(failed(error)),
            Err(_) => Commit::Unknown(error),
        },
        (Err(_), _) => Commit::Unknown(error),
    }
}

/// Gives up a transaction that is in doubt: without a commit there is nothing that could stay.
async fn abandon(connection: &mut SqliteConnection, error: StoreError) -> Commit {
    tracing::error!(%error, "a transaction failed");
    roll_back(connection).await;
    Commit::NotMade(error)
}

/// SQLite may have rolled back by itself already, and then says that there is nothing to roll back.
async fn roll_back(connection: &mut SqliteConnection) {
    if let Err(error) = connection.execute("ROLLBACK").await {
        tracing::debug!(%error, "nothing was left to roll back");
    }
}

pub(super) async fn read_tip(connection: &mut SqliteConnection) -> Result<Tip, StoreError> {
    let row = connection.one(Statement::new("SELECT n, tag FROM feed")).await?;
    let row = row.ok_or_else(no_feed)?;
    Ok((row.number(0)?, row.number(1)?))
}

fn last_tip(outcomes: &[Outcome]) -> Option<Tip> {
    last_change(outcomes).map(|last| (last.n.cast_signed(), last.tag.cast_signed()))
}

/// Answers jobs of which none was done.
fn refuse(batch: &mut Vec<Job>, error: &StoreError) {
    batch.drain(..).for_each(|job| job.answer(Err(unchanged(error))));
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::open::{Opened, open};
    use super::*;
    use crate::clock::Timestamp;
    use crate::policy::Policy;
    use crate::store::{Command, Maker, Mutation, NewSecret};
    use crate::token::Digest;

    /// A database in a folder of its own.
    async fn opened(name: &str) -> (std::path::PathBuf, Opened) {
        let folder = std::env::temp_dir().join(format!("latchkey-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("latchkey.db");
        let opened = open(file.to_str().unwrap()).await.unwrap();
        (folder, opened)
    }

    fn mutation(number: u8, command: Command) -> Mutation {
        Mutation {
            maker: Maker::System("test"),
            peer: String::new(),
            now: Timestamp::from_micros(1),
            seed: [number; 32],
            command,
        }
    }

    fn seed() -> Mutation {
        let secret = NewSecret { digest: Digest::of(b"root"), hint: String::new() };
        mutation(0, Command::Seed { policy: Policy::default(), secret })
    }

    fn reset(number: u8) -> Mutation {
        let secret = NewSecret { digest: Digest::of(&[number]), hint: String::new() };
        mutation(number, Command::ResetRoot { secret })
    }

    async fn outcome(writer: &mut Writer, mutation: Mutation) -> Outcome {
        let (waiter, outcome) = oneshot::channel();
        writer.carry_out(&mut vec![Job::Mutate(Box::new(mutation), waiter)]).await;
        outcome.await.unwrap()
    }

    #[tokio::test]
    async fn a_full_disk_refuses_changes_and_works_again_when_there_is_room() {
        let (folder, Opened { writer, writing, reading: _, lock }) = opened("full").await;
        let (commits, _watched) = watch::channel(0);
        let mut writer = Writer::new(writer, writing.clone(), commits, lock);
        outcome(&mut writer, seed()).await.unwrap().unwrap();
        // What SQLite does when it may not grow is what it does when the disk is full.
        writer.options = writing.clone().pragma("max_page_count", "1");
        writer.connection = None;
        let mut refused = 0;
        for number in 1..=200 {
            match outcome(&mut writer, reset(number)).await {
                Ok(done) => drop(done.unwrap()),
                Err(StoreError::Unavailable(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refused > 0);
        writer.options = writing;
        writer.connection = None;
        let before = read_tip(&mut writer.take_connection().await.unwrap()).await.unwrap();
        let done = outcome(&mut writer, reset(201)).await.unwrap().unwrap();
        assert!(done.position.unwrap().n.cast_signed() > before.0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_commit_that_failed_and_made_nothing_is_known_to_have_made_nothing() {
        let (folder, Opened { writer: mut connection, lock: _lock, .. }) = opened("failed").await;
        let before = read_tip(&mut connection).await.unwrap();
        connection.execute("BEGIN IMMEDIATE; PRAGMA defer_foreign_keys = ON").await.unwrap();
        connection.execute("UPDATE feed SET n = 1, tag = 7").await.unwrap();
        // A request of an account that is not there: found at the commit.
        connection
            .execute(
                "INSERT INTO requests (account_id, rpc, request_id, content, made_account_id, at) \
                 VALUES ('nobody', '', '', zeroblob(32), 'nobody', 0)",
            )
            .await
            .unwrap();
        assert!(matches!(commit(&mut connection, Some((1, 7))).await, Commit::NotMade(_)));
        assert_eq!(read_tip(&mut connection).await.unwrap(), before);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_commit_that_failed_and_was_made_is_known_to_have_been_made() {
        let (folder, Opened { writer: mut connection, lock: _lock, .. }) = opened("made").await;
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        connection.execute("UPDATE feed SET n = 1, tag = 7").await.unwrap();
        connection.execute("COMMIT").await.unwrap();
        // It fails because nothing is open, and finds what was committed before.
        assert!(matches!(commit(&mut connection, Some((1, 7))).await, Commit::Made));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn one_job_that_fails_does_not_take_the_others_with_it() {
        let (folder, Opened { writer, writing, reading: _, lock }) = opened("batch").await;
        let (commits, watched) = watch::channel(0);
        let mut writer = Writer::new(writer, writing, commits, lock);
        let mutations = [seed(), reset(1), reset(1), reset(2)];
        let mut batch = Vec::new();
        let mut outcomes = Vec::new();
        for mutation in mutations {
            let (waiter, outcome) = oneshot::channel();
            batch.push(Job::Mutate(Box::new(mutation), waiter));
            outcomes.push(outcome);
        }
        writer.carry_out(&mut batch).await;
        let mut is_done = Vec::new();
        for outcome in outcomes {
            is_done.push(outcome.await.unwrap().unwrap().is_ok());
        }
        // The third asks for a token that the second took.
        assert_eq!(is_done, [true, true, false, true]);
        let tip = read_tip(&mut writer.take_connection().await.unwrap()).await.unwrap();
        assert_eq!(watched.borrow().cast_signed(), tip.0);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
