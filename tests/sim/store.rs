//! The store, as one node reaches it: a way that is slow, is cut, or leads to a server that is no longer the primary.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use latchkey::account::{Account, AccountId};
use latchkey::clock::Timestamp;
use latchkey::error::Error;
use latchkey::key::{KeyId, KeyRecord};
use latchkey::policy::Policy;
use latchkey::revision::Position;
use latchkey::store::{
    AccountQuery, AuditPage, AuditQuery, Change, Done, KeyQuery, Mutation, NodeQuery, NodeRow,
    NodeState, Nodes, ReadAsk, ReadBatch, Store, StoreError, door,
};
use latchkey::token::Digest;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::books::{Books, Transaction};
use crate::calls::{Call, Lost, Whom};
use crate::dice::Dice;
use crate::world::World;

/// How long an answer to a change is waited for, and to a look-up.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(900);
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether a way is open again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The store of one node.
pub(crate) struct SimStore {
    way: Arc<Way>,
    /// One for each who looks: several waiters of one channel would be woken in any order.
    commits: Arc<Mutex<Vec<watch::Sender<u64>>>>,
    /// Which connection the reader has, if it has one.
    connection: Arc<AtomicU64>,
    connections: AtomicU64,
}

/// The way of one node to the store.
struct Way {
    world: Arc<World>,
    node: usize,
    dice: Mutex<Dice>,
}

