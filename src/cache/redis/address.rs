//! Where Redis is: the forms of `redis.url`, and how connections are made to what they name.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use redis::aio::PubSub;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisResult, TlsCertificates, TlsMode,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::link::Link;
use super::{ANSWER_TIME_MAX, CONNECT_TO_ONE_TIME_MAX};

const PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;
/// What is said of a URL that is none.
const FORMS: &str = "`redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER]`, `rediss://` for TLS, `redis+unix:///PATH`, \
     `redis+sentinel://HOST,HOST/MASTER` or `redis+cluster://HOST,HOST`";

/// A URL that was read.
pub struct Address {
    place: Place,
    is_tls: bool,
    /// As PEM; without it, the CAs that the system trusts.
    ca: Option<Vec<u8>>,
    login: Login,
    database: i64,
}

enum Place {
    Server(Host),
    Socket(PathBuf),
    Sentinel { sentinels: Vec<Host>, master: String, login: Login },
    Cluster(Vec<Host>),
}

struct Host {
    name: String,
    port: u16,
}

/// Who connects; nothing where nobody is asked for.
#[derive(Default)]
struct Login {
    user: Option<String>,
    password: Option<SecretString>,
}

/// What connections are made by.
pub(super) enum Servers {
    One(Box<Client>),
    /// Asked anew who the master is, for each connection.
    Sentinel(Box<SentinelClient>),
    /// Any node tells where the others are, and what is published on one reaches all.
    Cluster {
        all: Box<ClusterClient>,
        each: Vec<Client>,
    },
}

/// What is wrong with a URL; nothing that could be a password is repeated.
type Fault = String;

