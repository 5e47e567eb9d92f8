//! Reads what somebody named, whatever it turns out to be: no more of it than it may hold.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// What a file of configuration, a policy, certificates or keys may hold.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// The bytes of a file that is named, [`FILE_BYTES_MAX`] at most.
///
/// # Errors
///
/// Those of reading it; `FileTooLarge` if it holds more.
pub fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read(File::open(path)?, FILE_BYTES_MAX)
}

/// The text of a file that is named, [`FILE_BYTES_MAX`] at most.
///
/// # Errors
///
/// Those of [`read_file`]; `InvalidData` if it is not UTF-8.
pub fn read_file_text(path: &Path) -> io::Result<Zeroizing<String>> {
    read_text(File::open(path)?, FILE_BYTES_MAX)
}

/// All that a source holds, so many bytes at most, wiped when dropped: there may be a token in it.
///
/// # Errors
///
/// Those of reading it; `FileTooLarge` if it holds more.
pub fn read(source: impl Read, bytes_max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it, so that no copy stays behind when it grows.
    let room = usize::try_from(bytes_max + 1).unwrap_or(0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    source.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let message = match bytes_max >> 20 {
            0 => format!("it is larger than {} KiB", bytes_max >> 10),
            mib => format!("it is larger than {mib} MiB"),
        };
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// The same as text.
///
/// # Errors
///
/// Those of [`read`]; `InvalidData` if it is not UTF-8.
pub fn read_text(source: impl Read, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    let mut bytes = read(source, bytes_max)?;
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        // What is no text may hold a secret all the same.
        drop(Zeroizing::new(error.into_bytes()));
        io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8")
    })
}
