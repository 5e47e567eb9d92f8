//! Page tokens: where a list goes on, bound to what was asked and by which account (AIP-158).
//!
//! A token grants nothing: what it leads to is asked for anew, with the caller's own rights.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::Digest as _;

use super::Page;
use crate::error::Error;

const MARK_BYTES: usize = 8;
const TOKEN_BYTES_MAX: usize = 256;

/// The last item of the page before; `None` for the first page.
pub fn read<T>(
    token: &str,
    binding: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let item = (token.len() <= TOKEN_BYTES_MAX)
        .then(|| URL_SAFE_NO_PAD.decode(token).ok())
        .flatten()
        .and_then(|bytes| {
            let (mark, item) = bytes.split_at_checked(MARK_BYTES)?;
            let item = std::str::from_utf8(item).ok()?;
            (mark == mark_of(binding, item)).then(|| parse(item)).flatten()
        });
    match item {
        Some(item) => Ok(Some(item)),
        None => Err(Error::invalid(
            "page_token",
            "does not belong to this list; send back `next_page_token` with the same other arguments, \
             or leave it empty to start over",
        )),
    }
}

/// A page of items of which one more was asked for than it shows.
pub fn cut<T>(
    mut items: Vec<T>,
    page_size: u32,
    binding: &str,
    id: impl FnOnce(&T) -> String,
) -> Page<T> {
    let shown = page_size as usize;
    let next_page_token = if items.len() > shown && shown > 0 {
        write(binding, &id(&items[shown - 1]))
    } else {
        String::new()
    };
    items.truncate(shown);
    Page { items, next_page_token }
}

/// The token of the page after this item.
pub(super) fn write(binding: &str, last: &str) -> String {
    let mut bytes = mark_of(binding, last).to_vec();
    bytes.extend(last.bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn mark_of(binding: &str, item: &str) -> [u8; MARK_BYTES] {
    let mut hash = sha2::Sha256::new();
    hash.update((binding.len() as u64).to_be_bytes());
    hash.update(binding);
    hash.update(item);
    let digest: [u8; 32] = hash.finalize().into();
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&digest[..MARK_BYTES]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_it_ended_and_only_there() {
        let page =
            cut(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], 2, "list", Clone::clone);
        assert_eq!(page.items, ["a", "b"]);
        let own = |text: &str| Some(text.to_owned());
        assert_eq!(read(&page.next_page_token, "list", own).unwrap().as_deref(), Some("b"));
        assert!(read(&page.next_page_token, "another list", own).is_err());
        assert!(read("nonsense", "list", own).is_err());
        assert_eq!(read("", "list", own).unwrap(), None);
        assert!(cut(vec!["a".to_owned()], 2, "list", Clone::clone).next_page_token.is_empty());
    }
}
