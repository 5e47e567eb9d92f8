//! The commands that need no server, run as the real program.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// One run of the program, with an environment of its own.
#[derive(Default)]
pub(crate) struct Run<'a> {
    /// What it is given on stdin.
    pub(crate) stdin: &'a [u8],
    /// All of its environment.
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run<'_> {
    pub(crate) fn latchkey(&self, arguments: &[&str]) -> Ended {
        let mut child = Command::new(env!("CARGO_BIN_EXE_latchkey"))
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // It may have read enough before it was given all.
        drop(child.stdin.take().map(|mut stdin| stdin.write_all(self.stdin)));
        let output = child.wait_with_output().expect("the program ends");
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            err: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

pub(crate) fn latchkey(arguments: &[&str]) -> Ended {
    Run::default().latchkey(arguments)
}

/// A file with this text. The name must be one test's own.
pub(crate) fn file(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("the file is written");
    path.to_str().expect("the path is UTF-8").to_owned()
}

fn inspect(stdin: &[u8]) -> Ended {
    Run { stdin, ..Run::default() }.latchkey(&["token", "inspect"])
}

#[test]
fn a_token_that_is_right_is_described_and_not_repeated() {
    for (token, prefix, environment, hint) in [
        ("hm_live_0000000000000000000000000000002dlYSp", "hm", "live", "hm_live_0000...lYSp"),
        ("hm_test_abcdefghijklmnopqrstuvwxyzABCD4Sf8P8", "hm", "test", "hm_test_abcd...f8P8"),
        (
            "acme2_live_9z9Z9z9Z9z9Z9z9Z9z9Z9z9Z9z9Z9z2qMi8T",
            "acme2",
            "live",
            "acme2_live_9z9Z...Mi8T",
        ),
    ] {
        for ending in ["", "\n", "\r\n"] {
            let ended = inspect(format!("{token}{ending}").as_bytes());
            assert_eq!(ended.code, Some(0), "{ended:?}");
            for (name, value) in [("prefix", prefix), ("environment", environment), ("hint", hint)]
            {
                let row = ended.out.lines().find(|line| line.starts_with(name)).unwrap();
                assert_eq!(row.split_whitespace().last(), Some(value));
            }
            assert!(!ended.out.contains(token) && ended.err.is_empty(), "{ended:?}");
        }
    }
}

#[test]
fn a_token_that_is_wrong_is_told_what_is_wrong() {
    let right = "hm_live_0000000000000000000000000000002dlYSp";
    let megabyte = vec![b'0'; 1 << 20];
    for (stdin, told) in [
        (&b"hm_live_abc123xyz456def789ghi012jkl345mno678\n"[..], "the checksum does not fit"),
        (b"", "no token was given"),
        (b"\n", "no token was given"),
        (&megabyte, "more than 4096 bytes were given"),
        (format!("{right}\n{right}\n").as_bytes(), "more than one line"),
        (format!(" {right}").as_bytes(), "spaces around the token"),
        (format!("Bearer {right}").as_bytes(), "a header, not a token"),
        (b"\xff\xfe\x00", "the length is wrong"),
    ] {
        let ended = inspect(stdin);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.starts_with("error: ") && ended.err.contains(told), "{ended:?}");
        assert!(ended.err.contains("\nhelp: ") && ended.out.is_empty(), "{ended:?}");
        assert!(!ended.err.contains("0000000000"), "{ended:?}");
    }
}

#[test]
fn a_token_as_an_argument_is_refused_and_not_repeated() {
    let token = "hm_live_0000000000000000000000000000002dlYSp";
    let ended = latchkey(&["token", "inspect", token]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("must not be an argument"), "{ended:?}");
    assert!(!ended.err.contains(token));
}

