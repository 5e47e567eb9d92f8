//! `latchkey token inspect`: says offline whether a token is well-formed, and never repeats it.

use std::process::ExitCode;

use super::Outcome;
use super::console::Console;
use super::secret;
use crate::failure::Failure;
use crate::token::{self, Malformed, Token};

/// Reads a token from stdin and prints what can be seen in it.
pub(super) fn inspect(console: &mut Console) -> Outcome {
    let text = secret::read("Token")?;
    let parsed = token::parse(&text).map_err(|fault| told(fault, &text))?;
    let token = well_formed(&text)?;
    console.answer_rows(&[
        ("form", "right; whether the key exists, the server knows".to_owned()),
        ("prefix", parsed.prefix.to_owned()),
        ("environment", parsed.environment.as_str().to_owned()),
        ("hint", token.hint()),
    ]);
    Ok(ExitCode::SUCCESS)
}

/// The token, if its form is right; else what is wrong with it.
pub(super) fn well_formed(text: &[u8]) -> Result<Token, Failure> {
    // A token whose form is right is ASCII.
    Token::from_text(&String::from_utf8_lossy(text)).map_err(|fault| told(fault, text))
}

/// Whether an argument is a token, or so much like one that it may be one with a slip in it.
pub(super) fn looks_like_one(argument: &str) -> bool {
    token::has_likeness(argument)
}

/// The answer to a token on the command line.
pub(super) fn given_as_argument() -> Failure {
    Failure::new("a token must not be an argument: everyone on this machine can read it there")
        .help(
            "give it on stdin (`… < FILE`) or in a file, and rotate the key if the token was real",
        )
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
