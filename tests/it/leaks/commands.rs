//! Canaries given to the command line: on stdin, in the environment, in files, and as arguments, where they are
//! refused without being repeated. Commands and flags are found in what `--help` says.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::canary::{Canaries, nearly, token};
use crate::support::{Folder, latchkey};

/// What a command wrote, given these arguments, variables and this stdin.
fn output(arguments: &[&str], variables: &[(&str, &str)], stdin: &str) -> (Option<i32>, Vec<u8>) {
    let mut child = Command::new(latchkey())
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read anything.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), [output.stdout, output.stderr].concat())
}

/// Every command, by its words, with what `--help` says of it.
fn commands() -> Vec<(Vec<String>, String)> {
    let mut found = vec![];
    let mut left = vec![Vec::<String>::new()];
    while let Some(words) = left.pop() {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = String::from_utf8(output(&arguments, &[], "").1).unwrap();
        let below = help.split_once("\nCommands:\n").map_or("", |(_, below)| below);
        let names = below.lines().take_while(|line| !line.is_empty());
        let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        for name in names.filter_map(|line| line.split_whitespace().next()) {
            if name != "help" {
                left.push([&words[..], &[name.to_owned()]].concat());
            }
        }
        found.push((words, help));
    }
    found
}

/// The flags that take a value.
fn flags(help: &str) -> BTreeSet<&str> {
    let words = help.split(|char: char| char.is_whitespace() || char == ',');
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let pairs =
        words.windows(2).filter(|pair| pair[0].starts_with("--") && pair[1].starts_with('<'));
    pairs.map(|pair| pair[0]).collect()
}

#[test]
fn a_token_as_an_argument_is_refused_and_not_repeated() {
    let canary = token();
    let mut canaries = Canaries::default();
    canaries.watch(&canary);
    let commands = commands();
    assert!(commands.len() > 8, "{commands:?}");
    for (words, help) in &commands {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut tries = vec![vec![canary.clone()]];
        tries.extend(flags(help).iter().map(|flag| vec![(*flag).to_owned(), canary.clone()]));
        for given in tries {
            let arguments = [&words[..], &given.iter().map(String::as_str).collect::<Vec<_>>()];
            let (code, told) = output(&arguments.concat(), &[], "");
            let shown = String::from_utf8_lossy(&told);
            assert_eq!(code, Some(2), "{words:?} {given:?}: {shown}");
            assert_eq!(canaries.find(&told), None, "{words:?} {given:?}: {shown}");
        }
    }
    let near = nearly(&canary);
    for given in near.iter().map(String::as_str).chain([&canary[8..]]) {
        canaries.watch(given);
        for arguments in [
            &[given][..],
            &["token", "inspect", given],
            &["policy", "check", given],
            &["health", "--address", given],
            &["config", "check", "--config", given],
        ] {
            let told = output(arguments, &[], "").1;
            let shown = String::from_utf8_lossy(&told);
            assert_eq!(canaries.find(&told), None, "{arguments:?}: {shown}");
        }
    }
}

#[test]
fn a_token_in_the_environment_a_file_or_on_stdin_is_not_repeated() {
    let canary = token();
    let folder = Folder::new();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut canaries = Canaries::default();
    for given in nearly(&canary).iter().chain([&canary]) {
        canaries.watch(given);
        let url = format!("sqlite://{}", path("none.db"));
        let store = ("LATCHKEY__STORE__URL", url.as_str());
        let demand_silence = |arguments: &[&str], variables: &[(&str, &str)], stdin: &str| {
            let told = output(arguments, variables, stdin).1;
            let shown = String::from_utf8_lossy(&told);
            assert_eq!(canaries.find(&told), None, "{arguments:?} {variables:?}: {shown}");
        };
        demand_silence(&["token", "inspect"], &[], given);
        demand_silence(&["token", "inspect"], &[], &format!("{given}\n{given}\n"));
        demand_silence(&["token", "inspect"], &[], &format!("Bearer {given}"));
        let nowhere = "http://127.0.0.1:1";
        let variables = [("LATCHKEY_TOKEN", given.as_str()), ("LATCHKEY_ADDRESS", nowhere)];
        demand_silence(&["policy", "get"], &variables, "");
        demand_silence(&["policy", "get"], &[("LATCHKEY_ADDRESS", given)], "");
        demand_silence(
            &["policy", "get"],
            &[("LATCHKEY_TOKEN", nowhere), ("LATCHKEY_ADDRESS", given)],
            "",
        );
        std::fs::write(path("token"), given).unwrap();
        demand_silence(
            &["policy", "get", "--token-file", &path("token"), "--address", nowhere],
            &[],
            "",
        );
        demand_silence(&["policy", "check", &path("token")], &[], "");
        demand_silence(&["config", "check", "--config", &path("token")], &[], "");
        for field in fields() {
            let variable = format!("LATCHKEY__{}", field.replace('.', "__").to_uppercase());
            for (name, value) in [
                (variable.clone(), given.clone()),
                (format!("{variable}_FILE"), given.clone()),
                (format!("{variable}_FILE"), path("token")),
                (format!("LATCHKEY__{given}"), "1".to_owned()),
            ] {
                demand_silence(&["config", "check"], &[store, (&name, &value)], "");
                demand_silence(&["config", "show"], &[store, (&name, &value)], "");
            }
            let line = field.rsplit_once('.').map_or_else(
                || format!("{field} = \"{given}\"\n"),
                |(section, name)| format!("[{section}]\n{name} = \"{given}\"\n"),
            );
            std::fs::write(path("toml"), line).unwrap();
            demand_silence(&["config", "check", "--config", &path("toml")], &[], "");
        }
        std::fs::write(path("toml"), format!("root_token = {given}\n{given} = 1\n")).unwrap();
        demand_silence(&["config", "check", "--config", &path("toml")], &[], "");
    }
}

/// The paths of all fields of the configuration.
fn fields() -> Vec<String> {
    let shown = String::from_utf8(output(&["config", "show"], &[], "").1).unwrap();
    let mut section = String::new();
    let mut fields = vec![];
    for line in shown.lines() {
        let line = line.trim_start_matches("# ");
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(name) = line.split_whitespace().next() {
            fields.push(format!("{section}{name}"));
        }
    }
    fields
}
