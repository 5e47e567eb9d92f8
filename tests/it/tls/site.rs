//! A server with TLS on all of its listeners, and the clients that connect to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{ClientTlsConfig, Endpoint, Identity};

use crate::support::pki::{Authority, Signed, write};
use crate::support::{Folder, Server, tools_path};

pub(super) const LISTENERS: [&str; 3] = ["grpc", "http", "operations"];

/// A server, the files that it serves with, and who signed them.
pub(super) struct Site {
    pub(super) server: Server,
    pub(super) folder: Folder,
    pub(super) authority: Authority,
}

/// How it is to be started.
pub(super) struct Builder {
    folder: Folder,
    authority: Authority,
    environment: Vec<(String, String)>,
    elsewhere: Vec<(String, String)>,
}

impl Site {
    /// With a server's certificate on each listener, and nothing asked of clients.
    pub(super) async fn start() -> Self {
        Self::build().start().await
    }

    pub(super) fn build() -> Builder {
        let (folder, authority) = (Folder::new(), Authority::new("the server's authority"));
        authority.server().write(folder.path(), "server");
        write(folder.path(), "authority.crt", &authority.pem());
        let mut environment = Vec::new();
        for listener in LISTENERS {
            for (field, file) in [("CERTIFICATE", "server.crt"), ("KEY", "server.key")] {
                environment.push(variable(&folder, listener, field, file));
            }
        }
        Builder { folder, authority, environment, elsewhere: Vec::new() }
    }

    pub(super) fn path(&self, name: &str) -> String {
        path(&self.folder, name)
    }

    /// Replaces the server's certificate and key.
    pub(super) fn replace_server(&self) -> Signed {
        let new = self.authority.server();
        new.write(self.folder.path(), "server");
        new
    }

    /// How often the log says this, over all listeners.
    pub(super) fn told(&self, message: &str) -> usize {
        self.server.log().lines().filter(|line| line.contains(message)).count()
    }

    pub(super) fn address(&self, listener: &str) -> SocketAddr {
        self.server.listener(listener)
    }

    /// The files of a client, if it has any, as options with these names.
    fn shown(&self, client: Option<&str>, options: [&str; 2]) -> Vec<String> {
        let Some(name) = client else { return Vec::new() };
        let [certificate, key] = options;
        let path = |end| self.path(&format!("{name}.{end}"));
        vec![certificate.into(), path("crt"), key.into(), path("key")]
    }

    /// What the real `openssl s_client` says of a connection over which it sends nothing.
    pub(super) fn openssl(&self, listener: &str, arguments: &[&str]) -> String {
        let address = self.address(listener).to_string();
        let ca = self.path("authority.crt");
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-CAfile", &ca, "-verify_return_error"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("openssl is installed by `./check`");
        format!("{}{}", text(&output.stdout), text(&output.stderr))
    }

