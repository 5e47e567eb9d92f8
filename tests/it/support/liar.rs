//! A Redis that lies, although it is a real one: somebody stands before it who answers with what it was told at any time,
//! or was told of others, flips bits, loses writes or makes them late, forges and repeats what is published, and has it
//! forget everything. When it does what is drawn from a seed, for each connection.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::hold::Hold;
use self::resp::Values;
use super::redis::Redis;
use super::{Dice, Folder};

pub(crate) mod hold;
mod resp;

/// Of a thousand answers so many are lies, one way or the other.
const FLIPPED: u64 = 60;
const FOREIGN: u64 = 20;
const FORMER: u64 = 250;
const FORGOTTEN: u64 = 20;
/// Of a thousand writes so many are lost, and so many late by up to this.
const LOST: u64 = 50;
const LATE: u64 = 50;
const LATE_BY_MAX: Duration = Duration::from_secs(5);
/// One answer of so many is late as well, by up to this: mostly nobody waits for it any more, nor for those behind it.
const SLOW_ONE_IN: u64 = 4_000;
const SLOW_BY_MAX: Duration = Duration::from_millis(60);
/// After one command of so many everything is forgotten.
const FLUSH_ONE_IN: u64 = 50_000;

/// It ends when it is dropped.
pub(crate) struct Liar {
    folder: Folder,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What it has done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// Records with a bit that nobody wrote.
    pub(crate) flipped: u64,
    /// Records of other keys.
    pub(crate) foreign: u64,
    /// Records from before.
    pub(crate) former: u64,
    /// Nothing where there is a record.
    pub(crate) forgotten: u64,
    /// Records as they are, or nothing where there is none.
    pub(crate) honest: u64,
    pub(crate) slow: u64,
    pub(crate) writes_lost: u64,
    pub(crate) writes_late: u64,
    pub(crate) pushes_lost: u64,
    pub(crate) pushes_late: u64,
    pub(crate) pushes_repeated: u64,
    pub(crate) pushes_forged: u64,
    pub(crate) flushes: u64,
}

struct Shared {
    to: PathBuf,
    is_lying: AtomicBool,
    told: Mutex<Told>,
    heard: Mutex<Heard>,
    hold: watch::Sender<Option<Hold>>,
}

/// All that it ever heard.
#[derive(Default)]
struct Heard {
    values: HashMap<Vec<u8>, Vec<Arc<[u8]>>>,
    names: Vec<Vec<u8>>,
    published: Vec<Vec<u8>>,
}

/// What a node waits for.
enum Awaited {
    /// What Redis says, whatever that is.
    Answer,
    /// The record of this name; since when it is asked for.
    Record(Vec<u8>, Instant),
    /// Nothing of Redis.
    Said(&'static [u8]),
    /// From now on, whatever is published.
    Pushes,
}

/// What becomes of a command.
enum Passes {
    AsItIs,
    Instead(Vec<u8>),
    No,
}

impl Liar {
    pub(crate) fn before(redis: &Redis, dice: Dice) -> Self {
        let folder = Folder::new();
        let listener = UnixListener::bind(socket(&folder)).unwrap();
        let shared = Arc::new(Shared {
            to: redis.socket(),
            is_lying: AtomicBool::new(false),
            told: Mutex::default(),
            heard: Mutex::default(),
            hold: watch::Sender::new(None),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), dice));
        Self { folder, shared, accepting }
    }

