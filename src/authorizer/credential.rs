//! What a client brought: nothing, one token, or something that is not one.

/// A credential as it was found on a request; it borrows the header's bytes.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// There is none.
    Missing,
    /// There are two, or it is not of the form `Bearer KEY`.
    Malformed,
    /// One; whether it is well formed is seen when it is parsed.
    Token(&'a [u8]),
}

impl<'a> Credential<'a> {
    /// From a field that holds a bare token; empty means none.
    #[must_use]
    pub fn from_token(token: &'a [u8]) -> Self {
        if token.is_empty() { Self::Missing } else { Self::Token(token) }
    }

    /// From the values of `authorization`, which hold `Bearer KEY`, and of headers that hold a bare key.
    /// More than one value in all is malformed: who picks one of two guesses.
    #[must_use]
    pub fn from_headers(
        authorization: impl IntoIterator<Item = &'a [u8]>,
        bare: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut found = authorization
            .into_iter()
            .map(|value| bearer(value).map_or(Self::Malformed, Self::Token))
            .chain(bare.into_iter().map(Self::Token));
        match (found.next(), found.next()) {
            (None, _) => Self::Missing,
            (Some(only), None) => only,
            (Some(_), Some(_)) => Self::Malformed,
        }
    }
}

/// The key of `Bearer KEY`: the word in any case, one space.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (word, key) = value.split_at_checked(7)?;
    (word.eq_ignore_ascii_case(b"bearer ") && !key.is_empty() && !key.contains(&b' '))
        .then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorization: &[&'static str], bare: &[&'static str]) -> String {
        let bytes = |values: &[&'static str]| {
            values.iter().map(|value| value.as_bytes()).collect::<Vec<_>>()
        };
        match Credential::from_headers(bytes(authorization), bytes(bare)) {
            Credential::Missing => "missing".into(),
            Credential::Malformed => "malformed".into(),
            Credential::Token(token) => String::from_utf8_lossy(token).into_owned(),
        }
    }

    #[test]
    fn one_bearer_or_one_bare_key_is_taken() {
        assert_eq!(read(&["Bearer k"], &[]), "k");
        assert_eq!(read(&["bEARER k"], &[]), "k");
        assert_eq!(read(&[], &["k"]), "k");
        assert_eq!(read(&[], &[]), "missing");
    }

    #[test]
    fn anything_else_is_malformed() {
        for value in ["k", "Basic a", "Bearer", "Bearer ", "Bearer  k", "Bearer k k", " Bearer k"] {
            assert_eq!(read(&[value], &[]), "malformed", "{value}");
        }
        assert_eq!(read(&["Bearer k", "Bearer k"], &[]), "malformed");
        assert_eq!(read(&["Bearer k"], &["k"]), "malformed");
        assert_eq!(read(&[], &["k", "k"]), "malformed");
    }
}
