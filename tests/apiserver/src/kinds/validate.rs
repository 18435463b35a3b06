//! What is wrong with an object of a built-in kind: the complaints a test of a mesh can run into, not all there are.
//!
//! Names and labels of every kind are checked here too. Values that types rule out never get this far.

use serde_json::{Value, json};

use super::Resource;
use crate::json::{at, text};
use crate::status::FieldError;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
     start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
     end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
     start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Complaints about an object's metadata.
pub(crate) fn metadata(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if resource.group == "rbac.authorization.k8s.io" {
        if name == "." || name == ".." || name.contains(['/', '%']) {
            errors.push(FieldError::invalid("metadata.name", &json!(name), "may not contain '/' or '%'"));
        }
    } else if matches!(resource.plural.as_str(), "namespaces" | "services") && resource.group.is_empty() {
        if !is_label(name) || name.len() > 63 {
            errors.push(FieldError::invalid("metadata.name", &json!(name), DNS_LABEL));
        }
    } else if name.len() > 253 || !name.split('.').all(is_label) {
        errors.push(FieldError::invalid("metadata.name", &json!(name), SUBDOMAIN));
    }
    for (key, value) in at(object, &["metadata", "labels"]).and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if !is_label_value(value) {
            errors.push(FieldError::invalid("metadata.labels", &json!(value), LABEL_VALUE));
        }
        if key.is_empty() || key.matches('/').count() > 1 {
            errors.push(FieldError::invalid("metadata.labels", &json!(key), "a qualified name is needed"));
        }
    }
    errors
}

fn is_label(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn is_label_value(value: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && edge(value.chars().next())
        && edge(value.chars().next_back())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

pub(crate) fn pod(pod: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let containers = list(pod, &["spec", "containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required("spec.containers", ""));
    }
    for (index, container) in containers.iter().enumerate() {
        let field = format!("spec.containers[{index}]");
        match text(container, &["name"]).unwrap_or_default() {
            "" => errors.push(FieldError::required(&format!("{field}.name"), "")),
            name if !is_label(name) => {
                errors.push(FieldError::invalid(&format!("{field}.name"), &json!(name), DNS_LABEL));
            }
            name if containers[..index].iter().any(|other| text(other, &["name"]) == Some(name)) => {
                errors.push(FieldError::duplicate(&format!("{field}.name"), &json!(name)));
            }
            _ => (),
        }
        if text(container, &["image"]).unwrap_or_default().is_empty() {
            errors.push(FieldError::required(&format!("{field}.image"), ""));
        }
        for (number, port) in list(container, &["ports"]).iter().enumerate() {
            port_number(&mut errors, &format!("{field}.ports[{number}].containerPort"), port.get("containerPort"));
        }
    }
    errors
}

pub(crate) fn service(service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let ports = list(service, &["spec", "ports"]);
    let headless = text(service, &["spec", "clusterIP"]) == Some("None");
    let kind = text(service, &["spec", "type"]).unwrap_or_default();
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let name = text(port, &["name"]).unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(&format!("{field}.name"), ""));
        } else if ports[..index].iter().any(|other| text(other, &["name"]) == Some(name)) {
            errors.push(FieldError::duplicate(&format!("{field}.name"), &json!(name)));
        }
        port_number(&mut errors, &format!("{field}.port"), port.get("port"));
    }
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.contains(&kind) {
        errors.push(FieldError::unsupported("spec.type", &json!(kind), &kinds.map(Value::from)));
    }
    errors
}

fn port_number(errors: &mut Vec<FieldError>, field: &str, port: Option<&Value>) {
    match port.and_then(Value::as_i64).unwrap_or_default() {
        0 => errors.push(FieldError::required(field, "")),
        1..=65535 => (),
        number => errors.push(FieldError::invalid(field, &json!(number), "must be between 1 and 65535, inclusive")),
    }
}

pub(crate) fn endpoint_slice(slice: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let family = text(slice, &["addressType"]).unwrap_or_default();
    let families = ["FQDN", "IPv4", "IPv6"];
    if family.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else if !families.contains(&family) {
        errors.push(FieldError::unsupported("addressType", &json!(family), &families.map(Value::from)));
    }
    let endpoints = list(slice, &["endpoints"]);
    if endpoints.len() > 1000 {
        let message = format!("Too many: {}: must have at most 1000 items", endpoints.len());
        errors.push(FieldError { field: "endpoints".into(), reason: "FieldValueTooMany", message });
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{index}].addresses");
        let addresses = list(endpoint, &["addresses"]);
        if addresses.is_empty() {
            errors.push(FieldError::required(&field, "must contain at least 1 address"));
        }
        for (number, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let parsed = address.parse::<std::net::IpAddr>();
            let wrong = match family {
                "IPv4" => !parsed.is_ok_and(|ip| ip.is_ipv4()),
                "IPv6" => !parsed.is_ok_and(|ip| ip.is_ipv6()),
                _ => false,
            };
            if wrong {
                let why = format!("must be a valid {family} address");
                errors.push(FieldError::invalid(&format!("{field}[{number}]"), &json!(address), &why));
            }
        }
    }
    errors
}

pub(crate) fn definition(definition: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let part = |path: &[&str]| text(definition, path).unwrap_or_default().to_owned();
    let expected = format!("{}.{}", part(&["spec", "names", "plural"]), part(&["spec", "group"]));
    let name = part(&["metadata", "name"]);
    if name != expected {
        let why = format!("must be spec.names.plural+\".\"+spec.group: {:?}", expected);
        errors.push(FieldError::invalid("metadata.name", &json!(name), why.trim_end_matches(": \"\"")));
    }
    let versions = list(definition, &["spec", "versions"]);
    let stored = versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))).count();
    if stored != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &json!(versions), why));
    }
    for (index, version) in versions.iter().enumerate() {
        let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match at(version, &["schema", "openAPIV3Schema"]) {
            None => errors.push(FieldError::required(&field, "schemas are required")),
            Some(schema) => crate::schema::check(schema, &field, &mut errors),
        }
    }
    errors
}

fn list<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
