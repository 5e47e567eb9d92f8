//! Which server, and as whom: flags, then a profile that a flag names, then the environment, then the profile
//! that is used without a flag, then the default.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use http::uri::Authority;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use zeroize::Zeroizing;

use super::Environment;
use super::private::{OPEN_TO_READ, PrivateFile};
use super::profile::{PLAINTEXT, PROFILE_DEFAULT, Profile, Profiles};
use super::secret;
use super::session::Session;
use crate::bounded::read_file_text;
use crate::failure::{Failure, Failures};
use crate::token::Token;

const ADDRESS_DEFAULT: &str = "http://127.0.0.1:50051";

/// Which server, and as whom.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ServerArguments {
    #[arg(
        long,
        value_name = "NAME",
        help = "The profile to use; named here it wins over the variables below [default: \
                $LATCHKEY_PROFILE, else `default`]"
    )]
    pub(super) profile: Option<String>,
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Where the server listens: https://HOST:PORT, http://HOST:PORT or unix:PATH \
                [default: $LATCHKEY_ADDRESS, else the profile's, else http://127.0.0.1:50051]"
    )]
    pub(super) address: Option<String>,
    #[arg(
        long,
        help = "Send tokens to an http:// address beyond this machine, where whoever is in between \
                can read them [default: $LATCHKEY_PLAINTEXT, else the profile's]"
    )]
    pub(super) plaintext: bool,
    #[arg(
        long,
        value_name = "FILE",
        help = "A file that holds the operator's token [default: $LATCHKEY_TOKEN itself, \
                $LATCHKEY_TOKEN_FILE, else the profile's]"
    )]
    pub(super) token_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "FILE",
        help = "PEM with the authorities that the server's certificate may come from [default: \
                $LATCHKEY_CA_FILE, the profile's, else those of this machine]"
    )]
    pub(super) ca_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "FILE",
        help = "PEM with your own certificate, where the server asks for one [default: \
                $LATCHKEY_CERT_FILE, else the profile's]"
    )]
    pub(super) cert_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "FILE",
        help = "PEM with the certificate's private key [default: $LATCHKEY_KEY_FILE, else the \
                profile's]"
    )]
    pub(super) key_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "NAME",
        help = "The name in the server's certificate, where it is not the host of the address \
                [default: $LATCHKEY_SERVER_NAME, else the profile's]"
    )]
    pub(super) server_name: Option<String>,
}

/// Whether a call carries the operator's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing can be done without.
    Required,
    /// Sent if there is one.
    Welcome,
    /// Not sent.
    Unused,
}

impl ServerArguments {
    /// Connects, to call in the operator's name.
    pub(super) fn open(&self, environment: &Environment) -> Result<Session, Failures> {
        self.open_with(Credential::Required, environment)
    }

    /// Connects.
    pub(super) fn open_with(
        &self,
        credential: Credential,
        environment: &Environment,
    ) -> Result<Session, Failures> {
        let layers = Layers::new(self, environment)?;
        // What is wrong here is told before anything is sent.
        let address = layers.address()?;
        if credential != Credential::Unused {
            layers.refuse_plaintext(&address)?;
        }
        let authorization = match credential {
            Credential::Unused => None,
            Credential::Welcome | Credential::Required => layers.authorization()?,
        };
        if credential == Credential::Required && authorization.is_none() {
            return Err(no_token().into());
        }
        let tls = layers.tls(&address)?;
        Session::connect(address, tls, authorization)
    }
}

fn no_token() -> Failure {
    Failure::new("there is no operator's token to call with").help(
        "set LATCHKEY_TOKEN or LATCHKEY_TOKEN_FILE, name a file with --token-file, or keep one: \
         `latchkey profile set --with-token`",
    )
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment(&'static str),
    Profile,
}

/// All that may say something about the server.
struct Layers<'a> {
    flags: &'a ServerArguments,
    environment: &'a Environment,
    profile_name: String,
    profile: Profile,
    profile_folder: PathBuf,
}

/// The token's text, and where it stood.
type FoundToken = (Zeroizing<String>, String);

impl<'a> Layers<'a> {
    fn new(flags: &'a ServerArguments, environment: &'a Environment) -> Result<Self, Failure> {
        let named = match &flags.profile {
            Some(name) => Some(name.clone()),
            None => variable(environment, "LATCHKEY_PROFILE")?.map(|name| name.to_string()),
        };
        let profiles = Profiles::read(environment)?;
        let profile_folder = profiles.path().parent().unwrap_or(Path::new("")).to_owned();
        let profile = match &named {
            Some(name) => profiles.get(name)?.clone(),
            None => profiles.get(PROFILE_DEFAULT).cloned().unwrap_or_default(),
        };
        let profile_name = named.unwrap_or_else(|| PROFILE_DEFAULT.to_owned());
        Ok(Self { flags, environment, profile_name, profile, profile_folder })
    }

