//! Certificates that change while the server serves.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use latchkey::proto::v1::AuthorizeRequest;
use latchkey::proto::v1::authorization_service_client::AuthorizationServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::site::{LISTENERS, Site, bundle};
use crate::support::eventually;
use crate::support::pki::{Authority, Signed, Wish, write};

const TAKEN: &str = "took the changed certificates";
const NOT_TAKEN: &str = "the changed certificates are not taken";
/// The files are looked at every second; a busy machine may be late.
const LOOKED_AT: Duration = Duration::from_secs(30);

impl Site {
    /// Waits until the log has said this so often.
    async fn until_told(&self, message: &str, times: usize) {
        let what = format!("{message}, {times} times");
        eventually(LOOKED_AT, &what, || (self.told(message) >= times).then_some(())).await;
    }
}

// --- Under load -----------------------------------------------------------------------------------

/// Calls without a pause until told to stop: some on connections that stay, others on a new one each.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    calls: AtomicU64,
    connections: AtomicU64,
}

impl Load {
    async fn stay(self: Arc<Self>, endpoint: Endpoint) -> Result<(), String> {
        let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut client = AuthorizationServiceClient::new(channel);
        while !self.is_over.load(Ordering::Relaxed) {
            self.call(&mut client).await?;
        }
        Ok(())
    }

    async fn come_and_go(self: Arc<Self>, endpoint: Endpoint) -> Result<(), String> {
        while !self.is_over.load(Ordering::Relaxed) {
            let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
            self.connections.fetch_add(1, Ordering::Relaxed);
            self.call(&mut AuthorizationServiceClient::new(channel)).await?;
        }
        Ok(())
    }

