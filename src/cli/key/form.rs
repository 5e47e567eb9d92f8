//! The forms in which a new token is printed: for people, for programs, and for the place where it is used.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::Outcome;
use crate::cli::console::Console;
use crate::cli::tree::Tree;
use crate::failure::Failure;
use crate::proto::v1::Key;
use crate::token::Token;

/// How the answer is to look.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct FormArguments {
    /// The form of the answer, in which the token is shown this once
    #[arg(long, short, value_name = "FORM", value_enum, default_value_t = KeyForm::Table)]
    output: KeyForm,
    /// What env, dotenv and the Secret call the token
    #[arg(long, value_name = "NAME", default_value = "LATCHKEY_KEY")]
    variable: String,
    /// What the Secret or the MCP server is called [default: from the name of the key]
    #[arg(long, value_name = "NAME")]
    resource: Option<String>,
    /// The namespace of the Secret [default: none is said]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Where the MCP server is, for claude-mcp
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeyForm {
    /// For people
    Table,
    /// For programs: protobuf's JSON, as grpcurl prints it
    Json,
    /// A line for a shell: export NAME=…
    Env,
    /// A line for a .env file: NAME=…
    Dotenv,
    /// A Secret, for kubectl apply
    K8sSecret,
    /// An entry for .mcp.json, with --url
    ClaudeMcp,
}

/// Names of Kubernetes have so many characters at most.
const RESOURCE_CHARS_MAX: usize = 63;

impl FormArguments {
    /// Whether the answer can be printed: asked before there is a key.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if !is_variable(&self.variable) {
            let message = format!("--variable: {:?} is no name of a variable", self.variable);
            return Err(
                Failure::new(message).help("use letters, digits and _, with a letter or _ first")
            );
        }
        let resources = [("--resource", &self.resource), ("--namespace", &self.namespace)];
        for (flag, given) in resources {
            if let Some(name) = given
                && !is_resource(name)
            {
                let message = format!("{flag}: {name:?} is no name of a resource");
                return Err(Failure::new(message)
                    .help("use a-z, 0-9 and - between them, 63 characters at most"));
            }
        }
        match (self.output, &self.url) {
            (KeyForm::ClaudeMcp, None) => Err(Failure::new("--output claude-mcp needs --url")
                .help("say where the MCP server is: --url https://HOST/mcp")),
            (KeyForm::ClaudeMcp, Some(url)) if !is_url(url) => {
                Err(Failure::new(format!("--url: {url:?} is no address of a server"))
                    .help("write https://HOST/mcp"))
            }
            _ => Ok(()),
        }
    }

    /// Prints the answer. A token that could not be written is lost, and its key is named.
    pub(super) fn print(
        &self,
        answer: &Tree,
        key: Option<&Key>,
        token: &str,
        console: &mut Console,
    ) -> Outcome {
        let unnamed = Key::default();
        let key = key.unwrap_or(&unnamed);
        // A shell would carry out what else a server may send.
        if !matches!(self.output, KeyForm::Table | KeyForm::Json)
            && Token::from_text(token).is_err()
        {
            let message = format!("{} was made, and what came with it is no token", key.key_id);
            let help = format!(
                "revoke it (`latchkey key revoke {}`), and see whether this is the right server",
                key.key_id
            );
            return Err(Failure::new(message).help(help).into());
        }
        match self.output {
            KeyForm::Table => {
                let mut rows = answer.get("key").map(Tree::rows).unwrap_or_default();
                let later = answer.get("previousKey").and_then(|key| key.get("expireTime"));
                rows.extend(later.map(|time| ("old token works until".into(), time.to_line())));
                rows.push(("token (shown once)".into(), token.to_owned()));
                console.answer_rows(&rows);
            }
            KeyForm::Json => console.json(answer),
            KeyForm::Env => console.answer(&format!("export {}={token}", self.variable)),
            KeyForm::Dotenv => console.answer(&format!("{}={token}", self.variable)),
            KeyForm::K8sSecret => console.answer(&self.secret(key, token)),
            KeyForm::ClaudeMcp => console.json(&self.mcp_entry(key, token)),
        }
        if console.is_lost() {
            let message = format!("{} was made, and its token could not be written", key.key_id);
            let help = format!("revoke it (`latchkey key revoke {}`), and repeat", key.key_id);
            return Err(Failure::new(message).help(help).into());
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A manifest. Texts are quoted as JSON, which YAML contains.
    fn secret(&self, key: &Key, token: &str) -> String {
        let quoted = |text: &str| Tree::text(text).to_json();
        let namespace = self.namespace.as_ref();
        let namespace = namespace.map(|name| format!("  namespace: {}\n", quoted(name)));
        format!(
            "apiVersion: v1\n\
             kind: Secret\n\
             metadata:\n  \
               name: {name}\n\
             {namespace}  \
               labels:\n    \
                 app.kubernetes.io/managed-by: latchkey\n  \
               annotations:\n    \
                 latchkey/key-id: {key_id}\n    \
                 latchkey/account-id: {account_id}\n    \
                 latchkey/display-name: {display_name}\n\
             type: Opaque\n\
             stringData:\n  \
               {variable}: {token}",
            name = quoted(&self.resource_name(key)),
            namespace = namespace.unwrap_or_default(),
            key_id = quoted(&key.key_id),
            account_id = quoted(&key.account_id),
            display_name = quoted(&key.display_name),
            variable = self.variable,
            token = quoted(token),
        )
    }

    /// An entry for the file in which clients of MCP keep their servers.
    fn mcp_entry(&self, key: &Key, token: &str) -> Tree {
        let authorization = Tree::text(format!("Bearer {token}"));
        let server = Tree::object([
            ("type", Tree::text("http")),
            ("url", Tree::text(self.url.as_deref().unwrap_or_default())),
            ("headers", Tree::object([("Authorization", authorization)])),
        ]);
        let name = self.resource_name(key);
        Tree::object([("mcpServers", Tree::object([(name.as_str(), server)]))])
    }

    fn resource_name(&self, key: &Key) -> String {
        self.resource.clone().unwrap_or_else(|| resource_name(&key.display_name))
    }
}

/// A name made of what a resource may be called by; `latchkey` when nothing is left.
fn resource_name(text: &str) -> String {
    let is_allowed = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
    let lower = text.to_lowercase();
    let words = lower.split(|char| !is_allowed(char)).filter(|word| !word.is_empty());
    let mut name = words.collect::<Vec<_>>().join("-");
    name.truncate(RESOURCE_CHARS_MAX);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "latchkey".to_owned() } else { name.to_owned() }
}

