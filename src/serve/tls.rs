//! TLS on a listener, and certificates that change while it serves.
//!
//! A connection is made with what is in use at that moment, and keeps it: a reload touches no connection.
//! The files are looked at every second and told apart by what they hold, because they may be links that
//! are turned round (as Kubernetes does), and dates of files say little. What they hold is taken as a whole
//! when it was found right as a whole; until then, what is in use stays.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

pub use self::files::{TlsError, TlsFiles};

use self::client::Client;
use self::files::Checked;
use self::records::{Records, Secured};
use super::Protocol;
use super::bound::Stream;
use super::count::Counter;
use crate::clock::Timestamp;

mod client;
mod files;
mod records;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a peer that is refused may take to read why, and how much it may still send meanwhile.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);
const BYTES_LEFT_MAX: u64 = 64 * 1024;

/// What a listener serves TLS with. Clones are one.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    listener: &'static str,
    files: TlsFiles,
    protocol: Protocol,
    now: fn() -> Timestamp,
    in_use: RwLock<InUse>,
    reloads: Counter,
    refused_reloads: Counter,
}

#[derive(Debug)]
struct InUse {
    checked: Checked,
    /// Of the files that it was made of.
    mark: [u8; 32],
}

/// What was last found in the files, where that is not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    InUse,
    /// Somebody may still be writing: it is told when it is the same at the next look.
    Wrong([u8; 32]),
    Told([u8; 32]),
}

impl Tls {
    /// Reads and checks the files. The listener's name is for the log; `now` is the wall clock, which
    /// certificates go by.
    pub fn load(
        listener: &'static str,
        files: TlsFiles,
        protocol: Protocol,
        now: fn() -> Timestamp,
    ) -> Result<Self, TlsError> {
        let contents = files.read();
        let in_use = InUse { checked: contents.check(protocol, now())?, mark: contents.mark() };
        if files.key_is_open() {
            tracing::warn!(
                listener,
                file = %files.key.display(),
                "everybody on this machine may read the private key: take that right away (chmod o-r)"
            );
        }
        Ok(Self(Arc::new(Shared {
            listener,
            files,
            protocol,
            now,
            in_use: RwLock::new(in_use),
            reloads: Counter::default(),
            refused_reloads: Counter::default(),
        })))
    }

    /// The name of the listener.
    #[must_use]
    pub fn listener(&self) -> &'static str {
        self.0.listener
    }

    /// Whether clients must show a certificate.
    #[must_use]
    pub fn demands_certificates(&self) -> bool {
        self.0.files.client_ca.is_some()
    }

    /// When the certificate in use expires.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.0.in_use.read().unwrap_or_else(PoisonError::into_inner).checked.not_after
    }

    /// How often changed files were taken since the start.
    #[must_use]
    pub fn reloads(&self) -> u64 {
        self.0.reloads.get()
    }

    /// How often changed files were found wrong, and not taken, since the start.
    #[must_use]
    pub fn refused_reloads(&self) -> u64 {
        self.0.refused_reloads.get()
    }

    /// Takes the files anew whenever they change; never ends.
    pub async fn watch(self) {
        let mut found = Found::InUse;
        let mut is_told_of_expiry = false;
        loop {
            sleep(LOOK_EVERY).await;
            let shared = Arc::clone(&self.0);
            // A folder on a network may take its time.
            let looked = spawn_blocking(move || shared.look(found)).await;
            found = looked.unwrap_or(found);

            let (listener, not_after) = (self.0.listener, self.not_after());
            let is_expired = (self.0.now)() > not_after;
            if is_expired && !is_told_of_expiry {
                tracing::error!(listener, %not_after, "the certificate in use has expired: clients refuse it");
            }
            is_told_of_expiry = is_expired;
        }
    }

    /// Makes the TLS connection on a stream; the stream within, and the client where one is asked for.
    pub(super) async fn accept(
        &self,
        stream: Box<dyn Stream>,
    ) -> io::Result<(Box<dyn Stream>, Option<Client>)> {
        let config = {
            let in_use = self.0.in_use.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&in_use.checked.config)
        };
        let accepting = TlsAcceptor::from(config).accept(Records::new(stream));
        let stream = match accepting.into_fallible().await {
            Ok(stream) => stream,
            Err((error, records)) => {
                let_read_why(records.into_inner()).await;
                return Err(error);
            }
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let client = match certificates.and_then(<[_]>::first) {
            None => None,
            Some(certificate) => Some(Client::read(certificate).ok_or(io::ErrorKind::InvalidData)?),
        };
        Ok((Box::new(Secured(stream)), client))
    }

    /// How long a certificate with this expiry may still be used.
    pub(super) fn time_left(&self, not_after: Timestamp) -> Duration {
        not_after.since((self.0.now)())
    }
}

/// Ends a connection so that the peer can read the alert that says why. A socket that is closed with
/// bytes unread takes back what was written last, and over TLS 1.3 clients send before they are refused.
async fn let_read_why(mut stream: Box<dyn Stream>) {
    let closing = async {
        stream.shutdown().await?;
        copy(&mut stream.take(BYTES_LEFT_MAX), &mut sink()).await
    };
    let _ = timeout(CLOSING_TIME_MAX, closing).await; // nobody has to read it
}

impl Shared {
    /// Looks at the files once, and takes them if they are others and right.
    fn look(&self, last: Found) -> Found {
        let listener = self.listener;
        let contents = self.files.read();
        let mark = contents.mark();
        if self.in_use.read().unwrap_or_else(PoisonError::into_inner).mark == mark {
            return Found::InUse;
        }
        match contents.check(self.protocol, (self.now)()) {
            Ok(checked) => {
                let not_after = checked.not_after;
                *self.in_use.write().unwrap_or_else(PoisonError::into_inner) =
                    InUse { checked, mark };
                self.reloads.increment();
                tracing::info!(listener, %not_after, "took the changed certificates");
                Found::InUse
            }
            Err(error) if last == Found::Wrong(mark) => {
                self.refused_reloads.increment();
                tracing::error!(listener, %error, "the changed certificates are not taken: those in use stay");
                Found::Told(mark)
            }
            Err(_) if last == Found::Told(mark) => last,
            Err(_) => Found::Wrong(mark),
        }
    }
}