    async fn call(&self, client: &mut AuthorizationServiceClient<Channel>) -> Result<(), String> {
        let request = AuthorizeRequest {
            token: "hm_live_0000000000000000000000000000002dlYSp".to_owned(),
            required_scope: "memory:read".to_owned(),
            ..Default::default()
        };
        let answer = client.authorize(request).await.map_err(|status| format!("{status:?}"))?;
        assert_eq!(answer.into_inner().http_status, 401);
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// `tests/reloads` runs this with more rounds.
fn rounds() -> usize {
    #[expect(clippy::disallowed_methods, reason = "a test takes its length from the environment")]
    let rounds = std::env::var("LATCHKEY_TEST_RELOADS");
    rounds.map_or(12, |text| text.parse().expect("LATCHKEY_TEST_RELOADS is a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn reloading_under_load_fails_no_call() {
    let (first, second) = (Authority::new("first clients"), Authority::new("second clients"));
    let mut site = Site::build()
        .trusting(&[&first, &second])
        .environment("LATCHKEY__GRPC__CALLERS", "mtls")
        .start()
        .await;
    let load = Arc::new(Load::default());
    let mut callers = JoinSet::new();
    for client in [first.client("spiffe://acme/first"), second.client("spiffe://acme/second")] {
        for _ in 0..2 {
            callers.spawn(Arc::clone(&load).stay(site.endpoint(Some(&client))));
        }
        callers.spawn(Arc::clone(&load).come_and_go(site.endpoint(Some(&client))));
    }
    for round in 1..=rounds() {
        // Both CAs are trusted in every round, in turn with a third one beside them.
        let third = Authority::new("third clients");
        let trusted =
            if round % 2 == 0 { vec![&first, &second] } else { vec![&third, &second, &first] };
        write(site.folder.path(), "clients.crt", &bundle(&trusted));
        let new = site.replace_server();
        // A reload may fall between the files; then there are two.
        eventually(LOOKED_AT, "the new certificate is served", || {
            (site.told(TAKEN) >= round * LISTENERS.len()).then_some(())
        })
        .await;
        let client = first.client("spiffe://acme/looking");
        for listener in LISTENERS {
            eventually_served(&site, listener, &client, &new).await;
        }
        let stopped = callers.try_join_next();
        assert!(stopped.is_none(), "round {round}: {stopped:?}");
    }
    load.is_over.store(true, Ordering::Relaxed);
    let failed: Vec<_> = callers.join_all().await.into_iter().filter_map(Result::err).collect();
    let (calls, connections) =
        (load.calls.load(Ordering::Relaxed), load.connections.load(Ordering::Relaxed));
    println!(
        "{} reloads, {calls} calls, {connections} connections, {} failed",
        rounds(),
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(calls > 0 && connections > 4);
    assert_eq!(site.told(NOT_TAKEN), 0);
    assert!(site.server.stop().await.success());
}

async fn eventually_served(site: &Site, listener: &str, client: &Signed, new: &Signed) {
    let served = async {
        loop {
            let stream = site.connect(listener, Some(client)).await.unwrap();
            if stream.get_ref().1.peer_certificates().unwrap()[0] == new.der {
                return;
            }
        }
    };
    tokio::time::timeout(LOOKED_AT, served).await.expect("the new certificate is served");
}

// --- What changes, and how ------------------------------------------------------------------------

#[tokio::test]
async fn files_that_are_wrong_are_told_of_once_and_what_is_in_use_stays() {
    let clients = Authority::new("clients");
    let site = Site::build().trusting(&[&clients]).start().await;
    let client = clients.client("spiffe://acme/billing");
    client.write(site.folder.path(), "client");
    let folder = site.folder.path();
    let good = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let (certificate, key, ca) = (good("server.crt"), good("server.key"), good("clients.crt"));
    let expired = site.authority.sign(&Wish::server().expired());
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let stranger = site.authority.server();
    let mut told = 0;
    for (changes, field) in [
        (vec![("server.crt", half(&certificate))], "tls_certificate"),
        (vec![("server.crt", String::new())], "tls_certificate"),
        (vec![("server.crt", expired.certificate), ("server.key", expired.key)], "tls_certificate"),
        (vec![("server.key", half(&key))], "tls_key"),
        (vec![("server.key", stranger.key.clone())], "tls_key"),
        (vec![("server.crt", stranger.certificate.clone())], "tls_key"),
        (vec![("clients.crt", half(&ca))], "tls_client_ca"),
        (vec![("clients.crt", String::new())], "tls_client_ca"),
        (vec![("clients.crt", stranger.certificate.clone())], "tls_client_ca"),
    ] {
        for (name, text) in &changes {
            // Not in one step: it may be seen half-written.
            std::fs::write(folder.join(name), text).unwrap();
        }
        told += LISTENERS.len();
        site.until_told(NOT_TAKEN, told).await;
        let log = site.server.log();
        let last = log.lines().rfind(|line| line.contains(NOT_TAKEN)).unwrap();
        assert!(last.contains(&format!("{field} = ")), "{field}: {last}");
        assert_eq!(site.curl("http", "/", Some("client"), &[]), Ok("2 404".to_owned()), "{last}");
        for (name, text) in
            [("server.crt", &certificate), ("server.key", &key), ("clients.crt", &ca)]
        {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    std::fs::remove_file(folder.join("server.crt")).unwrap();
    site.until_told(NOT_TAKEN, told + LISTENERS.len()).await;
    let new = site.replace_server();
    site.until_told(TAKEN, LISTENERS.len()).await;
    eventually_served(&site, "grpc", &client, &new).await;
    let metrics = site.metrics("client");
    let expiry = "latchkey_tls_certificate_expiry_timestamp_seconds{listener=\"grpc\"} 67090118400";
    assert!(metrics.contains(expiry), "{metrics}");
    for (result, count) in [("taken", 1), ("refused", 10)] {
        let wanted = format!(
            "latchkey_tls_reloads_total{{listener=\"http\",result=\"{result}\"}} {count}\n"
        );
        assert!(metrics.contains(&wanted), "{wanted}: {metrics}");
    }
    // Each fault was looked at more than once, and told once.
    assert_eq!(site.told(NOT_TAKEN), told + LISTENERS.len());
    assert_eq!(site.told(TAKEN), LISTENERS.len());
}

#[tokio::test]
async fn a_link_that_is_turned_round_is_a_change() {
    let site = Site::build();
    let folder = site.folder().to_owned();
    // As Kubernetes mounts a secret: the names lead through one link, which is replaced as a whole.
    for (version, certificate) in
        [("..1", site.authority().server()), ("..2", site.authority().server())]
    {
        std::fs::create_dir(folder.join(version)).unwrap();
        certificate.write(&folder.join(version), "server");
    }
    symlink("..1", folder.join("..data")).unwrap();
    for name in ["server.crt", "server.key"] {
        std::fs::remove_file(folder.join(name)).unwrap();
        symlink(format!("..data/{name}"), folder.join(name)).unwrap();
    }
    let site = site.start().await;
    let before = site.served("grpc").await;
    symlink("..2", folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    site.until_told(TAKEN, LISTENERS.len()).await;
    assert_ne!(site.served("grpc").await, before);
    assert_eq!(site.told(NOT_TAKEN), 0);
}

#[tokio::test]
async fn clients_of_a_ca_that_was_replaced_are_refused_from_then_on() {
    let (old, new) = (Authority::new("old clients"), Authority::new("new clients"));
    let site = Site::build().trusting(&[&old]).start().await;
    let before = old.client("spiffe://acme/billing");
    before.write(site.folder.path(), "before");
    new.client("spiffe://acme/billing").write(site.folder.path(), "after");
    let mut open = site.connect("operations", Some(&before)).await.unwrap();
    assert!(site.curl("operations", "/readyz", Some("before"), &[]).is_ok());
    assert!(site.curl("operations", "/readyz", Some("after"), &[]).is_err());

    write(site.folder.path(), "clients.crt", &new.pem());
    site.until_told(TAKEN, LISTENERS.len()).await;
    for listener in ["http", "operations"] {
        let refused = site.curl(listener, "/", Some("before"), &[]).unwrap_err();
        assert!(refused.contains("alert"), "{refused}");
        assert!(site.curl(listener, "/", Some("after"), &[]).is_ok());
    }
    // Who was connected stays so.
    open.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    open.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}
