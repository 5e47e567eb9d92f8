//! A disk that can lose power: what it would hold that lost whatever was not synced.
//!
//! `tests/crash/disk.c` writes down what the program does to the files of a folder; here it is done
//! again on files in memory that remember what is synced. A name counts once its folder is synced.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::io::Errno;

use super::Dice;

/// The least that a disk writes whole.
const SECTOR: usize = 512;

/// The files of one folder, from now until the power is lost.
pub(crate) struct Disk {
    folder: PathBuf,
    trace: PathBuf,
    before: Content,
}

/// How much of what was not synced is there after the power was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survivors {
    /// Nothing.
    Synced,
    /// Any of it, in any order, torn between sectors.
    Some,
    /// All of it.
    All,
}

impl Survivors {
    /// Each in its turn, the first time nothing.
    pub(crate) const fn of(round: u64) -> Self {
        match round % 5 {
            1 | 4 => Self::Synced,
            3 => Self::All,
            _ => Self::Some,
        }
    }
}

/// What is to happen to which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disturbance {
    /// Which call, counted from 1.
    pub(crate) at: u64,
    pub(crate) does: Does,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// The power goes before a change.
    LosesPower,
    /// One change fails, with this error.
    Fails(Errno),
    /// This change and all after it fail.
    FailsOnwards(Errno),
    /// One sync fails.
    FailsToSync,
    /// This sync and all after it fail.
    FailsToSyncOnwards,
    /// One read fails.
    FailsToRead,
}

impl Disk {
    /// A disk that holds what is in the folder, all of it synced. The folder has one name only.
    pub(crate) fn of(folder: &Path, trace: &Path) -> Self {
        let _ = fs::remove_file(trace);
        Self { folder: folder.to_owned(), trace: trace.to_owned(), before: Content::read(folder) }
    }

    /// With what environment a program has to be started.
    pub(crate) fn environment(&self, disturbed: Option<Disturbance>) -> Vec<(String, String)> {
        let mut environment = vec![
            ("LD_PRELOAD".to_owned(), library().display().to_string()),
            ("DISK_FOLDER".to_owned(), self.folder.display().to_string()),
            ("DISK_TRACE".to_owned(), self.trace.display().to_string()),
        ];
        if let Some(Disturbance { at, does }) = disturbed {
            let (counts, error, onwards) = match does {
                Does::LosesPower => ("changes", None, false),
                Does::Fails(error) => ("changes", Some(error), false),
                Does::FailsOnwards(error) => ("changes", Some(error), true),
                Does::FailsToSync => ("syncs", Some(Errno::IO), false),
                Does::FailsToSyncOnwards => ("syncs", Some(Errno::IO), true),
                Does::FailsToRead => ("reads", Some(Errno::IO), false),
            };
            let errno = error.map_or(0, Errno::raw_os_error);
            environment.push(("DISK_AT".to_owned(), at.to_string()));
            environment.push(("DISK_COUNTS".to_owned(), counts.to_owned()));
            environment.push(("DISK_DOES".to_owned(), errno.to_string()));
            if onwards {
                environment.push(("DISK_ONWARDS".to_owned(), String::new()));
            }
        }
        environment
    }

    /// The call that was disturbed, if one was: its name.
    pub(crate) fn disturbed(&self) -> Option<String> {
        let trace = fs::read(&self.trace).unwrap_or_default();
        let hit = Record::all(&trace).find(|record| record.kind == b'H')?;
        Some(String::from_utf8_lossy(hit.bytes).into_owned())
    }

    /// Puts into the folder what a disk holds after the power was lost. The program has to be gone.
    pub(crate) fn lose_power(self, survivors: Survivors, dice: &mut Dice) {
        let Self { folder, trace, before: mut content } = self;
        let written = fs::read(&trace).unwrap_or_default();
        for record in Record::all(&written) {
            content.take(&record, dice);
        }
        for entry in fs::read_dir(&folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (name, bytes) in content.surviving(survivors, dice) {
            fs::write(folder.join(&name), bytes).unwrap();
        }
        fs::remove_file(&trace).unwrap();
    }
}

/// The library that is put before the program; compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/disk.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = folder.join(format!("disk-{}.so", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&made, &source])
            .arg("-ldl")
            .output()
            .unwrap_or_else(|error| {
                panic!("cc cannot be started ({error}); `./check` installs it")
            });
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{} does not compile: {said}", source.display());
        let library = folder.join("disk.so");
        fs::rename(made, &library).unwrap();
        library
    })
}

/// One line of what was written down; see `tests/crash/disk.c`.
struct Record<'a> {
    kind: u8,
    inode: u64,
    offset: usize,
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// All that are whole: a process may be killed while it writes the last one.
    fn all(mut trace: &'a [u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let (head, rest) = trace.split_at_checked(32)?;
            let number = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap());
            let (bytes, rest) = rest.split_at_checked(usize::try_from(number(24)).unwrap())?;
            trace = rest;
            let offset = usize::try_from(number(16)).unwrap();
            Some(Self { kind: head[0], inode: number(8), offset, bytes })
        })
    }

    fn name(&self) -> String {
        String::from_utf8(self.bytes.to_owned()).unwrap()
    }
}

