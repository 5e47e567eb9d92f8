//! A Redis that lies: it forgets, returns what it was ever told under any name, flips bits, is late, forges and drops what is
//! published. It speaks the protocol over a socket, so that the real driver talks to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::calls::{Call, Whom};
use crate::dice::Dice;
use crate::world::World;

/// How long nodes wait for an answer.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(20);
const CHANNEL: &[u8] = b"latchkey:changes";

/// How it is at present.
#[derive(Default)]
pub(crate) struct Lies {
    /// One answer in so many is a lie; none at 0.
    pub(crate) one_in: u64,
    /// It answers nothing until then.
    pub(crate) frozen_until: Duration,
    pub(crate) is_away: bool,
    /// All that was ever written.
    values: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    /// All that was ever published.
    published: Vec<Vec<u8>>,
}

impl Lies {
    /// It has forgotten everything.
    pub(crate) fn flush(&mut self) {
        self.values.clear();
    }
}

/// What each connection is told.
#[derive(Clone)]
enum Word {
    Published(Vec<u8>),
    HangUp,
}

pub(crate) struct Redis {
    world: Arc<World>,
    folder: PathBuf,
    words: broadcast::Sender<Word>,
    tasks: JoinSet<()>,
}

impl Redis {
    /// A server for the nodes of this world.
    pub(crate) fn start(world: &Arc<World>, dice: &Dice) -> Self {
        static SERVERS: AtomicU64 = AtomicU64::new(0);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("latchkey-sim-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (words, _) = broadcast::channel(1_024);
        let mut tasks = JoinSet::new();
        let connections = Arc::new(AtomicU64::new(0));
        for node in 0..world.shape.nodes {
            let listener = UnixListener::bind(socket(&folder, node)).unwrap();
            let (of_world, of_words) = (Arc::clone(world), words.clone());
            let (dice, connections) = (dice.clone(), Arc::clone(&connections));
            tasks.spawn(async move {
                let mut served = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let number = connections.fetch_add(1, Ordering::Relaxed);
                    let connection = Connection {
                        world: Arc::clone(&of_world),
                        node,
                        words: of_words.clone(),
                        heard: of_words.subscribe(),
                        dice: dice.apart(100 + number),
                        stream,
                        is_subscribed: false,
                    };
                    served.spawn(connection.serve());
                }
            });
        }
        Self { world: Arc::clone(world), folder, words, tasks }
    }

    /// Where this node finds it.
    pub(crate) fn url(&self, node: usize) -> String {
        format!("redis+unix://{}", socket(&self.folder, node).display())
    }

    /// Ends all connections; new ones end at once, until it is back.
    pub(crate) fn go_away(&self) {
        self.world.state().lies.is_away = true;
        let _ = self.words.send(Word::HangUp);
    }

