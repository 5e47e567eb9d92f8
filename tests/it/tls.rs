//! TLS as openssl, grpcurl and curl see it: versions, protocols, and client certificates.

use std::time::Duration;

use rcgen::SanType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::site::{LISTENERS, Site};
use crate::support::eventually;
use crate::support::pki::{Authority, Wish, write};

mod command_line;
mod reload;
mod site;

const AUTHORIZE: &str = "latchkey.v1.AuthorizationService/Authorize";
const QUESTION: &str =
    r#"{"token": "hm_live_0000000000000000000000000000002dlYSp", "required_scope": "memory:read"}"#;
const ASK: &str = "/v1/forward-auth?scope=memory:read";

// --- Versions and protocols -----------------------------------------------------------------------

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let site = Site::start().await;
    for listener in LISTENERS {
        for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let said = site.openssl(listener, &[version]);
            assert!(said.contains(&format!("New, {name}, Cipher is")), "{listener}: {said}");
            assert!(said.contains("Verify return code: 0 (ok)"), "{listener}: {said}");
        }
        for old in ["-tls1_1", "-tls1"] {
            let said = site.openssl(listener, &[old, "-cipher", "ALL:@SECLEVEL=0"]);
            assert!(said.contains(" alert ") && said.contains("New, (NONE)"), "{listener}: {said}");
        }
    }
}

#[tokio::test]
async fn each_listener_agrees_on_the_protocols_that_it_speaks() {
    let site = Site::start().await;
    for (listener, offered, agreed) in [
        ("grpc", "h2", "ALPN protocol: h2"),
        ("grpc", "http/1.1,h2", "ALPN protocol: h2"),
        ("grpc", "http/1.1", "alert no application protocol"),
        ("http", "h2,http/1.1", "ALPN protocol: h2"),
        ("http", "http/1.1", "ALPN protocol: http/1.1"),
        ("operations", "http/1.1", "ALPN protocol: http/1.1"),
        ("operations", "spdy/3", "alert no application protocol"),
    ] {
        let said = site.openssl(listener, &["-alpn", offered]);
        assert!(said.contains(agreed), "{listener}, {offered}: {said}");
    }
}

#[tokio::test]
async fn grpcurl_and_curl_are_served() {
    let site = Site::start().await;
    let (root, none) = (site.server.root_token(), None);
    let serving = site.grpcurl("", none, "grpc.health.v1.Health/Check", "{}").unwrap();
    assert!(serving.contains("SERVING"), "{serving}");
    let denied = site.grpcurl("", none, AUTHORIZE, QUESTION).unwrap();
    assert!(denied.contains("DECISION_REASON_UNKNOWN_KEY"), "{denied}");
    let account = r#"{"account_id": "acme", "plan": "developer"}"#;
    let made = site.grpcurl(&root, none, "latchkey.v1.AccountService/CreateAccount", account);
    assert!(made.as_ref().is_ok_and(|made| made.contains("ACTIVE")), "{made:?}");

    for (version, shown) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let asked = site.curl("http", ASK, none, &[version]);
        assert_eq!(asked, Ok(format!("{shown} 401")));
        let ready = site.curl("operations", "/readyz", none, &[version]);
        assert_eq!(ready, Ok(format!("{shown} 200")));
    }
}

#[tokio::test]
async fn plaintext_gets_no_answer_where_tls_is_served() {
    let site = Site::start().await;
    for listener in LISTENERS {
        let mut plain = TcpStream::connect(site.address(listener)).await.unwrap();
        plain.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await; // a reset is an end, too
        assert!(!answer.starts_with(b"HTTP"), "{listener}: {answer:?}");
    }
    let plain = site.server.grpcurl("", "grpc.health.v1.Health/Check", "{}");
    assert!(!plain.status.success());
}

