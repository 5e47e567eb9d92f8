//! The requests that only Envoy is sent: it looks into messages of the Model Context Protocol, and has two places to send
//! requests to.

use super::requests::Request;
use super::stage::Keys;
use crate::gateways::forward_auth::UNKNOWN;

impl Request {
    /// A message, as clients send it.
    pub(super) fn mcp(body: &str) -> Self {
        let request = Self::of("POST", "/mcp").header("content-type: application/json");
        request.header("accept: application/json, text/event-stream").body(body.to_owned())
    }

    fn of_type(content_type: &str, body: &str) -> Self {
        let request = Self::of("POST", "/mcp").header(&format!("content-type: {content_type}"));
        request.header("accept: application/json, text/event-stream").body(body.to_owned())
    }
}

/// A call of this tool.
pub(super) fn call(tool: &str) -> String {
    call_with(tool, r#","arguments":{"query":"name"}"#)
}

fn call_with(tool: &str, rest: &str) -> String {
    message("tools/call", &format!(r#","params":{{"name":"{tool}"{rest}}}"#))
}

fn message(method: &str, rest: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"{rest}}}"#)
}

// === Tools ===

/// The scope that each tool needs, from the lowest, and whether it counts.
const TOOLS: [(&str, u8, bool); 8] = [
    ("memory_recall", 0, true),
    ("memory_find_related", 0, true),
    ("memory_get_relationships", 0, true),
    ("memory_store", 1, false),
    ("memory_update", 1, false),
    ("memory_forget", 1, false),
    ("memory_export_subgraph", 2, true),
    ("memory_load_link", 2, false),
];

pub(super) fn mcp(keys: &Keys) -> Vec<Request> {
    let Keys { reader, writer, admin, elsewhere, .. } = keys;
    let mut all = Vec::new();
    for (tool, needed, counts) in TOOLS {
        for (held, key) in [(0, reader), (1, writer), (2, admin)] {
            let request = Request::mcp(&call(tool)).key(key);
            let request = if counts { request } else { request.free() };
            all.push(if held < needed { request.refused(403) } else { request });
        }
        all.push(Request::mcp(&call(tool)).refused(401));
        all.push(Request::mcp(&call(tool)).key(UNKNOWN).refused(401));
    }
    all.push(Request::mcp(&call("memory_recall")).key(elsewhere).refused(403));
    all.extend(sessions(keys));
    all.extend(large(keys));
    all.extend(other_messages(keys));
    all.extend(other_requests(keys));
    all.extend(twofold(keys));
    all
}

/// What any key may say.
fn sessions(Keys { reader, .. }: &Keys) -> Vec<Request> {
    let initialize = r#","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
    let mut all = Vec::new();
    for (method, rest) in [
        ("initialize", initialize),
        ("notifications/initialized", ""),
        ("notifications/cancelled", r#","params":{"requestId":1}"#),
        ("ping", ""),
        ("tools/list", ""),
        ("tools/list", r#","params":{"cursor":"memory_store"}"#),
    ] {
        let request = Request::mcp(&message(method, rest)).free();
        all.push(request.clone().key(reader));
        all.push(request.refused(401));
    }
    for method in ["GET", "DELETE"] {
        let request = Request::of(method, "/mcp").header("accept: text/event-stream").free();
        all.push(request.clone().key(reader));
        all.push(request.refused(401));
    }
    all
}

/// 1 MiB of parameters, before or after the name; what the filter does not read to the end is nobody's.
fn large(Keys { reader, writer, .. }: &Keys) -> Vec<Request> {
    let arguments = |bytes: usize| format!(r#","arguments":{{"text":"{}"}}"#, "x".repeat(bytes));
    let of = |tool: &str, bytes| Request::mcp(&call_with(tool, &arguments(bytes)));
    let name_last = |tool: &str, bytes: usize| {
        let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
        let params = format!(r#","params":{{"arguments":{arguments},"name":"{tool}"}}"#);
        Request::mcp(&message("tools/call", &params))
    };
    vec![
        of("memory_recall", 1 << 20).key(reader),
        of("memory_store", 1 << 20).key(reader).refused(403),
        of("memory_store", 1 << 20).key(writer).free(),
        name_last("memory_recall", 1 << 20).key(reader),
        name_last("memory_store", 1 << 20).key(reader).refused(403),
        of("memory_recall", 5 << 20).key(reader).stopped(),
        name_last("memory_store", 5 << 20).key(reader).stopped(),
    ]
}

/// Messages that no key opens.
fn other_messages(Keys { admin, .. }: &Keys) -> Vec<Request> {
    let store = call("memory_store");
    let bodies = [
        call("memory_drop_all"),
        call("Memory_store"),
        call("memory_store "),
        call(r"memory_store\u0000"),
        call(""),
        message("tools/call", ""),
        message("tools/call", r#","params":{}"#),
        message("tools/call", r#","params":{"name":1}"#),
        message("tools/call", r#","params":{"name":["memory_store"]}"#),
        message("tools/call", r#","params":["memory_store"]"#),
        message("tools/drop", r#","params":{"name":"memory_store"}"#),
        message("prompts/get", r#","params":{"name":"memory_store"}"#),
        message("TOOLS/CALL", r#","params":{"name":"memory_store"}"#),
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned(),
        store.replace(r#""jsonrpc":"2.0","#, ""),
        store.replace("2.0", "1.0"),
        // Batches.
        format!("[{store}]"),
        format!("[{},{store}]", message("tools/list", "")),
        "[]".to_owned(),
        // No JSON.
        "memory_store".to_owned(),
        "\"memory_store\"".to_owned(),
        "null".to_owned(),
        String::new(),
        store[..store.len() - 1].to_owned(),
        format!("{store}{store}"),
        format!("{store}x"),
        format!("\u{feff}{store}"),
        format!("/**/{store}"),
        call_with(
            "memory_store",
            &format!(r#","arguments":{}1{}"#, "[".repeat(2_000), "]".repeat(2_000)),
        ),
        call_with("memory_store", r#","arguments":"\ud800""#),
    ];
    bodies.map(|body| Request::mcp(&body).key(admin).stopped()).to_vec()
}

/// Requests that are no messages.
fn other_requests(Keys { admin, .. }: &Keys) -> Vec<Request> {
    let store = call("memory_store");
    let list = message("tools/list", "");
    let mut all = vec![
        Request::of("PUT", "/mcp").header("content-type: application/json").body(store.clone()),
        Request::of("HEAD", "/mcp"),
        Request::get("/"),
        Request::get("/mcp/"),
        Request::get("/other"),
        Request::mcp(&store).at("/mcp/"),
        Request::mcp(&store).at("/MCP"),
        Request::mcp(&store).at("/mcp;x"),
        Request::mcp(&store).at("/mcp%2f"),
        Request::of("POST", "/mcp").header("accept: application/json").body(store.clone()),
    ];
    for content_type in [
        "text/plain",
        "text/json",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/json; charset=utf-7",
        "application/json, text/plain",
        "application/jsonp",
    ] {
        all.push(Request::of_type(content_type, &list));
        all.push(Request::of_type(content_type, &store));
    }
    for encoding in ["gzip", "deflate", "br", "identity"] {
        all.push(Request::mcp(&list).header(&format!("content-encoding: {encoding}")));
    }
    all.push(Request::mcp(&list).header("content-type: text/plain"));
    let mut all: Vec<_> = all.into_iter().map(|request| request.key(admin).stopped()).collect();
    all.push(Request::of_type("application/json; charset=UTF-8", &list).key(admin).free());
    all.push(Request::mcp(&list).in_chunks().key(admin).free());
    all
}

/// Messages that one server reads otherwise than another, by somebody who may read.
fn twofold(Keys { reader, .. }: &Keys) -> Vec<Request> {
    let both = |first: &str, second: &str| {
        message("tools/call", &format!(r#","params":{{"name":"{first}","name":"{second}"}}"#))
    };
    let params = |tool: &str| format!(r#","params":{{"name":"{tool}"}}"#);
    let long = format!(r#","arguments":{{"text":"{}"}}"#, "x".repeat(100_000));
    let bodies = [
        both("memory_recall", "memory_store"),
        both("memory_store", "memory_recall"),
        both("memory_recall", "memory_recall"),
        both("memory_store", "memory_recall").replacen("name", r"n\u0061me", 1),
        message("tools/call", &(params("memory_store") + &params("memory_recall"))),
        message("tools/call", &(params("memory_recall") + &params("memory_store"))),
        message("tools/call", &(r#","method":"tools/list""#.to_owned() + &params("memory_store"))),
        message("tools/list", &(r#","method":"tools/call""#.to_owned() + &params("memory_store"))),
        message(
            "tools/call",
            &(r#","meth\u006fd":"tools/list""#.to_owned() + &params("memory_store")),
        ),
        call_with("memory_recall", &(long.clone() + r#","name":"memory_store""#)),
        call_with("memory_store", &(long + r#","name":"memory_recall""#)),
        call(r"memory\u005fstore"),
        call_with("memory_store", r#","arguments":{"name":"memory_recall"}"#),
        message(
            "tools/call",
            &format!(r#","params.name":"memory_recall"{}"#, params("memory_store")),
        ),
    ];
    let mut all: Vec<_> = bodies.iter().map(|body| Request::mcp(body).stopped()).collect();
    for header in
        ["Mcp-Method: tools/list", "Mcp-Name: memory_recall", "X-HTTP-Method-Override: GET"]
    {
        all.push(Request::mcp(&call("memory_store")).header(header).refused(403));
    }
    all.into_iter().map(|request| request.key(reader)).collect()
}

// === Two places ===

pub(super) fn sandbox(keys: &Keys) -> Vec<Request> {
    let Keys { reader, test, older_test, .. } = keys;
    let get = || Request::get("/items/7");
    let spelled = |token: &str| token.replacen("hm_test", "HM_TEST", 1);
    vec![
        // Each key to its place.
        get().key(reader),
        get().header(&format!("x-api-key: {reader}")),
        get().key(test).sandboxed(),
        get().header(&format!("x-api-key: {test}")).sandboxed(),
        get().header(&format!("AUTHORIZATION: bEARER {test}")).sandboxed(),
        Request::of("POST", "/items/7").key(test).body("x").sandboxed(),
        // A key whose prefix tells no route apart.
        get().key(older_test).refused(403),
        get().header(&format!("x-api-key: {older_test}")).refused(403),
        // Two keys, and the wrong place for one of them.
        get().key(reader).header(&format!("x-api-key: {test}")).refused(401),
        get().key(test).header(&format!("x-api-key: {reader}")).refused(401),
        get().key(reader).header("x-api-key: hm_test_x").refused(401),
        get()
            .header(&format!("x-api-key: {reader}"))
            .header("authorization: Bearer hm_test_x")
            .refused(401),
        get().key(test).key(reader).stopped(),
        get().key(reader).key(test).stopped(),
        get().header(&format!("x-api-key: hm_test_x{reader}")).refused(401),
        get().header(&format!("authorization: Bearer  {test}")).refused(401),
        get().header(&format!("authorization: Basic {test}")).refused(401),
        get().key(&spelled(test)).refused(401),
        get().header(&format!("x-api-key: {}", spelled(test))).refused(401),
        // A client that says where it wants to go.
        get().key(test).header("x-environment: live").sandboxed(),
        get().key(test).header("x-latchkey-environment: live").sandboxed(),
        get().key(test).header("x-envoy-decorator-operation: production").sandboxed(),
        get().key(test).header("Connection: close, Authorization").passed_or_stopped().sandboxed(),
        get().key(reader).header("Connection: close, Authorization").passed_or_stopped(),
        // Nobody.
        get().refused(401),
        get().key(UNKNOWN).refused(401),
        get().key(&UNKNOWN.replace("live", "test")).refused(401),
        get().key("hm_test_").refused(401),
    ]
}
