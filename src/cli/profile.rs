//! Profiles: named sets of address, token and certificates in `latchkey/profiles.toml` below
//! `$XDG_CONFIG_HOME`, or else `~/.config`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use zeroize::Zeroizing;

use super::Environment;
use super::private::{OPEN_TO_READ, OPEN_TO_WRITE, PrivateFile};
use crate::bounded::{FILE_BYTES_MAX, read_text};
use crate::failure::Failure;
use crate::policy::catalogue::nearest;

/// The profile that is used when none is named.
pub(super) const PROFILE_DEFAULT: &str = "default";

/// What a profile may say.
pub(super) const FIELDS: [&str; 8] = [
    "address",
    PLAINTEXT,
    "token",
    "token_file",
    "ca_file",
    "cert_file",
    "key_file",
    "server_name",
];
/// The one that is no text, but true or false.
pub(super) const PLAINTEXT: &str = "plaintext";

/// The fields of one profile.
pub(super) type Profile = BTreeMap<String, Zeroizing<String>>;

/// The file with all profiles. Where there is no file, there are none.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    path: PathBuf,
    profiles: BTreeMap<String, Profile>,
}

impl Profiles {
    /// Reads the file of this user.
    pub(super) fn read(environment: &Environment) -> Result<Self, Failure> {
        let Some(path) = path(environment) else { return Ok(Self::default()) };
        let file = match PrivateFile::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, profiles: BTreeMap::new() });
            }
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let text =
            read_text(&file.file, FILE_BYTES_MAX).map_err(|error| unreadable(&path, &error))?;
        let profiles = parse(&text).map_err(|failure| failure.about(path.display()))?;
        let any_has = |field| profiles.values().any(|profile| profile.contains_key(field));
        if any_has("token") {
            file.refuse_others(OPEN_TO_READ)?;
        } else if any_has("token_file") {
            // Who can change the address beside it is sent the token.
            file.refuse_others(OPEN_TO_WRITE)?;
        }
        Ok(Self { path, profiles })
    }

    /// Changes the file of this user, while no other command does: what is changed meanwhile would be lost.
    pub(super) fn change(
        environment: &Environment,
        change: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let path = path(environment).ok_or_else(|| {
            let help = "set HOME or XDG_CONFIG_HOME";
            Failure::new("there is no place for profiles").help(help)
        })?;
        let _lock = lock(&path).map_err(|error| unwritable(&path, &error))?;
        let mut profiles = Self::read(environment)?;
        change(&mut profiles)?;
        profiles.write()?;
        Ok(profiles)
    }

    /// Where the file is, or would be.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All profiles by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Profile)> {
        self.profiles.iter()
    }

    /// The profile of this name.
    pub(super) fn get(&self, name: &str) -> Result<&Profile, Failure> {
        self.profiles.get(name).ok_or_else(|| {
            let failure =
                Failure::new(format!("there is no profile `{name}` in {}", self.path.display()));
            let known: Vec<_> = self.profiles.keys().map(String::as_str).collect();
            failure.help(match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => {
                    format!("make it: `latchkey profile set {name} --address ADDRESS --with-token`")
                }
                None => format!("there are: {}", known.join(", ")),
            })
        })
    }

    /// The profile of this name; an empty one if there is none.
    pub(super) fn entry(&mut self, name: &str) -> &mut Profile {
        self.profiles.entry(name.to_owned()).or_default()
    }

    /// Takes a profile out.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        self.profiles.remove(name);
        Ok(())
    }

    /// Replaces the file in one step; only its owner can read it.
    fn write(&self) -> Result<(), Failure> {
        let profiles: BTreeMap<_, BTreeMap<_, _>> = self
            .profiles
            .iter()
            .map(|(name, profile)| {
                (
                    name,
                    profile
                        .iter()
                        .map(|(field, value)| (field, Written::of(field, value)))
                        .collect(),
                )
            })
            .collect();
        let toml = toml::to_string(&profiles)
            .map_err(|error| Failure::of("cannot write the profiles as TOML", &error))?;
        let toml = Zeroizing::new(toml);
        replace(&self.path, toml.as_bytes()).map_err(|error| unwritable(&self.path, &error))
    }
}

