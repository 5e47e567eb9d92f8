//! Gateways and services that ask: forward-auth, decisions over HTTP, and rules.

mod check;
mod command_line;
mod envoy;
mod examples;
pub(crate) mod forms;
pub(crate) mod forward_auth;
mod hypermemory;
pub(crate) mod proxies;
mod rules;
mod services;
mod storm;

use crate::support::{Builder, Server};

/// A development server whose policy has these rules, and which trusts this machine's proxies.
async fn with_rules(rules: &str) -> Server {
    let policy = latchkey::policy::Policy::default().to_toml();
    with_policy(Server::build(), &format!("{policy}\n{rules}")).await
}

/// The same with this policy, if the store is new.
async fn with_policy(builder: Builder, policy: &str) -> Server {
    let builder = builder.dev();
    let path = builder.folder().join("policy.toml");
    std::fs::write(&path, policy).unwrap();
    builder
        .environment("LATCHKEY__POLICY__FILE", &path.display().to_string())
        .environment("LATCHKEY__GATEWAY__TRUSTED_PROXIES", "127.0.0.1")
        .environment("LATCHKEY__LOG__LEVEL", "debug")
        .start()
        .await
}
