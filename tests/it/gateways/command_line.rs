//! `latchkey policy test` and `latchkey rules replay`: the real program, with a policy in a file and with a server's.

use serde_json::Value;

use super::with_rules;
use crate::cli::{Ended, Run, file};
use crate::support::Server;

const RULES: &str = r#"
[[rules]]
name = "health"
path = "/health"
public = true

[[rules]]
name = "items"
methods = ["GET"]
path = "/items/{id}"
required_scope = "memory:read"
required_environment = "live"

[[rules]]
name = "change"
path = "/items/{id}"
required_scope = "memory:write"

[[rules]]
name = "new"
path = "/new/{*rest}"
required_scope = "memory:admin"
mode = "observe"

[[rules]]
name = "tools"
path = "/mcp"
mcp_tools = ["memory_store"]
required_scope = "memory:write"
cost = 7

[[rules]]
name = "inner"
path = "/inner"
deny = true

[[rules]]
name = "soon"
path = "/soon"
deny = true
mode = "observe"

[[rules]]
name = "me"
path = "/me"
authenticate_only = true
"#;

/// A policy with these rules, in a file of this test.
fn policy(name: &str, rules: &str) -> String {
    let policy = latchkey::policy::Policy::default().to_toml();
    file(&format!("rules-{name}.toml"), &format!("{policy}\n{rules}"))
}

fn run(arguments: &[&str], stdin: &str) -> Ended {
    let ended = Run { stdin: stdin.as_bytes(), environment: &[] }.latchkey(arguments);
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    ended
}

