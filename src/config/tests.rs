//! What the layers and the rules come to.

use std::ffi::OsString;

use super::*;

fn load(environment: &[(&str, &str)]) -> Result<Loaded, crate::failure::Failures> {
    let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    let environment = environment.iter().map(pair).collect();
    Config::load(&Sources { environment, ..Sources::default() })
}

fn with(environment: &[(&str, &str)]) -> Config {
    load(environment).unwrap().config
}

fn refusal(environment: &[(&str, &str)]) -> String {
    with(environment).check().unwrap_err().to_string()
}

#[test]
fn the_defaults_need_no_file_and_are_right() {
    Config::default().check().unwrap();
    let shown = Loaded::default().into_toml();
    assert!(shown.contains("listen = \"127.0.0.1:50051\" # default"), "{shown}");
}

/// Prose begins with `# `, a default with `#`.
#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let documented = include_str!("../../deploy/latchkey.toml");
    let mut toml = String::new();
    for line in documented.lines() {
        let prose = line == "#" || line.starts_with("# ");
        if !prose {
            toml.push_str(line.strip_prefix('#').unwrap_or(line));
            toml.push('\n');
        }
    }
    let path = std::env::temp_dir().join(format!("latchkey-defaults-{}", std::process::id()));
    std::fs::write(&path, &toml).unwrap();
    let sources = Sources { file: Some(path.clone()), ..Sources::default() };
    let loaded = Config::load(&sources).unwrap();
    std::fs::remove_file(&path).unwrap();

    // What has no default stands as an example in the prose.
    let named: Vec<_> = loaded.origins.keys().copied().collect();
    for (path, setting) in Config::default().settings() {
        let name = path.rsplit('.').next().unwrap_or(path);
        let example = format!("\n#   {name} = ");
        match setting.shown() {
            setting::Shown::Absent => assert!(documented.contains(&example), "{path} is missing"),
            _ => assert!(named.contains(&path), "{path} is missing"),
        }
    }
    let loaded = Loaded { config: loaded.config, ..Loaded::default() };
    assert_eq!(loaded.into_toml(), Loaded::default().into_toml());
}

#[test]
fn every_field_can_be_set_from_the_environment() {
    for path in Config::paths() {
        let error = load(&[(&load::variable(path), "")]).unwrap_err().to_string();
        assert!(error.contains(path) && !error.contains("not one of"), "{error}");
    }
}

#[test]
fn a_flag_wins_over_the_environment() {
    let flag = Flag { name: "--log-level", path: "log.level", value: "debug".into() };
    let environment = vec![("LATCHKEY__LOG__LEVEL".into(), "warn".into())];
    let loaded = Config::load(&Sources { environment, flags: vec![flag], file: None }).unwrap();
    assert_eq!(loaded.config.log.level, LogLevel::Debug);
    assert_eq!(loaded.origins["log.level"], Origin::Flag("--log-level"));
}

#[test]
fn other_variables_are_not_looked_at() {
    load(&[("LATCHKEY_TOKEN", "x"), ("LATCHKEY", "x"), ("GRPC__LISTEN", "x")]).unwrap();
}

