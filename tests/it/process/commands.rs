//! The command line against a running server.

use super::{Refused, assert_refused};
use crate::cli::{Ended, Run, file};
use crate::support::Server;

/// Runs `latchkey` as this operator against this server.
fn remote(server: &Server, token: &str, arguments: &[&str]) -> Ended {
    let address = server.grpc().to_string();
    let environment = [("LATCHKEY_ADDRESS", &*address), ("LATCHKEY_TOKEN", token)];
    let ended = Run { environment: &environment, ..Run::default() }.latchkey(arguments);
    assert!(!ended.out.contains(token) && !ended.err.contains(token), "{ended:?}");
    ended
}

fn refused(ended: Ended) -> Refused {
    Refused { code: ended.code, told: ended.err }
}

fn done(ended: Ended) -> String {
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
    ended.out
}

#[tokio::test]
async fn health_tells_whether_a_server_serves() {
    let mut server = Server::start().await;
    let root = server.root_token();
    assert!(done(remote(&server, &root, &["health"])).contains("is serving"));
    let service = "latchkey.v1.AuthorizationService";
    let told = done(remote(&server, &root, &["health", "--service", service]));
    assert!(told.contains(service), "{told}");
    let unknown = remote(&server, &root, &["health", "--service", "latchkey.v1.Nothing"]);
    assert_refused(&refused(unknown), &["no service", "help: "]);
    for address in [server.http(), server.operations()] {
        let ended = remote(&server, &root, &["health", "--address", &address.to_string()]);
        let told =
            ["does not speak gRPC", "HTTP 404", "help: see whether", "grpc.listen (port 50051"];
        assert_refused(&refused(ended), &told);
    }
    server.stop().await;
    let gone = remote(&server, &root, &["health"]);
    assert_refused(&refused(gone), &["cannot connect", "help: start a server there"]);
}

#[tokio::test]
async fn a_policy_is_read_changed_and_put_in_force_by_its_revision() {
    let server = Server::start().await;
    let root = server.root_token();
    let before = done(remote(&server, &root, &["policy", "get"]));
    let option = |text: &str| {
        let words = text.split_whitespace();
        words.into_iter().find(|word| word.starts_with("--expected-revision=")).unwrap().to_owned()
    };
    let expected = option(&before);
    let wish = format!("{before}\n[[scopes]]\nname = \"orders:read\"\n");
    let wish = file(&format!("policy-{}.toml", server.grpc().port()), &wish);
    let address = server.grpc().to_string();

    let checked = remote(&server, &root, &["policy", "check", "--address", &address, &wish]);
    assert!(done(checked).contains("The policy is right: 5 scopes, 4 plans, 0 rules."));
    let dry = remote(&server, &root, &["policy", "apply", "--dry-run", &wish]);
    assert!(done(dry).contains("Nothing was changed"));
    assert_eq!(done(remote(&server, &root, &["policy", "get"])), before);

    let applied = done(remote(&server, &root, &["policy", "apply", &expected, &wish]));
    assert!(
        applied.contains("The policy is in force") && applied.contains("applied by"),
        "{applied}"
    );
    let after = done(remote(&server, &root, &["policy", "get"]));
    assert!(after.contains("orders:read") && option(&after) != expected, "{after}");

    // Somebody else was faster.
    let other = file(&format!("policy-{}-other.toml", server.grpc().port()), &before);
    let late = remote(&server, &root, &["policy", "apply", &expected, &other]);
    assert_refused(&refused(late), &["REVISION_MISMATCH", "help: someone changed it in between"]);
    assert_eq!(done(remote(&server, &root, &["policy", "get"])), after);
}

#[tokio::test]
async fn a_policy_that_the_server_refuses_is_told_with_what_to_do() {
    let server = Server::start_dev().await;
    let root = server.root_token();
    let policy = done(remote(&server, &root, &["policy", "get"]));
    let without = policy.replace("name = \"developer\"", "name = \"other\"");
    let path = file(&format!("policy-{}-plan.toml", server.grpc().port()), &without);
    let ended = remote(&server, &root, &["policy", "apply", &path]);
    assert_refused(&refused(ended), &["PLAN_IN_USE", "help: keep the plan"]);
    let without = policy.replace("memory:readonly", "memory:other");
    let path = file(&format!("policy-{}-scope.toml", server.grpc().port()), &without);
    let ended = remote(&server, &root, &["policy", "apply", &path]);
    assert_refused(&refused(ended), &["SCOPE_IN_USE", "help: keep the scope", "--allow-orphans"]);
    let ended = done(remote(&server, &root, &["policy", "apply", "--allow-orphans", &path]));
    assert!(ended.contains("notice: `memory:readonly` is held by 1 keys"), "{ended}");

    let ended = remote(&server, &server.live_key(), &["policy", "get"]);
    assert_refused(&refused(ended), &["PERMISSION_DENIED", "latchkey:policy.read"]);
    let unknown = "hm_live_0000000000000000000000000000002dlYSp";
    let ended = remote(&server, unknown, &["policy", "get"]);
    assert_refused(&refused(ended), &["INVALID_CREDENTIAL", "check the operator's token"]);
}

#[tokio::test]
async fn the_configuration_is_shown_without_its_secrets() {
    let token = "hm_live_0000000000000000000000000000002dlYSp";
    let environment = [("LATCHKEY__ROOT_TOKEN", token), ("LATCHKEY__LOG__LEVEL", "warn")];
    let shown =
        done(Run { environment: &environment, ..Run::default() }.latchkey(&["config", "show"]));
    assert!(shown.contains("root_token = \"[hidden]\" # LATCHKEY__ROOT_TOKEN"), "{shown}");
    assert!(shown.contains("level = \"warn\" # LATCHKEY__LOG__LEVEL") && !shown.contains(token));
}
