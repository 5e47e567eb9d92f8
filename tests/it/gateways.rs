//! Gateways and services that ask: forward-auth, decisions over HTTP, and rules.

mod check;
mod command_line;
mod examples;
mod forms;
pub(crate) mod forward_auth;
mod hypermemory;
mod proxies;
mod rules;
mod services;

use crate::support::Server;

/// A development server whose policy has these rules, and which trusts this machine's proxies.
async fn with_rules(rules: &str) -> Server {
    let builder = Server::build().dev();
    let path = builder.folder().join("policy.toml");
    let policy = latchkey::policy::Policy::default().to_toml();
    std::fs::write(&path, format!("{policy}\n{rules}")).unwrap();
    builder
        .environment("LATCHKEY__POLICY__FILE", &path.display().to_string())
        .environment("LATCHKEY__GATEWAY__TRUSTED_PROXIES", "127.0.0.1")
        .environment("LATCHKEY__LOG__LEVEL", "debug")
        .start()
        .await
}
