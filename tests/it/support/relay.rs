//! A way to PostgreSQL that can be slow, that can be cut, and on which what was asked or answered can be held up.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::postgres::Postgres;
use super::{Dice, Folder};

/// With what a node begins anything that it asks of the store.
const BEGINS: &[u8] = b"BEGIN ISOLATION";
/// With what a node says that it goes on.
const RENEWS: &[u8] = b"INSERT INTO nodes";
/// With what it makes what it has written count.
const COMMITS: &[u8] = b"COMMIT";

/// It ends when it is dropped.
pub(crate) struct Relay {
    folder: Folder,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What is to be held up, once.
#[derive(Debug, Clone)]
pub(crate) enum Hold {
    /// The commit of what was asked with one of these words in it.
    CommitOf(Vec<String>),
    /// An answer with one of these words in it, and whatever comes after it on the same connection.
    AnswerWith(Vec<String>),
}

/// What is held up.
enum Holding {
    Nothing,
    Next(Hold),
    /// This piece.
    Held(Vec<u8>),
}

/// What is done to the nodes by chance, until it is dropped.
pub(crate) struct Disturbing {
    shared: Arc<Shared>,
    working: tokio::task::JoinHandle<()>,
}

struct Shared {
    to: PathBuf,
    /// Whether nothing new gets through; what was asked before is answered still.
    is_cut: watch::Sender<bool>,
    /// How often all connections were ended.
    hang_ups: watch::Sender<u64>,
    /// How often a node has said that it goes on.
    renewals: watch::Sender<u64>,
    answers_take_micros: AtomicU64,
    holding: watch::Sender<Holding>,
}

impl Relay {
    pub(crate) fn before(postgres: &Postgres) -> Self {
        let folder = Folder::new();
        let listener = UnixListener::bind(postgres.socket_in(folder.path())).unwrap();
        let shared = Arc::new(Shared {
            to: postgres.socket(),
            is_cut: watch::Sender::new(false),
            hang_ups: watch::Sender::new(0),
            renewals: watch::Sender::new(0),
            answers_take_micros: AtomicU64::new(0),
            holding: watch::Sender::new(Holding::Nothing),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { folder, shared, accepting }
    }

    /// How a database is opened through it.
    pub(crate) fn url(&self, postgres: &Postgres, database: &str) -> String {
        postgres.url_by(self.folder.path(), database)
    }

    /// How long each piece of an answer takes.
    pub(crate) fn answers_take(&self, span: Duration) {
        self.shared.answers_take(span);
    }

    /// Lets nothing new through. What was asked before is answered still.
    pub(crate) fn cut(&self) {
        self.shared.is_cut.send_replace(true);
    }

    /// Lets everything through, what was held up too.
    pub(crate) fn mend(&self) {
        self.shared.is_cut.send_replace(false);
    }

    /// Waits until a node has just said that it goes on.
    pub(crate) async fn until_renewed(&self) {
        self.shared.renewals.subscribe().changed().await.unwrap();
    }

    /// Holds up the next that is such.
    pub(crate) fn hold(&self, hold: Hold) {
        self.shared.holding.send_replace(Holding::Next(hold));
    }

    /// Whether nothing has come yet that is to be held up.
    pub(crate) fn is_to_hold(&self) -> bool {
        self.shared.is_next(|_| true)
    }

    /// Waits until something is held up; the piece that it is.
    pub(crate) async fn until_held(&self) -> Vec<u8> {
        let mut holding = self.shared.holding.subscribe();
        let held = holding.wait_for(|it| matches!(it, Holding::Held(_))).await.unwrap();
        match &*held {
            Holding::Held(piece) => piece.clone(),
            Holding::Nothing | Holding::Next(_) => unreachable!("it is held"),
        }
    }

    /// Holds nothing up any more.
    pub(crate) fn let_go(&self) {
        self.shared.holding.send_replace(Holding::Nothing);
    }

    /// From now on ends connections, cuts the way, and has answers take their time, as is drawn.
    pub(crate) fn disturb(&self, dice: Dice) -> Disturbing {
        let working = tokio::spawn(disturb(Arc::clone(&self.shared), dice));
        Disturbing { shared: Arc::clone(&self.shared), working }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Drop for Disturbing {
    fn drop(&mut self) {
        self.working.abort();
        self.shared.answers_take(Duration::ZERO);
        self.shared.is_cut.send_replace(false);
    }
}

async fn disturb(shared: Arc<Shared>, mut dice: Dice) {
    let mut millis = |least, most| Duration::from_millis(least + dice.below(most - least));
    loop {
        tokio::time::sleep(millis(100, 1_500)).await;
        shared.hang_ups.send_modify(|hang_ups| *hang_ups += 1);
        tokio::time::sleep(millis(100, 1_500)).await;
        shared.is_cut.send_replace(true);
        tokio::time::sleep(millis(20, 600)).await;
        shared.is_cut.send_replace(false);
        tokio::time::sleep(millis(100, 1_500)).await;
        shared.answers_take(millis(1, 60));
        tokio::time::sleep(millis(100, 1_000)).await;
        shared.answers_take(Duration::ZERO);
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        let (node, _) = listener.accept().await.unwrap();
        // A server that is gone is gone for the node too.
        let Ok(store) = UnixStream::connect(&shared.to).await else { continue };
        let ((from_node, to_node), (from_store, to_store)) =
            (node.into_split(), store.into_split());
        let mut hang_ups = shared.hang_ups.subscribe();
        let asking = pass_on(from_node, to_store, Arc::clone(&shared));
        let answering = answer(from_store, to_node, Arc::clone(&shared));
        tokio::spawn(async move {
            tokio::select! {
                _ = hang_ups.changed() => {}
                _ = join(asking, answering) => {}
            }
        });
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut piece = vec![0; 64 * 1024];
    let mut was_asked = false;
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let asked = &piece[..length];
        if has(asked, BEGINS) {
            let _ = shared.is_cut.subscribe().wait_for(|is_cut| !is_cut).await;
        }
        was_asked |=
            shared.is_next(|hold| matches!(hold, Hold::CommitOf(words) if has_any(asked, words)));
        if was_asked && has(asked, COMMITS) {
            was_asked = false;
            shared.hold(asked).await;
        }
        if to.write_all(asked).await.is_err() {
            return;
        }
        if has(asked, RENEWS) {
            shared.renewals.send_modify(|renewals| *renewals += 1);
        }
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let answered = &piece[..length];
        let micros = shared.answers_take_micros.load(Ordering::Relaxed);
        if micros > 0 {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        if shared
            .is_next(|hold| matches!(hold, Hold::AnswerWith(words) if has_any(answered, words)))
        {
            shared.hold(answered).await;
        }
        if to.write_all(answered).await.is_err() {
            return;
        }
    }
}

impl Shared {
    fn answers_take(&self, span: Duration) {
        let micros = span.as_micros().try_into().unwrap();
        self.answers_take_micros.store(micros, Ordering::Relaxed);
    }

    /// Whether this is what is to be held up next.
    fn is_next(&self, is_it: impl FnOnce(&Hold) -> bool) -> bool {
        matches!(&*self.holding.borrow(), Holding::Next(hold) if is_it(hold))
    }

    /// Waits until this is let go, unless something else is held up already.
    async fn hold(&self, piece: &[u8]) {
        let is_first = self.holding.send_if_modified(|holding| {
            let is_next = matches!(holding, Holding::Next(_));
            if is_next {
                *holding = Holding::Held(piece.to_vec());
            }
            is_next
        });
        if is_first {
            let mut holding = self.holding.subscribe();
            let _ = holding.wait_for(|it| !matches!(it, Holding::Held(_))).await;
        }
    }
}

fn has(piece: &[u8], words: &[u8]) -> bool {
    piece.windows(words.len()).any(|part| part == words)
}

fn has_any(piece: &[u8], words: &[String]) -> bool {
    words.iter().any(|words| has(piece, words.as_bytes()))
}