/// Where the file is, or would be; `None` when the environment says neither.
fn path(environment: &Environment) -> Option<PathBuf> {
    let value = |name: &str| {
        let found = environment.iter().find(|(known, _)| known == OsStr::new(name));
        found.map(|(_, value)| PathBuf::from(value)).filter(|path| path.is_absolute())
    };
    let home = || value("HOME").map(|home| home.join(".config"));
    Some(value("XDG_CONFIG_HOME").or_else(home)?.join("latchkey/profiles.toml"))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::reading(format!("the profiles {}", path.display()), error)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::of(format!("cannot write {}", path.display()), error)
        .help("give this user the right to write to the folder")
}

fn parse(text: &str) -> Result<BTreeMap<String, Profile>, Failure> {
    let help = "write a table for each profile: [default], and below it address = \"…\"";
    // The text of the error quotes the line at fault, in which a token may stand.
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::new(format!("line {line} is no TOML: {}", error.message())).help(help)
    })?;
    table
        .into_iter()
        .map(|(name, value)| match value {
            toml::Value::Table(fields) => Ok((name.clone(), profile(&name, fields)?)),
            _ => Err(Failure::new(format!("{name} is no table")).help(help)),
        })
        .collect()
}

fn profile(name: &str, fields: toml::Table) -> Result<Profile, Failure> {
    let field = |(field, value): (String, toml::Value)| {
        if !FIELDS.contains(&field.as_str()) {
            let failure = Failure::new(format!("{name}.{field} is not known"));
            return Err(failure.help(match nearest(&field, FIELDS.into_iter()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("a profile may have: {}", FIELDS.join(", ")),
            }));
        }
        match value {
            toml::Value::Boolean(flag) if field == PLAINTEXT => {
                Ok((field, Zeroizing::new(flag.to_string())))
            }
            _ if field == PLAINTEXT => {
                let failure = Failure::new(format!("{name}.{field} is neither true nor false"));
                Err(failure.help("write plaintext = true, without quotes"))
            }
            toml::Value::String(text) => Ok((field, Zeroizing::new(text))),
            _ => Err(Failure::new(format!("{name}.{field} is no text")).help("put it in quotes")),
        }
    };
    fields.into_iter().map(field).collect()
}

/// A field as TOML has it; a token is not copied.
#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    Text(&'a str),
    Flag(bool),
}

impl<'a> Written<'a> {
    fn of(field: &str, value: &'a str) -> Self {
        if field == PLAINTEXT { Self::Flag(value == "true") } else { Self::Text(value) }
    }
}

/// Held while the file is changed. It is beside the file, which is replaced.
fn lock(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true).mode(0o600);
    let lock = options.open(path.with_extension("toml.lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("toml.new");
    // What an interrupted run left behind.
    drop(std::fs::remove_file(&new));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_profile_says_what_it_may() {
        let profiles = parse("[default]\naddress = \"a:1\"\n[other]\ntoken = \"t\"\n").unwrap();
        assert_eq!(profiles["default"]["address"].as_str(), "a:1");
        assert_eq!(profiles["other"]["token"].as_str(), "t");
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest() {
        assert!(refused("[default]\nadress = \"a\"\n").contains("did you mean `address`?"));
        assert!(refused("address = \"a\"\n").contains("address is no table"));
        assert!(refused("[default]\naddress = 1\n").contains("default.address is no text"));
    }

    #[test]
    fn a_line_that_is_no_toml_is_not_repeated() {
        let told = refused("[default]\n\ntoken = hm_live_secret\n");
        assert!(told.contains("line 3") && !told.contains("secret"), "{told}");
    }
}