#[tokio::test]
async fn a_chain_is_sent_whole_and_a_unix_socket_serves_tls_as_well() {
    let site = Site::build();
    let middle = site.authority().intermediate("between");
    let server = middle.server();
    let chain = format!("{}{}", server.certificate, middle.pem());
    write(site.folder(), "server.crt", &chain);
    write(site.folder(), "server.key", &server.key);
    let socket = site.folder().join("http.sock").display().to_string();
    let site = site.listen("http", &format!("unix:{socket}")).start().await;
    assert_eq!(site.curl("operations", "/readyz", None, &[]), Ok("2 200".to_owned()));
    let asked = site.curl("operations", ASK, None, &["--unix-socket", &socket]);
    assert_eq!(asked, Ok("2 401".to_owned()));
}

// --- Client certificates --------------------------------------------------------------------------

#[tokio::test]
async fn a_client_certificate_that_is_missing_or_wrong_is_refused() {
    let (trusted, foreign) = (Authority::new("clients"), Authority::new("others"));
    let site = Site::build().trusting(&[&trusted]).start().await;
    let uri = SanType::URI("spiffe://acme/billing".try_into().unwrap());
    let wish = Wish::client(std::slice::from_ref(&uri));
    let chained = trusted.intermediate("not sent along");
    for (name, certificate) in [
        ("right", trusted.sign(&wish)),
        ("expired", trusted.sign(&wish.clone().expired())),
        ("early", trusted.sign(&wish.clone().not_yet_valid())),
        ("purpose", trusted.server()),
        ("foreign", foreign.sign(&wish)),
        ("namesake", Authority::new("clients").sign(&wish)),
        ("chained", chained.sign(&wish)),
        // The server's own authority signs servers, not clients.
        ("ours", site.authority.sign(&wish)),
    ] {
        certificate.write(site.folder.path(), name);
    }
    assert_eq!(site.curl("http", ASK, Some("right"), &[]), Ok("2 401".to_owned()));
    assert_eq!(site.curl("operations", "/readyz", Some("right"), &[]), Ok("2 200".to_owned()));
    assert!(site.grpcurl("", Some("right"), AUTHORIZE, QUESTION).is_ok());

    let wrong = ["expired", "early", "purpose", "foreign", "namesake", "chained", "ours"];
    for (name, alert) in [
        ("expired", "certificate expired"),
        ("early", "certificate expired"),
        ("purpose", "unsupported certificate"),
        ("foreign", "unknown ca"),
        ("namesake", "decrypt error"),
        ("chained", "unknown ca"),
    ] {
        let shown = [site.path(&format!("{name}.crt")), site.path(&format!("{name}.key"))];
        let said = site.openssl("grpc", &["-tls1_2", "-cert", &shown[0], "-key", &shown[1]]);
        assert!(said.contains(&format!("alert {alert}")), "{name}: {said}");
    }
    let said = site.openssl("grpc", &["-tls1_2"]);
    assert!(said.contains(" alert ") && said.contains("SSL routines"), "{said}");

    let root = site.server.root_token();
    // All at once: grpcurl tries on for as long as it is given.
    std::thread::scope(|scope| {
        for client in std::iter::once(None).chain(wrong.map(Some)) {
            let (site, root) = (&site, &root);
            scope.spawn(move || {
                for (listener, path) in [("http", ASK), ("operations", "/readyz")] {
                    for version in ["1.2", "1.3"] {
                        let refused = site.curl(listener, path, client, &["--tls-max", version]);
                        let told = refused.expect_err(client.unwrap_or("no certificate"));
                        // The latter is how curl puts the alert that a certificate has expired.
                        let is_alert = told.contains("alert")
                            || told.contains("SSL certificate verification failed");
                        assert!(is_alert, "{client:?}, {version}: {told}");
                    }
                }
                let refused = site.grpcurl(root, client, AUTHORIZE, QUESTION);
                assert!(refused.is_err(), "{client:?}: {refused:?}");
            });
        }
    });
}