impl Address {
    /// Reads a URL. With TLS, servers are held against this CA (PEM), or those that the system trusts.
    pub fn parse(url: &str, ca: Option<Vec<u8>>) -> Result<Self, Fault> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it is no URL"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The last `@`: a password may hold one that nobody escaped.
        let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, rest)| (user, rest));
        let login = Login::parse(user)?;
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (kind, is_tls) = match scheme {
            "redis" => ("", false),
            "rediss" => ("", true),
            other => match other.split_once('+') {
                Some(("redis", kind)) => (kind, false),
                Some(("rediss", kind)) if kind != "unix" => (kind, true),
                _ => return Err(wrong("there is no Redis of this scheme")),
            },
        };
        if ca.is_some() && !is_tls {
            return Err(
                "redis.ca_file has no effect, for redis.url names no TLS: write `rediss`".into()
            );
        }
        let mut database = 0;
        let place = match kind {
            "" => {
                database = number(path)?;
                Place::Server(Host::parse(hosts, PORT)?)
            }
            "unix" if hosts.is_empty() && !path.is_empty() => {
                Place::Socket(PathBuf::from(format!("/{}", decoded(path)?)))
            }
            "unix" => return Err(wrong("a socket is named by its whole path, and by no host")),
            "sentinel" => {
                let (master, number_of) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(wrong("the name of the master is missing after the sentinels"));
                }
                database = number(number_of)?;
                let sentinels = Host::parse_all(hosts, SENTINEL_PORT)?;
                Place::Sentinel { sentinels, master: decoded(master)?, login: Login::default() }
            }
            "cluster" if path.is_empty() => Place::Cluster(Host::parse_all(hosts, PORT)?),
            "cluster" => return Err(wrong("a cluster has one database, and no number of it")),
            _ => return Err(wrong("there is no Redis of this scheme")),
        };
        let mut address = Self { place, is_tls, ca, login, database };
        address.take_parameters(query)?;
        // What else is wrong shows when it is made into what connections are made by.
        address.servers().map_err(|error| match address.ca {
            Some(_) => format!("redis.ca_file is no certificate as PEM: {error}"),
            None => wrong(&error.to_string()),
        })?;
        Ok(address)
    }

    fn take_parameters(&mut self, query: &str) -> Result<(), Fault> {
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &mut self.place) {
                ("sentinel_user", Place::Sentinel { login, .. }) => {
                    login.user = Some(value.into_owned());
                }
                ("sentinel_password", Place::Sentinel { login, .. }) => {
                    login.password = Some(value.into_owned().into());
                }
                ("db", Place::Socket(_)) => self.database = number(&value)?,
                _ => {
                    return Err(wrong(
                        "there are no parameters but `sentinel_user` and `sentinel_password` with \
                         Sentinel, and `db` with a socket",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether tokens' digests and what keys may do pass in the clear where others may be.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let hosts = match &self.place {
            Place::Socket(_) => return false,
            Place::Server(host) => std::slice::from_ref(host),
            Place::Sentinel { sentinels: hosts, .. } | Place::Cluster(hosts) => hosts,
        };
        !self.is_tls && !hosts.iter().all(Host::is_near)
    }

    /// What connections are made by.
    pub(super) fn servers(&self) -> RedisResult<Servers> {
        match &self.place {
            Place::Server(host) => Ok(Servers::One(Box::new(self.client(self.address_of(host))?))),
            Place::Socket(path) => {
                Ok(Servers::One(Box::new(self.client(ConnectionAddr::Unix(path.clone()))?)))
            }
            Place::Sentinel { sentinels, master, login } => {
                Ok(Servers::Sentinel(Box::new(self.sentinel(sentinels, master, login)?)))
            }
            Place::Cluster(hosts) => {
                let each: RedisResult<Vec<_>> =
                    hosts.iter().map(|host| self.client(self.address_of(host))).collect();
                Ok(Servers::Cluster { all: Box::new(self.cluster(hosts)?), each: each? })
            }
        }
    }

    fn client(&self, address: ConnectionAddr) -> RedisResult<Client> {
        let info = self.info(address)?;
        if self.is_tls {
            Client::build_with_tls(info, self.certificates())
        } else {
            Client::open(info)
        }
    }

    fn sentinel(
        &self,
        sentinels: &[Host],
        master: &str,
        login: &Login,
    ) -> RedisResult<SentinelClient> {
        let addresses: Vec<_> = sentinels.iter().map(|host| self.address_of(host)).collect();
        let kind = SentinelServerType::Master;
        let mut builder = SentinelClientBuilder::new(addresses, master, kind)?
            .set_client_to_redis_db(self.database);
        if self.is_tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(self.certificates())
                .set_client_to_sentinel_certificates(self.certificates());
        }
        if let Some(user) = &self.login.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.login.password {
            builder = builder.set_client_to_redis_password(password.expose_secret());
        }
        if let Some(user) = &login.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &login.password {
            builder = builder.set_client_to_sentinel_password(password.expose_secret());
        }
        builder.build()
    }

    fn cluster(&self, hosts: &[Host]) -> RedisResult<ClusterClient> {
        let infos: RedisResult<Vec<_>> =
            hosts.iter().map(|host| self.info(self.address_of(host))).collect();
        let mut builder = ClusterClientBuilder::new(infos?)
            .connection_timeout(CONNECT_TO_ONE_TIME_MAX)
            .response_timeout(ANSWER_TIME_MAX)
            .retries(1);
        if self.is_tls {
            builder = builder.tls(TlsMode::Secure).certs(self.certificates());
        }
        builder.build()
    }

    fn info(&self, address: ConnectionAddr) -> RedisResult<ConnectionInfo> {
        // Without its name: that takes a command more than the smallest ACL has.
        let mut login =
            RedisConnectionInfo::default().set_db(self.database).set_skip_set_lib_name();
        if let Some(user) = &self.login.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.login.password {
            login = login.set_password(password.expose_secret());
        }
        Ok(address.into_connection_info()?.set_redis_settings(login))
    }

    fn address_of(&self, host: &Host) -> ConnectionAddr {
        let (host, port) = (host.name.clone(), host.port);
        if self.is_tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn certificates(&self) -> TlsCertificates {
        TlsCertificates { client_tls: None, root_cert: self.ca.clone() }
    }
}

impl Servers {
    /// A connection for commands.
    pub(super) async fn connect(&mut self) -> RedisResult<Link> {
        // Whoever asks gives up for itself.
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        match self {
            Self::One(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(Link::One)
            }
            Self::Sentinel(client) => {
                client.get_async_connection_with_config(&config).await.map(Link::One)
            }
            Self::Cluster { all, each: _ } => all.get_async_connection().await.map(Link::Cluster),
        }
    }

    /// A connection for what is published; another server with each attempt, where there are several.
    pub(super) async fn listen(&mut self, attempt: usize) -> RedisResult<PubSub> {
        match self {
            Self::One(client) => client.get_async_pubsub().await,
            Self::Sentinel(client) => client.async_get_client().await?.get_async_pubsub().await,
            Self::Cluster { all: _, each } => each[attempt % each.len()].get_async_pubsub().await,
        }
    }
}

impl Host {
    fn parse(text: &str, default_port: u16) -> Result<Self, Fault> {
        // An IPv6 address stands in brackets.
        let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            Some((name, port)) if name.parse::<std::net::Ipv6Addr>().is_ok() => (
                name,
                if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("?")) },
            ),
            Some(_) => return Err(wrong("what stands in brackets is no IPv6 address")),
            None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
        };
        if name.is_empty() {
            return Err(wrong("the name of a host is missing"));
        }
        if name.contains(|char: char| !(char.is_ascii_alphanumeric() || "-._:".contains(char))) {
            return Err(wrong("there is a character in the name of a host that none has"));
        }
        let port = port.map_or(Ok(default_port), |port| match port.parse() {
            Ok(0) | Err(_) => Err(wrong("a port is a number from 1 to 65535")),
            Ok(port) => Ok(port),
        })?;
        Ok(Self { name: name.to_owned(), port })
    }

    fn parse_all(text: &str, default_port: u16) -> Result<Vec<Self>, Fault> {
        text.split(',').map(|host| Self::parse(host, default_port)).collect()
    }

    /// On this machine, where nobody stands between.
    fn is_near(&self) -> bool {
        self.name == "localhost"
            || self.name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, Fault> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let (user, password) = text
            .split_once(':')
            .ok_or_else(|| wrong("a user needs a password: `USER:PASSWORD@` before the host"))?;
        Ok(Self {
            user: if user.is_empty() { None } else { Some(decoded(user)?) },
            password: Some(decoded(password)?.into()),
        })
    }
}