#[test]
fn the_version_is_told() {
    let ended = latchkey(&["--version"]);
    assert_eq!(
        (ended.code, ended.out),
        (Some(0), format!("latchkey {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn what_is_not_understood_exits_with_2() {
    for arguments in [&[][..], &["sreve"], &["serve", "--scope", "a:b"], &["policy", "apply"]] {
        let ended = latchkey(arguments);
        assert_eq!(ended.code, Some(2), "{ended:?}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    let output = command.args(["config", "show"]).env_clear().stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write to stdout"));
}

const POLICY: &str = r#"
accepted_prefixes = ["old"]

[[scopes]]
name = "orders:read"

[[scopes]]
name = "orders:write"
implies = ["orders:read"]

[[plans]]
name = "free"
max_keys = 1
"#;

fn check_policy(stdin: &str) -> Ended {
    let run = Run { stdin: stdin.as_bytes(), ..Run::default() };
    run.latchkey(&["policy", "check", "-"])
}

#[test]
fn a_policy_that_is_right_is_said_to_be_right() {
    let path = file("policy-right.toml", POLICY);
    let ended = latchkey(&["policy", "check", &path]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out, "The policy is right: 2 scopes, 1 plans, 0 rules.\n");
    assert_eq!(check_policy(POLICY).out, ended.out);
}

#[test]
fn every_fault_of_a_policy_is_told_with_its_field() {
    let policy = POLICY
        .replace("[\"old\"]", "[\"Old\"]")
        .replace("implies = [\"orders:read\"]", "implies = [\"orders:reed\"]");
    let ended = check_policy(&policy);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("stdin: accepted_prefixes[0]: "), "{ended:?}");
    assert!(ended.err.contains("scopes[1].implies[0]: "), "{ended:?}");
    assert!(ended.err.contains("did you mean `orders:read`?"), "{ended:?}");
}

#[test]
fn a_policy_whose_scopes_imply_each_other_is_refused() {
    let policy = POLICY
        .replace("name = \"orders:read\"", "name = \"orders:read\"\nimplies = [\"orders:write\"]");
    let ended = check_policy(&policy);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("orders:read -> orders:write -> orders:read"), "{ended:?}");
}

#[test]
fn an_unknown_field_of_a_policy_is_refused() {
    let ended = check_policy(&POLICY.replace("max_keys", "maximum_keys"));
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("maximum_keys"), "{ended:?}");
}

#[test]
fn a_policy_that_is_huge_is_refused() {
    let ended = check_policy(&"#".repeat(5 << 20));
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("larger than 1 MiB"), "{ended:?}");

    let scopes = (0..1_001).map(|n| format!("[[scopes]]\nname = \"a:b{n}\"\n"));
    let ended = check_policy(&format!("{}\n{POLICY}", scopes.collect::<String>()));
    assert_eq!(ended.code, Some(1));
}

#[test]
fn a_policy_file_that_is_missing_is_named() {
    let ended = latchkey(&["policy", "check", "/nowhere/policy.toml"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("cannot read the policy /nowhere/policy.toml"), "{ended:?}");
    assert!(ended.err.contains("help: name a file that is there"), "{ended:?}");
}

#[test]
fn calling_a_server_needs_a_token_that_can_be_right() {
    let ended = latchkey(&["policy", "get"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("help: set LATCHKEY_TOKEN"), "{ended:?}");

    let wrong = "hm_live_abc123xyz456def789ghi012jkl345mno678";
    let environment = &[("LATCHKEY_TOKEN", wrong)];
    let ended = Run { environment, ..Run::default() }.latchkey(&["policy", "get"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("LATCHKEY_TOKEN cannot be right"), "{ended:?}");
    assert!(!ended.err.contains(wrong));

    let ended = latchkey(&["policy", "get", "--token-file", "/nowhere/token"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("cannot read the token file /nowhere/token"), "{ended:?}");
    assert!(ended.err.contains("help: name a file that is there"), "{ended:?}");
}

#[test]
fn a_server_that_does_not_speak_grpc_is_told_from_one_that_fails() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // As a server of HTTP/1.1 does that knows no more; it goes on until the tests end.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"));
            drop(std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    let ended = latchkey(&["health", "--address", &address]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("error: no answer came: "), "{ended:?}");
    assert!(ended.err.contains("grpc.listen (port 50051"), "{ended:?}");
}

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    // Port 1 is nobody's.
    let environment = &[("LATCHKEY_ADDRESS", "127.0.0.1:1")];
    let ended = Run { environment, ..Run::default() }.latchkey(&["health"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("cannot connect to http://127.0.0.1:1"), "{ended:?}");
    assert!(ended.err.contains("help: start a server there"), "{ended:?}");
}

#[test]
fn a_new_root_token_is_never_written_to_a_pipe() {
    let store = format!("sqlite://{}/root-reset.db", env!("CARGO_TARGET_TMPDIR"));
    let ended = latchkey(&["root", "reset", "--store-url", &store]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("help: name a new file for it: --token-file"), "{ended:?}");
}

#[test]
fn dev_is_refused_where_others_can_connect() {
    let ended = latchkey(&["serve", "--dev", "--operations-listen", "0.0.0.0:0"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--dev listens on loopback only"), "{ended:?}");
}