#[tokio::test]
async fn callers_are_told_apart_by_the_name_in_their_certificate() {
    let trusted = Authority::new("clients");
    let site = Site::build()
        .trusting(&[&trusted])
        .environment("LATCHKEY__GRPC__CALLERS", "mtls")
        .environment("LATCHKEY__GRPC__CALLER_NAMES", "spiffe://acme/jobs/*,billing.acme")
        .start()
        .await;
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    for (name, names) in [
        ("jobs", vec![dns("other.acme"), uri("spiffe://acme/jobs/nightly")]),
        ("billing", vec![dns("billing.acme")]),
        // The first URI is who it is; what stands beside it does not count.
        ("other", vec![uri("spiffe://acme/other"), dns("billing.acme")]),
        ("nobody", vec![]),
    ] {
        trusted.sign(&Wish::client(&names)).write(site.folder.path(), name);
    }
    let root = site.server.root_token();
    for client in ["jobs", "billing"] {
        let answer = site.grpcurl("", Some(client), AUTHORIZE, QUESTION);
        assert!(answer.is_ok_and(|answer| answer.contains("UNKNOWN_KEY")), "{client}");
        assert_eq!(site.curl("http", ASK, Some(client), &[]), Ok("2 401".to_owned()));
    }
    for (client, code, reason) in [
        ("other", "PermissionDenied", "does not let `spiffe://acme/other` ask"),
        ("nobody", "Unauthenticated", "needs a client certificate that says who you are"),
    ] {
        // An operator's token makes no caller.
        let told = site.grpcurl(&root, Some(client), AUTHORIZE, QUESTION).unwrap_err();
        assert!(told.contains(code) && told.contains(reason), "{told}");
        assert_eq!(site.curl("http", ASK, Some(client), &[]), Ok("2 500".to_owned()));
    }

    // Administration goes by the operator's token; the name stands in the audit trail.
    let account = r#"{"account_id": "acme", "plan": "developer"}"#;
    let create = "latchkey.v1.AccountService/CreateAccount";
    site.grpcurl(&root, Some("other"), create, account).unwrap();
    let peers = crate::process::sqlite(
        &site.server.database(),
        "SELECT peer FROM audit WHERE account_id = 'acme'",
    );
    let (address, name) = peers.trim().split_once(' ').unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{peers}");
    assert_eq!(name, "spiffe://acme/other");
}

