//! Messages of the Model Context Protocol in which two readers may see two tools.

use super::super::cast::Who;
use super::super::shot::Draft;
use super::with_a_key_or_without;

/// `memory_recall` is what a reader may call; `memory_export_subgraph` is not.
const TOOLS: [&str; 2] = ["memory_recall", "memory_export_subgraph"];

pub(super) fn messages(draft: &mut Draft<'_>) {
    draft.method = b"POST".to_vec();
    draft.target = b"/mcp".to_vec();
    let body = body(draft);
    let bytes = encoded(draft, body);
    let content_type = draft.one(&[
        "application/json; charset=utf-8",
        "application/json; charset=utf-16",
        "application/json, text/plain",
        "text/plain",
        "application/JSON",
    ]);
    let is_odd = draft.dice.is_one_of(1, 6);
    let content_type = if is_odd { content_type } else { "application/json" };
    draft.field("content-type", content_type);
    // Without it Envoy's filter does not look into the body.
    let accept = draft.one(&["application/json, text/event-stream", "*/*", ""]);
    let accept =
        if draft.dice.is_one_of(1, 12) { accept } else { "application/json, text/event-stream" };
    draft.field("accept", accept);
    match draft.dice.below(20) {
        0 => {
            let encoding = draft.one(&["identity", "gzip", "", "br"]);
            draft.field("content-encoding", encoding);
        }
        1 => draft.field("mcp-method", "tools/list"),
        2 => draft.field("mcp-name", "memory_recall"),
        _ => {}
    }
    if draft.dice.is_one_of(3, 4) {
        draft.bring(draft.cast.of(Who::Reader));
    } else {
        with_a_key_or_without(draft);
    }
    draft.whole_body(bytes);
}

fn body(draft: &mut Draft<'_>) -> String {
    let (one, two) = (draft.one(&TOOLS), draft.one(&TOOLS));
    let (first, second) = (call(draft, one), call(draft, two));
    let body = match draft.dice.below(10) {
        0..6 => first,
        6 => format!("[{first}]"),
        7 => format!("[{first},{second}]"),
        8 => {
            let between = draft.one(&["", "\n", ",", "\0", " ", "\r\n\r\n"]);
            format!("{first}{between}{second}")
        }
        _ => format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{first}}}"),
    };
    match draft.dice.below(12) {
        0 => format!("\u{feff}{body}"),
        1 => format!(" \n{body}"),
        2 => body.replace(',', "\u{a0},"),
        3 => format!("// a\n{body}"),
        4 => body.replace('"', "'"),
        _ => body,
    }
}

fn call(draft: &mut Draft<'_>, tool: &str) -> String {
    let (other, arguments) = (draft.one(&TOOLS), arguments(draft));
    let name = name(draft, "name");
    let mut params = vec![format!("{name}:{}", spelled(draft, tool))];
    if draft.dice.is_one_of(1, 4) {
        let name = self::name(draft, "name");
        params.push(format!("{name}:{}", spelled(draft, other)));
    }
    params.push(arguments);
    draft.dice.shuffle(&mut params);
    let params = format!("{{{}}}", params.join(","));
    let word = draft.one(&["tools/call", "tools/call", "tools/call", "tools\\/call", "tools/list"]);
    let method = name_of_method(draft);
    let mut members = vec![
        "\"jsonrpc\":\"2.0\"".to_owned(),
        "\"id\":1".to_owned(),
        format!("{method}:\"{word}\""),
        format!("{}:{params}", self::name(draft, "params")),
    ];
    match draft.dice.below(8) {
        0 => {
            let method = name_of_method(draft);
            members.push(format!("{method}:\"tools/list\""));
        }
        1 => {
            let params = self::name(draft, "params");
            members.push(format!("{params}:{{\"name\":\"{other}\"}}"));
        }
        2 => members.push(format!("\"params.name\":\"{other}\"")),
        3 => drop(members.remove(0)),
        _ => {}
    }
    draft.dice.shuffle(&mut members);
    format!("{{{}}}", members.join(","))
}

fn name_of_method(draft: &mut Draft<'_>) -> String {
    name(draft, "method")
}

/// The name of a member, mostly as it should be.
fn name(draft: &mut Draft<'_>, name: &str) -> String {
    let escaped = format!("\\u{:04x}{}", u32::from(name.as_bytes()[0]), &name[1..]);
    let name = match draft.dice.below(30) {
        0 => escaped,
        1 => name.to_uppercase(),
        2 => format!("{}{}", name[..1].to_uppercase(), &name[1..]),
        3 => format!("{name}\\u0000"),
        4 => format!("{name} "),
        _ => name.to_owned(),
    };
    format!("\"{name}\"")
}

/// The name of a tool, mostly as it should be.
fn spelled(draft: &mut Draft<'_>, tool: &str) -> String {
    match draft.dice.below(30) {
        0 => format!("\"{}\"", tool.replace('_', "\\u005f")),
        1 => format!("\"{}\"", tool.to_uppercase()),
        2 => format!("\"{tool} \""),
        3 => format!("\"{tool}\\u0000\""),
        4 => format!("[\"{tool}\"]"),
        5 => format!("{{\"name\":\"{tool}\"}}"),
        6 => "null".to_owned(),
        _ => format!("\"{tool}\""),
    }
}

fn arguments(draft: &mut Draft<'_>) -> String {
    let other = draft.one(&TOOLS);
    match draft.dice.below(6) {
        0 => format!("\"arguments\":{{\"name\":\"{other}\"}}"),
        1 => format!("\"arguments\":{{\"text\":\"{}\"}}", "x".repeat(70_000)),
        2 => format!("\"arguments\":\"\\\",\\\"name\\\":\\\"{other}\\\"\""),
        3 => format!("\"arguments\":{}1{}", "[".repeat(200), "]".repeat(200)),
        4 => "\"arguments\":{\"query\":\"\u{e9}\"}".to_owned(),
        _ => "\"arguments\":{}".to_owned(),
    }
}

/// In UTF-8, or in what some servers read by a charset or by a byte-order mark.
fn encoded(draft: &mut Draft<'_>, body: String) -> Vec<u8> {
    match draft.dice.below(16) {
        0 => body.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        1 => body.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        2 => body.bytes().chain([0xff]).collect(),
        3 => body.as_bytes()[..body.len() - 1].to_vec(),
        _ => body.into_bytes(),
    }
}