    /// The real curl; the status that came, or what it complains of.
    pub(super) fn curl(
        &self,
        listener: &str,
        path: &str,
        client: Option<&str>,
        arguments: &[&str],
    ) -> Result<String, String> {
        let output = Command::new("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"])
            .args(["--max-time", "20", "--cacert", &self.path("authority.crt")])
            .args(self.shown(client, ["--cert", "--key"]))
            .args(arguments)
            .arg(format!("https://{}{path}", self.address(listener)))
            .output()
            .unwrap();
        result_of(&output)
    }

    /// What the operations listener tells of itself.
    pub(super) fn metrics(&self, client: &str) -> String {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert", &self.path("authority.crt")])
            .args(self.shown(Some(client), ["--cert", "--key"]))
            .arg(format!("https://{}/metrics", self.address("operations")))
            .output()
            .unwrap();
        result_of(&output).unwrap()
    }

    /// The real grpcurl.
    pub(super) fn grpcurl(
        &self,
        token: &str,
        client: Option<&str>,
        method: &str,
        json: &str,
    ) -> Result<String, String> {
        self.grpcurl_at("grpc", token, client, method, json)
    }

    /// The real grpcurl, at one of the listeners.
    pub(super) fn grpcurl_at(
        &self,
        listener: &str,
        token: &str,
        client: Option<&str>,
        method: &str,
        json: &str,
    ) -> Result<String, String> {
        let mut command = Command::new("grpcurl");
        command.env("PATH", tools_path()).env("TOKEN", token);
        command.args(["-max-time", "20", "-connect-timeout", "5"]);
        command.args(["-cacert", &self.path("authority.crt")]);
        command.args(self.shown(client, ["-cert", "-key"]));
        if !token.is_empty() {
            command.args(["-expand-headers", "-H", "authorization: Bearer ${TOKEN}"]);
        }
        let output = command
            .args(["-d", json])
            .arg(self.address(listener).to_string())
            .arg(method)
            .output()
            .expect("grpcurl is installed by `./check`");
        result_of(&output)
    }

    /// A tonic endpoint of the API, for as many connections as one likes.
    pub(super) fn endpoint(&self, client: Option<&Signed>) -> Endpoint {
        let authority = tonic::transport::Certificate::from_pem(self.authority.pem());
        let mut tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
        if let Some(client) = client {
            tls = tls.identity(Identity::from_pem(&client.certificate, &client.key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.server.grpc())).unwrap();
        endpoint.tls_config(tls).unwrap()
    }

    /// A bare TLS connection; HTTP is the test's to speak.
    pub(super) async fn connect(
        &self,
        listener: &str,
        client: Option<&Signed>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![client.der.clone()], key).unwrap()
            }
        };
        let stream = TcpStream::connect(self.address(listener)).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The certificate that a new connection is served with.
    pub(super) async fn served(&self, listener: &str) -> CertificateDer<'static> {
        let stream = self.connect(listener, None).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

impl Builder {
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Asks clients of every listener for a certificate of one of these.
    pub(super) fn trusting(mut self, authorities: &[&Authority]) -> Self {
        write(self.folder.path(), "clients.crt", &bundle(authorities));
        for listener in LISTENERS {
            self.environment.push(variable(&self.folder, listener, "CLIENT_CA", "clients.crt"));
        }
        self
    }

    pub(super) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has a listener listen elsewhere than on a free port.
    pub(super) fn listen(mut self, listener: &str, address: &str) -> Self {
        self.elsewhere.push((listener.to_owned(), address.to_owned()));
        self
    }

    pub(super) async fn start(self) -> Site {
        let mut server = Server::build();
        for (listener, address) in &self.elsewhere {
            server = server.listen(listener, address);
        }
        for (name, value) in &self.environment {
            server = server.environment(name, value);
        }
        Site { server: server.start().await, folder: self.folder, authority: self.authority }
    }

    /// What it says when it refuses to start.
    pub(super) fn refused(self) -> String {
        let output = Command::new(crate::support::latchkey())
            .args(["serve", "--store-url"])
            .arg(format!("sqlite://{}", path(&self.folder, "latchkey.db")))
            .env_clear()
            .envs(LISTENERS.map(|listener| {
                (format!("LATCHKEY__{}__LISTEN", listener.to_uppercase()), "127.0.0.1:0")
            }))
            .envs(self.environment)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(!self.folder.path().join("latchkey.db").exists(), "nothing is made before that");
        text(&output.stderr)
    }
}

/// The certificates of all of them, one after the other.
pub(super) fn bundle(authorities: &[&Authority]) -> String {
    authorities.iter().map(|authority| authority.pem()).collect()
}

fn variable(folder: &Folder, listener: &str, field: &str, file: &str) -> (String, String) {
    let name = format!("LATCHKEY__{}__TLS_{field}", listener.to_uppercase());
    (name, path(folder, file))
}

fn path(folder: &Folder, name: &str) -> String {
    let path: PathBuf = folder.path().join(name);
    path.display().to_string()
}

fn result_of(output: &Output) -> Result<String, String> {
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
