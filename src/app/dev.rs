//! `serve --dev`: a throw-away service with an account, two keys, and lines to paste.
//!
//! It listens on loopback only and prints its tokens, which is what it is for.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::Addresses;
use crate::account::{AccountId, Labels, NewAccount};
use crate::cli::Dev;
use crate::clock::Entropy as _;
use crate::config::{Callers, Config, StoreUrl};
use crate::failure::{Failure, chain};
use crate::key::{Expiry, NewKey};
use crate::keyring::Keyring;
use crate::machine::MachineEntropy;
use crate::policy::{Policy, ScopeDefinition};
use crate::scope::{Scope, ScopePattern};
use crate::serve::Listen;
use crate::store::{Command, Store};
use crate::token::{Environment, Token};

const ACCOUNT: &str = "demo";
const PLAN: &str = "developer";
/// What the live key holds, and what the test key holds.
const SCOPES: [&str; 3] = ["memory:readonly", "memory:read", "memory:write"];

/// A development session: where it keeps its store, and the scopes that its user brought.
pub(super) struct Session {
    folder: Folder,
    scopes: Vec<Scope>,
}

/// A folder, and whether it goes when the session ends.
enum Folder {
    Kept(PathBuf),
    Temporary(PathBuf),
}

impl Folder {
    fn path(&self) -> &PathBuf {
        match self {
            Self::Kept(path) | Self::Temporary(path) => path,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Self::Temporary(path) = self {
            // What cannot be removed stays for the system's own cleaning of its temporary folder.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// What is printed once the addresses are known.
pub(super) struct Lines<'a> {
    session: &'a Session,
    live: Token,
    test: Token,
    unknown: Token,
}

impl Session {
    /// Chooses the folder and points the configuration to it.
    pub(super) fn prepare(dev: Dev, config: &mut Config) -> Result<Self, Failure> {
        let scopes = dev
            .scopes
            .iter()
            .map(|text| {
                Scope::parse(text).map_err(|error| Failure::new(format!("--scope {text}: {error}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let folder = match dev.directory {
            Some(path) => Folder::Kept(path),
            None => Folder::Temporary(
                std::env::temp_dir().join(format!("latchkey-dev-{:016x}", MachineEntropy.number())),
            ),
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder.path()).map_err(
            |error| {
                Failure::of(format!("cannot make the folder {}", folder.path().display()), &error)
            },
        )?;
        let url = format!("sqlite://{}", folder.path().join("latchkey.db").display());
        config.store.url = StoreUrl::from(url);
        if config.grpc.callers() != Callers::Any {
            tracing::info!("--dev lets whoever can connect ask for decisions: grpc.callers is any");
            config.grpc.callers = Some(Callers::Any);
        }
        Ok(Self { folder, scopes })
    }

    /// Where the root token is kept.
    pub(super) fn root_token_file(&self) -> PathBuf {
        self.folder.path().join("root-token")
    }

    /// What a shell is told of the root token. A token that was chosen is its owner's to type.
    fn root_token(&self) -> String {
        let file = self.root_token_file();
        if file.exists() {
            format!("$(cat '{}')", file.display())
        } else {
            "…  # the root_token with which this store was started first".to_owned()
        }
    }

    /// Makes the account and its keys; those of an earlier session in the same folder are revoked.
    pub(super) async fn make_keys(
        &self,
        keyring: &Keyring,
        store: &dyn Store,
    ) -> Result<Lines<'_>, Failure> {
        let (policy, _) =
            store.policy().await.map_err(|error| Failure::of("cannot use the store", &error))?;
        demand_demo(&policy)?;
        let account = AccountId::parse(ACCOUNT).ok_or_else(|| Failure::new("no account id"))?;
        let mut live_scopes = patterns(&["memory:readonly"]);
        live_scopes.extend(self.scopes.iter().map(ScopePattern::from));
        live_scopes.dedup();
        let (live, live_secret) = keyring.new_token(Environment::Live);
        let (test, test_secret) = keyring.new_token(Environment::Test);
        let (unknown, _) = keyring.new_token(Environment::Live);
        let test_scopes = patterns(&["memory:read", "memory:write"]);
        let command = Command::SeedDemo {
            account: NewAccount {
                id: Some(account.clone()),
                display_name: "Demo".to_owned(),
                plan: PLAN.to_owned(),
                labels: Labels::new(),
            },
            keys: vec![
                (key(&account, "live", Environment::Live, live_scopes), live_secret),
                (key(&account, "test", Environment::Test, test_scopes), test_secret),
            ],
            policy: Some(self.with_scopes(policy)),
        };
        keyring.mutate_as_system("dev", command).await.map_err(|error| {
            Failure::new(format!("cannot make the demo account: {}", chain(&error)))
        })?;
        Ok(Lines { session: self, live, test, unknown })
    }

    /// The policy with the scopes that it lacks.
    fn with_scopes(&self, mut policy: Policy) -> Policy {
        for scope in &self.scopes {
            if !policy.scopes.iter().any(|known| known.name == scope.as_str()) {
                policy.scopes.push(ScopeDefinition {
                    name: scope.to_string(),
                    description: "Added by --scope".to_owned(),
                    implies: Vec::new(),
                    strict: false,
                    cost: 1,
                });
            }
        }
        policy
    }
}

/// The demo's account and keys need these to be in the policy.
pub(super) fn demand_demo(policy: &Policy) -> Result<(), Failure> {
    let missing = if policy.plans.iter().all(|plan| plan.name != PLAN) {
        format!("the plan `{PLAN}`")
    } else if let Some(scope) =
        SCOPES.iter().find(|name| policy.scopes.iter().all(|known| known.name != **name))
    {
        format!("the scope `{scope}`")
    } else {
        return Ok(());
    };
    let message = format!("--dev needs {missing}, and the policy has none of that name");
    Err(Failure::new(message).help(
        "add it to policy.file, or leave policy.file out; a folder of --dev-dir that was used \
         before keeps its policy",
    ))
}

fn patterns(names: &[&str]) -> Vec<ScopePattern> {
    names.iter().filter_map(|name| ScopePattern::parse(name).ok()).collect()
}

fn key(
    account: &AccountId,
    name: &str,
    environment: Environment,
    scopes: Vec<ScopePattern>,
) -> NewKey {
    NewKey {
        account: account.clone(),
        display_name: name.to_owned(),
        environment,
        scopes,
        grantable_scopes: Vec::new(),
        expiry: Expiry::Never,
        allowed_cidrs: Vec::new(),
        labels: Labels::new(),
    }
}

impl Lines<'_> {
    /// Prints the keys, and lines that show 200, 403 and 401.
    pub(super) fn print(&self, addresses: &Addresses) -> Result<(), Failure> {
        let text = self.text(addresses);
        std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::of("cannot print the demo's lines", &error))
    }

    fn text(&self, addresses: &Addresses) -> String {
        let allowed = self.session.scopes.first().map_or("memory:read", Scope::as_str);
        let refused = "memory:write";
        let mut text = format!(
            "\nlatchkey serves account `{ACCOUNT}` on plan `{PLAN}`, for development on this machine only.\n\n  \
               live key  {}  ({})\n  \
               test key  {}  (memory:read, memory:write)\n",
            self.live.expose(),
            std::iter::once("memory:readonly")
                .chain(self.session.scopes.iter().map(Scope::as_str))
                .collect::<Vec<_>>()
                .join(", "),
            self.test.expose(),
        );
        let cases = [
            ("200: the key may", &self.live, allowed),
            ("403: it may not", &self.live, refused),
            ("401: there is no such key", &self.unknown, allowed),
        ];
        // Writing to a string does not fail.
        if let Some(http) = addresses.http.as_ref().and_then(curl_target) {
            let _ = writeln!(text, "\nAsk as a proxy does:\n");
            for (title, token, scope) in cases {
                let _ = writeln!(
                    text,
                    "  # {title}\n  curl -i -H 'authorization: Bearer {}' {http}/v1/forward-auth?scope={scope}'",
                    token.expose()
                );
            }
        }
        if let Some(grpc) = addresses.grpc.as_ref().and_then(grpcurl_target) {
            let _ = writeln!(text, "\nAsk as a service does:\n");
            for (title, token, scope) in cases {
                let _ = writeln!(
                    text,
                    "  # {title}\n  grpcurl -plaintext -d '{{\"token\":\"{}\",\"required_scope\":\"{scope}\"}}' {grpc} latchkey.v1.AuthorizationService/Authorize",
                    token.expose()
                );
            }
            let _ = writeln!(
                text,
                "\nAdminister:\n\n  export LATCHKEY_TOKEN={}\n  \
                 latchkey key list --account {ACCOUNT} --address {grpc}\n  \
                 grpcurl -plaintext -expand-headers -H 'authorization: Bearer ${{LATCHKEY_TOKEN}}' -d '{{\"account_id\":\"{ACCOUNT}\"}}' {grpc} latchkey.v1.KeyService/ListKeys\n",
                self.session.root_token(),
            );
        }
        text
    }
}

/// What `curl` is told of an address, up to the path of the URL, the quote left open.
fn curl_target(listen: &Listen) -> Option<String> {
    match listen {
        Listen::Tcp(address) => Some(format!("'http://{address}")),
        Listen::Unix(path) => Some(format!("--unix-socket '{}' 'http://localhost", path.display())),
        Listen::Off => None,
    }
}

fn grpcurl_target(listen: &Listen) -> Option<String> {
    match listen {
        Listen::Tcp(address) => Some(address.to_string()),
        Listen::Unix(_) => Some(format!("'{listen}'")),
        Listen::Off => None,
    }
}