    /// The first that is set.
    fn value(
        &self,
        flag: Option<&str>,
        name: &'static str,
        field: &str,
    ) -> Result<Option<(Zeroizing<String>, Origin)>, Failure> {
        if let Some(value) = flag {
            return Ok(Some((Zeroizing::new(value.to_owned()), Origin::Flag)));
        }
        let of_profile = self.profile.get(field).map(|value| (value.clone(), Origin::Profile));
        if of_profile.is_some() && self.is_profile_first() {
            return Ok(of_profile);
        }
        let of_environment = variable(self.environment, name)?;
        Ok(of_environment.map(|value| (value, Origin::Environment(name))).or(of_profile))
    }

    /// Whether the profile stands above the environment: who names it for this one command means its server,
    /// and none that was exported for another.
    fn is_profile_first(&self) -> bool {
        self.flags.profile.is_some()
    }

    /// The first file that is named; a profile names it from where the profiles are.
    fn file(
        &self,
        flag: Option<&PathBuf>,
        name: &'static str,
        field: &str,
    ) -> Result<Option<(PathBuf, Origin)>, Failure> {
        if let Some(path) = flag {
            return Ok(Some((path.clone(), Origin::Flag)));
        }
        let value = self.value(None, name, field)?;
        Ok(value.map(|(text, origin)| match origin {
            Origin::Profile => (self.profile_folder.join(text.as_str()), origin),
            Origin::Flag | Origin::Environment(_) => (PathBuf::from(text.as_str()), origin),
        }))
    }

    fn address(&self) -> Result<String, Failure> {
        let given = self.value(self.flags.address.as_deref(), "LATCHKEY_ADDRESS", "address")?;
        spoken_to(given.as_ref().map_or(ADDRESS_DEFAULT, |(address, _)| address.as_str()))
    }

    /// The address that the profile speaks of.
    fn address_of_profile(&self) -> Result<String, Failure> {
        spoken_to(self.profile.get("address").map_or(ADDRESS_DEFAULT, |own| own.as_str()))
    }

    /// Beyond this machine no call goes in plaintext unless somebody has said so: there is a token in each,
    /// the operator's or the one that it is about, or in its answer.
    fn refuse_plaintext(&self, address: &str) -> Result<(), Failure> {
        if !is_exposed(address) || self.is_plaintext_meant(address)? {
            return Ok(());
        }
        let message = format!(
            "{address} is plaintext, and not on this machine: whoever is in between could read tokens"
        );
        Err(Failure::new(message).help(
            "write https://HOST:PORT, or unix:PATH on the same machine; where the network in between is \
             yours, say --plaintext (LATCHKEY_PLAINTEXT=true, plaintext = true in the profile)",
        ))
    }

    fn is_plaintext_meant(&self, address: &str) -> Result<bool, Failure> {
        let flag = self.flags.plaintext.then_some("true");
        let Some((value, origin)) = self.value(flag, "LATCHKEY_PLAINTEXT", PLAINTEXT)? else {
            return Ok(false);
        };
        match (value.as_str(), origin) {
            // What a profile says of its own server is not said of another.
            ("true", Origin::Profile) => Ok(self.address_of_profile()? == address),
            ("true", Origin::Flag | Origin::Environment(_)) => Ok(true),
            ("false", _) => Ok(false),
            _ => Err(Failure::new("LATCHKEY_PLAINTEXT is neither true nor false")
                .help("set it to true, or unset it")),
        }
    }

