//! The administrator's command line over TLS: whom it trusts, what it shows, and what it says when that fails.

use super::site::{Builder, Site};
use crate::cli::{Ended, Run};
use crate::support::pki::{Authority, write};

impl Site {
    /// Runs `latchkey account list` at this address, with these flags.
    fn list_accounts(&self, address: &str, flags: &[&str]) -> Ended {
        let token = self.server.root_token();
        let environment = [("LATCHKEY_ADDRESS", address), ("LATCHKEY_TOKEN", &*token)];
        let arguments = [&["account", "list"], flags].concat();
        let ended = Run { environment: &environment, ..Run::default() }.latchkey(&arguments);
        assert!(!ended.err.contains("panicked") && !ended.err.contains(&token), "{ended:?}");
        ended
    }

    fn https(&self) -> String {
        format!("https://localhost:{}", self.server.grpc().port())
    }

    /// What it says when it is not connected; no token was sent then.
    fn refused(&self, address: &str, flags: &[&str]) -> String {
        let ended = self.list_accounts(address, flags);
        assert_eq!((ended.code, &*ended.out), (Some(1), ""), "{flags:?}: {ended:?}");
        assert!(ended.err.contains("error: ") && ended.err.contains("\nhelp: "), "{ended:?}");
        ended.err
    }
}

fn with_client(site: Builder) -> Builder {
    let authority = Authority::new("the clients' authority");
    authority.client("spiffe://acme/admin").write(site.folder(), "admin");
    site.trusting(&[&authority])
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_alone() {
    let site = Site::start().await;
    let ca = site.path("authority.crt");
    let trusted = site.list_accounts(&site.https(), &["--ca-file", &ca]);
    assert!(trusted.code == Some(0) && trusted.out.contains("latchkey"), "{trusted:?}");
    let said = site.refused(&site.https(), &[]);
    assert!(said.contains("UnknownIssuer") && said.contains("--ca-file"), "{said}");
    write(site.folder.path(), "other.crt", &Authority::new("another").pem());
    let said = site.refused(&site.https(), &["--ca-file", &site.path("other.crt")]);
    assert!(said.contains("no TLS with") && said.contains("--ca-file"), "{said}");
}

#[tokio::test]
async fn a_server_of_another_name_is_refused_unless_the_name_is_given() {
    let site = Site::start().await;
    let ca = site.path("authority.crt");
    let ca = ["--ca-file", &*ca];
    let flags = [&ca[..], &["--server-name", "elsewhere.example"]].concat();
    let said = site.refused(&site.https(), &flags);
    assert!(said.contains("elsewhere.example") && said.contains("--server-name"), "{said}");
    let flags = [&ca[..], &["--server-name", "localhost"]].concat();
    let address = format!("https://127.0.0.1:{}", site.server.grpc().port());
    assert_eq!(site.list_accounts(&address, &flags).code, Some(0));
}

#[tokio::test]
async fn a_certificate_is_shown_where_it_is_asked_for() {
    let site = with_client(Site::build()).start().await;
    let ca = site.path("authority.crt");
    let ca = ["--ca-file", &*ca];
    let said = site.refused(&site.https(), &ca);
    assert!(said.contains("--cert-file"), "{said}");
    let (cert, key) = (site.path("admin.crt"), site.path("admin.key"));
    let shown = ["--cert-file", &*cert, "--key-file", &*key];
    let listed = site.list_accounts(&site.https(), &[&ca[..], &shown].concat());
    assert_eq!((listed.code, &*listed.err), (Some(0), ""), "{listed:?}");
    let own = (site.path("server.crt"), site.path("server.key"));
    let wrong = ["--cert-file", &*own.0, "--key-file", &*own.1];
    let said = site.refused(&site.https(), &[&ca[..], &wrong].concat());
    assert!(said.contains("from an authority that it knows"), "{said}");
}

#[tokio::test]
async fn the_wrong_scheme_is_told() {
    let site = Site::start().await;
    let plain = format!("http://localhost:{}", site.server.grpc().port());
    let said = site.refused(&plain, &[]);
    assert!(said.contains("if it speaks TLS, write https://"), "{said}");
    let server = crate::support::Server::start().await;
    let said = site.refused(&format!("https://{}", server.grpc()), &[]);
    assert!(said.contains("does not speak TLS") && said.contains("write http://"), "{said}");
    let said =
        site.refused(&server.grpc().to_string(), &["--ca-file", &site.path("authority.crt")]);
    assert!(said.contains("is not spoken to over TLS"), "{said}");
}

#[tokio::test]
async fn files_that_hold_something_else_are_named() {
    let site = Site::start().await;
    let (ca, key) = (site.path("authority.crt"), site.path("server.key"));
    write(site.folder.path(), "empty.crt", "");
    for (flags, told) in [
        (vec!["--ca-file", "/none.crt"], "cannot read /none.crt"),
        (vec!["--ca-file", &*key], "server.key holds no certificate"),
        (vec!["--ca-file", &*ca, "--cert-file", &*ca], "give both --cert-file and --key-file"),
        (vec!["--ca-file", &*ca, "--cert-file", &*ca, "--key-file", &*ca], "holds no private key"),
        (vec!["--ca-file", &*ca, "--cert-file", &*ca, "--key-file", &*key], "--cert-file"),
        (vec!["--ca-file", &*site.path("empty.crt")], "empty.crt holds no certificate"),
    ] {
        let said = site.refused(&site.https(), &flags);
        assert!(said.contains(told), "{told:?} is not in: {said}");
    }
}