    /// Says that something was changed which was not.
    pub(crate) fn forge(&self, message: Vec<u8>) {
        let _ = self.words.send(Word::Published(message));
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.tasks.abort_all();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn socket(folder: &Path, node: usize) -> PathBuf {
    folder.join(format!("{node}.sock"))
}

struct Connection {
    world: Arc<World>,
    /// Whose it is.
    node: usize,
    words: broadcast::Sender<Word>,
    heard: broadcast::Receiver<Word>,
    dice: Dice,
    stream: UnixStream,
    is_subscribed: bool,
}

impl Connection {
    async fn serve(mut self) {
        let call = self.call("connect");
        if call.before().await.is_err() || call.after().await.is_err() {
            return;
        }
        let mut received = Vec::new();
        loop {
            let mut part = [0; 4_096];
            tokio::select! {
                biased;
                word = self.heard.recv() => match word {
                    Ok(Word::Published(message)) if self.is_subscribed => {
                        let call = self.call("a push");
                        if call.before().await.is_err() {
                            continue;
                        }
                        let push = array(&[b"message", CHANNEL, &message]);
                        if self.stream.write_all(&push).await.is_err() || call.after().await.is_err() {
                            return;
                        }
                    }
                    Ok(Word::Published(_)) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Ok(Word::HangUp) | Err(broadcast::error::RecvError::Closed) => return,
                },
                read = self.stream.read(&mut part) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(length) => received.extend_from_slice(&part[..length]),
                },
            }
            while let Some((words, length)) = command(&received) {
                received.drain(..length);
                let Some(answer) = self.answer(&words).await else { return };
                if self.stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    }

    fn call(&self, what: &str) -> Call {
        self.world.call(self.node, Whom::Redis, what, ANSWER_TIME_MAX)
    }

    /// The answer; `None` hangs up.
    async fn answer(&mut self, words: &[Vec<u8>]) -> Option<Vec<u8>> {
        let call = self.call(&String::from_utf8_lossy(&words[0]));
        if call.before().await.is_err() {
            return Some(b"-ERR of some kind\r\n".to_vec());
        }
        let millis =
            if self.dice.is_one_of(1, 20) { self.dice.below(40) } else { self.dice.below(3) };
        sleep(Duration::from_millis(millis)).await;
        loop {
            let until = {
                let state = self.world.state();
                if state.lies.is_away {
                    return None;
                }
                state.lies.frozen_until
            };
            let now = self.world.now();
            if until <= now {
                break;
            }
            sleep(until.saturating_sub(now)).await;
        }
        let name = words.get(1).cloned().unwrap_or_default();
        let is_trial = name.starts_with(b"latchkey:trial:");
        let one_in = self.world.state().lies.one_in;
        let is_lie = one_in > 0 && !is_trial && self.dice.is_one_of(1, one_in);
        if is_lie {
            self.world.count("Redis lied");
        }
        let answer = match &*words[0].to_ascii_uppercase() {
            b"SET" => {
                self.set(name, words[2].clone(), is_lie);
                b"+OK\r\n".to_vec()
            }
            b"GETRANGE" => self.get(&name, is_lie),
            b"PUBLISH" => {
                self.publish(words[2].clone(), is_lie);
                b":1\r\n".to_vec()
            }
            b"SUBSCRIBE" => {
                self.is_subscribed = true;
                [b"*3\r\n", &*bulk(b"subscribe"), &*bulk(CHANNEL), b":1\r\n"].concat()
            }
            b"PING" if self.is_subscribed => array(&[b"pong", b""]),
            b"PING" => b"+PONG\r\n".to_vec(),
            _ => b"+OK\r\n".to_vec(),
        };
        call.after().await.ok()?;
        Some(answer)
    }

    fn set(&mut self, name: Vec<u8>, value: Vec<u8>, is_lie: bool) {
        match self.dice.below(3) {
            // It is lost,
            0 if is_lie => {}
            // or comes after what was written later,
            1 if is_lie => {
                let (world, late) = (Arc::clone(&self.world), self.dice.below(5_000));
                tokio::spawn(async move {
                    sleep(Duration::from_millis(late)).await;
                    world.state().lies.values.entry(name).or_default().push(value);
                });
            }
            // or is written under another name.
            2 if is_lie => {
                let mut state = self.world.state();
                let names: Vec<_> = state.lies.values.keys().cloned().collect();
                let name = if names.is_empty() { name } else { self.dice.pick(&names).clone() };
                state.lies.values.entry(name).or_default().push(value);
            }
            _ => self.world.state().lies.values.entry(name).or_default().push(value),
        }
    }

    fn get(&mut self, name: &[u8], is_lie: bool) -> Vec<u8> {
        let state = self.world.state();
        let values = state.lies.values.get(name).map(Vec::as_slice).unwrap_or_default();
        let value = values.last().cloned().unwrap_or_default();
        if !is_lie {
            return bulk(&value);
        }
        match self.dice.below(6) {
            // What it was told under this name at any time, mostly; that is what is hardest to tell from the truth.
            0..=2 if !values.is_empty() => bulk(self.dice.pick::<Vec<u8>>(values)),
            // Or what was written under any.
            3 => {
                let all: Vec<_> = state.lies.values.values().flatten().collect();
                bulk(if all.is_empty() { &value } else { self.dice.pick::<&Vec<u8>>(&all) })
            }
            4 if !value.is_empty() => {
                let mut value = value;
                let at = usize::try_from(self.dice.below(value.len() as u64)).unwrap();
                value[at] ^= 1 << self.dice.below(8);
                bulk(&value)
            }
            5 => b"-ERR of some kind\r\n".to_vec(),
            _ => bulk(b""),
        }
    }

    fn publish(&mut self, message: Vec<u8>, is_lie: bool) {
        self.world.state().lies.published.push(message.clone());
        let told = match self.dice.below(3) {
            0 if is_lie => return,
            1 if is_lie => self.dice.pick(&self.world.state().lies.published).clone(),
            2 if is_lie => format!("{:016x} {}", self.dice.draw(), self.dice.draw()).into_bytes(),
            _ => message,
        };
        let _ = self.words.send(Word::Published(told));
    }
}

/// The first command of what was received, and how long it is.
fn command(received: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let line = |from: usize| -> Option<(usize, usize)> {
        let end = from + received.get(from..)?.windows(2).position(|two| two == b"\r\n")?;
        let number = std::str::from_utf8(&received[from + 1..end]).unwrap().parse().unwrap();
        Some((number, end + 2))
    };
    let (count, mut at) = line(0)?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, begin) = line(at)?;
        words.push(received.get(begin..begin + length)?.to_vec());
        at = begin + length + 2;
    }
    (at <= received.len()).then_some((words, at))
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn array(values: &[&[u8]]) -> Vec<u8> {
    let count = format!("*{}\r\n", values.len()).into_bytes();
    values.iter().fold(count, |mut all, value| {
        all.extend(bulk(value));
        all
    })
}