    /// How latchkey is told of it.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", socket(&self.folder).display())
    }

    /// From now on it lies, or does not any more.
    pub(crate) fn lie(&self, does: bool) {
        self.shared.is_lying.store(does, Ordering::Relaxed);
    }

    pub(crate) fn told(&self) -> Told {
        self.shared.told.lock().unwrap().clone()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn socket(folder: &Folder) -> PathBuf {
    folder.path().join("liar.sock")
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, dice: Dice) {
    for number in 0.. {
        let (node, _) = listener.accept().await.unwrap();
        // A server that is gone is gone for the node too.
        let Ok(redis) = UnixStream::connect(&shared.to).await else { continue };
        let ((from_node, to_node), (from_redis, to_redis)) =
            (node.into_split(), redis.into_split());
        let (awaits, awaited) = mpsc::unbounded_channel();
        let (of_asking, of_answering) = (dice.apart(2 * number), dice.apart(2 * number + 1));
        let asking = Asking { shared: Arc::clone(&shared), dice: of_asking, awaits, to: to_redis };
        let answering = Answering { shared: Arc::clone(&shared), dice: of_answering, to: to_node };
        tokio::spawn(async move {
            tokio::select! {
                () = asking.pass_on(Values::from(from_node)) => {}
                _ = answering.answer(Values::from(from_redis), awaited) => {}
            }
        });
    }
}

/// The way of a connection to Redis.
struct Asking {
    shared: Arc<Shared>,
    dice: Dice,
    awaits: mpsc::UnboundedSender<Awaited>,
    to: OwnedWriteHalf,
}

impl Asking {
    async fn pass_on(mut self, mut commands: Values<OwnedReadHalf>) {
        while let Some(command) = commands.next().await {
            let (passes, awaited) = self.hear(&resp::words(&command));
            let _ = self.awaits.send(awaited);
            let sent = match &passes {
                Passes::AsItIs => &command,
                Passes::Instead(other) => other,
                Passes::No => continue,
            };
            if self.to.write_all(sent).await.is_err() {
                return;
            }
        }
    }

    fn hear(&mut self, words: &[&[u8]]) -> (Passes, Awaited) {
        let lies = self.shared.is_lying.load(Ordering::Relaxed);
        if lies && self.dice.is_one_of(1, FLUSH_ONE_IN) {
            self.count(|told| told.flushes += 1);
            self.later(Duration::ZERO, resp::command(&[b"FLUSHALL"]));
        }
        match *words {
            [b"GETRANGE", name, ..] if is_record(name) => {
                self.shared.note_asked(name);
                (Passes::AsItIs, Awaited::Record(name.to_vec(), asked_at()))
            }
            [b"SET", name, value, ..] if is_record(name) => {
                self.shared.heard.lock().unwrap().note(name, value);
                self.shared.note_written(name, value);
                match self.dice.below(1_000) {
                    _ if !lies => (Passes::AsItIs, Awaited::Answer),
                    ..LOST => {
                        self.count(|told| told.writes_lost += 1);
                        (Passes::No, Awaited::Said(b"+OK\r\n"))
                    }
                    drawn if drawn < LOST + LATE => {
                        self.count(|told| told.writes_late += 1);
                        let late = self.draw(LATE_BY_MAX);
                        self.later(late, resp::command(words));
                        (Passes::No, Awaited::Said(b"+OK\r\n"))
                    }
                    _ => (Passes::AsItIs, Awaited::Answer),
                }
            }
            [b"PUBLISH", channel, message] if lies => self.publish(channel, message),
            [b"SUBSCRIBE", ..] => (Passes::AsItIs, Awaited::Pushes),
            _ => (Passes::AsItIs, Awaited::Answer),
        }
    }

    /// One of ten is lost, one late, in one's place an earlier one is sent once more, and in one's what nobody said.
    fn publish(&mut self, channel: &[u8], message: &[u8]) -> (Passes, Awaited) {
        let instead = |message: &[u8]| {
            let other = resp::command(&[b"PUBLISH", channel, message]);
            (Passes::Instead(other), Awaited::Answer)
        };
        let earlier = {
            let mut heard = self.shared.heard.lock().unwrap();
            heard.published.push(message.to_vec());
            self.dice.pick::<Vec<u8>>(&heard.published).clone()
        };
        match self.dice.below(10) {
            0 => {
                self.count(|told| told.pushes_lost += 1);
                (Passes::No, Awaited::Said(b":0\r\n"))
            }
            1 => {
                self.count(|told| told.pushes_late += 1);
                let late = self.draw(LATE_BY_MAX);
                self.later(late, resp::command(&[b"PUBLISH", channel, message]));
                (Passes::No, Awaited::Said(b":0\r\n"))
            }
            2 => {
                self.count(|told| told.pushes_repeated += 1);
                instead(&earlier)
            }
            3 => {
                self.count(|told| told.pushes_forged += 1);
                let epoch = &message[..message.len().min(16)];
                let n = self.dice.draw() >> self.dice.below(64);
                instead(&[epoch, format!(" {n}").as_bytes()].concat())
            }
            _ => (Passes::AsItIs, Awaited::Answer),
        }
    }

    /// Has Redis do it then, past the node.
    fn later(&self, late: Duration, command: Vec<u8>) {
        let to = self.shared.to.clone();
        tokio::spawn(async move {
            tokio::time::sleep(late).await;
            // A server that is gone does nothing.
            let _ = tell(&to, &command).await;
        });
    }

    fn draw(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.dice.below(most.as_micros().try_into().unwrap()))
    }

    fn count(&self, count: impl FnOnce(&mut Told)) {
        count(&mut self.shared.told.lock().unwrap());
    }
}

async fn tell(redis: &Path, command: &[u8]) -> std::io::Result<()> {
    let mut redis = UnixStream::connect(redis).await?;
    redis.write_all(command).await?;
    let (answers, _open) = redis.into_split();
    Values::from(answers).next().await;
    Ok(())
}

