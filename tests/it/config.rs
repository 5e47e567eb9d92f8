//! The configuration as the program reads it: layers, names, types, secrets.

use crate::cli::{Ended, Run, file, latchkey};
use crate::support::Server;

fn check(name: &str, toml: &str) -> Ended {
    latchkey(&["config", "check", "--config", &file(name, toml)])
}

fn check_with(environment: &[(&str, &str)]) -> Ended {
    Run { environment, ..Run::default() }.latchkey(&["config", "check"])
}

fn assert_refused(ended: &Ended, told: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for part in told {
        assert!(ended.err.contains(part), "{part} is not in {ended:?}");
    }
}

#[test]
fn no_file_is_needed() {
    let ended = latchkey(&["config", "check"]);
    assert_eq!((ended.code, &*ended.out), (Some(0), "The configuration is right.\n"));
}

#[test]
fn the_documented_file_is_accepted() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/latchkey.toml");
    assert_eq!(latchkey(&["config", "check", "--config", path]).code, Some(0));
}

#[test]
fn an_unknown_name_in_the_file_is_refused_with_the_nearest() {
    let ended = check("unknown-field.toml", "[grpc]\nlistn = \"off\"\n");
    assert_refused(&ended, &["unknown-field.toml", "`grpc.listn`", "did you mean `grpc.listen`?"]);
    let ended = check("unknown-section.toml", "[grcp]\nlisten = \"off\"\n");
    assert_refused(&ended, &["there is no `grcp`", "did you mean `grpc`?"]);
    let ended = check("section-as-value.toml", "grpc = \"off\"\n");
    assert_refused(&ended, &["`grpc` is a section", "write [grpc]"]);
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest() {
    let ended = check_with(&[("LATCHKEY__GRPC__LISTN", "off")]);
    assert_refused(&ended, &["LATCHKEY__GRPC__LISTN", "did you mean `LATCHKEY__GRPC__LISTEN`?"]);
    assert_eq!(check_with(&[("LATCHKEY_SERVICE_PORT", "1"), ("HOME", "/")]).code, Some(0));
}

#[test]
fn every_fault_is_told_at_once() {
    let ended = check("faults.toml", "wat = 1\n[log]\nlevel = \"loud\"\n[token]\nprefix = 5\n");
    assert_refused(&ended, &["`wat`", "`log.level`", "`token.prefix`"]);
}

#[test]
fn a_wrong_type_says_what_was_given_and_what_would_be_right() {
    let ended = check("type-number.toml", "[serve]\nthreads = \"four\"\n");
    assert_refused(&ended, &["`serve.threads` cannot be the string \"four\"", "a whole number"]);
    let ended = check("type-listen.toml", "[http]\nlisten = 8080\n");
    assert_refused(&ended, &["`http.listen` cannot be the integer 8080", "IP:PORT"]);
    let ended = check("type-array.toml", "[http]\nlisten = [\"127.0.0.1:1\"]\n");
    assert_refused(&ended, &["`http.listen` cannot be an array"]);
    let ended = check_with(&[("LATCHKEY__GRPC__REFLECTION", "yes")]);
    assert_refused(&ended, &["`grpc.reflection` cannot be \"yes\"", "true or false"]);
    let ended = check_with(&[("LATCHKEY__GRPC__CALLERS", "all")]);
    assert_refused(&ended, &["one of any, key, mtls"]);
    let ended = check_with(&[("LATCHKEY__SERVE__DRAIN_SECONDS", "-1")]);
    assert_refused(&ended, &["cannot be \"-1\"", "0 or more"]);
}

#[test]
fn what_is_no_toml_is_refused_without_its_lines() {
    let ended = check("no-toml.toml", "insecure = true\nroot_token = \"hunter2\n");
    assert_refused(&ended, &["it is no TOML (line 2, column"]);
    assert!(!ended.err.contains("hunter2"), "{ended:?}");
}

#[test]
fn a_file_that_is_missing_is_named() {
    let ended = latchkey(&["config", "check", "--config", "/nowhere/latchkey.toml"]);
    let told = ["cannot read the configuration file /nowhere/latchkey.toml", "help: name a file"];
    assert_refused(&ended, &told);
    let folder = env!("CARGO_MANIFEST_DIR");
    let ended = latchkey(&["config", "check", "--config", folder]);
    assert_refused(&ended, &["help: name a file in the folder"]);
}

#[test]
fn a_rule_that_is_not_met_names_the_field_its_value_and_where_it_came_from() {
    let ended = check_with(&[("LATCHKEY__HTTP__REALM", "a\"b")]);
    assert_refused(&ended, &["LATCHKEY__HTTP__REALM: http.realm cannot be \"a\\\"b\"", "help: "]);
    let long = "r".repeat(101);
    let ended = check("realm.toml", &format!("[http]\nrealm = \"{long}\"\n"));
    assert_refused(&ended, &["realm.toml: http.realm cannot be", "1 to 100"]);
    let ended = latchkey(&["config", "check", "--http-listen", "0.0.0.0:1", "--insecure"]);
    assert_refused(&ended, &["--http-listen: http.listen = \"0.0.0.0:1\" can be reached"]);
}

#[test]
fn the_time_of_a_read_has_its_bounds() {
    for (millis, is_right) in [("9", false), ("10", true), ("10_000", true), ("10001", false)] {
        let ended = check_with(&[("LATCHKEY__STORE__READ_TIMEOUT_MS", millis)]);
        assert_eq!(ended.code == Some(0), is_right, "{millis}: {ended:?}");
        if !is_right {
            assert_refused(&ended, &["store.read_timeout_ms cannot be", "from 10 to 10000"]);
        }
    }
}

#[test]
fn a_value_may_be_kept_in_a_file() {
    let path = file("prefix.txt", "acme\n");
    let environment = &[("LATCHKEY__TOKEN__PREFIX_FILE", path.as_str())];
    let ended = Run { environment, ..Run::default() }.latchkey(&["config", "show"]);
    assert!(ended.out.contains("prefix = \"acme\" # LATCHKEY__TOKEN__PREFIX_FILE"), "{ended:?}");

    let ended = check_with(&[("LATCHKEY__TOKEN__PREFIX_FILE", "/nowhere/prefix")]);
    let told = ["LATCHKEY__TOKEN__PREFIX_FILE: cannot read /nowhere/prefix", "help: name a file"];
    assert_refused(&ended, &told);
}

#[test]
fn a_value_and_a_file_for_it_contradict_each_other() {
    let path = file("prefix-both.txt", "acme\n");
    let ended = check_with(&[
        ("LATCHKEY__TOKEN__PREFIX_FILE", path.as_str()),
        ("LATCHKEY__TOKEN__PREFIX", "acme"),
    ]);
    assert_refused(&ended, &["both LATCHKEY__TOKEN__PREFIX and LATCHKEY__TOKEN__PREFIX_FILE"]);
}

#[test]
fn policy_file_is_a_field_and_not_a_file_that_holds_one() {
    let path = file("config-policy.toml", "[[plans]]\nname = \"free\"\n");
    assert_eq!(check_with(&[("LATCHKEY__POLICY__FILE", path.as_str())]).code, Some(0));
    let ended = check_with(&[("LATCHKEY__POLICY__FILE", "/nowhere/policy.toml")]);
    let told = ["policy.file: cannot read the policy /nowhere/policy.toml", "help: name a file"];
    assert_refused(&ended, &told);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let path = file(
        "layers.toml",
        "[log]\nlevel = \"error\"\nformat = \"text\"\n[token]\nprefix = \"aa\"\n",
    );
    let environment = &[("LATCHKEY__LOG__LEVEL", "warn"), ("LATCHKEY__TOKEN__PREFIX", "bb")];
    let run = Run { environment, ..Run::default() };
    let ended = run.latchkey(&["config", "show", "--config", &path, "--log-level", "debug"]);
    for line in [
        "level = \"debug\" # --log-level".to_owned(),
        "prefix = \"bb\" # LATCHKEY__TOKEN__PREFIX".to_owned(),
        format!("format = \"text\" # {path}"),
        "realm = \"latchkey\" # default".to_owned(),
    ] {
        assert!(ended.out.contains(&line), "{line} is not in {ended:?}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let token = "hm_live_0000000000000000000000000000002dlYSp";
    let environment = &[
        ("LATCHKEY__ROOT_TOKEN", token),
        ("LATCHKEY__STORE__URL", "postgres://me:s3cret@db/keys?sslpassword=s3cret"),
    ];
    let run = Run { environment, ..Run::default() };
    for ended in [run.latchkey(&["config", "show"]), run.latchkey(&["config", "check"])] {
        let all = ended.out + &ended.err;
        assert!(!all.contains(token) && !all.contains("s3cret"), "{all}");
    }
    let shown = run.latchkey(&["config", "show"]).out;
    assert!(shown.contains("root_token = \"[hidden]\" # LATCHKEY__ROOT_TOKEN"), "{shown}");
    assert!(shown.contains("url = \"postgres://me:[hidden]@db/keys?sslpassword=[hidden]\""));
}

#[test]
fn a_secret_of_the_wrong_type_is_not_repeated() {
    let ended = check("secret-type.toml", "root_token = [\"hunter2\"]\n");
    assert_refused(&ended, &["`root_token` cannot be a value of type array"]);
    assert!(!ended.err.contains("hunter2"));
}

#[test]
fn what_is_shown_can_be_read_again() {
    let shown = latchkey(&["config", "show"]).out;
    let path = file("shown.toml", &shown);
    let again = latchkey(&["config", "show", "--config", &path]).out;
    let plain = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(" # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(plain(&shown), plain(&again));
}

#[test]
fn an_address_that_others_can_reach_needs_words_that_are_told() {
    let ended = check_with(&[("LATCHKEY__GRPC__LISTEN", "0.0.0.0:50051")]);
    assert_refused(&ended, &["`callers = \"key\"`", "`insecure = true`"]);
    let ended = latchkey(&["serve", "--http-listen", "0.0.0.0:0"]);
    assert_refused(&ended, &["http.listen = \"0.0.0.0:0\" can be reached from other machines"]);
    let environment = &[("LATCHKEY__GRPC__CALLERS", "any")];
    let run = Run { environment, ..Run::default() };
    let ended = run.latchkey(&["config", "check", "--grpc-listen", "[::]:50051", "--insecure"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn opentelemetrys_variables_are_read_and_ours_win() {
    let environment = &[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
        ("OTEL_TRACES_EXPORTER", "None"),
        ("OTEL_SERVICE_NAME", "keys"),
        ("OTEL_RESOURCE_ATTRIBUTES", ""),
        ("LATCHKEY__TELEMETRY__SERVICE_NAME", "ours"),
    ];
    let path = file("telemetry.toml", "[telemetry]\ntraces = \"otlp\"\n");
    let shown =
        Run { environment, ..Run::default() }.latchkey(&["config", "show", "--config", &path]).out;
    for line in [
        "endpoint = \"http://collector:4318/\" # OTEL_EXPORTER_OTLP_ENDPOINT",
        "headers = \"[hidden]\" # OTEL_EXPORTER_OTLP_HEADERS",
        "sampler = \"parentbased_always_on\" # OTEL_TRACES_SAMPLER",
        "service_name = \"ours\" # LATCHKEY__TELEMETRY__SERVICE_NAME",
        "resource_attributes = \"\" # default",
        &format!("traces = \"otlp\" # {path}"),
    ] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    assert!(!shown.contains("hunter2"), "{shown}");

    let disabled = [&environment[..], &[("OTEL_SDK_DISABLED", "TRUE")]].concat();
    let shown = Run { environment: &disabled, ..Run::default() }.latchkey(&["config", "show"]).out;
    assert!(shown.contains("# endpoint is not set") && !shown.contains("OTEL_"), "{shown}");
}

#[test]
fn a_wrong_setting_of_telemetry_says_what_would_be_right() {
    for (name, value, told) in [
        ("LATCHKEY__TELEMETRY__ENDPOINT", "collector:4317", "http://127.0.0.1:4318"),
        ("LATCHKEY__TELEMETRY__PROTOCOL", "http/json", "one of grpc, http/protobuf"),
        ("LATCHKEY__TELEMETRY__SAMPLER", "xray", "parentbased_traceidratio"),
        ("LATCHKEY__TELEMETRY__SAMPLER_RATIO", "2", "a number from 0 to 1"),
        ("LATCHKEY__TELEMETRY__RESOURCE_ATTRIBUTES", "a", "name=value"),
        ("LATCHKEY__TELEMETRY__HEADERS", "hunter2", "name=value"),
        ("LATCHKEY__TELEMETRY__TIMEOUT_MS", "0", "from 10 to 60000"),
        ("LATCHKEY__TELEMETRY__METRICS_INTERVAL_MS", "1", "from 100 to"),
    ] {
        let ended = check_with(&[(name, value)]);
        assert_refused(&ended, &[name, told]);
        assert!(!ended.err.contains("hunter2"), "{ended:?}");
    }
}

/// They are set for whole fleets of programs, of which most can do something else.
const OF_A_FLEET: [(&str, &str, &str); 10] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@collector", "and is not set"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "cannot be \"http/json\" (it must be one of grpc"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2", "and is not set"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "120000", "(it must be from 10 to 60000), and is 10000"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a", "and is \"\""),
    ("OTEL_TRACES_EXPORTER", "zipkin", "cannot be \"zipkin\" (it must be one of otlp, none)"),
    ("OTEL_TRACES_SAMPLER", "jaeger_remote", "and is \"parentbased_traceidratio\""),
    ("OTEL_TRACES_SAMPLER_ARG", "endpoint=http://jaeger", "and is 0.01"),
    ("OTEL_METRICS_EXPORTER", "prometheus", "and is \"none\""),
    ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "and is 60000"),
];

#[test]
fn what_opentelemetrys_variables_ask_for_and_is_not_there_is_passed_over() {
    let mut environment: Vec<_> =
        OF_A_FLEET.iter().map(|(name, value, _)| (*name, *value)).collect();
    environment.push(("LATCHKEY__TELEMETRY__METRICS", "none"));
    let run = Run { environment: &environment, ..Run::default() };
    for arguments in [["config", "check"], ["config", "show"]] {
        let ended = run.latchkey(&arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let lines: Vec<_> = ended.err.lines().collect();
        assert_eq!(lines.len(), OF_A_FLEET.len(), "{ended:?}");
        for (line, (name, _, told)) in lines.iter().zip(OF_A_FLEET) {
            let named = format!("warning: {name} is passed over: ");
            assert!(line.starts_with(&named) && line.contains(told), "{line}");
        }
        assert!(!ended.err.contains("hunter2") && !ended.out.contains("OTEL_"), "{ended:?}");
    }
    let ended = Run { environment: &[("OTEL_RESOURCE_ATTRIBUTES", "a=1,")], ..Run::default() }
        .latchkey(&["config", "show"]);
    assert!(ended.out.contains("resource_attributes = \"a=1,\"") && ended.err.is_empty());
}

#[tokio::test]
async fn a_server_starts_with_the_variables_of_a_fleet_and_says_what_it_passes_over() {
    let variables =
        OF_A_FLEET.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).to_owned()));
    let server = Server::build().environments(variables.collect()).start().await;
    let log = server.log();
    for (name, ..) in OF_A_FLEET {
        let told = format!("\"level\":\"WARN\",\"message\":\"{name} is passed over: ");
        assert!(log.contains(&told), "{name}: {log}");
    }
    assert!(!log.contains("hunter2"), "{log}");
}