/// A file: what is synced of it, and what came since.
#[derive(Default)]
struct Contents {
    synced: Vec<u8>,
    since: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// A name that came or went.
enum Naming {
    Bind(String, usize),
    Unbind(String),
    Rename(String, String),
}

/// Files in memory, with what is synced of them and of their names.
#[derive(Default)]
struct Content {
    files: Vec<Contents>,
    by_inode: HashMap<u64, usize>,
    names: BTreeMap<String, usize>,
    namings: Vec<Naming>,
}

impl Content {
    fn read(folder: &Path) -> Self {
        let mut content = Self::default();
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if name.ends_with("-shm") {
                continue;
            }
            let file = content.files.len();
            let synced = fs::read(entry.path()).unwrap();
            content.files.push(Contents { synced, since: Vec::new() });
            content.by_inode.insert(entry.metadata().unwrap().ino(), file);
            content.names.insert(name, file);
        }
        content
    }

    fn take(&mut self, record: &Record<'_>, dice: &mut Dice) {
        match record.kind {
            b'C' => {
                // The number of a file that is gone is given out again.
                self.by_inode.insert(record.inode, self.files.len());
                self.namings.push(Naming::Bind(record.name(), self.files.len()));
                self.files.push(Contents::default());
            }
            b'U' => self.namings.push(Naming::Unbind(record.name())),
            b'R' => {
                let names = record.name();
                let (from, to) = names.split_once('\0').unwrap();
                self.namings.push(Naming::Rename(from.to_owned(), to.to_owned()));
            }
            b'D' => self.sync_names(self.namings.len()),
            b'W' => {
                let write = Change::Write(record.offset, record.bytes.to_owned());
                self.file(record.inode).since.push(write);
            }
            b'T' => self.file(record.inode).since.push(Change::Truncate(record.offset)),
            b'S' => self.file(record.inode).sync(),
            b'N' => self.file(record.inode).fail_to_sync(dice),
            b'H' => {}
            other => panic!("a record of kind {other}"),
        }
    }

    fn file(&mut self, inode: u64) -> &mut Contents {
        &mut self.files[self.by_inode[&inode]]
    }

    /// Changes of names reach the disk in order: file systems keep a journal of them.
    fn sync_names(&mut self, most: usize) {
        for naming in self.namings.drain(..most) {
            match naming {
                Naming::Bind(name, file) => drop(self.names.insert(name, file)),
                Naming::Unbind(name) => drop(self.names.remove(&name)),
                Naming::Rename(from, to) => {
                    if let Some(file) = self.names.remove(&from) {
                        self.names.insert(to, file);
                    }
                }
            }
        }
    }

    fn surviving(mut self, survivors: Survivors, dice: &mut Dice) -> Vec<(String, Vec<u8>)> {
        let namings = self.namings.len();
        match survivors {
            Survivors::Synced => {}
            Survivors::Some => {
                let most = usize::try_from(dice.below(namings as u64 + 1)).unwrap();
                self.sync_names(most);
                self.files.iter_mut().for_each(|file| file.lose_some(dice));
            }
            Survivors::All => {
                self.sync_names(namings);
                self.files.iter_mut().for_each(Contents::sync);
            }
        }
        let Self { mut files, names, .. } = self;
        names
            .into_iter()
            .map(|(name, file)| (name, std::mem::take(&mut files[file].synced)))
            .collect()
    }
}

impl Contents {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.since) {
            self.apply(&change);
        }
    }

    /// After a sync that failed the system takes what was not written for written: a later sync says
    /// nothing of it. What was written may be all the same: everything, something, nothing.
    fn fail_to_sync(&mut self, dice: &mut Dice) {
        match dice.below(4) {
            0 => self.since.clear(),
            1 => self.lose_some(dice),
            _ => self.sync(),
        }
    }

    /// Each sector that was written may be there or not, in any version; sizes change in order.
    fn lose_some(&mut self, dice: &mut Dice) {
        let kept = 1 + dice.below(3);
        let mut sectors = Vec::new();
        for change in std::mem::take(&mut self.since) {
            match change {
                Change::Write(at, bytes) => sectors.extend(torn(at, &bytes)),
                Change::Truncate(_) => {
                    self.apply_some(std::mem::take(&mut sectors), kept, dice);
                    if dice.is_one_of(kept, 4) {
                        self.apply(&change);
                    }
                }
            }
        }
        self.apply_some(sectors, kept, dice);
    }

    fn apply_some(&mut self, mut sectors: Vec<Change>, kept: u64, dice: &mut Dice) {
        dice.shuffle(&mut sectors);
        for sector in sectors {
            if dice.is_one_of(kept, 4) {
                self.apply(&sector);
            }
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(at, bytes) => {
                let end = at + bytes.len();
                self.synced.resize(self.synced.len().max(end), 0);
                self.synced[*at..end].copy_from_slice(bytes);
            }
            Change::Truncate(size) => self.synced.resize(*size, 0),
        }
    }
}

/// A write, cut where sectors begin.
fn torn(at: usize, bytes: &[u8]) -> Vec<Change> {
    let mut parts = Vec::new();
    let (mut at, mut rest) = (at, bytes);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
        parts.push(Change::Write(at, part.to_owned()));
        at += part.len();
        rest = after;
    }
    parts
}