/// The way back.
struct Answering {
    shared: Arc<Shared>,
    dice: Dice,
    to: OwnedWriteHalf,
}

impl Answering {
    /// Nothing once the connection has ended.
    async fn answer(
        mut self,
        mut answers: Values<OwnedReadHalf>,
        mut awaited: mpsc::UnboundedReceiver<Awaited>,
    ) -> Option<()> {
        loop {
            let said = match awaited.recv().await? {
                Awaited::Answer => answers.next().await?,
                Awaited::Said(said) => said.to_vec(),
                Awaited::Record(name, since) => {
                    let answer = answers.next().await?;
                    self.shared.hold_up(&name, since, resp::text(&answer)).await;
                    let lies = self.shared.is_lying.load(Ordering::Relaxed);
                    let lie = if lies { self.lie(&name, resp::text(&answer)).await } else { None };
                    lie.unwrap_or(answer)
                }
                Awaited::Pushes => break,
            };
            self.to.write_all(&said).await.ok()?;
        }
        while let Some(pushed) = answers.next().await {
            self.to.write_all(&pushed).await.ok()?;
        }
        None
    }

    /// What is said in place of a record, if anything is.
    async fn lie(&mut self, name: &[u8], record: Option<&[u8]>) -> Option<Vec<u8>> {
        if self.dice.is_one_of(1, SLOW_ONE_IN) {
            self.count(|told| told.slow += 1);
            let most = SLOW_BY_MAX.as_millis().try_into().unwrap();
            tokio::time::sleep(Duration::from_millis(self.dice.below(most))).await;
        }
        let record = record.unwrap_or_default();
        let drawn = self.dice.below(1_000);
        let shared = Arc::clone(&self.shared);
        let lie = {
            let heard = shared.heard.lock().unwrap();
            let former = heard.values.get(name).map(|values| &**self.dice.pick(values));
            let other = heard.names.get(self.below(heard.names.len()));
            let other = other.filter(|other| *other != name).map(|other| &heard.values[other]);
            match (drawn, former) {
                (..FLIPPED, Some(former)) => {
                    let flipped = if record.is_empty() { former } else { record };
                    Some((Lie::Flipped, self.flip(flipped)))
                }
                (FLIPPED..FOREIGN_UNTIL, _) => {
                    other.map(|values| (Lie::Foreign, self.dice.pick(values).to_vec()))
                }
                (FOREIGN_UNTIL..FORMER_UNTIL, Some(former)) if former != record => {
                    Some((Lie::Former, former.to_vec()))
                }
                (FORMER_UNTIL..FORGOTTEN_UNTIL, _) if !record.is_empty() => {
                    Some((Lie::Forgotten, Vec::new()))
                }
                _ => None,
            }
        };
        self.count(|told| match lie {
            Some((Lie::Flipped, _)) => told.flipped += 1,
            Some((Lie::Foreign, _)) => told.foreign += 1,
            Some((Lie::Former, _)) => told.former += 1,
            Some((Lie::Forgotten, _)) => told.forgotten += 1,
            None => told.honest += 1,
        });
        lie.map(|(_, value)| resp::string(&value))
    }

    fn flip(&mut self, record: &[u8]) -> Vec<u8> {
        let mut flipped = record.to_vec();
        let at = self.below(flipped.len());
        flipped[at] ^= 1 << self.dice.below(8);
        flipped
    }

    fn below(&mut self, below: usize) -> usize {
        usize::try_from(self.dice.below(below.max(1) as u64)).unwrap()
    }

    fn count(&self, count: impl FnOnce(&mut Told)) {
        count(&mut self.shared.told.lock().unwrap());
    }
}

enum Lie {
    Flipped,
    Foreign,
    Former,
    Forgotten,
}

const FOREIGN_UNTIL: u64 = FLIPPED + FOREIGN;
const FORMER_UNTIL: u64 = FOREIGN_UNTIL + FORMER;
const FORGOTTEN_UNTIL: u64 = FORMER_UNTIL + FORGOTTEN;

impl Heard {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        if !self.values.contains_key(name) {
            self.names.push(name.to_vec());
        }
        let values = self.values.entry(name.to_vec()).or_default();
        if values.last().is_none_or(|last| **last != *value) {
            values.push(value.into());
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an answer is held up for so long by the machine's clock"
)]
fn asked_at() -> Instant {
    Instant::now()
}

/// Whether something is kept of a key under this name.
fn is_record(name: &[u8]) -> bool {
    name.len() == 90 && name.starts_with(b"latchkey:")
}
