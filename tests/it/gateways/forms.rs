//! The examples for Istio and Envoy Gateway, which are not run: every field is one that the project's own schema has,
//! and whatever makes them safe is there.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Folder, tools_path};

/// Kinds and the fields below each of their paths; `*` is anything. Of the custom resource definitions of istio.io/api
/// v1.31.1 (`kubernetes/customresourcedefinitions.gen.yaml`), sigs.k8s.io/gateway-api v1.7.0 (`config/crd/standard`) and
/// github.com/envoyproxy/gateway v1.9.1 (`charts/gateway-crds-helm/templates/generated`); what has no kind are values of
/// the chart istiod, by `mesh/v1alpha1/config.proto` of the first.
const KNOWN: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("", "meshConfig"),
            ("meshConfig", "extensionProviders pathNormalization"),
            ("meshConfig.extensionProviders[]", "name envoyExtAuthzGrpc"),
            (
                "meshConfig.extensionProviders[].envoyExtAuthzGrpc",
                "service port timeout failOpen clearRouteCache statusOnError includeRequestBodyInCheck",
            ),
            ("meshConfig.pathNormalization", "normalization"),
        ],
    ),
    (
        "security.istio.io/v1 AuthorizationPolicy",
        &[
            ("spec", "action provider rules selector targetRef targetRefs"),
            ("spec.provider", "name"),
            ("spec.rules[]", "from to when"),
            ("spec.rules[].from[]", "source"),
            (
                "spec.rules[].from[].source",
                "ipBlocks namespaces notIpBlocks notNamespaces notPrincipals notRemoteIpBlocks notRequestPrincipals \
             notServiceAccounts notTrustDomains principals remoteIpBlocks requestPrincipals serviceAccounts trustDomains",
            ),
            ("spec.selector", "matchLabels"),
            ("spec.selector.matchLabels", "*"),
        ],
    ),
    (
        "security.istio.io/v1 PeerAuthentication",
        &[("spec", "mtls portLevelMtls selector"), ("spec.mtls", "mode")],
    ),
    (
        "networking.istio.io/v1alpha3 EnvoyFilter",
        &[
            ("spec", "configPatches priority targetRefs workloadSelector"),
            ("spec.configPatches[]", "applyTo match patch"),
            (
                "spec.configPatches[].match",
                "cluster context listener proxy routeConfiguration waypoint",
            ),
            (
                "spec.configPatches[].match.listener",
                "filterChain listenerFilter name portName portNumber",
            ),
            (
                "spec.configPatches[].match.listener.filterChain",
                "applicationProtocols destinationPort filter name sni transportProtocol",
            ),
            ("spec.configPatches[].match.listener.filterChain.filter", "name subFilter"),
            ("spec.configPatches[].patch", "filterClass operation value"),
            ("spec.configPatches[].patch.value", "*"),
            ("spec.workloadSelector", "labels"),
            ("spec.workloadSelector.labels", "*"),
        ],
    ),
    (
        "gateway.networking.k8s.io/v1 HTTPRoute",
        &[
            ("spec", "hostnames parentRefs rules"),
            ("spec.parentRefs[]", "group kind name namespace port sectionName"),
            ("spec.rules[]", "backendRefs filters matches name retry timeouts"),
            ("spec.rules[].backendRefs[]", "filters group kind name namespace port weight"),
            ("spec.rules[].matches[]", "headers method path queryParams"),
            ("spec.rules[].matches[].path", "type value"),
        ],
    ),
    (
        "gateway.envoyproxy.io/v1alpha1 SecurityPolicy",
        &[
            (
                "spec",
                "apiKeyAuth authorization basicAuth cors csrf extAuth jwt mergeType oidc targetRef targetRefs \
             targetSelectors",
            ),
            (
                "spec.extAuth",
                "bodyToExtAuth contextExtensions failOpen grpc headersToExtAuth http includeRouteMetadata recomputeRoute \
             statusOnError timeout",
            ),
            ("spec.extAuth.contextExtensions[]", "name type value valueRef"),
            ("spec.extAuth.grpc", "backendRef backendRefs backendSettings"),
            ("spec.extAuth.grpc.backendRefs[]", "fallback group kind name namespace port weight"),
            ("spec.targetRefs[]", "group kind name sectionName"),
        ],
    ),
    (
        "gateway.envoyproxy.io/v1alpha1 ClientTrafficPolicy",
        &[
            (
                "spec",
                "clientIPDetection connection enableProxyProtocol grpc headers healthCheck http1 http2 http3 path \
             proxyProtocol scheme targetRef targetRefs targetSelectors tcpKeepalive timeout tls",
            ),
            (
                "spec.headers",
                "disableRateLimitHeaders earlyRequestHeaders enableEnvoyHeaders host lateResponseHeaders \
             preserveXRequestID requestID withUnderscoresAction xForwardedClientCert",
            ),
            ("spec.headers.earlyRequestHeaders", "add addIfAbsent remove removeOnMatch set"),
            ("spec.headers.earlyRequestHeaders.removeOnMatch[]", "type value"),
            ("spec.path", "disableMergeSlashes escapedSlashesAction"),
            ("spec.targetRefs[]", "group kind name sectionName"),
        ],
    ),
];