impl Way {
    /// A message one way. The error: it was lost, and the connection with it.
    async fn travel(&self) -> Result<(), Lost> {
        let (cuts, takes) = {
            let mut dice = self.dice.lock().unwrap();
            let state = self.world.state();
            let link = &state.links[self.node];
            let is_slow = link.slow_one_in > 0 && dice.is_one_of(1, link.slow_one_in);
            let millis = match (is_slow, dice.below(4)) {
                (false, _) => dice.below(4),
                (true, 0) => dice.below(5_000),
                (true, _) => dice.below(400),
            };
            (link.cuts, Duration::from_millis(millis))
        };
        sleep(takes).await;
        loop {
            {
                let state = self.world.state();
                let link = &state.links[self.node];
                if link.cuts != cuts && !link.is_cut {
                    return Err(Lost);
                }
                if !link.is_cut && state.stalled_until <= self.world.now() {
                    return Ok(());
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// One statement, whose answer is waited for so long.
    fn call(&self, what: &str, waits: Duration) -> Call {
        self.world.call(self.node, Whom::Store, what, waits)
    }

    fn is_one_of(&self, times: u64, of: u64) -> bool {
        self.dice.lock().unwrap().is_one_of(times, of)
    }

    fn below(&self, below: u64) -> u64 {
        self.dice.lock().unwrap().below(below)
    }

    fn note_node(&self, row: &NodeRow, now: Timestamp) {
        let mut state = self.world.state();
        Arc::make_mut(&mut state.books).nodes.insert(row.boot_id, (row.clone(), now));
    }

    /// What the server at the end of the way has.
    fn books(&self) -> Arc<Books> {
        let state = self.world.state();
        let link = &state.links[self.node];
        Arc::clone(link.fork.as_ref().unwrap_or(&state.books))
    }

    /// A standby that has not heard of the commit takes over: nobody has it any more.
    fn maybe_lose(&self, before: Arc<Books>) {
        if !self.world.shape.may_revert || !self.is_one_of(1, 30) {
            return;
        }
        let (world, millis) = (Arc::clone(&self.world), self.below(4));
        if millis < 2 {
            // Nobody ever sees it.
            return world.revert(Books::clone(&before));
        }
        tokio::spawn(async move {
            sleep(Duration::from_millis(millis)).await;
            world.revert(Books::clone(&before));
        });
    }

    fn is_deposed(&self) -> bool {
        self.world.state().links[self.node].fork.is_some()
    }

    /// The same commit never comes to an end where nobody may commit.
    async fn until_it_may_commit(&self) {
        while self.is_deposed() {
            sleep(LOOK_EVERY).await;
        }
    }
}

impl SimStore {
    pub(crate) fn new(world: &Arc<World>, node: usize, dice: Dice) -> Self {
        let way = Way { world: Arc::clone(world), node, dice: Mutex::new(dice) };
        Self {
            way: Arc::new(way),
            commits: Arc::default(),
            connection: Arc::default(),
            connections: AtomicU64::new(0),
        }
    }

    async fn look_up<T>(
        &self,
        what: &str,
        find: impl FnOnce(&Books) -> T,
    ) -> Result<T, StoreError> {
        let looked = async {
            let call = self.way.call(what, LOOK_UP_TIME_MAX);
            call.before().await?;
            self.way.travel().await?;
            let found = find(&self.way.books());
            call.after().await?;
            self.way.travel().await?;
            Ok(found)
        };
        match timeout(LOOK_UP_TIME_MAX, looked).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(Lost)) => Err(unavailable("the connection was lost")),
            Err(_) => Err(unavailable("it does not answer")),
        }
    }
}

/// The connection of a read; when that is given up, it is dropped.
struct OnConnection {
    connection: Arc<AtomicU64>,
    is_done: bool,
}

impl Drop for OnConnection {
    fn drop(&mut self) {
        if !self.is_done {
            self.connection.store(0, Ordering::Relaxed);
        }
    }
}

#[async_trait]
impl Store for SimStore {
    async fn read(&self, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
        let way = &*self.way;
        let lost = |Lost| unavailable("the connection was lost");
        let is_new = self.connection.load(Ordering::Relaxed) == 0;
        if is_new {
            let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
            self.connection.store(number, Ordering::Relaxed);
        }
        let mut on = OnConnection { connection: Arc::clone(&self.connection), is_done: false };
        way.travel().await.map_err(lost)?;
        let must_renew = ask.must_renew || is_new;
        if let Some(row) = ask.node.as_ref().filter(|_| must_renew) {
            let call = way.call("row", ask.time_max);
            call.before().await.map_err(lost)?;
            way.until_it_may_commit().await;
            let now = way.world.time();
            way.note_node(row, now);
            // The row is there, and what it was sent for is not read yet.
            if way.is_one_of(1, 8) {
                let millis = way.below(60);
                sleep(Duration::from_millis(millis)).await;
            }
            call.after().await.map_err(lost)?;
        }
        let call = way.call("read", ask.time_max);
        call.before().await.map_err(lost)?;
        let mut batch = way.books().read(ask);
        batch.is_renewed = ask.node.is_some() && must_renew;
        call.after().await.map_err(lost)?;
        way.travel().await.map_err(lost)?;
        on.is_done = true;
        way.world.note(format_args!(
            "node {} read to {} renewed {} behind {}",
            way.node, batch.position.n, batch.is_renewed, batch.is_behind
        ));
        Ok(batch)
    }

    async fn mutate(&self, mutation: Mutation) -> Result<Result<Done, Error>, StoreError> {
        let way = Arc::clone(&self.way);
        // What is said before the commit changes nothing.
        let before_commit = async {
            let call = way.call("rows", ANSWER_TIME_MAX);
            call.before().await?;
            way.travel().await?;
            call.after().await
        };
        match timeout(ANSWER_TIME_MAX, before_commit).await {
            Ok(Ok(())) => {}
            Ok(Err(Lost)) => return Err(unavailable("the connection was lost")),
            Err(_) => return Err(unavailable("it does not answer")),
        }
        let (answer, answered) = oneshot::channel();
        let commits = Arc::clone(&self.commits);
        // The commit is on its way, whether anybody waits for it or not.
        tokio::spawn(async move {
            let call = way.call("commit", ANSWER_TIME_MAX);
            if call.before().await.is_err() {
                return;
            }
            // What is lost with a connection may have come through before.
            if way.travel().await.is_err() && way.is_one_of(1, 2) {
                return;
            }
            if way.is_deposed() {
                // It is made there, and lost with that server.
                way.until_it_may_commit().await;
                return;
            }
            let before = Arc::clone(&way.world.state().books);
            let mut books = Books::clone(&before);
            let passed = door::pass(&mut Transaction(&mut books), &mutation).await;
            if let Ok(Ok(done)) = &passed
                && let Some(position) = done.position
            {
                way.world.put(books);
                way.world.note(format_args!("node {} committed {}", way.node, position.n));
                way.maybe_lose(before);
                for commit in commits.lock().unwrap().iter() {
                    commit.send_replace(position.n);
                }
            }
            if call.after().await.is_ok() && way.travel().await.is_ok() {
                let _ = answer.send(passed);
            }
        });
        match timeout(ANSWER_TIME_MAX, answered).await {
            Ok(Ok(passed)) => passed,
            Ok(Err(_)) | Err(_) => {
                Err(StoreError::OutcomeUnknown("the connection was lost".into()))
            }
        }
    }

    async fn changed(&self, after: u64, most: u32) -> Result<Vec<Change>, StoreError> {
        self.look_up("changed", |books| {
            let later = books.changes.iter().rev().filter(|change| change.position.n > after);
            let later = later.take(usize::try_from(most).unwrap());
            later.cloned().collect()
        })
        .await
    }

    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.look_up("key", |books| books.keys.get(&id).cloned()).await
    }

    async fn key_by_digest(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        self.look_up("key_by_digest", |books| books.key_of(digest).cloned()).await
    }

    async fn list_keys(&self, query: &KeyQuery) -> Result<Vec<KeyRecord>, StoreError> {
        self.look_up("list_keys", |books| {
            let is_of =
                |key: &&KeyRecord| query.account.as_ref().is_none_or(|it| *it == key.account);
            books.keys.values().filter(is_of).take(query.limit as usize).cloned().collect()
        })
        .await
    }

    async fn account(
        &self,
        id: &AccountId,
        _: Timestamp,
    ) -> Result<Option<(Account, u32)>, StoreError> {
        self.look_up("account", |books| books.accounts.get(id).map(|account| (account.clone(), 0)))
            .await
    }

    async fn list_accounts(&self, _: &AccountQuery) -> Result<Vec<(Account, u32)>, StoreError> {
        self.look_up("list_accounts", |books| {
            books.accounts.values().map(|it| (it.clone(), 0)).collect()
        })
        .await
    }

    async fn audit(&self, _: &AuditQuery) -> Result<AuditPage, StoreError> {
        Err(unavailable("nobody asks here"))
    }

    async fn policy(&self) -> Result<(Policy, Position), StoreError> {
        self.look_up("policy", |books| books.policy.clone().unwrap()).await
    }

    async fn keep_time(&self, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    async fn kept_time(&self) -> Result<Timestamp, StoreError> {
        self.look_up("kept_time", |books| books.at).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.look_up("now", |_| Some(self.way.world.time())).await
    }

    async fn connect(&self) -> Result<(), StoreError> {
        if self.connection.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        self.look_up("connect", |_| ()).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn nodes(&self, query: NodeQuery) -> Result<Option<Nodes>, StoreError> {
        let now = || self.way.world.time();
        let found = self.look_up("nodes", |books| {
            let shows = query.shown.is_none_or(|shown| books.shows(shown));
            shows.then(|| {
                let nodes = books.nodes.values().map(|(row, renewed)| NodeState {
                    is_held: row.applied.is_some_and(|applied| books.shows(applied)),
                    row: row.clone(),
                    renewed: *renewed,
                });
                let policy = books.policy.clone().filter(|_| query.with_policy);
                Nodes { now: now(), head: books.position(), nodes: nodes.collect(), policy }
            })
        });
        found.await?.map(Some).ok_or_else(|| unavailable("this server shows the past"))
    }

    async fn leave(&self, boot_id: u64) -> Result<(), StoreError> {
        let lost = |Lost| unavailable("the connection was lost");
        let call = self.way.call("leave", LOOK_UP_TIME_MAX);
        call.before().await.map_err(lost)?;
        self.way.travel().await.map_err(lost)?;
        if !self.way.is_deposed() {
            Arc::make_mut(&mut self.way.world.state().books).nodes.remove(&boot_id);
        }
        call.after().await.map_err(lost)
    }

    fn commits(&self) -> watch::Receiver<u64> {
        let commits = watch::Sender::new(0);
        let looking = commits.subscribe();
        self.commits.lock().unwrap().push(commits);
        looking
    }

    async fn close(&self) {}
}

fn unavailable(why: &'static str) -> StoreError {
    StoreError::Unavailable(why.into())
}
