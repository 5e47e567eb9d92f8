//! Where nodes keep for each other what they have read.

use std::fmt;
use std::path::PathBuf;

use super::setting::{Given, Setting, Shown, quoted, without_passwords};
use crate::cache::redis::Address;

/// Redis, where there is one.
#[derive(Debug, Default)]
pub struct Redis {
    /// `redis://…`, `rediss://…`, `redis+unix://…`, `redis+sentinel://…` or `redis+cluster://…`.
    pub url: Option<RedisUrl>,
    /// The CAs of its certificates, as PEM; without them, those that the system trusts.
    pub ca_file: Option<PathBuf>,
}

/// The URL. It may hold a password, so it is not shown as a whole.
pub struct RedisUrl(String);

impl Redis {
    /// What the URL names, where there is one; else what is wrong with it.
    pub fn address(&self) -> Result<Option<Address>, String> {
        let Some(RedisUrl(url)) = &self.url else { return Ok(None) };
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| {
                format!("redis.ca_file: `{}` cannot be read: {error}", path.display())
            })
        };
        let ca = self.ca_file.as_ref().map(read).transpose()?;
        Address::parse(url, ca).map(Some)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({:?})", without_passwords(&self.0))
    }
}

impl Setting for Option<RedisUrl> {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        let url = given.text().ok_or("redis://HOST, or another form of it, as a string")?;
        *self = Some(RedisUrl(url.to_owned()));
        Ok(())
    }

    fn shown(&self) -> Shown {
        self.as_ref().map_or(Shown::Absent, |url| quoted(&without_passwords(&url.0)))
    }

    fn may_be_repeated(&self) -> bool {
        false
    }
}
