//! What scripts are made of: nodes that are asked all along, whoever changes something, and what goes wrong by the script.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use latchkey::key::KeyId;
use latchkey::keyring::Receipt;
use latchkey::store::KeyTarget;
use tokio::time::{sleep, timeout};

use crate::books::Books;
use crate::calls::{LATE, Whom};
use crate::judge;
use crate::node::Running;
use crate::people::{Act, Came, Cast, Changed, Said, new_key};
use crate::scripts::{ANY, NODES, READ, WRITE, scopes};
use crate::world::World;

/// How often each node is asked all along.
const WATCH_EVERY: Duration = Duration::from_millis(40);
/// How often it is looked whether all say the same, and how long.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const AGREE_MAX: Duration = Duration::from_millis(1_500);
/// How long whoever changes something waits for the answer, and how long he repeats it.
const PATIENCE: Duration = Duration::from_secs(8);
const MADE_WITHIN: Duration = Duration::from_secs(20);
/// How long pushes may stay away: a silence, a question whether anybody is there, a pause.
const HEARS_WITHIN: Duration = Duration::from_secs(14);

/// Where a script is played.
pub(crate) struct Stage {
    pub(crate) world: Arc<World>,
    pub(crate) cast: Arc<Cast>,
    pub(crate) faults: Mutex<Vec<String>>,
    marks: AtomicU64,
}

impl Stage {
    /// With all nodes, each of which is asked all along.
    pub(crate) async fn set(world: &Arc<World>) -> Self {
        let cast = Cast::gather(world).await;
        for node in 0..NODES {
            let of = Arc::clone(&cast);
            cast.cast_caller(async move { watch(&of, node).await });
        }
        let of = Arc::clone(&cast);
        cast.cast_caller(async move { look_closely(&of).await });
        let world = Arc::clone(world);
        Self { world, cast, faults: Mutex::default(), marks: AtomicU64::new(0) }
    }

    /// This must be so where nothing is disturbed.
    pub(crate) fn demand(&self, what: &str, is_so: bool) {
        if !is_so && self.world.calls().planned.is_none() {
            self.fault(format!("it is not so that {what}"));
        }
    }

    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    pub(crate) fn running(&self) -> Vec<Arc<Running>> {
        (0..NODES).filter_map(|node| self.cast.running(node)).collect()
    }

    pub(crate) fn books(&self) -> Books {
        Books::clone(&self.world.state().books)
    }

    pub(crate) async fn ask(
        &self,
        node: usize,
        key: usize,
        scope: Option<&'static str>,
    ) -> Option<Said> {
        let running = self.cast.running(node)?;
        Some(self.ask_of(&running, key, scope).await)
    }

    pub(crate) async fn ask_of(
        &self,
        node: &Running,
        key: usize,
        scope: Option<&'static str>,
    ) -> Said {
        let held = self.cast.keys()[key].clone();
        let check = self.cast.ask(node, &held, scope, None).await;
        let said = check.said.clone();
        self.cast.note_check(node, check);
        said
    }