    /// The `authorization` of a call: `Bearer` and the operator's token.
    fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let Some((text, origin)) = self.token()? else { return Ok(None) };
        let bad = |fault: &dyn std::fmt::Display| {
            Failure::new(format!("the operator's token in {origin} cannot be right: {fault}"))
                .help("copy it again; `latchkey token inspect` says whether a token is well-formed")
        };
        let token = Token::from_text(text.trim_end()).map_err(|fault| bad(&fault))?;
        let header = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut value = MetadataValue::try_from(header.as_str()).map_err(|fault| bad(&fault))?;
        value.set_sensitive(true); // neither printed nor kept by header compression
        Ok(Some(value))
    }

    fn token(&self) -> Result<Option<FoundToken>, Failure> {
        if let Some(path) = &self.flags.token_file {
            return read_token(path).map(Some);
        }
        if self.is_profile_first()
            && let Some(found) = self.token_of_profile()?
        {
            return Ok(Some(found));
        }
        match self.token_of_environment()? {
            Some(found) => Ok(Some(found)),
            None => self.token_of_profile(),
        }
    }

    fn token_of_environment(&self) -> Result<Option<FoundToken>, Failure> {
        let (direct, file) = ("LATCHKEY_TOKEN", "LATCHKEY_TOKEN_FILE");
        match (variable(self.environment, direct)?, variable(self.environment, file)?) {
            (Some(_), Some(_)) => {
                Err(Failure::new(format!("{direct} and {file} are both set"))
                    .help("unset one of them"))
            }
            (Some(text), None) => Ok(Some((text, direct.to_owned()))),
            (None, Some(path)) => read_token(Path::new(path.as_str())).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn token_of_profile(&self) -> Result<Option<FoundToken>, Failure> {
        let found = match (self.profile.get("token"), self.profile.get("token_file")) {
            (Some(_), Some(_)) => {
                let message =
                    format!("profile `{}` has both token and token_file", self.profile_name);
                return Err(Failure::new(message).help("take one of them out"));
            }
            (Some(text), None) => (text.clone(), format!("profile `{}`", self.profile_name)),
            (None, Some(path)) => {
                let path = self.profile_folder.join(path.as_str());
                let unreadable = |error| secret::unreadable(&path, &error);
                let file = PrivateFile::open(&path).map_err(unreadable)?;
                file.refuse_others(OPEN_TO_READ)?;
                token_in(&secret::read_opened(&file.file).map_err(unreadable)?, &path)
            }
            (None, None) => return Ok(None),
        };
        self.refuse_elsewhere()?;
        Ok(Some(found))
    }

    /// The token of a profile is for the server of that profile, and is not shown to another.
    fn refuse_elsewhere(&self) -> Result<(), Failure> {
        let own = self.address_of_profile()?;
        let address = self.address()?;
        if address == own {
            return Ok(());
        }
        let name = &self.profile_name;
        let message =
            format!("the token of profile `{name}` is for {own}, and is not sent to {address}");
        Err(Failure::new(message).help(
            "name the token for this server with --token-file or LATCHKEY_TOKEN, or make a profile \
             for it (`latchkey profile set NAME`)",
        ))
    }

    fn tls(&self, address: &str) -> Result<Option<ClientTlsConfig>, Failure> {
        let flags = self.flags;
        let ca = self.file(flags.ca_file.as_ref(), "LATCHKEY_CA_FILE", "ca_file")?;
        let cert = self.file(flags.cert_file.as_ref(), "LATCHKEY_CERT_FILE", "cert_file")?;
        let key = self.file(flags.key_file.as_ref(), "LATCHKEY_KEY_FILE", "key_file")?;
        let name =
            self.value(flags.server_name.as_deref(), "LATCHKEY_SERVER_NAME", "server_name")?;
        if !address.starts_with("https://") {
            let is_flag =
                [&ca, &cert, &key].into_iter().flatten().any(|(_, at)| *at == Origin::Flag);
            if is_flag || flags.server_name.is_some() {
                return Err(Failure::new(format!("{address} is not spoken to over TLS"))
                    .help("write https://HOST:PORT, or leave the flags for TLS out"));
            }
            return Ok(None);
        }
        let mut tls = ClientTlsConfig::new();
        tls = match ca {
            Some((path, _)) => {
                tls.ca_certificate(Certificate::from_pem(read_pem(&path, "CERTIFICATE")?))
            }
            None => tls.with_native_roots(),
        };
        match (cert, key) {
            (Some((cert, _)), Some((key, _))) => {
                let (cert, key) = (read_pem(&cert, "CERTIFICATE")?, read_pem(&key, "PRIVATE KEY")?);
                tls = tls.identity(Identity::from_pem(&*cert, &*key));
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::new(
                    "a certificate of your own needs its private key, and the key it",
                )
                .help("give both --cert-file and --key-file"));
            }
        }
        Ok(Some(match name {
            Some((name, _)) => tls.domain_name(name.as_str()),
            None => tls,
        }))
    }
}

