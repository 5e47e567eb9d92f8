//! A way to PostgreSQL that can be slow, and that can be cut.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::Folder;
use super::postgres::Postgres;

/// With what a node begins anything that it asks of the store.
const BEGINS: &[u8] = b"BEGIN ISOLATION";
/// With what a node says that it goes on.
const RENEWS: &[u8] = b"INSERT INTO nodes";

/// It ends when it is dropped.
pub(crate) struct Relay {
    folder: Folder,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    to: PathBuf,
    /// Whether nothing new gets through; what was asked before is answered still.
    is_cut: watch::Sender<bool>,
    /// How often a node has said that it goes on.
    renewals: watch::Sender<u64>,
    answers_take_micros: AtomicU64,
}

impl Relay {
    pub(crate) fn before(postgres: &Postgres) -> Self {
        let folder = Folder::new();
        let listener = UnixListener::bind(postgres.socket_in(folder.path())).unwrap();
        let shared = Arc::new(Shared {
            to: postgres.socket(),
            is_cut: watch::Sender::new(false),
            renewals: watch::Sender::new(0),
            answers_take_micros: AtomicU64::new(0),
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
        let micros = span.as_micros().try_into().unwrap();
        self.shared.answers_take_micros.store(micros, Ordering::Relaxed);
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
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        let (node, _) = listener.accept().await.unwrap();
        // A server that is gone is gone for the node too.
        let Ok(store) = UnixStream::connect(&shared.to).await else { continue };
        let ((from_node, to_node), (from_store, to_store)) =
            (node.into_split(), store.into_split());
        tokio::spawn(pass_on(from_node, to_store, Arc::clone(&shared)));
        tokio::spawn(answer(from_store, to_node, Arc::clone(&shared)));
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let asked = &piece[..length];
        let has = |words: &[u8]| asked.windows(words.len()).any(|part| part == words);
        if has(BEGINS) {
            let _ = shared.is_cut.subscribe().wait_for(|is_cut| !is_cut).await;
        }
        if to.write_all(asked).await.is_err() {
            return;
        }
        if has(RENEWS) {
            shared.renewals.send_modify(|renewals| *renewals += 1);
        }
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let micros = shared.answers_take_micros.load(Ordering::Relaxed);
        if micros > 0 {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
