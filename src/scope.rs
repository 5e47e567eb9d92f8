//! Scopes: what a key may do, and what a request needs.
//!
//! Stores and caches hold names. A [`ScopeSet`] is bits over one catalogue and means nothing beside
//! another one.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

pub mod expression;

/// The most bytes a scope can have.
pub const SCOPE_BYTES_MAX: usize = 64;
/// The resource of latchkey's own scopes; they cannot be redefined, and only a holder hands them out.
pub const OWN_RESOURCE: &str = "latchkey";

/// The name of a scope: segments of `[a-z0-9][a-z0-9._-]*` joined by `:`, as in `memory:read`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(Arc<str>);

/// What is wrong with the form of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a scope is two or more segments of a-z, 0-9, `.`, `_` and `-` joined by `:`, as in `memory:read`, \
     64 bytes at most"
)]
pub struct BadScope;

impl Scope {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, BadScope> {
        let well_formed =
            text.len() <= SCOPE_BYTES_MAX && text.contains(':') && text.split(':').all(is_segment);
        if well_formed { Ok(Self(text.into())) } else { Err(BadScope) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of latchkey's own scopes.
    #[must_use]
    pub fn is_own(&self) -> bool {
        is_own(&self.0)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A scope as a key is given it: a name, or a resource with everything below it, as in `memory:*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopePattern(Arc<str>);

/// What is wrong with the form of a granted scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a granted scope is a scope as in `memory:read`, or a resource with all that is below it as in \
     `memory:*`, 64 bytes at most; there is no bare `*`"
)]
pub struct BadPattern;

impl ScopePattern {
    /// Reads a name or a pattern.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let well_formed = text.len() <= SCOPE_BYTES_MAX
            && text.contains(':')
            && text.strip_suffix(":*").unwrap_or(text).split(':').all(is_segment);
        if well_formed { Ok(Self(text.into())) } else { Err(BadPattern) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before `:*`; `None` for a plain scope.
    #[must_use]
    pub fn stem(&self) -> Option<&str> {
        self.0.strip_suffix(":*")
    }

    /// Whether it is, or lies below, `latchkey:`.
    #[must_use]
    pub fn is_own(&self) -> bool {
        is_own(&self.0)
    }

    /// Whether the scope is this one or lies below this pattern.
    #[must_use]
    pub fn covers(&self, scope: &str) -> bool {
        match self.stem() {
            Some(stem) => is_below(scope, stem),
            None => &*self.0 == scope,
        }
    }

    /// Whether everything that `other` covers, this covers, in any catalogue.
    #[must_use]
    pub fn encloses(&self, other: &Self) -> bool {
        match (self.stem(), other.stem()) {
            (Some(stem), Some(inner)) => stem == inner || is_below(inner, stem),
            (_, None) => self.covers(&other.0),
            (None, Some(_)) => false,
        }
    }
}

impl From<&Scope> for ScopePattern {
    fn from(scope: &Scope) -> Self {
        Self(Arc::clone(&scope.0))
    }
}

impl fmt::Display for ScopePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_segment(segment: &str) -> bool {
    let mut bytes = segment.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit())
        && bytes.all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
        })
}

fn is_below(text: &str, stem: &str) -> bool {
    text.strip_prefix(stem).is_some_and(|rest| rest.starts_with(':'))
}

fn is_own(text: &str) -> bool {
    is_below(text, OWN_RESOURCE)
}

/// A set of a catalogue's scopes, one bit each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScopeSet(Box<[u64]>);

impl ScopeSet {
    /// The empty set over a catalogue of so many scopes.
    #[must_use]
    pub fn empty(scopes: usize) -> Self {
        Self(vec![0; scopes.div_ceil(64)].into())
    }

    /// Whether the scope of this number is in it.
    #[must_use]
    pub fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Adds the scope of this number; `true` when it was not there.
    pub fn insert(&mut self, index: usize) -> bool {
        let added = !self.contains(index);
        self.0[index / 64] |= 1 << (index % 64);
        added
    }

    /// Adds all of the other set.
    pub fn insert_all(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// Whether all of it is in the other set.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(word, allowed)| word & !allowed == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_follows_the_grammar() {
        for good in ["memory:read", "a:b:c", "0.a_b-c:9", "orders:read"] {
            assert!(Scope::parse(good).is_ok(), "{good}");
        }
        let long = format!("a:{}", "b".repeat(63));
        for bad in
            ["", "*", "memory", "memory:", ":read", "Memory:read", "a:*", "a: b", "a:-b", &long]
        {
            assert!(Scope::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_covers_what_is_below_it_and_nothing_beside_it() {
        let pattern = ScopePattern::parse("memory:*").unwrap();
        assert!(pattern.covers("memory:read") && pattern.covers("memory:a:b"));
        assert!(!pattern.covers("memory") && !pattern.covers("memory2:read"));
        assert!(ScopePattern::parse("*").is_err() && ScopePattern::parse("memory:*:x").is_err());
    }

    #[test]
    fn a_pattern_encloses_only_narrower_ones() {
        let of = |text| ScopePattern::parse(text).unwrap();
        assert!(of("a:*").encloses(&of("a:*")) && of("a:*").encloses(&of("a:b:*")));
        assert!(of("a:*").encloses(&of("a:b")) && !of("a:b").encloses(&of("a:*")));
        assert!(!of("a:b:*").encloses(&of("a:*")));
    }
}