/// The address as it is spoken to. A slip in it must not lead the token elsewhere, or there in plaintext, as a
/// scheme that nobody knows or a port that there is not would. Without a scheme it is http on this machine,
/// and https beyond.
fn spoken_to(address: &str) -> Result<String, Failure> {
    if address.starts_with("unix:") {
        return Ok(address.to_owned());
    }
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None if is_exposed(&format!("http://{address}")) => ("https".to_owned(), address),
        None => ("http".to_owned(), address),
    };
    let fault = match rest.trim_end_matches('/').parse::<Authority>() {
        _ if scheme != "https" && scheme != "http" => "it is neither https:// nor http://",
        Err(_) => "there is no host in it, or more than that and a port",
        Ok(server) if server.as_str().contains('@') => "nobody is named in it, a token says who",
        Ok(server) if server.as_str() != server.host() && server.port_u16().is_none() => {
            "there is no such port"
        }
        Ok(_) => return Ok(format!("{scheme}://{rest}")),
    };
    // What stands in front of an @ may be a password.
    let named = if rest.contains('@') { "this" } else { address };
    Err(Failure::new(format!("{named} is no address of a server: {fault}"))
        .help("write https://HOST:PORT, http://HOST:PORT or unix:PATH"))
}

/// Whether what is sent to this address leaves the machine in plaintext.
fn is_exposed(address: &str) -> bool {
    let Some(rest) = address.strip_prefix("http://") else { return false };
    let Ok(server) = rest.trim_end_matches('/').parse::<Authority>() else { return true };
    let host = server.host().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.parse().is_ok_and(|host: IpAddr| host.to_canonical().is_loopback());
    !is_loopback && !host.eq_ignore_ascii_case("localhost")
}

fn read_token(path: &Path) -> Result<FoundToken, Failure> {
    Ok(token_in(&secret::read_file(path)?, path))
}

fn token_in(bytes: &[u8], path: &Path) -> FoundToken {
    // Of what is not UTF-8 the form is wrong as well.
    let text = Zeroizing::new(String::from_utf8_lossy(bytes).into_owned());
    (text, path.display().to_string())
}

/// A file that holds PEM of this kind. tonic would take another for one that is empty.
fn read_pem(path: &Path, kind: &str) -> Result<Zeroizing<String>, Failure> {
    let text = read_file_text(path).map_err(|error| Failure::reading(path.display(), &error))?;
    if text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(kind)) {
        return Ok(text);
    }
    Err(Failure::new(format!("{} holds no {}", path.display(), kind.to_lowercase()))
        .help(format!("name a file in PEM, with a line -----BEGIN {kind}-----")))
}

fn variable(environment: &Environment, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
    let Some((_, value)) = environment.iter().find(|(known, _)| known == OsStr::new(name)) else {
        return Ok(None);
    };
    let text = value.to_str().ok_or_else(|| {
        Failure::new(format!("{name} is not UTF-8")).help("set it anew, or unset it")
    })?;
    Ok((!text.is_empty()).then(|| Zeroizing::new(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_as_it_is_meant_or_not_at_all() {
        for (address, spoken) in [
            ("h:1", "https://h:1"),
            ("localhost:1", "http://localhost:1"),
            ("127.0.0.2:1", "http://127.0.0.2:1"),
            ("[::1]:1", "http://[::1]:1"),
            ("127.0.0.1.example:1", "https://127.0.0.1.example:1"),
            ("http://h:1", "http://h:1"),
            ("HTTPS://h", "https://h"),
            ("https://h:1/", "https://h:1/"),
            ("http://[::1]:1", "http://[::1]:1"),
            ("unix:/run/l", "unix:/run/l"),
        ] {
            assert_eq!(spoken_to(address), Ok(spoken.to_owned()));
        }
        for address in [
            "htps://h:1",
            "grpc://h",
            "http://h:99999",
            "h:",
            "u:p@h:1",
            "https://h/path",
            "",
            "https://",
        ] {
            let told = spoken_to(address).unwrap_err().to_string();
            assert!(told.contains("is no address of a server"), "{address}: {told}");
        }
    }

    #[test]
    fn plaintext_is_exposed_unless_it_stays_on_this_machine() {
        for address in
            ["unix:/l", "https://h", "http://LOCALHOST:1", "http://127.9.9.9/", "http://[::1]:1"]
        {
            assert!(!is_exposed(address), "{address}");
        }
        for address in [
            "http://h",
            "http://10.0.0.1:1",
            "http://0.0.0.0:1",
            "http://[::]:1",
            "http://localhost.h:1",
        ] {
            assert!(is_exposed(address), "{address}");
        }
    }
}