#[test]
fn a_secret_is_not_repeated_when_it_is_wrong() {
    let config = with(&[("LATCHKEY__ROOT_TOKEN", "hunter2")]);
    assert!(!config.check().unwrap_err().to_string().contains("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn an_address_that_others_can_reach_needs_two_words() {
    let open = ("LATCHKEY__GRPC__LISTEN", "0.0.0.0:50051");
    let callers = ("LATCHKEY__GRPC__CALLERS", "key");
    let insecure = ("LATCHKEY__INSECURE", "true");
    assert!(refusal(&[open, insecure]).contains("callers = \"key\""));
    assert!(refusal(&[open, callers]).contains("insecure = true"));
    with(&[open, callers, insecure]).check().unwrap();

    let administration = ("LATCHKEY__ADMINISTRATION__LISTEN", "[::]:1");
    let refused = refusal(&[administration]);
    assert!(refused.contains("administration.listen") && !refused.contains("who may ask"));
    with(&[administration, insecure]).check().unwrap();

    let http = ("LATCHKEY__HTTP__LISTEN", "[::]:8080");
    assert!(refusal(&[http]).contains("http.listen"));
    let tls = [
        open,
        ("LATCHKEY__GRPC__CALLERS", "any"),
        ("LATCHKEY__GRPC__TLS_CERTIFICATE", "a.crt"),
        ("LATCHKEY__GRPC__TLS_KEY", "a.key"),
    ];
    with(&tls).check().unwrap();
    let refused = refusal(&[&tls[..], &[http]].concat());
    assert!(refused.contains("http.listen") && refused.contains("below [http]"), "{refused}");
    with(&[("LATCHKEY__GRPC__LISTEN", "unix:/run/latchkey.sock")]).check().unwrap();
    with(&[("LATCHKEY__OPERATIONS__LISTEN", "0.0.0.0:9090")]).check().unwrap();
}

#[test]
fn a_url_of_postgresql_is_looked_at_and_its_password_not_told() {
    with(&[("LATCHKEY__STORE__URL", "postgres://u:p4ss@h/d?sslrootcert=/ca.pem")]).check().unwrap();
    let refused = refusal(&[("LATCHKEY__STORE__URL", "postgres://u:p4ss@h/d?sslmode=prefer")]);
    assert!(refused.contains("promise nothing") && !refused.contains("p4ss"), "{refused}");
}

#[test]
fn each_value_has_its_rule() {
    for (name, value, told) in [
        ("LATCHKEY__TOKEN__PREFIX", "HM", "token.prefix"),
        ("LATCHKEY__STORE__URL", "latchkey.db", "it is no URL"),
        ("LATCHKEY__STORE__URL", "sqlite://", "no path"),
        ("LATCHKEY__STORE__URL", "mysql://x", "no store"),
        ("LATCHKEY__HTTP__REALM", "a\"b", "http.realm"),
        ("LATCHKEY__CACHE__KEYS_MAX", "0", "cache.keys_max"),
        ("LATCHKEY__SERVE__THREADS", "5000", "from 0 to 1024"),
    ] {
        let refusal = refusal(&[(name, value)]);
        assert!(refusal.contains(told), "{refusal}");
    }
    let off = [("LATCHKEY__GRPC__LISTEN", "off"), ("LATCHKEY__HTTP__LISTEN", "off")];
    assert!(refusal(&off).contains("both off"));
}

#[test]
fn tls_is_all_or_nothing() {
    let certificate = ("LATCHKEY__HTTP__TLS_CERTIFICATE", "a.crt");
    let key = ("LATCHKEY__HTTP__TLS_KEY", "a.key");
    let client_ca = ("LATCHKEY__HTTP__TLS_CLIENT_CA", "ca.crt");
    with(&[certificate, key]).check().unwrap();
    with(&[certificate, key, client_ca]).check().unwrap();
    for (given, told) in [
        (&[certificate][..], "http.tls_certificate is set, and http.tls_key is not"),
        (&[key], "http.tls_key is set, and http.tls_certificate is not"),
        (&[client_ca], "http.tls_client_ca is set, and http.tls_certificate is not"),
        (&[client_ca, key], "http.tls_key is set, and http.tls_certificate is not"),
    ] {
        let refusal = refusal(given);
        assert!(
            refusal.contains(told) && refusal.contains("= \"PATH\"` below [http]"),
            "{refusal}"
        );
    }
}

#[test]
fn callers_are_asked_for_certificates_only_where_they_can_show_them() {
    let mtls = ("LATCHKEY__GRPC__CALLERS", "mtls");
    let grpc = [
        ("LATCHKEY__GRPC__TLS_CERTIFICATE", "a.crt"),
        ("LATCHKEY__GRPC__TLS_KEY", "a.key"),
        ("LATCHKEY__GRPC__TLS_CLIENT_CA", "ca.crt"),
    ];
    let names = ("LATCHKEY__GRPC__CALLER_NAMES", "billing.acme, spiffe://acme/jobs/*");
    with(&[&[mtls, names][..], &grpc].concat()).check().unwrap();
    let refused = refusal(&[&[mtls][..], &grpc[..2]].concat());
    assert!(refused.contains("needs grpc.tls_client_ca"), "{refused}");
    let off = [mtls, ("LATCHKEY__GRPC__LISTEN", "off")];
    assert!(refusal(&off).contains("needs http.tls_client_ca"));
    assert!(refusal(&[names]).contains("grpc.caller_names has no effect"));
    let shown = load(&[names]).unwrap().into_toml();
    let wanted = "caller_names = [\"billing.acme\", \"spiffe://acme/jobs/*\"]";
    assert!(shown.contains(wanted), "{shown}");
}

#[test]
fn a_private_key_in_place_of_its_path_is_not_repeated() {
    let key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----\n";
    let told = load(&[("LATCHKEY__GRPC__TLS_KEY", key)]).unwrap_err().to_string();
    assert!(told.contains("the path of a file") && !told.contains("MIGHAgEA"), "{told}");
}