/// What has to stand where, by the name of the document.
fn demanded(file: &str) -> Vec<(&'static str, &'static str, Value)> {
    let provider = "/meshConfig/extensionProviders/0/envoyExtAuthzGrpc";
    match file {
        "istio/meshconfig.yaml" => vec![
            ("", "/meshConfig/extensionProviders/0/name", json!("latchkey")),
            (
                "",
                provider,
                json!({
                    "service": "latchkey.latchkey.svc.cluster.local",
                    "port": 50051,
                    "timeout": "0.25s",
                    "failOpen": false,
                    "statusOnError": "503",
                }),
            ),
            ("", "/meshConfig/pathNormalization/normalization", json!("DECODE_AND_MERGE_SLASHES")),
        ],
        "istio/latchkey.yaml" => vec![
            ("ask-latchkey", "/spec/action", json!("CUSTOM")),
            ("ask-latchkey", "/spec/provider/name", json!("latchkey")),
            ("ask-latchkey", "/spec/rules", json!([{}])),
            ("only-the-gateway-asks", "/spec/action", json!("ALLOW")),
            (
                "only-the-gateway-asks",
                "/spec/rules",
                json!([{ "from": [{ "source": {
                    "principals": ["cluster.local/ns/istio-ingress/sa/istio-ingress"],
                } }] }]),
            ),
            ("latchkey", "/spec/mtls/mode", json!("STRICT")),
            (
                "reject-underscores",
                "/spec/configPatches/0/patch/value/typed_config/common_http_protocol_options",
                json!({ "headers_with_underscores_action": "REJECT_REQUEST" }),
            ),
        ],
        _ => {
            let group = "gateway.networking.k8s.io";
            let asks = |route: &'static str, scope: &str| {
                let target = json!([{ "group": group, "kind": "HTTPRoute", "name": route }]);
                let asking = json!({
                    "grpc": { "backendRefs": [{ "name": "latchkey", "port": 50051 }] },
                    "contextExtensions":
                        [{ "name": "required_scope", "type": "Value", "value": scope }],
                    "timeout": "250ms",
                    "failOpen": false,
                    "statusOnError": 503,
                    "recomputeRoute": false,
                });
                [(route, "/spec/targetRefs", target), (route, "/spec/extAuth", asking)]
            };
            let mut all = [asks("items", "memory:read"), asks("admin", "memory:admin")].concat();
            all.extend([
                ("api", "/spec/headers/withUnderscoresAction", json!("RejectRequest")),
                (
                    "api",
                    "/spec/headers/earlyRequestHeaders/removeOnMatch",
                    json!([{ "type": "RegularExpression", "value": "x[^a-z0-9]latchkey[^a-z0-9].*" }]),
                ),
                ("api", "/spec/path/escapedSlashesAction", json!("RejectRequest")),
                ("api", "/spec/path/disableMergeSlashes", json!(false)),
            ]);
            all
        }
    }
}

#[test]
fn the_examples_for_istio_have_known_fields_and_are_safe() {
    for file in ["istio/meshconfig.yaml", "istio/latchkey.yaml"] {
        assert_eq!(faults(file, &text(file)), [""; 0]);
        no_line_of_security_can_be_deleted(file);
    }
}

