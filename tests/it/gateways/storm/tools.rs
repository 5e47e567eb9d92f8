//! What a server of tools could take a body for. As with paths, it is read in every way in which some server is known to read
//! it: the first of two members of one name or the last, several messages one after the other, in any charset.
//!
//! Left out on purpose: servers that do not tell `name` from `Name`. docs/gateways/envoy.md says that rules by tools are
//! not for them.

use std::collections::BTreeSet;

use super::places::Place;

/// A value, as far as it is looked at.
#[derive(Debug, Clone)]
enum Value {
    Text(String),
    /// Members in their order, and twice those that are there twice.
    Object(Vec<(String, Value)>),
    List(Vec<Value>),
    Other,
}

/// The place of the tool that the body names to a server as it should be, and those that some server would take it for.
pub(super) fn places(body: &[u8]) -> (Place, BTreeSet<Place>) {
    let readings: Vec<_> =
        [utf8(body), utf16(body, u16::from_be_bytes), utf16(body, u16::from_le_bytes)]
            .iter()
            .flat_map(|text| messages(text))
            .collect();
    let all: BTreeSet<_> = readings.iter().flat_map(tools).collect();
    (strictly(&utf8(body)), all)
}

/// One message, each member once at most.
fn strictly(body: &str) -> Place {
    let all = messages(body);
    let [message @ Value::Object(_)] = &all[..] else { return Place::Nothing };
    match tools(message)[..] {
        [place] => place,
        _ => Place::Nothing,
    }
}

/// The tools that a message may call.
fn tools(message: &Value) -> Vec<Place> {
    let mut places = vec![];
    if !members(message, "method").any(|it| matches!(it, Value::Text(it) if it == "tools/call")) {
        return places;
    }
    for params in members(message, "params") {
        for name in members(params, "name") {
            let Value::Text(name) = name else { continue };
            // Some cut names, or take no notice of case.
            let name = name.trim_end_matches(['\0', ' ']).to_ascii_lowercase();
            places.push(match &*name {
                "memory_recall" => Place::Read,
                "memory_export_subgraph" => Place::Admin,
                _ => Place::Nothing,
            });
        }
    }
    places
}

fn members<'a>(object: &'a Value, name: &'a str) -> impl Iterator<Item = &'a Value> {
    let members = if let Value::Object(members) = object { &members[..] } else { &[] };
    members.iter().filter(move |(given, _)| given == name).map(|(_, value)| value)
}

// === Reading ===

fn utf8(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn utf16(body: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units: Vec<_> = body.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}

/// All values of a text, those of lists too, one after the other and whatever stands between them.
fn messages(text: &str) -> Vec<Value> {
    let mut values = vec![];
    let mut rest = text;
    while let Some(start) = rest.find(['{', '[']) {
        let mut reader = Reader { rest: &rest[start..] };
        let value = reader.value();
        rest = if value.is_some() { reader.rest } else { &rest[start + 1..] };
        match value {
            Some(Value::List(items)) => values.extend(items),
            Some(value) => values.push(value),
            None => {}
        }
    }
    values
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn value(&mut self) -> Option<Value> {
        match self.next()? {
            '{' => {
                let mut members = vec![];
                while !self.took('}') {
                    self.took(',');
                    let quote = self.next()?;
                    let name = self.text(quote)?;
                    self.expect(':')?;
                    members.push((name, self.value()?));
                }
                Some(Value::Object(members))
            }
            '[' => {
                let mut items = vec![];
                while !self.took(']') {
                    self.took(',');
                    items.push(self.value()?);
                }
                Some(Value::List(items))
            }
            // Some take either for quotes.
            quote @ ('"' | '\'') => self.text(quote).map(Value::Text),
            letter if letter.is_ascii_alphanumeric() || letter == '-' => {
                let is_end = |it: char| !(it.is_ascii_alphanumeric() || "+-.".contains(it));
                self.rest = &self.rest[self.rest.find(is_end).unwrap_or(self.rest.len())..];
                Some(Value::Other)
            }
            _ => None,
        }
    }

    /// What comes next but for blanks.
    fn next(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        let mut letters = self.rest.chars();
        let next = letters.next()?;
        self.rest = letters.as_str();
        Some(next)
    }

    fn took(&mut self, letter: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(letter);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, letter: char) -> Option<()> {
        self.took(letter).then_some(())
    }

    /// A text whose first quote is read.
    fn text(&mut self, quote: char) -> Option<String> {
        if !matches!(quote, '"' | '\'') {
            return None;
        }
        let mut text = String::new();
        let mut letters = self.rest.chars();
        loop {
            match letters.next()? {
                letter if letter == quote => break,
                '\\' => match letters.next()? {
                    'u' => {
                        let digits: String = letters.by_ref().take(4).collect();
                        let code = u32::from_str_radix(&digits, 16).ok()?;
                        text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    'n' => text.push('\n'),
                    letter => text.push(letter),
                },
                letter => text.push(letter),
            }
        }
        self.rest = letters.as_str();
        Some(text)
    }
}

#[test]
fn a_body_is_read_in_every_way_of_some_server() {
    let call = r#"{"method":"tools/call","params":{"name":"memory_recall"}}"#;
    assert_eq!(places(call.as_bytes()), (Place::Read, [Place::Read].into()));
    let list = r#"{"method":"tools/list","params":{"name":"memory_recall"}}"#;
    assert_eq!(places(list.as_bytes()), (Place::Nothing, [].into()));
    let export = r#"{"method":"tools/call","params":{"name":"memory_export_subgraph"}}"#;
    let twice = r#"{"method":"tools/call","params":{"name":"memory_recall","name":"memory_export_subgraph"}}"#;
    for body in [
        format!("[{call},{export}]"),
        format!("{call}\n{export}"),
        format!("\u{feff}{export}"),
        twice.to_owned(),
        export.replace('"', "'"),
        export.replace('_', "\\u005f"),
        export.replace("/call", "\\/call"),
    ] {
        assert!(places(body.as_bytes()).1.contains(&Place::Admin), "{body}");
    }
    let wide: Vec<_> = export.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(places(&wide).1.contains(&Place::Admin));
}
