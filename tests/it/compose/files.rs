//! The files of `deploy/compose` are what the programs that read them take, and name nothing that is not there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::{at, command, text};
use crate::cli::Run;
use crate::gateways::forms::{read, unknown_fields};
use crate::support::Folder;

const FILE: &str = "compose.yaml";
const NODES: [&str; 3] = ["latchkey-1", "latchkey-2", "latchkey-3"];
const SECRETS: [&str; 5] =
    ["postgres-password", "redis-url", "redis.acl", "root-token", "store-url"];

/// Fields of a service, of those that the Compose specification has (`schema/compose-spec.json`); `*` is anything.
const KNOWN: &[(&str, &str)] = &[
    (
        "",
        "image command user environment secrets networks depends_on healthcheck stop_grace_period restart read_only \
         cap_drop security_opt logging volumes tmpfs shm_size ports",
    ),
    ("environment", "*"),
    ("healthcheck", "test interval timeout retries start_period start_interval disable"),
    ("logging", "driver options"),
    ("depends_on", "*"),
];

/// Who is in which network.
const NETWORKS: [(&str, &[&str]); 3] = [
    ("asking", &["envoy", "latchkey-1", "latchkey-2", "latchkey-3"]),
    ("keeping", &["latchkey-1", "latchkey-2", "latchkey-3", "postgres", "redis"]),
    ("serving", &["api", "envoy"]),
];

#[test]
fn the_compose_file_has_known_fields_and_names_what_is_there() {
    assert_eq!(faults(&text(FILE)), [""; 0]);
}

#[test]
fn no_line_of_security_can_be_deleted_from_the_compose_file() {
    let text = text(FILE);
    let lines: Vec<_> = text.lines().collect();
    let mut count = 0;
    for number in (0..lines.len()).filter(|number| lines[*number].contains(" # security: ")) {
        let without = [&lines[..number], &lines[number + 1..]].concat().join("\n");
        assert!(!faults(&without).is_empty(), "nothing is wrong without {}", lines[number]);
        count += 1;
    }
    assert!(count >= 10, "{count} lines are marked as ones of security");
}

#[test]
fn what_is_wrong_in_a_compose_file_is_found() {
    for (right, wrong, told) in [
        ("read_only:", "readonly:", "readonly is not known"),
        ("secrets: [postgres-password]", "secrets: [password]", "there are no secrets password"),
        ("networks: [keeping]", "networks: [kept]", "there are no networks kept"),
        ("./redis.conf:", "./redis.config:", "no file ./redis.config"),
        ("postgres:/var", "data:/var", "there are no volumes data"),
        ("user: postgres", "user: root", "root"),
        ("api: { condition: service_started", "api: { condition: service_healthy", "no health"),
        ("asking: { internal: true }", "asking: {}", "asking is not internal"),
        ("secrets/root-token }", "secrets/root }", "no secret is made at ./secrets/root"),
    ] {
        let found = faults(&text(FILE).replace(right, wrong));
        assert!(found.iter().any(|fault| fault.contains(told)), "{wrong}: {found:?}");
    }
}