fn number(text: &str) -> Result<i64, Fault> {
    match text {
        "" => Ok(0),
        digits => digits
            .parse()
            .ok()
            .filter(|number| *number >= 0)
            .ok_or_else(|| wrong("a database has a number")),
    }
}

fn decoded(text: &str) -> Result<String, Fault> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(String::from).map_err(|_| wrong("what is escaped by `%` is no UTF-8"))
}

fn wrong(what: &str) -> Fault {
    format!("redis.url: {what}; it has one of the forms {FORMS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(url: &str) -> String {
        Address::parse(url, None).map(|_| ()).unwrap_err()
    }

    #[test]
    fn every_form_is_read() {
        for url in [
            "redis://cache.internal",
            "redis://cache.internal:6380/3",
            "redis://:hunter2@192.0.2.1",
            "redis://latchkey:p%40ss@[2001:db8::1]:6380/0",
            "rediss://latchkey:hunter2@cache.internal",
            "redis+unix:///run/redis/redis.sock",
            "redis+unix://latchkey:hunter2@/run/redis/redis.sock?db=2",
            "redis+sentinel://s1.internal,s2.internal:26380/primary",
            "rediss+sentinel://u:p@s1,s2/primary/2?sentinel_user=a&sentinel_password=b",
            "redis+cluster://c1,c2:7001,[::1]:7002",
            "rediss+cluster://u:p@c1",
        ] {
            assert!(Address::parse(url, None).is_ok(), "{url}: {}", fault(url));
        }
    }

    #[test]
    fn what_stands_in_a_url_is_taken() {
        let url = "redis+sentinel://me:p%40s%3As@s1,s2:5/the%20one/4?sentinel_password=x%26y";
        let address = Address::parse(url, None).unwrap();
        let Place::Sentinel { sentinels, master, login } = &address.place else { panic!("{url}") };
        let hosts: Vec<_> = sentinels.iter().map(|it| (it.name.as_str(), it.port)).collect();
        assert_eq!(hosts, [("s1", 26_379), ("s2", 5)]);
        assert_eq!((master.as_str(), address.database), ("the one", 4));
        let shown = |login: &Login| login.password.as_ref().unwrap().expose_secret().to_owned();
        assert_eq!((shown(&address.login), shown(login)), ("p@s:s".into(), "x&y".into()));
        assert_eq!(address.login.user.as_deref(), Some("me"));
    }

    #[test]
    fn a_wrong_url_is_told_without_what_stands_in_it() {
        for (url, told) in [
            ("hunter2", "no URL"),
            ("http://u:hunter2@h", "no Redis of this scheme"),
            ("redis+tls://u:hunter2@h", "no Redis of this scheme"),
            ("rediss+unix://u:hunter2@/run", "no Redis of this scheme"),
            ("redis://hunter2@h", "a user needs a password"),
            ("redis://u:hunter2@", "host is missing"),
            ("redis://u:hunter2@h:hunter2", "a port is a number"),
            ("redis://u:hunter2@h:0", "a port is a number"),
            ("redis://u:hunter2@h/hunter2", "a database has a number"),
            ("redis://u:hunter2@[hunter2]", "no IPv6"),
            ("redis://u:hunter2@a,b", "a character in the name of a host"),
            ("redis://u:hunter2@h?password=hunter2", "no parameters but"),
            ("redis://u:%ff@h", "no UTF-8"),
            ("redis+unix://u:hunter2@host/run", "by its whole path"),
            ("redis+sentinel://u:hunter2@a,b", "name of the master is missing"),
            ("redis+cluster://u:hunter2@a,b/1", "one database"),
        ] {
            let fault = fault(url);
            assert!(fault.contains(told) && !fault.contains("hunter2"), "{url}: {fault}");
        }
        let without_tls = Address::parse("redis://h", Some(Vec::new())).map(|_| ()).unwrap_err();
        assert!(without_tls.contains("redis.ca_file"), "{without_tls}");
        let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
        let no_ca = Address::parse("rediss://h", Some(pem)).map(|_| ()).unwrap_err();
        assert!(no_ca.contains("redis.ca_file"), "{no_ca}");
    }

    #[test]
    fn what_passes_in_the_clear_is_told() {
        for (url, is_exposed) in [
            ("redis://localhost", false),
            ("redis://127.0.0.9", false),
            ("redis+unix:///run/redis.sock", false),
            ("rediss://cache.internal", false),
            ("redis://cache.internal", true),
            ("redis+cluster://127.0.0.1,cache.internal", true),
        ] {
            assert_eq!(Address::parse(url, None).unwrap().is_exposed(), is_exposed, "{url}");
        }
    }
}