#[tokio::test]
async fn a_session_is_resumed_only_where_no_client_certificate_is_asked_for() {
    let trusted = Authority::new("clients");
    let asking = Site::build().trusting(&[&trusted]).start().await;
    trusted.client("spiffe://acme/billing").write(asking.folder.path(), "client");
    let open = Site::start().await;
    for (site, is_resumed) in [(&asking, false), (&open, true)] {
        let (session, shown) = (site.path("session"), site.path("client"));
        let (certificate, key) = (format!("{shown}.crt"), format!("{shown}.key"));
        let client = ["-cert", &certificate, "-key", &key];
        let client = if is_resumed { &client[..0] } else { &client[..] };
        let first = site.openssl("http", &[client, &["-tls1_2", "-sess_out", &session]].concat());
        assert!(first.contains("New, TLSv1.2"), "{first}");
        let again = site.openssl("http", &[client, &["-tls1_2", "-sess_in", &session]].concat());
        assert_eq!(again.contains("Reused, TLSv1.2"), is_resumed, "{again}");
        let tickets = site.openssl("http", &[client, &["-tls1_3", "-msg"]].concat());
        assert!(tickets.contains("New, TLSv1.3") && tickets.contains("Early data was not sent"));
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_client_certificate() {
    let trusted = Authority::new("clients");
    let site = Site::build().trusting(&[&trusted]).start().await;
    let soon = latchkey::machine::wall_clock().after(Duration::from_secs(3));
    let uri = SanType::URI("spiffe://acme/brief".try_into().unwrap());
    let brief = trusted.sign(&Wish::client(&[uri]).until(soon));
    let mut stream = site.connect("operations", Some(&brief)).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await.unwrap().unwrap();
    assert!(said.starts_with(b"HTTP/1.1 200 OK"));
    // A certificate tells whole seconds.
    let now = latchkey::machine::wall_clock().after(Duration::from_secs(1));
    assert!(now >= soon, "it was served until then");
    assert!(
        site.connect("operations", Some(&brief)).await.is_err() || {
            // With TLS 1.3 the refusal comes after the client believes itself connected.
            let mut stream = site.connect("operations", Some(&brief)).await.unwrap();
            stream.read_u8().await.is_err()
        }
    );
}

// --- Handshakes that do not end -------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn half_open_handshakes_end_after_four_seconds_and_stop_nobody() {
    /// The header of a record that announces a `ClientHello`, and never brings it.
    const HALF: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let site = Site::start().await;
    let mut silent = Vec::new();
    for index in 0..300 {
        let mut stream = TcpStream::connect(site.server.grpc()).await.unwrap();
        stream.write_all(if index % 2 == 0 { HALF } else { b"" }).await.unwrap();
        silent.push(stream);
    }
    // TLS is complete, HTTP is not: the deadline is one for both.
    let mut late = site.connect("grpc", None).await.unwrap();
    for _ in 0..5 {
        let answer = site.grpcurl("", None, AUTHORIZE, QUESTION);
        assert!(answer.is_ok(), "{answer:?}");
    }
    let ended = timeout(Duration::from_secs(30), async {
        for stream in &mut silent {
            let _ = stream.read_to_end(&mut Vec::new()).await; // a reset is an end, too
        }
        let _ = late.read_to_end(&mut Vec::new()).await;
    });
    ended.await.expect("those who say nothing are let go");
}

#[tokio::test]
async fn half_open_handshakes_do_not_hold_up_the_end() {
    let mut site = Site::start().await;
    let _silent = TcpStream::connect(site.server.grpc()).await.unwrap();
    let _late = site.connect("grpc", None).await.unwrap();
    site.server.signal(rustix::process::Signal::TERM);
    let ended = eventually(Duration::from_secs(5), "it ends", || site.server.ended()).await;
    assert!(ended.success());
}

// --- A listener for administration -----------------------------------------------------------------

#[tokio::test]
async fn administration_with_a_listener_of_its_own_is_served_nowhere_else() {
    let administrators = Authority::new("administrators");
    let site = Site::build();
    write(site.folder(), "administrators.crt", &administrators.pem());
    administrators.client("spiffe://acme/ops").write(site.folder(), "ops");
    let path = |name: &str| site.folder().join(name).display().to_string();
    let files = [path("server.crt"), path("server.key"), path("administrators.crt")];
    let site = site
        .environment("LATCHKEY__ADMINISTRATION__LISTEN", "127.0.0.1:0")
        .environment("LATCHKEY__ADMINISTRATION__TLS_CERTIFICATE", &files[0])
        .environment("LATCHKEY__ADMINISTRATION__TLS_KEY", &files[1])
        .environment("LATCHKEY__ADMINISTRATION__TLS_CLIENT_CA", &files[2])
        .start()
        .await;
    let root = site.server.root_token();
    let create = "latchkey.v1.AccountService/CreateAccount";
    let account = r#"{"account_id": "acme", "plan": "developer"}"#;
    let own = |client, method, json| site.grpcurl_at("administration", &root, client, method, json);

    assert!(site.grpcurl("", None, AUTHORIZE, QUESTION).is_ok());
    let elsewhere = site.grpcurl(&root, None, create, account).unwrap_err();
    let told = "administration on administration.listen";
    assert!(elsewhere.contains("Unimplemented") && elsewhere.contains(told), "{elsewhere}");

    assert!(own(None, create, account).is_err(), "it asks for a certificate");
    let made = own(Some("ops"), create, account);
    assert!(made.as_ref().is_ok_and(|made| made.contains("ACTIVE")), "{made:?}");
    let decided = own(Some("ops"), AUTHORIZE, QUESTION).unwrap_err();
    assert!(decided.contains("decisions are served on grpc.listen"), "{decided}");
    for (listener, client) in [("grpc", None), ("administration", Some("ops"))] {
        let health = site.grpcurl_at(listener, "", client, "grpc.health.v1.Health/Check", "{}");
        assert!(health.is_ok_and(|health| health.contains("SERVING")), "{listener}");
    }
}

// --- Starting -------------------------------------------------------------------------------------

/// Makes the files in a folder wrong; the authority is that of the server's certificate.
type Spoil<'a> = Box<dyn Fn(&std::path::Path, &Authority) + 'a>;

#[test]
fn a_start_with_files_that_are_wrong_is_refused_and_says_which() {
    let other = Authority::new("others");
    let expired = Authority::expired("of old");
    let put = |name: &'static str, text: String| -> Spoil<'_> {
        Box::new(move |folder, _| drop(write(folder, name, &text)))
    };
    let cases: Vec<(Spoil<'_>, &str, &str)> = vec![
        (put("server.crt", String::new()), "tls_certificate", "holds no certificate"),
        (
            put("server.crt", "-----BEGIN CERTIFICATE-----\nMIIB".into()),
            "tls_certificate",
            "not whole",
        ),
        (put("server.key", String::new()), "tls_key", "holds no private key"),
        (
            put("server.key", other.server().key),
            "tls_key",
            "is not the key of the first certificate",
        ),
        (put("clients.crt", String::new()), "tls_client_ca", "holds no certificate"),
        (put("clients.crt", other.server().certificate), "tls_client_ca", "is no CA's"),
        (put("clients.crt", expired.pem()), "tls_client_ca", "only CAs that have expired"),
        (
            Box::new(|folder, authority| {
                drop(authority.sign(&Wish::server().expired()).write(folder, "server"));
            }),
            "tls_certificate",
            "has expired at 2001-01-01T00:00:00Z",
        ),
        (
            Box::new(|folder, authority| {
                drop(authority.sign(&Wish::server().not_yet_valid()).write(folder, "server"));
            }),
            "tls_certificate",
            "is not valid before 2999-01-01",
        ),
        (
            Box::new(|folder, _| std::fs::remove_file(folder.join("server.key")).unwrap()),
            "tls_key",
            "cannot be read: No such file",
        ),
    ];
    for (spoil, field, told) in cases {
        let site = Site::build().trusting(&[&other]);
        spoil(site.folder(), site.authority());
        let said = site.refused();
        assert!(
            said.contains(&format!("grpc.{field} = ")) && said.contains(told),
            "{told}: {said}"
        );
        assert!(said.contains(&format!("operations.{field}")), "each listener is told of: {said}");
        assert!(!said.contains("MII") && !said.contains("MIG"), "nothing of a file: {said}");
    }
}

#[tokio::test]
async fn a_key_that_everybody_may_read_is_warned_of_and_dev_takes_no_tls() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::build();
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(site.folder().join("server.key"), open).unwrap();
    let site = site.start().await;
    assert_eq!(site.told("everybody on this machine may read the private key"), LISTENERS.len());

    let (certificate, key) = (site.path("server.crt"), site.path("server.key"));
    let files =
        [("LATCHKEY__HTTP__TLS_CERTIFICATE", &*certificate), ("LATCHKEY__HTTP__TLS_KEY", &*key)];
    let run = crate::cli::Run { environment: &files, ..crate::cli::Run::default() };
    let ended = run.latchkey(&["serve", "--dev"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("--dev serves plaintext on loopback"), "{ended:?}");
}

#[test]
fn config_check_looks_at_the_files() {
    let site = Site::build();
    let (certificate, key) = (site.folder().join("server.crt"), site.folder().join("server.key"));
    let check = || {
        let files = [
            ("LATCHKEY__HTTP__TLS_CERTIFICATE", certificate.to_str().unwrap()),
            ("LATCHKEY__HTTP__TLS_KEY", key.to_str().unwrap()),
        ];
        let run = crate::cli::Run { environment: &files, ..crate::cli::Run::default() };
        run.latchkey(&["config", "check"])
    };
    assert_eq!(check().code, Some(0), "{:?}", check());
    std::fs::write(&key, "").unwrap();
    let told = check();
    assert!(told.err.contains("http.tls_key") && told.code == Some(1), "{told:?}");
}
