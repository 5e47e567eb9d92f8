//! `docs/limits.md` names every bound, and says what it is. The code is read as text: constants whose names end in
//! `_MAX`, and what else the page names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A row's last cell: `file` and `NAME`; and the cell with the limit.
struct Row {
    file: String,
    name: String,
    limit: String,
}

#[test]
fn every_bound_is_told() {
    let told: BTreeSet<_> = rows().into_iter().map(|row| (row.file, row.name)).collect();
    let missing: Vec<_> = bounds().into_iter().filter(|bound| !told.contains(bound)).collect();
    assert!(missing.is_empty(), "docs/limits.md does not tell: {missing:?}");
}

#[test]
fn every_bound_is_told_as_it_is() {
    let rows = rows();
    assert!(rows.len() > 80, "{} rows", rows.len());
    let mut compared = 0;
    for Row { file, name, limit } in rows {
        let path = root().join("src").join(&file);
        let text = fs::read_to_string(&path).unwrap_or_else(|_| panic!("there is no {file}"));
        assert!(text.contains(&name), "{file} has no {name}");
        let Some(value) = value_of(&text, &name) else { continue };
        let ways = ways_to_say(&value);
        assert!(
            ways.is_empty() || ways.contains(&limit),
            "{file}: {name} is {ways:?}, not {limit}"
        );
        compared += usize::from(!ways.is_empty());
    }
    assert!(compared > 80, "only {compared} were understood");
}

#[test]
fn a_value_is_said_as_people_do() {
    for (value, said) in [
        ("1_024", "1,024"),
        ("64 * 1024", "64 KiB"),
        ("1 << 20", "1 MiB"),
        ("Duration::from_secs(4)", "4 s"),
        ("Duration::from_millis(150)", "150 ms"),
        ("24 * 3_600 * 1_000", "24 h"),
    ] {
        assert!(ways_to_say(value).contains(&said.to_owned()), "{value}: {:?}", ways_to_say(value));
    }
    assert!(!ways_to_say("4_096").contains(&"4,095".to_owned()));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let lines = page.lines().filter(|line| line.starts_with("| ") && line.contains(".rs`"));
    lines
        .filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [_, limit, _, place] = cells[..] else { panic!("four cells: {line}") };
            let names: Vec<_> = place.split('`').collect();
            let [_, file, _, name, _] = names[..] else { return None };
            let row = Row { file: file.into(), name: name.into(), limit: limit.into() };
            Some(row)
        })
        .collect()
}

/// The constants of the server that bound something, by file and name.
fn bounds() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let mut left = vec![root().join("src")];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(root().join("src")).unwrap().display().to_string();
            // Commands run once, for one person.
            if relative.starts_with("cli") || relative.ends_with("tests.rs") {
                continue;
            }
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(constants(&path).into_iter().map(|name| (relative.clone(), name)));
            }
        }
    }
    found
}

fn constants(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let names = product.lines().filter_map(|line| line.split_once("const ")?.1.split_once(':'));
    names.map(|(name, _)| name.to_owned()).filter(|name| name.ends_with("_MAX")).collect()
}

/// The text of a constant's value, or of a field's default.
fn value_of(text: &str, name: &str) -> Option<String> {
    let constant = text.split_once(&format!("const {name}:"));
    if let Some((_, rest)) = constant {
        return Some(rest.split_once('=')?.1.split_once(';')?.0.trim().to_owned());
    }
    let start = format!("            {name}: ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start))?;
    Some(line.trim_end_matches(',').to_owned())
}

/// What a page may say of a value; nothing when it is made of other names.
fn ways_to_say(value: &str) -> Vec<String> {
    let duration = [
        ("from_millis", 1),
        ("from_secs", 1_000),
        ("from_mins", 60_000),
        ("from_hours", 3_600_000),
    ]
    .into_iter()
    .find_map(|(unit, millis)| {
        let inner = value.strip_prefix(&format!("Duration::{unit}("))?.strip_suffix(')')?;
        Some(number(inner)? * millis)
    });
    match (duration, number(value)) {
        (Some(millis), _) => durations(millis),
        (None, Some(number)) => {
            let sizes = [("KiB", 10), ("MiB", 20)].into_iter();
            let sizes = sizes.filter(|(_, bits)| number >> bits << bits == number && number > 0);
            let sizes = sizes.map(|(unit, bits)| format!("{} {unit}", grouped(number >> bits)));
            [vec![grouped(number)], sizes.collect(), durations(number)].concat()
        }
        (None, None) => vec![],
    }
}

fn durations(millis: u64) -> Vec<String> {
    let units = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000)].into_iter();
    let whole = units.filter(|(_, unit)| millis.is_multiple_of(*unit));
    let said = whole.map(|(name, unit)| format!("{} {name}", grouped(millis / unit)));
    // Hours are also what a limit in hours is told in.
    said.chain(millis.is_multiple_of(3_600_000).then(|| grouped(millis / 3_600_000))).collect()
}

/// A number, a product, or a shift.
fn number(text: &str) -> Option<u64> {
    if let Some((number, bits)) = text.split_once("<<") {
        return Some(self::number(number)? << self::number(bits)?);
    }
    text.split('*').map(|factor| factor.trim().replace('_', "").parse::<u64>().ok()).product()
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
