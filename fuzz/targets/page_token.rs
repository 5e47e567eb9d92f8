//! Page tokens: whatever a client sends back leads on in the list that it was given for, or nowhere.

#![no_main]

use latchkey::inside::page::{cut, read};
use latchkey::key::KeyId;
use libfuzzer_sys::fuzz_target;

const LIST: &str = "keys acme";

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // As it came: what is taken is, byte for byte, what would have been given.
    match read(&text, LIST, KeyId::parse) {
        Ok(None) => assert!(text.is_empty()),
        Ok(Some(id)) => assert_eq!(given(LIST, &id.to_string()), text),
        Err(error) => assert_eq!(error.violations[0].field, "page_token"),
    }

    // The token after an item of this name; of any other list, or damaged anywhere, it is none.
    let Some((&seed, item)) = data.split_first() else { return };
    let Ok(item) = std::str::from_utf8(&item[..item.len().min(100)]) else { return };
    if item.is_empty() {
        return;
    }
    let own = |text: &str| Some(text.to_owned());
    let token = given(LIST, item);
    assert_eq!(read(&token, LIST, own).expect("it was given").as_deref(), Some(item));
    assert!(read(&token, "keys other", own).is_err());
    assert!(read(&token, &format!("{LIST}{item}"), own).is_err());
    for at in 0..token.len() {
        let mut damaged = token.clone().into_bytes();
        damaged[at] ^= 1 << (seed % 7);
        let Ok(damaged) = String::from_utf8(damaged) else { continue };
        assert!(read(&damaged, LIST, own).is_err(), "{token} {damaged}");
        assert!(read(&token[..at], LIST, own).is_err() || at == 0);
    }
});

/// The token that leads on after an item.
fn given(list: &str, item: &str) -> String {
    cut(vec![item.to_owned(), String::new()], 1, list, Clone::clone).next_page_token
}
