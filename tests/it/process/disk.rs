//! A store in trouble: the disk is full, or another program holds the database. Changes are refused,
//! decisions go on, and nothing is left of it afterwards.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use latchkey::proto::v1::ListKeysRequest;
use rustix::process::Signal;
use tonic::Code;

use super::{files, make_account, make_key};
use crate::support::{Server, eventually, reason_of};

/// A small disk of its own, in place of a folder. Needs the rights of root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Over the folder, with what is in it.
    fn over(folder: &Path) -> Self {
        let content = files(folder);
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs"])
            .arg(folder)
            .status()
            .unwrap();
        assert!(mount.success(), "a small disk cannot be mounted; LATCHKEY_SKIP=mount skips this");
        for (name, bytes) in content {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        Self(folder.to_owned())
    }

    /// Leaves room for nothing.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether whoever runs the tests allows this one to be left out.
fn is_skipped(name: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "this is how tests are told what is missing")]
    let skips = std::env::var("LATCHKEY_SKIP").unwrap_or_default();
    skips.split(',').any(|skip| skip == name)
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_lets_decisions_go_on() {
    if is_skipped("mount") {
        println!("skipped, because LATCHKEY_SKIP names it: mount");
        return;
    }
    let mut server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let token = make_key(&server, &root, "acme").await.unwrap().token;
    server.stop().await;
    let disk = SmallDisk::over(Path::new(&server.database()).parent().unwrap());
    server = server.again().start().await;
    make_key(&server, &root, "acme").await.unwrap();
    let mut made = 2;
    disk.fill();
    // What the log of the database has room for already may still be written.
    let refused = loop {
        match make_key(&server, &root, "acme").await {
            Ok(_) => made += 1,
            Err(refused) => break refused,
        }
        assert!(made < 2_000, "the disk is never full");
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(reason_of(&refused), "STORE_UNAVAILABLE");
    for _ in 0..3 {
        let again = make_key(&server, &root, "acme").await.unwrap_err();
        assert_eq!(again.code(), Code::Unavailable, "{again:?}");
        assert!(server.authorize(&token, "memory:read").await.allowed);
    }
    disk.make_room();
    make_key(&server, &root, "acme").await.unwrap();
    // Exactly what was acknowledged is there, also after a crash.
    server.signal(Signal::KILL);
    server.wait_for_end(Duration::from_secs(10)).await;
    let server = server.again().start().await;
    let list =
        ListKeysRequest { account_id: "acme".into(), page_size: 1_000, ..Default::default() };
    let keys = server.keys(&root).await.list_keys(list).await.unwrap().into_inner().keys;
    assert_eq!(keys.len(), made + 1);
    drop(disk);
}

/// Another program that holds the database.
struct Holder(Child);

impl Holder {
    /// As SQLite calls it: `IMMEDIATE` lets others read, `EXCLUSIVE` does not.
    fn of(database: &str, lock: &str) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.as_mut().unwrap();
        write!(stdin, ".timeout 5000\nBEGIN {lock};\nSELECT 'held';\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_database_that_is_locked_for_a_moment_is_waited_for() {
    let server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let token = make_key(&server, &root, "acme").await.unwrap().token;
    let holder = Holder::of(&server.database(), "IMMEDIATE");
    let mut making = std::pin::pin!(make_key(&server, &root, "acme"));
    let moment = Duration::from_millis(300);
    assert!(tokio::time::timeout(moment, &mut making).await.is_err(), "it is locked");
    assert!(server.authorize(&token, "memory:read").await.allowed);
    drop(holder);
    making.await.unwrap();
}

#[tokio::test]
async fn a_database_that_stays_locked_refuses_changes_and_nothing_else() {
    let server = Server::start().await;
    let root = server.root_token();
    make_account(&server, &root, "acme").await;
    let token = make_key(&server, &root, "acme").await.unwrap().token;
    let holder = Holder::of(&server.database(), "IMMEDIATE");
    let mut making = std::pin::pin!(make_key(&server, &root, "acme"));
    let refused = loop {
        // Decisions and reads go on all the while.
        tokio::select! {
            refused = &mut making => break refused.unwrap_err(),
            said = server.authorize(&token, "memory:read") => assert!(said.allowed),
        }
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(reason_of(&refused), "STORE_UNAVAILABLE");
    let list = ListKeysRequest { account_id: "acme".into(), ..Default::default() };
    let keys = server.keys(&root).await.list_keys(list).await.unwrap().into_inner().keys;
    assert_eq!(keys.len(), 1);
    drop(holder);
    make_key(&server, &root, "acme").await.unwrap();
}

/// Whether a process has taken a signal upon itself, by the mask that the kernel shows.
fn catches(process_id: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    mask & 1 << (signal.as_raw() - 1) != 0
}

#[tokio::test]
async fn a_start_that_waits_for_the_database_ends_when_it_is_told_twice() {
    let waiting = Server::build();
    let database = waiting.folder().join("latchkey.db");
    let _holder = Holder::of(database.to_str().unwrap(), "EXCLUSIVE");
    let mut waiting = waiting.launch();
    let id = waiting.process_id();
    let is_listening = || (catches(id, Signal::TERM) && catches(id, Signal::INT)).then_some(());
    eventually(Duration::from_secs(20), "it takes signals", is_listening).await;
    waiting.signal(Signal::TERM);
    waiting.signal(Signal::INT);
    let status = waiting.wait_for_end(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(1));
    let told = || waiting.log().contains("told again to stop").then_some(());
    eventually(Duration::from_secs(5), "it says so", told).await;
    assert!(!waiting.log().contains("\"ready\""));
}
