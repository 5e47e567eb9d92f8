//! Attacks on listeners that serve TLS: on the handshake, beneath the data, and within it.

use std::io::Write as _;
use std::sync::Arc;

use rcgen::SanType;
use tokio_rustls::rustls::client::ClientConnection;
use tokio_rustls::rustls::crypto::cipher::{
    MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use tokio_rustls::rustls::crypto::ring::{cipher_suite, default_provider};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore,
    SupportedCipherSuite, SupportedProtocolVersion,
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::attacks::{
    Attack, Flood, Listener, Reads, Records, Wrap, closed, gets, question, reset_at_once,
};
use crate::support::Server;
use crate::support::frames::{PING, SETTINGS, frame, opening};
use crate::support::pki::{Authority, Signed, Wish, write};

/// A warning (level 1) that the user went away: the one that TLS 1.3 still allows (RFC 8446 §6.1).
const USER_CANCELED: [u8; 2] = [1, 90];

/// A server with TLS on each listener.
pub(super) struct Site {
    pub(super) server: Server,
    pub(super) live_key: String,
    authority: Authority,
    clients: Clients,
}

/// Whom its attackers connect as.
struct Clients {
    tls12: Arc<ClientConfig>,
    tls13: Arc<ClientConfig>,
    namesakes: Arc<ClientConfig>,
    oversized: Arc<ClientConfig>,
}

impl Site {
    pub(super) async fn start() -> Self {
        // With `--dev` there is no TLS, but there is a live key.
        let mut seeded = Server::start_dev().await;
        let live_key = seeded.live_key();
        seeded.stop().await;
        let (authority, trusted) = (Authority::new("servers"), Authority::new("clients"));
        let (certificate, key) = authority.server().write(seeded.folder(), "server");
        let trusted = write(seeded.folder(), "clients.crt", &trusted.pem());
        let mut server = seeded.again();
        for listener in ["GRPC", "HTTP", "OPERATIONS"] {
            for (field, path) in [("CERTIFICATE", &certificate), ("KEY", &key)] {
                let name = format!("LATCHKEY__{listener}__TLS_{field}");
                server = server.environment(&name, &path.display().to_string());
            }
        }
        let trusted = trusted.display().to_string();
        let server = server.environment("LATCHKEY__HTTP__TLS_CLIENT_CA", &trusted).start().await;
        let clients = Clients::of(&authority);
        Self { server, live_key, authority, clients }
    }

    /// Of the good client.
    pub(super) fn endpoint(&self) -> Endpoint {
        let authority = Certificate::from_pem(self.authority.pem());
        let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.server.grpc())).unwrap();
        endpoint.tls_config(tls).unwrap()
    }

    pub(super) fn client(&self, wrap: Wrap) -> Option<Arc<ClientConfig>> {
        let Clients { tls12, tls13, namesakes, oversized } = &self.clients;
        match wrap {
            Wrap::Bare => None,
            Wrap::Tls12 => Some(Arc::clone(tls12)),
            Wrap::Tls13 => Some(Arc::clone(tls13)),
            Wrap::Namesakes => Some(Arc::clone(namesakes)),
            Wrap::Oversized => Some(Arc::clone(oversized)),
        }
    }

    pub(super) fn attacks(&self) -> Vec<Attack> {
        let hello = hello(&self.clients.tls13);
        [on_the_handshake(&hello), beneath_the_data(), within_the_data()]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl Clients {
    fn of(authority: &Authority) -> Self {
        // They bear the name of the one that is trusted, and none of them is.
        let namesakes: Vec<_> = (0..100).map(|_| Authority::new("clients")).collect();
        let name = SanType::URI("spiffe://acme/billing".try_into().unwrap());
        let client = namesakes[0].sign(&Wish::client(&[name]));
        let issuers: Vec<_> = namesakes.iter().map(Authority::der).collect();
        let megabyte = issuers.iter().cycle().take(3_000).cloned().collect();
        Self {
            tls12: Arc::new(config(authority, &TLS12, None)),
            tls13: Arc::new(config(authority, &TLS13, None)),
            namesakes: Arc::new(config(authority, &TLS13, Some((&client, issuers)))),
            oversized: Arc::new(config(authority, &TLS13, Some((&client, megabyte)))),
        }
    }
}

/// One cipher suite for each version, so that a [`Sealer`] needs to know no other.
fn config(
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    client: Option<(&Signed, Vec<CertificateDer<'static>>)>,
) -> ClientConfig {
    let mut provider = default_provider();
    provider.cipher_suites = vec![
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some((client, issuers)) => {
            let chain = std::iter::once(client.der.clone()).chain(issuers).collect();
            let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_secret_extraction = true;
    config
}

/// The record with the `ClientHello`.
fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut hello = vec![];
    session.write_tls(&mut hello).unwrap();
    hello
}

fn attack(wrap: Wrap, name: &'static str, opening: Vec<u8>, flood: Flood) -> Attack {
    Attack { listener: Listener::TlsGrpc, wrap, ..closed(name, opening, flood) }
}

fn on_the_handshake(hello: &[u8]) -> Vec<Attack> {
    let bare = |name, opening: &[u8], flood| attack(Wrap::Bare, name, opening.to_vec(), flood);
    let silent = |name, opening: &[u8], connections| Attack {
        connections,
        reads: Reads::Nothing,
        ..bare(name, opening, Flood::Silence)
    };
    let certified = |wrap, name| Attack {
        listener: Listener::TlsHttp,
        ..attack(wrap, name, vec![], Flood::Silence)
    };
    vec![
        silent("TLS: nothing said", &[], 334),
        silent("TLS: half a ClientHello", &hello[..hello.len() / 2], 333),
        silent("TLS: handshake not read", hello, 333),
        bare("TLS: a byte at a time", &[], Flood::Drip(hello.to_vec())),
        bare("TLS: handshakes begun and left", hello, Flood::Leave),
        attack(Wrap::Tls13, "TLS: handshakes made and left", vec![], Flood::Leave),
        attack(Wrap::Tls13, "TLS: handshakes made, HTTP not", vec![], Flood::Silence),
        certified(Wrap::Namesakes, "TLS: 100 issuers of one name"),
        certified(Wrap::Oversized, "TLS: 1 MiB of certificates"),
    ]
}

/// Records that bring nothing to HTTP, which has begun.
fn beneath_the_data() -> Vec<Attack> {
    let records = |wrap, name, make| attack(wrap, name, opening(None), Flood::Records(make));
    vec![
        records(Wrap::Tls12, "TLS 1.2: renegotiation", renegotiation),
        records(Wrap::Tls12, "TLS 1.2: warnings", warnings),
        records(Wrap::Tls12, "TLS 1.2: empty records", empty_records),
        records(Wrap::Tls13, "TLS: warnings", warnings),
        records(Wrap::Tls13, "TLS: empty records", empty_records),
        records(Wrap::Tls13, "TLS: key updates", |session| key_updates(session, vec![])),
        records(Wrap::Tls13, "TLS: empty records amid calls", empty_records_amid_calls),
        records(Wrap::Tls13, "TLS: key updates amid data", |session| {
            key_updates(session, frame(PING, 0, 0, b"12345678"))
        }),
    ]
}

/// What HTTP/2 has to bear, where TLS lies in between.
fn within_the_data() -> Vec<Attack> {
    let tls = |name, flood| attack(Wrap::Tls13, name, opening(None), flood);
    let unread = |attack| Attack { reads: Reads::Nothing, ..attack };
    let settings = || Flood::Same(frame(SETTINGS, 0, 0, &[]).repeat(100));
    vec![
        tls("TLS: rapid reset", Flood::Streams(reset_at_once)),
        tls("TLS: SETTINGS flood", settings()),
        unread(tls("TLS: SETTINGS flood, nothing read", settings())),
        unread(tls("TLS: answers not read", Flood::Streams(question))),
        Attack {
            listener: Listener::TlsOperations,
            connections: 1,
            // Little enough for TLS to gather: HTTP/2 has given all of it away.
            opening: [opening(None), gets("/metrics", 12)].concat(),
            ..unread(tls("TLS: few answers, not read", Flood::Silence))
        },
    ]
}

/// A `ClientHello` with one cipher suite and no extension (RFC 5246 §7.4.1.2).
fn renegotiation(session: ClientConnection) -> Records {
    let parts: [&[u8]; 4] = [&[1, 0, 0, 41, 3, 3], &[7; 32], &[0, 0, 2, 0xcc, 0xa9], &[1, 0]];
    Sealer::of(session).again_and_again(ContentType::Handshake, parts.concat())
}

fn warnings(session: ClientConnection) -> Records {
    Sealer::of(session).again_and_again(ContentType::Alert, USER_CANCELED.to_vec())
}

fn empty_records(session: ClientConnection) -> Records {
    Sealer::of(session).again_and_again(ContentType::ApplicationData, vec![])
}

/// Calls that nothing is wrong with, a byte at a time. rustls bears with 32 empty records in a row.
fn empty_records_amid_calls(session: ClientConnection) -> Records {
    let mut sealer = Sealer::of(session);
    let mut calls = (0..).map(|call| question(2 * call + 1));
    Box::new(move || {
        let mut records = vec![];
        for byte in calls.next().unwrap() {
            for _ in 0..30 {
                records.extend(sealer.seal(ContentType::ApplicationData, &[]));
            }
            records.extend(sealer.seal(ContentType::ApplicationData, &[byte]));
        }
        records
    })
}

/// Key updates, with a byte of this between them, if there is any.
fn key_updates(mut session: ClientConnection, data: Vec<u8>) -> Records {
    let mut bytes = data.into_iter().collect::<std::collections::VecDeque<u8>>();
    Box::new(move || {
        session.refresh_traffic_keys().unwrap();
        if let Some(byte) = bytes.pop_front() {
            session.writer().write_all(&[byte]).unwrap();
            bytes.push_back(byte);
        }
        sealed(&mut session)
    })
}

/// What a session has to send.
pub(super) fn sealed(session: &mut ClientConnection) -> Vec<u8> {
    let mut records = vec![];
    while session.wants_write() {
        session.write_tls(&mut records).unwrap();
    }
    records
}

/// Makes records as no TLS library would.
struct Sealer {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Sealer {
    fn of(session: ClientConnection) -> Self {
        let suite = session.negotiated_cipher_suite().unwrap();
        let secrets = session.dangerous_extract_secrets().unwrap();
        let (sequence, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets.tx else {
            panic!("the client offers nothing else");
        };
        let encrypter = match suite {
            SupportedCipherSuite::Tls12(suite) => suite.aead_alg.encrypter(key, iv.as_ref(), &[]),
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        };
        Self { encrypter, sequence }
    }

    fn seal(&mut self, kind: ContentType, bytes: &[u8]) -> Vec<u8> {
        let payload = OutboundChunks::Single(bytes);
        let message =
            OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload };
        let record = self.encrypter.encrypt(message, self.sequence).unwrap();
        self.sequence += 1;
        record.encode()
    }

    fn again_and_again(mut self, kind: ContentType, bytes: Vec<u8>) -> Records {
        Box::new(move || (0..100).flat_map(|_| self.seal(kind, &bytes)).collect())
    }
}