fn is_variable(name: &str) -> bool {
    let is_first = |char: char| char.is_ascii_alphabetic() || char == '_';
    name.starts_with(is_first) && name.chars().all(|char| is_first(char) || char.is_ascii_digit())
}

fn is_resource(name: &str) -> bool {
    !name.is_empty() && resource_name(name) == name
}

fn is_url(text: &str) -> bool {
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    is_web && text.parse::<http::Uri>().is_ok_and(|url| url.host().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_named_after_the_key() {
        for (name, resource) in [
            ("importer", "importer"),
            ("Nightly import (EU)", "nightly-import-eu"),
            ("--", "latchkey"),
            ("鍵", "latchkey"),
        ] {
            assert_eq!(resource_name(name), resource);
        }
        assert_eq!(resource_name(&"a-".repeat(63)).len(), 63);
    }

    #[test]
    fn what_is_no_token_is_not_handed_to_a_shell() {
        let environment = Vec::new();
        let mut console = Console::new(crate::cli::console::Colour::Never, &environment);
        for output in [KeyForm::Env, KeyForm::Dotenv, KeyForm::K8sSecret, KeyForm::ClaudeMcp] {
            let form = FormArguments {
                output,
                variable: "KEY".to_owned(),
                resource: None,
                namespace: None,
                url: None,
            };
            let answer = Tree::Object(Vec::new());
            let told = form.print(&answer, None, "x; touch /tmp/x", &mut console).unwrap_err();
            assert!(told.to_string().contains("no token"), "{told}");
        }
    }

    #[test]
    fn names_are_looked_at_before_there_is_a_key() {
        assert!(
            is_variable("_A1") && !is_variable("1A") && !is_variable("A-B") && !is_variable("")
        );
        assert!(
            is_resource("a-1") && !is_resource("A") && !is_resource("-a") && !is_resource("a b")
        );
        assert!(
            is_url("https://h/mcp")
                && !is_url("h/mcp")
                && !is_url("https://")
                && !is_url("ftp://h")
        );
    }
}