/// As root of this server.
fn run_at(server: &Server, arguments: &[&str], stdin: &str) -> Ended {
    let (address, token) = (server.grpc().to_string(), server.root_token());
    let environment = [("LATCHKEY_ADDRESS", &*address), ("LATCHKEY_TOKEN", &*token)];
    Run { stdin: stdin.as_bytes(), environment: &environment }.latchkey(arguments)
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[test]
fn a_request_is_told_which_rule_answers_it() {
    let policy = policy("told", RULES);
    for (request, code, outcome, answer, rule) in [
        (&["GET", "/health?x=1"][..], 0, "PASSES", "RULE", "health"),
        (&["GET", "https://api.example.com/items/7"], 0, "KEY_DECIDES", "RULE", "items"),
        (&["PUT", "http://a.b:80/items/7"], 0, "KEY_DECIDES", "RULE", "change"),
        (&["GET", "/new/it"], 0, "OBSERVED", "RULE", "new"),
        (&["GET", "/soon"], 0, "OBSERVED", "RULE", "soon"),
        (&["GET", "/inner"], 1, "DENIED", "RULE", "inner"),
        (&["GET", "/nowhere"], 1, "DENIED", "NO_RULE", ""),
        (&["GET", "/items//7"], 1, "DENIED", "AMBIGUOUS", ""),
        (&["GET", "https://u@h/items/7"], 1, "DENIED", "AMBIGUOUS", ""),
        (&["POST", "/mcp"], 1, "DENIED", "BLIND", "tools"),
        (&["POST", "/mcp", "--mcp-method", "tools/call"], 1, "DENIED", "BLIND", "tools"),
        (&["POST", "/mcp", "--tool", "memory_store"], 0, "KEY_DECIDES", "RULE", "tools"),
        (&["POST", "/mcp", "--tool", "other"], 1, "DENIED", "NO_RULE", ""),
        (&["POST", "/mcp", "--mcp-method", "tools/list"], 1, "DENIED", "NO_RULE", ""),
    ] {
        let arguments = [&["policy", "test"], request, &["--file", &policy, "-o", "json"]].concat();
        let ended = run(&arguments, "");
        let told = json(&ended);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!((&told["outcome"], &told["answer"]), (&outcome.into(), &answer.into()));
        assert_eq!(told["rule"]["name"].as_str().unwrap_or_default(), rule, "{told}");
    }
}

#[test]
fn it_is_told_what_the_rule_needs_and_what_a_path_has_against_it() {
    let policy = policy("needs", RULES);
    let test =
        |request: &[&str]| run(&[&["policy", "test", "--file", &policy], request].concat(), "").out;
    let rows = |out: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        out.lines().map(words).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        rows(&test(&["GET", "/items/7"])),
        "answer the key decides; rule items, number 2 of 8; why it is the first rule that matches; \
         needs memory:read; environment live; cost 1 (by its scopes); mode enforce"
    );
    let tool = rows(&test(&["POST", "/mcp", "--tool", "memory_store"]));
    assert!(
        tool.ends_with("needs memory:write; environment either; cost 7; mode enforce"),
        "{tool}"
    );
    for (path, told) in [
        ("/a%2fb", "an escaped `/` (`%2f`)"),
        ("/a;b", "holds `;`"),
        ("/a/../b", "the segment `.` or `..`"),
        ("/nowhere", "none of 8 rules matches"),
        ("/mcp", "Model Context Protocol"),
    ] {
        let out = test(&["GET", path]);
        assert!(out.contains(told) && out.contains("ROUTE_DENIED, HTTP 403"), "{path}: {out}");
    }
    // Of JSON the rule is that of the API.
    let out = test(&["POST", "/mcp", "--tool", "memory_store", "-o", "json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["ruleNumber"], &told["cost"]), (&5.into(), &7.into()));
    assert_eq!(told["rule"]["requiredScope"], "memory:write");
    assert_eq!(told["rule"]["mode"], "RULE_MODE_ENFORCE");
}

#[test]
fn what_cannot_be_asked_says_what_would_be_right() {
    let hosts = policy("hosts", "[[rules]]\nname = \"h\"\nhosts = [\"a.b\"]\npublic = true\n");
    for (arguments, told) in [
        (&["/x"][..], "the rule `h` goes by the host"),
        (&["a.b/x"], "neither http:// nor https:// nor /"),
        (&["/x", "--tool", "t", "--mcp-method", "ping"], "--tool goes with no other method"),
    ] {
        let ended = run(&[&["policy", "test", "GET"], arguments, &["--file", &hosts]].concat(), "");
        assert_eq!((ended.code, &*ended.out), (Some(1), ""), "{ended:?}");
        assert!(ended.err.contains(told) && ended.err.contains("help: "), "{ended:?}");
    }
    assert_eq!(
        run(&["policy", "test", "GET", "https://A.b:1/", "--file", &hosts], "").code,
        Some(0)
    );
    // Faults of rules are told by their fields.
    let wrong = policy(
        "wrong",
        "[[rules]]\nname = \"a\"\npath = \"v1\"\ncost = 1_000_001\nrequired_scope = \"memory:reed\"\n\
         [[rules]]\nname = \"a\"\ndeny = true\npublic = true\n",
    );
    let ended = run(&["policy", "check", &wrong], "");
    for told in ["rules[0].path: ", "rules[0].cost: ", "rules[1].name: ", "rules[1].deny: "] {
        assert!(ended.err.contains(told), "{told}: {ended:?}");
    }
    let scope = policy("scope", "[[rules]]\nname = \"a\"\nrequired_scope = \"memory:reed\"\n");
    let ended = run(&["policy", "check", &scope], "");
    assert!(ended.err.contains("rules[0].required_scope: "), "{ended:?}");
    assert!(ended.err.contains("did you mean `memory:read`?"), "{ended:?}");
}

#[tokio::test]
async fn the_servers_rules_are_asked_where_no_file_is_named() {
    let server = with_rules(RULES).await;
    let ended = run_at(&server, &["policy", "test", "GET", "/items/7"], "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("items, number 2 of 8"), "{ended:?}");
    let unread = run(&["policy", "test", "GET", "/items/7"], "");
    assert_eq!((unread.code, &*unread.out), (Some(1), ""), "{unread:?}");
}

// --- Replay ---------------------------------------------------------------------------------------

/// A line as our example of Envoy writes it; no key's id is `null`.
fn envoy(method: &str, path: &str, status: u16, key: &str) -> String {
    let key = if key.is_empty() { Value::Null } else { key.into() };
    let line = serde_json::json!({"start_time": "2026-01-01T00:00:00.000Z", "method": method, "path": path,
        "authority": "api.example.com", "response_code": status, "key_id": key, "mcp_method": null, "mcp_tool": null});
    format!("{line}\n")
}

/// Each finding in a line: result, reason, rule, route, key, count, first line.
fn findings(told: &Value) -> Vec<String> {
    let text = |finding: &Value, name: &str| match &finding[name] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "-".to_owned(),
    };
    let names = ["result", "reason", "rule", "route", "keyId", "count", "firstLine"];
    let line = |finding| names.map(|name| text(finding, name)).join(" ");
    told["findings"].as_array().unwrap().iter().map(line).collect()
}

fn replay(policy: &str, log: &str, more: &[&str]) -> (Ended, Value) {
    let arguments = [&["rules", "replay", "-", "--file", policy, "-o", "json"], more].concat();
    let ended = run(&arguments, log);
    let told = json(&ended);
    (ended, told)
}

#[test]
fn what_passed_and_would_be_refused_is_listed() {
    let policy = policy("listed", RULES);
    let log = [
        envoy("GET", "/health?a=b", 200, ""),
        envoy("GET", "/old/7?secret", 200, "key_x"),
        envoy("GET", "/old/8", 304, "key_x"),
        envoy("GET", "/old/9", 404, "key_x"),
        envoy("GET", "/old/9", 0, ""),
        envoy("POST", "/inner", 200, ""),
        envoy("GET", "/items/7%2f8", 200, ""),
        envoy("POST", "/mcp", 200, ""),
        envoy("GET", "/items/7", 200, ""),
        envoy("GET", "/new/it", 200, ""),
        envoy("GET", "/me", 200, "key_x"),
        envoy("GET", "/items/7", 200, "nonsense"),
    ]
    .concat();
    let (ended, told) = replay(&policy, &log, &[]);
    assert_eq!((ended.code, &*ended.err), (Some(1), ""), "{ended:?}");
    let host = "api.example.com";
    assert_eq!(
        findings(&told),
        [
            format!("REFUSED ROUTE_DENIED - GET {host}/old/{{…}} key_x 2 2"),
            format!("REFUSED ROUTE_DENIED inner POST {host}/inner - 1 6"),
            format!("REFUSED ROUTE_DENIED - GET {host}/items/{{…}} - 1 7"),
            format!("REFUSED ROUTE_DENIED tools POST {host}/mcp - 1 8"),
            format!("REFUSED MISSING_CREDENTIAL items GET {host}/items/{{…}} - 1 9"),
            format!("OBSERVED MISSING_CREDENTIAL new GET {host}/new/it - 1 10"),
            format!("NOT_KNOWN - items GET {host}/items/{{…}} nonsense 1 12"),
        ]
    );
    let counts = ["lines", "passedBefore", "refusedBefore", "refused", "observed", "notKnown"];
    assert_eq!(counts.map(|name| told[name].as_u64().unwrap()), [12, 10, 2, 6, 1, 1]);
    assert!(!ended.out.contains("secret"), "a query is shown: {ended:?}");
    // What is only observed, and what is not known, refuses nobody.
    let (ended, _) = replay(&policy, &envoy("GET", "/new/it", 200, ""), &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let table = run(&["rules", "replay", "-", "--file", &policy], &log).out;
    for told in ["would be refused  6\n", "10 of 12", "no rule matches", "an escaped `/`", "line 2"]
    {
        assert!(table.contains(told), "{told}: {table}");
    }
}

#[tokio::test]
async fn the_keys_of_a_log_are_looked_up() {
    let server = with_rules(RULES).await;
    let id = |token: &str| {
        let ended = run_at(&server, &["key", "lookup", "-o", "json"], token);
        json(&ended)["keys"][0]["keyId"].as_str().unwrap().to_owned()
    };
    let (live, test) = (id(&server.live_key()), id(&server.test_key()));
    let unknown = "key_01hzzzzzzzzzzzzzzzzzzzzzzz";
    let log = [
        envoy("GET", "/items/7", 200, &live),
        envoy("GET", "/items/7", 200, &test),
        envoy("PUT", "/items/7", 200, &live),
        envoy("PUT", "/items/8", 200, &live),
        envoy("GET", "/new/it", 200, &live),
        envoy("GET", "/items/7", 200, unknown),
        envoy("GET", "/me", 200, unknown),
    ]
    .concat();
    let ended = run_at(&server, &["rules", "replay", "-", "-o", "json"], &log);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let told = json(&ended);
    let host = "api.example.com";
    assert_eq!(
        findings(&told),
        [
            format!("REFUSED INSUFFICIENT_SCOPE change PUT {host}/items/{{…}} {live} 2 3"),
            format!("REFUSED WRONG_ENVIRONMENT items GET {host}/items/{{…}} {test} 1 2"),
            format!("OBSERVED INSUFFICIENT_SCOPE new GET {host}/new/it {live} 1 5"),
            format!("NOT_KNOWN - items GET {host}/items/{{…}} {unknown} 1 6"),
        ]
    );
    let why = |index: usize| told["findings"][index]["why"].as_str().unwrap();
    assert_eq!(why(0), "memory:write needed, and the key holds memory:readonly");
    assert_eq!(why(1), "a live key needed, and this is a test key");
    assert!(why(3).contains("unknown to the server"), "{told}");
    // Without a server the same is not known, and said to be so once.
    let policy = policy("away", RULES);
    let (ended, told) = replay(&policy, &log, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.err.matches("Keys are not looked up").count(), 1, "{ended:?}");
    assert_eq!((&told["notKnown"], &told["refused"]), (&6.into(), &0.into()));
}

#[test]
fn a_log_of_nginx_can_be_replayed() {
    let policy = policy("nginx", RULES);
    let line = |request: &str, status: u16| {
        format!(
            "192.0.2.1 - - [01/Jan/2026:00:00:00 +0000] \"{request}\" {status} 5 \"-\" \"curl\"\n"
        )
    };
    let log = [
        line("GET /health HTTP/1.1", 200),
        line("GET /old HTTP/1.1", 200),
        line("GET /items/7 HTTP/1.1", 200),
        line(r"GET /health/\x5C.. HTTP/1.1", 200),
        line(r"\x16\x03\x01", 400),
        "no line\n".to_owned(),
    ]
    .concat();
    let (ended, told) = replay(&policy, &log, &[]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(
        findings(&told),
        [
            "REFUSED ROUTE_DENIED - GET /old - 1 2",
            "REFUSED ROUTE_DENIED - GET /health/\\.. - 1 4",
            "NOT_KNOWN - items GET /items/{…} - 1 3",
        ]
    );
    assert_eq!(told["notUnderstood"], 1);
    assert_eq!(told["firstNotUnderstood"][0]["line"], 6);
    // Rules that go by the host need to be told one.
    let hosts =
        self::policy("nginx-host", "[[rules]]\nname = \"h\"\nhosts = [\"a.b\"]\npublic = true\n");
    let ended = run(&["rules", "replay", "-", "--file", &hosts], &log);
    assert!(ended.code == Some(1) && ended.err.contains("--host"), "{ended:?}");
    let (ended, _) = replay(&hosts, &line("GET /x HTTP/1.1", 200), &["--host", "a.b"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn lines_that_are_none_are_counted_and_the_first_are_shown() {
    let policy = policy("lines", RULES);
    let token = "hm_live_0000000000000000000000000000002dlYSp";
    let overlong = format!("{{\"method\":\"{}\"}}\n", "x".repeat(2 << 20));
    let odd = format!(
        "{{\"method\":7}}\n\n{overlong}{{\"response_code\":[\"{token}\n{{\"mcp_tool\":true}}\n"
    );
    let log = format!("{odd}{}{}", envoy("GET", "/health", 200, ""), odd.repeat(9));
    let (ended, told) = replay(&policy, &log, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(told["notUnderstood"], 40);
    let shown = told["firstNotUnderstood"].as_array().unwrap();
    let lines: Vec<_> = shown.iter().map(|it| it["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 3, 4, 5, 7]);
    assert!(shown[1]["why"].as_str().unwrap().contains("longer than 1 MiB"), "{told}");
    assert!(!ended.out.contains(token), "{ended:?}");
    let ended = run(&["rules", "replay", "-", "--file", &policy], "what is this\n");
    assert_eq!((ended.code, &*ended.out), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains("no line of stdin is understood: line 1"), "{ended:?}");
    for (log, told) in [("/nonexistent", "cannot read the log"), ("/", "cannot read the log")] {
        let ended = run(&["rules", "replay", log, "--file", &policy], "");
        assert!(ended.code == Some(1) && ended.err.contains(told), "{ended:?}");
    }
    let ended = run(&["rules", "replay", "-", "--file", "-"], "");
    assert!(ended.err.contains("cannot both be stdin"), "{ended:?}");
}

// --- The policy elsewhere -------------------------------------------------------------------------

#[tokio::test]
async fn rules_that_come_and_go_are_in_the_trail_and_the_store_agrees() {
    let server = Server::start_dev().await;
    let rule = |name: &str, scope: &str| {
        format!("[[rules]]\nname = \"{name}\"\nrequired_scope = \"{scope}\"\n")
    };
    let steps = [
        rule("a", "memory:read") + &rule("b", "memory:read"),
        rule("b", "memory:write") + &rule("c", "memory:read"),
        String::new(),
    ];
    for rules in &steps {
        let ended = run_at(&server, &["policy", "apply", &policy("trail", rules)], "");
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let log = run_at(&server, &["audit", "log", "--kind", "policy"], "").out;
    let told: Vec<_> = log.lines().filter_map(|line| line.split_once("rules: ")).collect();
    let told: Vec<_> = told.iter().map(|(_, change)| change.trim()).collect();
    assert_eq!(told, ["-b -c", "+c -a ~b", "+a +b"], "{log}");
    let store = format!("sqlite://{}", server.database());
    let ended = run(&["audit", "verify", "--store-url", &store], "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // What was decided then can be told from the trail.
    let key = run_at(&server, &["explain", "-", "--scope", "memory:read"], &server.live_key());
    assert!(key.out.contains("allowed"), "{key:?}");
}

#[tokio::test]
async fn a_policy_with_rules_is_got_as_it_was_applied() {
    let server = with_rules(RULES).await;
    let got = run_at(&server, &["policy", "get"], "").out;
    let ended = run(&["policy", "check", "-"], &got);
    assert_eq!(ended.out, "The policy is right: 4 scopes, 4 plans, 8 rules.\n");
    let ended = run(&["policy", "test", "GET", "/items/7", "--file", "-"], &got);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = json(&run_at(&server, &["policy", "get", "-o", "json"], ""));
    assert_eq!(told["policy"]["rules"][4]["mcpTools"][0], "memory_store");
}
