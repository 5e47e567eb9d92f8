//! `latchkey token inspect`: says offline whether a token is well-formed, and never repeats it.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use zeroize::Zeroizing;

use super::Outcome;
use super::console::Console;
use crate::failure::Failure;
use crate::token::{self, Malformed, TOKEN_BYTES_MAX, Token};

/// More than a token and a line break, so that what is too long is told from what is two lines.
const INPUT_BYTES_MAX: u64 = 4_096;

/// Reads a token from stdin and prints what can be seen in it.
pub(super) fn inspect(console: &mut Console) -> Outcome {
    let input =
        read_stdin().map_err(|error| Failure::of("cannot read the token from stdin", &error))?;
    let text = only_line(&input)?;
    let parsed = token::parse(text).map_err(|fault| told(fault, text))?;
    // A token whose form is right is ASCII.
    let token =
        Token::from_text(&String::from_utf8_lossy(text)).map_err(|fault| told(fault, text))?;
    console.answer_rows(&[
        ("form", "right; whether the key exists, the server knows".to_owned()),
        ("prefix", parsed.prefix.to_owned()),
        ("environment", parsed.environment.as_str().to_owned()),
        ("hint", token.hint()),
    ]);
    Ok(ExitCode::SUCCESS)
}

/// The answer to a token on the command line.
pub(super) fn given_as_argument() -> Failure {
    Failure::new("a token must not be an argument: everyone on this machine can read it there").help(
        "give it on stdin (`latchkey token inspect < FILE`), and rotate the key if the token was real",
    )
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
        let help = "give a token on stdin, as in `latchkey token inspect < FILE`";
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

fn told(fault: Malformed, text: &[u8]) -> Failure {
    let help = match fault {
        Malformed::Length => format!(
            "this has {} characters; a token is PREFIX_live_ or PREFIX_test_ and 36 characters, \
             44 in all with a prefix of two",
            text.len(),
        ),
        Malformed::Alphabet => {
            "copy it again, without quotes, dots or a line break in it".to_owned()
        }
        Malformed::Prefix => "a token begins like `hm_live_`".to_owned(),
        Malformed::Environment => {
            "after the prefix there must be `_live_` or `_test_`, and then 36 characters".to_owned()
        }
        Malformed::Checksum => "copy it again from where it was shown; if it was typed, look for \
                                0 and O, 1, l and I"
            .to_owned(),
    };
    Failure::new(fault.to_string()).help(help)
}

fn read_stdin() -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it, so that no copy stays behind when it grows.
    let mut input =
        Zeroizing::new(Vec::with_capacity(usize::try_from(INPUT_BYTES_MAX).unwrap_or(0) + 32));
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        stdin.lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut input)?;
        return Ok(input);
    }
    let _silence = Silence::begin();
    write!(io::stderr(), "Token (not shown): ")?;
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