#[test]
fn the_nodes_have_settings_that_latchkey_takes() {
    let secrets = make_secrets();
    let file = &read(&text(FILE)).unwrap()[0];
    for node in NODES {
        let variables = file["services"][node]["environment"].as_object().unwrap();
        let variables: Vec<_> = variables
            .iter()
            .filter(|(name, _)| name.starts_with("LATCHKEY__"))
            .map(|(name, value)| {
                let folder = secrets.path().display().to_string();
                (&**name, value.as_str().unwrap().replace("/run/secrets", &folder))
            })
            .collect();
        let environment: Vec<_> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
        let ended =
            Run { environment: &environment, ..Run::default() }.latchkey(&["config", "check"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn secrets_are_made_once_and_are_right() {
    let secrets = make_secrets();
    let folder = secrets.path();
    let all = || SECRETS.map(|name| fs::read_to_string(folder.join(name)).unwrap());
    let made = all();
    assert!(command(at("make-secrets")).arg(folder).status().unwrap().success());
    assert_eq!(all(), made);
    assert_ne!(make_secrets().path().join("root-token"), folder.join("root-token"));
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);

    let [password, redis, acl, token, store] = made.each_ref().map(|text| text.trim_end());
    let inspected =
        Run { stdin: token.as_bytes(), ..Run::default() }.latchkey(&["token", "inspect"]);
    assert_eq!(inspected.code, Some(0), "{inspected:?}");
    assert!(store.contains(&format!(":{password}@postgres/")) && password.len() == 40);

    // The rights are those of the page, and nobody comes in without a password.
    let page = fs::read_to_string(at("../../docs/redis.md")).unwrap();
    let wanted = page.lines().find(|line| line.starts_with("ACL SETUSER latchkey ")).unwrap();
    let password = redis.split([':', '@']).nth(2).unwrap();
    let wanted = wanted.replace("a-long-password", password).replace("ACL SETUSER", "user");
    assert_eq!(acl, format!("user default off\n{wanted}"));
}

#[test]
fn envoy_takes_its_file_which_is_the_tested_example_with_all_nodes() {
    let folder = Folder::new();
    let mut envoy = command("envoy");
    envoy.args(["--mode", "validate", "-c"]).arg(at("envoy.yaml")).current_dir(folder.path());
    let output = envoy.output().expect("there is no envoy: ./check installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // All of its lines of security are watched there.
    let [example, own] =
        ["../envoy/scopes.yaml", "envoy.yaml"].map(|name| read(&text(name)).unwrap().remove(0));
    let file = &read(&text(FILE)).unwrap()[0];
    let listen = &file["services"][NODES[0]]["environment"]["LATCHKEY__GRPC__LISTEN"];
    let port: u16 = listen.as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let endpoint = |host: &str, port: u16| json!({ "endpoint": { "address": { "socket_address": { "address": host, "port_value": port } } } });
    let mut wanted = example;
    let clusters = &mut wanted["static_resources"]["clusters"];
    let places = "/load_assignment/endpoints/0/lb_endpoints";
    *clusters[0].pointer_mut(places).unwrap() = NODES.map(|node| endpoint(node, port)).into();
    *clusters[1].pointer_mut(places).unwrap() = json!([endpoint("api", 3000)]);
    assert_eq!(own, wanted);
}

#[test]
fn the_versions_are_those_that_the_project_names() {
    let of = |path: &str| fs::read_to_string(at("../..").join(path)).unwrap();
    let version = |text: &str, before: &str| {
        let (_, after) = text.split_once(before).unwrap();
        after.lines().next().unwrap().trim_matches('"').to_owned()
    };
    let envoy = version(&of("check"), "envoy_version=");
    assert!(text(FILE).contains(&format!("image: envoyproxy/envoy:v{envoy}\n")));
    let rust = version(&of("rust-toolchain.toml"), "channel = ");
    assert!(text("Dockerfile").contains(&format!("FROM rust:{rust}-bookworm ")));
}

fn make_secrets() -> Folder {
    let folder = Folder::new();
    let made = command(at("make-secrets")).arg(folder.path()).status().unwrap();
    assert!(made.success());
    folder
}

/// What is wrong with it.
fn faults(text: &str) -> Vec<String> {
    let file = match read(text) {
        Ok(mut documents) => documents.remove(0),
        Err(said) => return vec![said],
    };
    let mut faults = Vec::new();
    for name in names(&file) {
        if !["name", "services", "networks", "volumes", "secrets"].contains(&name)
            && !name.starts_with("x-")
        {
            faults.push(format!("{name} is not known"));
        }
    }
    for name in names(&file["services"]) {
        let service = &file["services"][name];
        let mut found = Vec::new();
        unknown_fields(service, "", KNOWN, &mut found);
        unsafe_ways(name, service, &mut found);
        missing(service, &file, &mut found);
        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    for (network, wanted) in NETWORKS {
        let services = names(&file["services"]);
        let is_in =
            |name: &&&str| strings(&file["services"][**name]["networks"]).contains(&network);
        let members: Vec<_> = services.iter().filter(is_in).copied().collect();
        if members != wanted {
            faults.push(format!("{network} has {members:?}"));
        }
        if network != "serving" && file["networks"][network]["internal"] != true {
            faults.push(format!("{network} is not internal"));
        }
    }
    for secret in names(&file["secrets"]) {
        let path = file["secrets"][secret]["file"].as_str().unwrap_or_default();
        if !SECRETS.iter().any(|made| path == format!("./secrets/{made}")) {
            faults.push(format!("no secret is made at {path}"));
        }
    }
    faults
}

/// What makes a service safer than it would be, and is not there.
fn unsafe_ways(name: &str, service: &Value, faults: &mut Vec<String>) {
    let ports = if name == "envoy" { json!(["127.0.0.1:8000:8000"]) } else { Value::Null };
    for (field, wanted) in [
        ("read_only", json!(true)),
        ("cap_drop", json!(["ALL"])),
        ("security_opt", json!(["no-new-privileges:true"])),
        ("restart", json!("unless-stopped")),
        ("ports", ports),
    ] {
        if service[field] != wanted {
            faults.push(format!("{field} is not {wanted}"));
        }
    }
    let user = service["user"].as_str().unwrap_or("root");
    if user.starts_with("root") || user.starts_with('0') {
        faults.push("runs as root".to_owned());
    }
    if name != "api" && service["healthcheck"]["test"].is_null() {
        faults.push("has no health check".to_owned());
    }
}

/// What it names and is not there.
fn missing(service: &Value, file: &Value, faults: &mut Vec<String>) {
    let mut demand = |kind: &str, name: &str| {
        if file[kind].get(name).is_none() {
            faults.push(format!("{name} is not in the {kind}: there are no {kind} {name}"));
        }
    };
    for network in strings(&service["networks"]) {
        demand("networks", network);
    }
    for secret in strings(&service["secrets"]) {
        demand("secrets", secret);
    }
    for other in names(&service["depends_on"]) {
        demand("services", other);
    }
    for volume in strings(&service["volumes"]) {
        let source = volume.split(':').next().unwrap_or_default();
        if !source.starts_with("./") {
            demand("volumes", source);
        }
    }
    for volume in strings(&service["volumes"]) {
        let source = volume.split(':').next().unwrap_or_default();
        if source.starts_with("./") && !at(source).is_file() {
            faults.push(format!("there is no file {source}"));
        }
    }
    for other in names(&service["depends_on"]) {
        let is_asked = service["depends_on"][other]["condition"] == "service_healthy";
        if is_asked && file["services"][other]["healthcheck"].is_null() {
            faults.push(format!("waits for the health of {other}, which has no health check"));
        }
    }
    for (_, value) in service["environment"].as_object().into_iter().flatten() {
        let secret = value.as_str().and_then(|value| value.strip_prefix("/run/secrets/"));
        if secret.is_some_and(|secret| !strings(&service["secrets"]).contains(&secret)) {
            faults.push(format!("it is not given {value}"));
        }
    }
}

fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        value.as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
