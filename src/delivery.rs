//! Where a root token goes when it was made here: a file that nobody else can read, or the terminal. Never a log.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::token::Token;

/// How many files from earlier attempts are kept beside each other.
const OLD_MAX: u32 = 100;

/// The place that a token is written to, before the change that makes it valid is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// A new file of mode 0600.
    File(PathBuf),
    /// Stdout, which is a terminal.
    Terminal,
}

impl Delivery {
    /// The file that was named, else the terminal; `None` when stdout is something else, such as a log.
    #[must_use]
    pub fn choose(file: Option<PathBuf>) -> Option<Self> {
        match file {
            Some(path) => Some(Self::File(path)),
            None => io::stdout().is_terminal().then_some(Self::Terminal),
        }
    }

    /// Writes the token; when this has returned, it is on the disk.
    pub fn deliver(&self, token: &Token) -> Result<(), Failure> {
        match self {
            Self::File(path) => write_new(path, token).map_err(|error| {
                let failure =
                    Failure::of(format!("cannot write the token to {}", path.display()), &error);
                match error.kind() {
                    io::ErrorKind::AlreadyExists => {
                        failure.help("name a file that does not exist yet")
                    }
                    _ => failure.help("name a file in a folder that this user may write to"),
                }
            }),
            Self::Terminal => writeln!(io::stdout(), "{}", token.expose())
                .map_err(|error| Failure::of("cannot write the token to the terminal", &error)),
        }
    }

    /// Gives a file that is in the way another name, and says which: for a store of which it is certain
    /// that the token in the file opens nothing in it. It may open another store, so it is kept.
    pub fn set_aside(&self) -> Result<Option<PathBuf>, Failure> {
        let Self::File(path) = self else { return Ok(None) };
        // A link is in the way too, wherever it leads.
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let names = (1..=OLD_MAX).map(|number| old_name(path, number));
        let Some(old) = names.into_iter().find(|old| old.symlink_metadata().is_err()) else {
            let message = format!("{} is in the way, and {OLD_MAX} older ones", path.display());
            return Err(Failure::new(message).help("remove those that you do not need"));
        };
        std::fs::rename(path, &old).map_err(|error| {
            Failure::of(format!("cannot rename {} to {}", path.display(), old.display()), &error)
                .help("move the file away; its token opens nothing in this store")
        })?;
        Ok(Some(old))
    }

    /// Takes the file away again, when the change that would have made the token valid was not made.
    pub fn withdraw(&self) {
        match self {
            // What stays behind is a token that opens nothing.
            Self::File(path) => drop(std::fs::remove_file(path)),
            Self::Terminal => {}
        }
    }
}

/// `latchkey.db.root-token.old-1`.
fn old_name(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".old-{number}"));
    name.into()
}

fn write_new(path: &Path, token: &Token) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = write_through(file, path, token);
    if written.is_err() {
        drop(std::fs::remove_file(path));
    }
    written
}

fn write_through(mut file: File, path: &Path, token: &Token) -> io::Result<()> {
    writeln!(file, "{}", token.expose())?;
    file.sync_all()?;
    // The name is on the disk only when the folder is.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_written_to_a_new_file_that_only_its_owner_reads() {
        let path = std::env::temp_dir().join(format!("latchkey-delivery-{}", std::process::id()));
        let token = Token::from_text("hm_live_0000000000000000000000000000002dlYSp").unwrap();
        let delivery = Delivery::File(path.clone());
        delivery.deliver(&token).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim_end(), token.expose());
        let again = delivery.deliver(&token).unwrap_err();
        assert_eq!(again.help.as_deref(), Some("name a file that does not exist yet"));
        let old = delivery.set_aside().unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap().trim_end(), token.expose());
        std::fs::remove_file(&old).unwrap();
        assert_eq!(delivery.set_aside().unwrap(), None);
        delivery.deliver(&token).unwrap();
        delivery.withdraw();
        assert!(!path.exists());
    }
}
