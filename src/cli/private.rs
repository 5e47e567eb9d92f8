//! Files that hold a token or lead to one: used only where no other user could have put something there, or can
//! read it.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::failure::Failure;

/// The rights of others to read or write a file, which must not be where it holds a secret.
pub(super) const OPEN_TO_READ: u32 = 0o077;
/// The rights of others to write a file.
pub(super) const OPEN_TO_WRITE: u32 = 0o022;

/// A file that is open for reading.
pub(super) struct PrivateFile {
    pub(super) file: File,
    path: PathBuf,
    metadata: Metadata,
}

impl PrivateFile {
    /// Opens what must be a regular file: a pipe in its place could be waited for without end.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(Self { file, path: path.to_owned(), metadata })
    }

    /// Fails if it is another user's, or open to others in one of these ways.
    pub(super) fn refuse_others(&self, ways: u32) -> Result<(), Failure> {
        let own = rustix::process::geteuid().as_raw();
        let path = self.path.display();
        if !is_trusted(self.metadata.uid(), own) {
            let message = format!("{path} leads to a token, and belongs to another user");
            let help = format!("if what it says is right, make it yours: chown {own} '{path}'");
            return Err(Failure::new(message).help(help));
        }
        if self.metadata.mode() & ways != 0 {
            let message = format!("{path} leads to a token, and others may read or write it");
            return Err(Failure::new(message).help(format!("chmod 600 '{path}'")));
        }
        Ok(())
    }
}

/// Whether a file of this owner is as good as one's own: who is root can do everything anyway.
const fn is_trusted(owner: u32, own: u32) -> bool {
    owner == own || owner == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_user_is_not_trusted_unless_that_is_root() {
        assert!(is_trusted(1000, 1000) && is_trusted(0, 1000) && is_trusted(0, 0));
        assert!(!is_trusted(1001, 1000) && !is_trusted(1000, 0));
    }
}
