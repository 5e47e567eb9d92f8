//! Profiles: where they are kept, what wins over them, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::{Desk, refused};
use crate::cli::{Ended, Run};

impl Desk {
    /// Runs `latchkey` with nothing but a home and these variables.
    fn at_home(&self, environment: &[(&str, &str)], stdin: &str, arguments: &[&str]) -> Ended {
        let home = self.home.path().to_str().unwrap();
        let environment = [&[("HOME", home)], environment].concat();
        let ended = Run { stdin: stdin.as_bytes(), environment: &environment }.latchkey(arguments);
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        assert!(!ended.out.contains(&self.root) && !ended.err.contains(&self.root), "{ended:?}");
        ended
    }

    fn profiles(&self) -> PathBuf {
        self.home.path().join(".config/latchkey/profiles.toml")
    }

    fn write_profiles(&self, text: &str, mode: u32) {
        fs::create_dir_all(self.profiles().parent().unwrap()).unwrap();
        fs::write(self.profiles(), text).unwrap();
        fs::set_permissions(self.profiles(), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[tokio::test]
async fn a_server_is_kept_under_a_name() {
    let desk = Desk::open().await;
    let address = desk.server.grpc().to_string();
    let set = ["profile", "set", "home", "--address", &address, "--with-token"];
    let kept = desk.at_home(&[], &desk.root, &set);
    assert_eq!((kept.code, &*kept.err), (Some(0), ""), "{kept:?}");
    let mode = fs::metadata(desk.profiles()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let listed = desk.at_home(&[], "", &["profile", "list"]);
    assert!(listed.out.contains("home") && listed.out.contains(&address), "{listed:?}");
    assert!(desk.at_home(&[], "", &["profile", "show", "home"]).out.contains("..."), "the hint");
    for environment in [&[("LATCHKEY_PROFILE", "home")][..], &[]] {
        let flag: &[&str] = if environment.is_empty() { &["--profile", "home"] } else { &[] };
        let listed = desk.at_home(environment, "", &[&["account", "list"], flag].concat());
        assert!(listed.code == Some(0) && listed.out.contains("acme"), "{listed:?}");
    }
    // The default profile is used without being named; a token file is found from where the profiles are.
    fs::write(desk.profiles().with_file_name("token"), &desk.root).unwrap();
    let token = desk.profiles().with_file_name("token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    desk.write_profiles(
        &format!("[default]\naddress = \"{address}\"\ntoken_file = \"token\"\n"),
        0o644,
    );
    assert_eq!(desk.at_home(&[], "", &["account", "list"]).code, Some(0));
    let gone = desk.at_home(&[], "", &["profile", "delete", "default"]);
    assert_eq!(gone.code, Some(0), "{gone:?}");
    assert!(desk.at_home(&[], "", &["profile", "list"]).out.is_empty());
}

#[tokio::test]
async fn flags_win_over_the_environment_and_that_over_profiles() {
    let desk = Desk::open().await;
    let address = desk.server.grpc().to_string();
    let unknown = "hm_live_0000000000000000000000000000002dlYSp";
    desk.write_profiles(
        &format!("[default]\naddress = \"127.0.0.1:1\"\ntoken = \"{unknown}\"\n"),
        0o600,
    );
    let list = ["account", "list"];
    let said = refused(&desk.at_home(&[], "", &list));
    assert!(said.contains("cannot connect to http://127.0.0.1:1"), "{said}");
    // The token of a profile is for its server, and is not sent to another.
    let said = refused(&desk.at_home(&[("LATCHKEY_ADDRESS", &address)], "", &list));
    assert!(said.contains("is for http://127.0.0.1:1, and is not sent to"), "{said}");
    let environment = [("LATCHKEY_ADDRESS", &*address), ("LATCHKEY_TOKEN", unknown)];
    let said = refused(&desk.at_home(&environment, "", &list));
    assert!(said.contains("INVALID_CREDENTIAL"), "{said}");
    let file = desk.home.path().join("token");
    fs::write(&file, &desk.root).unwrap();
    let flag = ["--token-file", file.to_str().unwrap()];
    assert_eq!(desk.at_home(&environment, "", &[&list[..], &flag].concat()).code, Some(0));
    let environment = [("LATCHKEY_ADDRESS", "127.0.0.1:1"), ("LATCHKEY_TOKEN_FILE", flag[1])];
    let ended = desk.at_home(&environment, "", &[&list[..], &["--address", &address]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn a_profile_that_a_flag_names_wins_over_the_environment() {
    let desk = Desk::open().await;
    let (address, root) = (desk.server.grpc().to_string(), &desk.root);
    let unknown = "hm_live_0000000000000000000000000000002dlYSp";
    desk.write_profiles(
        &format!(
            "[whole]\naddress = \"{address}\"\ntoken = \"{root}\"\n[bare]\naddress = \"{address}\"\n\
             [homeless]\ntoken = \"{unknown}\"\n"
        ),
        0o600,
    );
    let elsewhere = [
        ("LATCHKEY_ADDRESS", "127.0.0.1:1"),
        ("LATCHKEY_TOKEN", unknown),
        ("LATCHKEY_TOKEN_FILE", "x"),
    ];
    let listed = desk.at_home(&elsewhere, "", &["account", "list", "--profile", "whole"]);
    assert_eq!((listed.code, &*listed.err), (Some(0), ""), "{listed:?}");
    // What it leaves open is the environment's to say; its own token goes nowhere else all the same.
    let variables = [("LATCHKEY_ADDRESS", "127.0.0.1:1"), ("LATCHKEY_TOKEN", root)];
    let listed = desk.at_home(&variables, "", &["account", "list", "--profile", "bare"]);
    assert_eq!((listed.code, &*listed.err), (Some(0), ""), "{listed:?}");
    let said =
        refused(&desk.at_home(&variables, "", &["account", "list", "--profile", "homeless"]));
    assert!(said.contains("and is not sent to http://127.0.0.1:1"), "{said}");
    // Named by a variable it is part of the environment, in which the others say more.
    let named = [&elsewhere[..2], &[("LATCHKEY_PROFILE", "whole")]].concat();
    let said = refused(&desk.at_home(&named, "", &["account", "list"]));
    assert!(said.contains("cannot connect to http://127.0.0.1:1"), "{said}");
}

#[tokio::test]
async fn no_token_goes_beyond_this_machine_in_plaintext_unless_that_is_said() {
    // By this address Linux finds the machine itself; the program does not count on it.
    let desk = Desk::open().await;
    let address = format!("http://0.0.0.0:{}", desk.server.grpc().port());
    let token = ("LATCHKEY_TOKEN", &*desk.root);
    let list = ["account", "list", "--address", &address];
    let refused_as_plaintext = |environment: &[(&str, &str)], arguments: &[&str]| {
        let said = refused(&desk.at_home(environment, &desk.root, arguments));
        assert!(said.contains("could read tokens") && said.contains("write https://"), "{said}");
    };
    refused_as_plaintext(&[token], &list);
    refused_as_plaintext(&[token, ("LATCHKEY_PLAINTEXT", "false")], &list);
    // A service's question carries its client's token.
    refused_as_plaintext(&[], &["authorize", "memory:read", "--address", &address]);
    for (environment, flag) in
        [(&[token][..], &["--plaintext"][..]), (&[token, ("LATCHKEY_PLAINTEXT", "true")], &[])]
    {
        let listed = desk.at_home(environment, "", &[&list, flag].concat());
        assert_eq!((listed.code, &*listed.err), (Some(0), ""), "{listed:?}");
    }
    let said = refused(&desk.at_home(&[token, ("LATCHKEY_PLAINTEXT", "yes")], "", &list));
    assert!(said.contains("LATCHKEY_PLAINTEXT is neither true nor false"), "{said}");
    // A probe sends no token.
    let well = desk.at_home(&[], "", &["health", "--address", &address]);
    assert_eq!(well.code, Some(0), "{well:?}");

    // A profile says it of its own address, and no longer when that is changed.
    let set = ["profile", "set", "--address", &address, "--plaintext", "--with-token"];
    assert_eq!(desk.at_home(&[], &desk.root, &set).code, Some(0));
    assert_eq!(desk.at_home(&[], "", &["account", "list"]).code, Some(0));
    refused_as_plaintext(&[token], &["account", "list", "--address", "http://192.0.2.1:1"]);
    assert_eq!(desk.at_home(&[], "", &["profile", "set", "--address", &address]).code, Some(0));
    refused_as_plaintext(&[], &["account", "list"]);
    // Without a scheme it is not plaintext in the first place.
    let said =
        refused(&desk.at_home(&[token], "", &["account", "list", "--address", &address[7..]]));
    assert!(said.contains("does not speak TLS"), "{said}");
}

#[tokio::test]
async fn a_profile_that_cannot_be_used_says_why() {
    let desk = Desk::open().await;
    let root = &desk.root;
    let list = ["account", "list"];
    for (text, mode, arguments, told) in [
        (
            format!("[default]\ntoken = \"{root}\"\n"),
            0o640,
            &list[..],
            &["others may read", "chmod 600 '"][..],
        ),
        (format!("[default]\ntoken = {root}\n"), 0o600, &list, &["line 2 is no TOML"]),
        (
            "[default]\nadress = \"a\"\n".into(),
            0o600,
            &list,
            &["default.adress", "did you mean `address`?"],
        ),
        ("[default]\nport = \"1\"\n".into(), 0o600, &list, &["a profile may have: address"]),
        (
            "[home]\naddress = \"a:1\"\n".into(),
            0o600,
            &list,
            &["no operator's token", "--with-token"],
        ),
        (
            "[home]\naddress = \"a:1\"\n".into(),
            0o600,
            &["account", "list", "--profile", "hme"],
            &["no profile `hme`", "did you mean `home`?"],
        ),
        (String::new(), 0o600, &["key", "list", "--profile", "x"], &["latchkey profile set x"]),
        (
            format!("[default]\ntoken = \"{root}\"\ntoken_file = \"x\"\n"),
            0o600,
            &list,
            &["has both token and token_file"],
        ),
        (
            "[default]\ntoken_file = \"none\"\n".into(),
            0o600,
            &list,
            &["cannot read the token file", "/none"],
        ),
        ("[default]\ntoken_file = \"x\"\n".into(), 0o622, &list, &["others may", "chmod 600 '"]),
        (
            format!("[default]\naddress = \"htps://h\"\ntoken = \"{root}\"\n"),
            0o600,
            &list,
            &["htps://h is no address of a server", "write https://HOST:PORT"],
        ),
        ("\u{0}".into(), 0o600, &list, &["line 1 is no TOML"]),
        (
            format!("[default]\naddress = \"h:1\"\nplaintext = \"true\"\ntoken = \"{root}\"\n"),
            0o600,
            &list,
            &["default.plaintext is neither true nor false"],
        ),
    ] {
        desk.write_profiles(&text, mode);
        let said = refused(&desk.at_home(&[], "", arguments));
        for part in told {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}

#[tokio::test]
async fn a_profile_shows_no_token_and_is_not_needed() {
    let desk = Desk::open().await;
    let (root, list) = (&desk.root, ["account", "list"]);
    // A token that stands where none belongs is not shown; `at_home` looks for it.
    desk.write_profiles(&format!("[a]\naddress = \"{root}\"\ntoken_file = \"{root}\"\n"), 0o600);
    for arguments in [&["profile", "list"][..], &["profile", "show", "a"]] {
        assert!(desk.at_home(&[], "", arguments).out.contains("may be a token"));
    }
    let both = [("LATCHKEY_TOKEN", &**root), ("LATCHKEY_TOKEN_FILE", "x")];
    desk.write_profiles("", 0o600);
    assert!(refused(&desk.at_home(&both, "", &list)).contains("are both set"));
    // What holds no secret may be read by others, and a home is not needed at all.
    desk.write_profiles("[default]\naddress = \"a\"\n", 0o644);
    let address = desk.server.grpc().to_string();
    let environment = [("LATCHKEY_ADDRESS", &*address), ("LATCHKEY_TOKEN", root)];
    assert_eq!(desk.at_home(&environment, "", &list).code, Some(0));
    assert_eq!(Run { environment: &environment, ..Run::default() }.latchkey(&list).code, Some(0));
}

#[tokio::test]
async fn profiles_that_are_set_at_once_are_all_kept() {
    let desk = Desk::open().await;
    let names: Vec<_> = (0..12).map(|number| format!("p{number}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let set = ["profile", "set", name, "--address", "https://h:1"];
            let desk = &desk;
            scope.spawn(move || assert_eq!(desk.at_home(&[], "", &set).code, Some(0)));
        }
    });
    let listed = desk.at_home(&[], "", &["profile", "list"]).out;
    assert_eq!(listed.lines().filter(|line| line.starts_with('p')).count(), 12, "{listed}");
}

#[tokio::test]
async fn what_is_no_file_is_not_waited_for() {
    let desk = Desk::open().await;
    let pipe = |path: &PathBuf| {
        let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    };
    desk.write_profiles("[default]\ntoken_file = \"pipe\"\n", 0o600);
    pipe(&desk.profiles().with_file_name("pipe"));
    for arguments in [&["account", "list"][..], &["profile", "list"]] {
        if arguments[0] == "profile" {
            fs::remove_file(desk.profiles()).unwrap();
            pipe(&desk.profiles());
        }
        let said = refused(&desk.at_home(&[], "", arguments));
        assert!(said.contains("no regular file"), "{said}");
    }
    // Named by hand a pipe is meant: <(op read …).
    let script = "latchkey account list --token-file <(printf %s \"$LATCHKEY_TOKEN\")";
    fs::remove_file(desk.profiles()).unwrap();
    let listed = desk.bash(script);
    assert!(listed.status.success(), "{listed:?}");
}