    /// Until every node that serves says what is so of a key, or for a while; how long it took.
    pub(crate) async fn agree(&self, key: usize) -> Duration {
        let (begun, held) = (self.world.now(), self.cast.keys()[key].clone());
        loop {
            let mut do_agree = true;
            for node in 0..NODES {
                let Some(said) = self.ask(node, key, WRITE).await else { continue };
                do_agree &=
                    judge::truth(&self.books(), &held.digest, WRITE).is_said_by(&said, false);
            }
            let waited = self.world.now().saturating_sub(begun);
            if do_agree || waited > AGREE_MAX {
                return waited;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn create(&self, node: usize) -> usize {
        let before = self.cast.keys().len();
        let act = self.change(node, "create", async |node, mark| {
            let operator = self.cast.admitted(node).await?;
            self.cast.create_key(node, operator, new_key("ash", mark, scopes())).await
        });
        // The next best, if it was never made: that is a fault by itself.
        if act.await.is_some() { before } else { 0 }
    }

    pub(crate) async fn revoke(&self, node: usize, key: usize, wait: Duration) -> Option<Receipt> {
        let id: KeyId = self.cast.keys()[key].id.unwrap();
        let act = self.change(node, "revoke", async |node, mark| {
            let operator = self.cast.admitted(node).await?;
            self.cast.revoke_key(node, operator, mark, KeyTarget::Id(id), wait).await
        });
        match act.await?.came {
            Came::Made(_, receipt) => receipt,
            Came::Refused(_) | Came::NotKnown | Came::GivenUp => None,
        }
    }

    pub(crate) async fn suspend(&self, node: usize, account: &str, is_suspended: bool) {
        self.change(node, "suspend or resume", async |node, mark| {
            let operator = self.cast.admitted(node).await?;
            self.cast.suspend_account(node, operator, mark, account, is_suspended).await
        })
        .await;
    }

    /// Makes a change, and repeats it until it is made.
    async fn change(
        &self,
        number: usize,
        what: &'static str,
        deed: impl AsyncFn(&Running, &str) -> Changed,
    ) -> Option<Act> {
        let until = self.world.now() + MADE_WITHIN;
        while self.world.now() < until {
            if let Some(node) = self.cast.running(number) {
                let mark = format!("act-{}", self.marks.fetch_add(1, Ordering::Relaxed));
                let sent = self.world.now();
                let changed = timeout(PATIENCE, deed(&node, &mark)).await.ok();
                let act = self.cast.note_act(&node, what, mark, sent, changed);
                if matches!(act.came, Came::Made(..)) {
                    return Some(act);
                }
                if self.world.state().links[number].troubled_until < act.answered {
                    self.fault(format!("nothing was in the way of a change: {act:?}"));
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.fault(format!("{what} could not be made on node {number}"));
        None
    }

    pub(crate) async fn cut_off(&self, node: usize, span: Duration) {
        self.world.note(format_args!("node {node} is cut off"));
        {
            let link = &mut self.world.state().links[node];
            link.is_cut = true;
            link.cuts += 1;
        }
        self.world.trouble(node, span);
        sleep(span).await;
        self.world.state().links[node].is_cut = false;
        self.world.note(format_args!("node {node} is no longer cut off"));
    }

    pub(crate) fn crash(&self, node: usize) {
        self.world.note(format_args!("node {node} is killed"));
        if let Some(running) = self.cast.take(node) {
            running.crash();
        }
    }

    pub(crate) async fn start(&self, node: usize) {
        self.cast.start(node).await;
    }

    /// Until nothing excuses a node any more, and a little longer.
    pub(crate) async fn calm(&self) {
        let late = {
            let calls = self.world.calls();
            let struck = calls
                .struck
                .as_ref()
                .filter(|_| calls.planned.is_some_and(|it| it.whom != Whom::Clock));
            struck.map_or(Duration::ZERO, |struck| struck.at + LATE)
        };
        let excused = self.world.state().links.iter().map(|link| link.troubled_until).max();
        let until = late.max(excused.unwrap_or_default()) + 10 * WATCH_EVERY;
        sleep(until.saturating_sub(self.world.now())).await;
        for node in self.running() {
            if node.is_broken() {
                self.fault(format!("something of node {} has ended", node.number));
            }
        }
        if self.world.calls().planned.is_some_and(|it| it.whom == Whom::Redis) {
            self.hear().await;
        }
    }

    /// Whatever became of Redis, each node hears again what is published.
    async fn hear(&self) {
        let Some(redis) = &self.cast.redis else { return };
        let until = self.world.now() + HEARS_WITHIN;
        let heard = |node: &Arc<Running>| node.counted("latchkey_redis_pushes_total", "");
        loop {
            let before: Vec<_> = self.running().iter().map(heard).collect();
            redis.forge(b"a word".to_vec());
            sleep(Duration::from_millis(50)).await;
            let after: Vec<_> = self.running().iter().map(heard).collect();
            if before.iter().zip(&after).all(|(before, after)| before < after) {
                return;
            }
            if self.world.now() > until {
                return self.fault(format!("somebody hears nothing: {before:?}, {after:?}"));
            }
            sleep(Duration::from_millis(450)).await;
        }
    }
}

/// Asks a node about all keys in turn, for as long as it serves.
async fn watch(cast: &Cast, number: usize) {
    for turn in 0.. {
        sleep(WATCH_EVERY).await;
        let Some(node) = cast.running(number) else { continue };
        let keys = cast.keys();
        let check = cast.ask(&node, &keys[turn % keys.len()], [READ, WRITE, ANY][turn % 3], None);
        let check = check.await;
        cast.note_check(&node, check);
    }
}

/// Asks the node whose call was disturbed about all keys, again and again, at the time when late answers come.
async fn look_closely(cast: &Cast) {
    const BEFORE: Duration = Duration::from_millis(20);
    const ROUNDS: u32 = 20;
    let (node, from) = loop {
        sleep(WATCH_EVERY).await;
        let calls = cast.world.calls();
        if let (Some(planned), Some(struck)) = (calls.planned, &calls.struck) {
            break (planned.node, (struck.at + LATE).saturating_sub(BEFORE));
        }
    };
    sleep(from.saturating_sub(cast.world.now())).await;
    for _ in 0..ROUNDS {
        for held in cast.keys() {
            let Some(node) = cast.running(node) else { continue };
            let check = cast.ask(&node, &held, READ, None).await;
            cast.note_check(&node, check);
        }
        sleep(Duration::from_millis(10)).await;
    }
}
