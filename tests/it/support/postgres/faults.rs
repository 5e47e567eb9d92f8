//! What can happen to a PostgreSQL: it stands still, it is killed, it is stopped, and its files are those of yesterday.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Postgres, succeed};
use crate::support::eventually;

const IN_TIME: Duration = Duration::from_secs(30);

/// A server that stands still until this is dropped.
pub(crate) struct Frozen(Vec<i32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        send_all(&self.0, Signal::CONT);
    }
}

impl Postgres {
    /// Stops each of its processes where it is: it takes connections still, and says nothing.
    pub(crate) async fn freeze(&self) -> Frozen {
        let processes = self.hold();
        let frozen = Frozen(processes.clone());
        let all_are = || processes.iter().all(|it| "TZ".contains(state(*it))).then_some(());
        eventually(IN_TIME, "PostgreSQL stands still", all_are).await;
        frozen
    }

    /// Kills all of its processes at once.
    pub(crate) async fn kill(&self) {
        let processes = self.hold();
        send_all(&processes, Signal::KILL);
        let none_is = || processes.iter().all(|process| state(*process) == 'Z').then_some(());
        eventually(IN_TIME, "PostgreSQL is gone", none_is).await;
    }

    /// Stops it in order, whoever is connected.
    pub(crate) async fn stop(&self) {
        let postmaster = self.postmaster();
        send(postmaster, Signal::INT);
        let is_gone = || (state(postmaster) == 'Z').then_some(());
        eventually(IN_TIME, "PostgreSQL stops", is_gone).await;
    }

    /// Starts it after it has ended, and returns as soon as it can be reached.
    pub(crate) async fn start_again(&self) {
        self.keeper.lock().unwrap().stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.until_it_answers().await;
    }

    /// Keeps a copy of its files; it has to be stopped.
    pub(crate) fn copy_files(&self) {
        let (data, copy) = self.files();
        succeed(Command::new("cp").arg("-a").args([data, copy]));
    }

    /// Puts the copy in the place of its files; it has to be stopped.
    pub(crate) fn put_files_back(&self) {
        let (data, copy) = self.files();
        std::fs::remove_dir_all(&data).unwrap();
        succeed(Command::new("cp").arg("-a").args([copy, data]));
    }

    fn files(&self) -> (PathBuf, PathBuf) {
        (self.folder.path().join("data"), self.folder.path().join("copy"))
    }

    /// Its processes; the one that makes the others is stopped, so that there will be no more.
    fn hold(&self) -> Vec<i32> {
        let postmaster = self.postmaster();
        send(postmaster, Signal::STOP);
        while !"TZ".contains(state(postmaster)) {
            std::thread::yield_now();
        }
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let children = children.split_whitespace().map(|child| child.parse().unwrap());
        let processes: Vec<_> = children.chain([postmaster]).collect();
        send_all(&processes, Signal::STOP);
        processes
    }

    fn postmaster(&self) -> i32 {
        let file = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap();
        file.lines().next().unwrap().trim().parse().unwrap()
    }
}

fn send_all(processes: &[i32], signal: Signal) {
    for process in processes {
        send(*process, signal);
    }
}

/// Who has ended by itself meanwhile needs none.
fn send(process: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(process).unwrap(), signal);
}

/// As `ps` shows it: `T` is stopped, `Z` has ended.
fn state(process: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('Z')
}
