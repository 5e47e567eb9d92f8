//! The queue of a store's one writer, for all databases alike: what is written, and who waits for it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::database::{Database, Statement};
use super::rows::{Known, Transaction};
use super::{Done, Mutation, StoreError, door};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::revision::Position;

/// How many jobs may wait for the writer; who comes after waits before the queue.
const QUEUE_MAX: usize = 256;

/// The queue, with the task that works it off.
pub(super) struct Queue {
    /// Of the database, for people.
    place: String,
    /// `None` when the store is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Queue {
    /// Starts a writer, which works until nobody can send jobs any more, and all are done.
    pub(super) fn start<W>(place: String, writer: impl FnOnce(mpsc::Receiver<Job>) -> W) -> Self
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let writer = tokio::spawn(writer(queue));
        Self { place, jobs: Mutex::new(Some(jobs)), writer: Mutex::new(Some(writer)) }
    }

    pub(super) async fn mutate(&self, mutation: Mutation) -> Outcome {
        self.hand(|waiter| Job::Mutate(Box::new(mutation), waiter)).await
    }

    pub(super) async fn run(&self, statement: Statement) -> Result<(), StoreError> {
        self.hand(|waiter| Job::Run(statement, waiter)).await
    }

    pub(super) async fn keep_time(&self, now: Timestamp) -> Result<(), StoreError> {
        let sql = "UPDATE feed SET kept_time = $1 WHERE kept_time < $1";
        self.run(Statement::new(sql).bind(now.micros())).await
    }

    /// Hands a job to the writer and waits for what comes of it.
    async fn hand<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let (waiter, outcome) = oneshot::channel();
        let jobs = lock(&self.jobs).clone().ok_or_else(|| closed(&self.place))?;
        jobs.send(job(waiter)).await.map_err(|_| closed(&self.place))?;
        // The writer answers every job; when it does not, it has come to a bad end with the job in hand.
        outcome.await.unwrap_or_else(|_| {
            Err(StoreError::OutcomeUnknown("the store's writer has ended".into()))
        })
    }

    /// Takes no more jobs, and waits until all are done.
    pub(super) async fn close(&self) {
        drop(lock(&self.jobs).take());
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer
            && let Err(error) = writer.await
        {
            tracing::error!(%error, "the store's writer came to a bad end");
        }
    }
}

/// What comes of a mutation.
pub(super) type Outcome = Result<Result<Done, Error>, StoreError>;

/// Something to be written, and who waits for it. A waiter that went away changes nothing.
pub(super) enum Job {
    Mutate(Box<Mutation>, oneshot::Sender<Outcome>),
    /// A statement that is no change of a record.
    Run(Statement, oneshot::Sender<Result<(), StoreError>>),
}

impl Job {
    /// Does it, in the savepoint that is open.
    pub(super) async fn carry_out<D: Database>(
        &self,
        database: &mut D,
        head: Option<D::Row>,
        catalogue: &mut Known,
    ) -> Outcome {
        match self {
            Self::Mutate(mutation, _) => {
                door::pass(&mut Transaction::new(database, head, catalogue), mutation).await
            }
            Self::Run(statement, _) => {
                database.run(statement.clone()).await.map(|_| Ok(Done::nothing()))
            }
        }
    }

    pub(super) fn answer(self, outcome: Outcome) {
        // Who went away is not told.
        match self {
            Self::Mutate(_, waiter) => drop(waiter.send(outcome)),
            Self::Run(_, waiter) => drop(waiter.send(outcome.map(drop))),
        }
    }
}

/// Whether what was written stays.
pub(super) const fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(Ok(_)))
}

/// The last change that was made.
pub(super) fn last_change(outcomes: &[Outcome]) -> Option<Position> {
    outcomes.iter().rev().find_map(|outcome| outcome.as_ref().ok()?.as_ref().ok()?.position)
}

/// The same failure, told to another: nothing was changed.
pub(super) fn unchanged(error: &StoreError) -> StoreError {
    StoreError::Unavailable(error.to_string().into())
}

/// The database of this place is closed.
pub(super) fn closed(place: &str) -> StoreError {
    StoreError::Unavailable(format!("the database {place} is closed").into())
}

/// What is locked here is only ever replaced as a whole, so a panic elsewhere leaves nothing half-done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
