//! A wall clock that is set while programs run by it: libfaketime stands between them and what the machine says, and reads
//! in a file how much to add. Other clocks are left alone.

use std::path::{Path, PathBuf};

use super::{Builder, Folder};

/// It is as right as the machine's until it is set.
pub(crate) struct WallClock {
    folder: Folder,
}

impl WallClock {
    pub(crate) fn new() -> Self {
        let clock = Self { folder: Folder::new() };
        clock.set(0);
        clock
    }

    /// So many seconds ahead of the machine's, or behind.
    pub(crate) fn set(&self, seconds: i64) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{seconds:+}")).unwrap();
        // Nobody is to read half of it.
        std::fs::rename(new, self.file()).unwrap();
    }

    /// A node that is to have it.
    pub(crate) fn of(&self, builder: Builder) -> Builder {
        let variables = [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // It would be left behind by what is killed.
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ];
        builder.environments(variables.map(|(name, value)| (name.to_owned(), value)).to_vec())
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("wall-clock")
    }
}

/// Where Debian keeps it.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|folder| folder.path());
    let in_folder = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    let mut found = folders.map(in_folder).filter(|library| Path::exists(library));
    found.next().expect("libfaketime is there (`./check` installs it)")
}