#[test]
fn the_example_for_envoy_gateway_has_known_fields_and_is_safe() {
    let file = "envoy-gateway/latchkey.yaml";
    assert_eq!(faults(file, &text(file)), [""; 0]);
    no_line_of_security_can_be_deleted(file);
}

#[test]
fn a_field_or_a_kind_that_is_not_known_is_found() {
    for (file, right, wrong) in [
        ("istio/meshconfig.yaml", "failOpen:", "failOpened:"),
        ("istio/latchkey.yaml", "security.istio.io/v1\n", "security.istio.io/v2\n"),
        ("envoy-gateway/latchkey.yaml", "statusOnError:", "status_on_error:"),
        ("envoy-gateway/latchkey.yaml", "kind: SecurityPolicy", "kind: SecurityPolicies"),
    ] {
        let changed = text(file).replace(right, wrong);
        let found = faults(file, &changed);
        assert!(found.iter().any(|fault| fault.contains("is not known")), "{file}: {found:?}");
    }
}

fn no_line_of_security_can_be_deleted(file: &str) {
    let text = text(file);
    let lines: Vec<_> = text.lines().collect();
    let marked = |(_, line): &(usize, &&str)| line.contains(" # security: ");
    let mut count = 0;
    for (number, line) in lines.iter().enumerate().filter(marked) {
        let without = [&lines[..number], &lines[number + 1..]].concat().join("\n");
        assert!(!faults(file, &without).is_empty(), "nothing is wrong without {line}");
        count += 1;
    }
    assert!(count >= 4, "{file} marks no line as one of security");
}

fn text(file: &str) -> String {
    let path = format!("{}/deploy/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// What is wrong with it.
fn faults(file: &str, text: &str) -> Vec<String> {
    let documents = match read(text) {
        Ok(documents) => documents,
        Err(said) => return vec![said],
    };
    let mut faults = Vec::new();
    for document in &documents {
        let of = |name: &str| document[name].as_str().unwrap_or_default();
        let kind = format!("{} {}", of("apiVersion"), of("kind"));
        match KNOWN.iter().find(|(known, _)| *known == kind.trim()) {
            None => faults.push(format!("{kind} is not known")),
            Some((_, fields)) if kind.trim().is_empty() => {
                unknown_fields(document, "", fields, &mut faults);
            }
            Some((_, fields)) => {
                let names: BTreeSet<_> = document.as_object().unwrap().keys().collect();
                for name in names {
                    if !["apiVersion", "kind", "metadata", "spec"].contains(&name.as_str()) {
                        faults.push(format!("{kind}: {name} is not known"));
                    }
                }
                unknown_fields(&document["spec"], "spec", fields, &mut faults);
            }
        }
    }
    for (name, pointer, wanted) in demanded(file) {
        let named =
            documents.iter().filter(|it| it["metadata"]["name"].as_str().unwrap_or("") == name);
        if !named.filter_map(|it| it.pointer(pointer)).any(|found| *found == wanted) {
            faults.push(format!("{name}{pointer} is not {wanted}"));
        }
    }
    faults
}

pub(crate) fn unknown_fields(
    value: &Value,
    path: &str,
    known: &[(&str, &str)],
    faults: &mut Vec<String>,
) {
    match value {
        Value::Object(fields) => {
            let names = known.iter().find(|(at, _)| *at == path).map_or("", |(_, names)| names);
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                let path = path.trim_start_matches('.');
                if names == "*" {
                    continue;
                }
                if !names.split(' ').any(|known| known == name) {
                    faults.push(format!("{path} is not known"));
                }
                unknown_fields(value, path, known, faults);
            }
        }
        Value::Array(items) => {
            for item in items {
                unknown_fields(item, &format!("{path}[]"), known, faults);
            }
        }
        _ => {}
    }
}

/// All documents; the error is what yq says.
pub(crate) fn read(yaml: &str) -> Result<Vec<Value>, String> {
    let folder = Folder::new();
    let path = folder.path().join("example.yaml");
    std::fs::write(&path, yaml).unwrap();
    let output = Command::new("yq").arg(".").arg(&path).env("PATH", tools_path()).output();
    let output =
        output.unwrap_or_else(|error| panic!("there is no yq ({error}): ./check installs it"));
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let documents = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    documents.collect::<Result<_, _>>().map_err(|error| error.to_string())
}
