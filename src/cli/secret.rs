//! Reads a token from stdin, from a prompt without echo, or from a file. It is never repeated.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use zeroize::Zeroizing;

use crate::bounded;
use crate::failure::Failure;
use crate::token::TOKEN_BYTES_MAX;

/// More than a token and a line break, so that what is too long is told from what is two lines.
const INPUT_BYTES_MAX: u64 = 4_096;

/// The one line on stdin, or what is typed at the prompt that begins with these words.
pub(super) fn read(prompt: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let input = read_stdin(prompt)
        .map_err(|error| Failure::of("cannot read the token from stdin", &error))?;
    only_line(&input).map(|line| Zeroizing::new(line.to_owned()))
}

/// What a file holds that is to hold a token.
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let read = File::open(path).and_then(|file| read_opened(&file));
    read.map_err(|error| unreadable(path, &error))
}

/// The same of a file that is open.
pub(super) fn read_opened(file: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    bounded::read(file, INPUT_BYTES_MAX)
}

/// What to say of one that cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::reading(format!("the token file {}", path.display()), error)
}

/// Room for all of it, so that no copy stays behind when it grows.
fn room() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(usize::try_from(INPUT_BYTES_MAX).unwrap_or(0) + 32))
}

fn only_line(input: &[u8]) -> Result<&[u8], Failure> {
    if input.len() as u64 > INPUT_BYTES_MAX {
        let message = format!("more than {INPUT_BYTES_MAX} bytes were given");
        return Err(Failure::new(message)
            .help(format!("a token has {TOKEN_BYTES_MAX} characters at most; give it alone")));
    }
    let line = input.strip_suffix(b"\n").unwrap_or(input);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        let help = "give a token on stdin, as in `latchkey … < FILE`";
        return Err(Failure::new("no token was given").help(help));
    }
    if line.contains(&b'\n') {
        let help = "give one token, alone on one line";
        return Err(Failure::new("more than one line was given").help(help));
    }
    if line.trim_ascii().len() < line.len() {
        let help = "give the token alone; a server would refuse it with the spaces";
        return Err(Failure::new("there are spaces around the token").help(help));
    }
    if line.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"bearer ")) {
        let help = "give the token alone, without the word in front of it";
        return Err(Failure::new("this is a header, not a token").help(help));
    }
    Ok(line)
}

fn read_stdin(prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut input = room();
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        stdin.lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut input)?;
        return Ok(input);
    }
    let _silence = Silence::begin();
    write!(io::stderr(), "{prompt} (not shown): ")?;
    let mut byte = [0];
    while stdin.lock().read(&mut byte)? == 1 && byte != *b"\n" {
        input.push(byte[0]);
    }
    writeln!(io::stderr())?;
    Ok(input)
}

/// While this lives, the terminal does not show what is typed.
struct Silence(Option<Termios>);

impl Silence {
    fn begin() -> Self {
        let before = termios::tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            // A terminal that cannot be silenced is still one to type at.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &silent);
        }
        Self(before)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
