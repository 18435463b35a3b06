//! Admission of new objects: the namespace they go to, the account of a pod, the address of a service.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::super::Call;
use crate::engine::suffix;
use crate::json::{at, default, items, object, text};
use crate::kinds::admit_pod;
use crate::status::{ApiError, FieldError};
use crate::store::{Store, key};

/// First of the addresses given to services, 10.96.0.0/12 as kubeadm has it. The first two are the API server's and DNS's.
const SERVICES: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const SERVICE_ADDRESSES: u32 = 1 << 20;
/// Ports given to services on every node.
const NODE_PORTS: std::ops::Range<u64> = 30_000..32_768;

/// Refuses an object that has nowhere to go, and gives it what only the cluster can give.
pub(super) fn admit(call: &Call, store: &mut Store, new: &mut Value, name: &str) -> Result<(), ApiError> {
    if call.resource.namespaced {
        namespace_open(call, store, name)?;
    }
    if call.resource.is("", "pods") {
        admit_account(call, store, new, name)?;
    }
    if call.resource.is("", "services") {
        give_addresses(call, store, new, name)?;
    }
    Ok(())
}

fn namespace_open(call: &Call, store: &Store, name: &str) -> Result<(), ApiError> {
    let namespace = &call.target.namespace;
    let Some(found) = store.get("namespaces", namespace) else {
        let details = json!({"name": namespace, "kind": "namespaces"});
        return Err(ApiError::new(404, "NotFound", format!("namespaces \"{namespace}\" not found"), Some(details)));
    };
    if at(&found.value(), &["metadata", "deletionTimestamp"]).is_some() {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = ApiError::forbidden(&call.resource, name, &why);
        let message = format!("namespace {namespace} is being terminated");
        error.body["details"]["causes"] =
            json!([{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}]);
        return Err(error);
    }
    Ok(())
}

/// Gives a pod what its service account brings, if there is such an account.
fn admit_account(call: &Call, store: &Store, pod: &mut Value, name: &str) -> Result<(), ApiError> {
    let account = text(pod, &["spec", "serviceAccountName"]).filter(|account| !account.is_empty());
    let account = account.unwrap_or("default").to_owned();
    let namespace = &call.target.namespace;
    if store.get("serviceaccounts", &key(namespace, &account)).is_none() {
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found");
        return Err(ApiError::forbidden(&call.resource, name, &why));
    }
    admit_pod(pod, &suffix(), &call.shared.config.token_sources);
    Ok(())
}

/// Cluster addresses, their families, and node ports.
fn give_addresses(call: &Call, store: &Store, service: &mut Value, name: &str) -> Result<(), ApiError> {
    let kind = text(service, &["spec", "type"]).unwrap_or_default().to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    let page = store.page("services", "", "", 0, store.revision(), |_| true);
    let others: Vec<Value> = page.objects.iter().map(|object| object.value()).collect();
    let taken = |ip: &str| {
        let has = |other: &Value| {
            let list = at(other, &["spec", "clusterIPs"]).and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|found| found == ip))
        };
        ip != "None" && others.iter().any(has)
    };
    let asked = text(service, &["spec", "clusterIP"]).filter(|ip| !ip.is_empty()).map(str::to_owned);
    let address = match asked {
        Some(asked) if taken(&asked) => {
            let why = "failed to allocate IP: provided IP is already allocated";
            let error = FieldError::invalid("spec.clusterIPs", &json!([asked]), why);
            return Err(ApiError::invalid(&call.resource, name, &[error]));
        }
        Some(asked) => asked,
        // The place to begin looking is random, as addresses are in a cluster.
        None => {
            let start = u32::from_be_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 4]));
            let nth = |offset: u32| 11 + (start.wrapping_add(offset)) % (SERVICE_ADDRESSES - 12);
            let free = (0..SERVICE_ADDRESSES).map(|offset| Ipv4Addr::from(SERVICES + nth(offset)).to_string());
            free.into_iter().find(|ip| !taken(ip)).unwrap_or_default()
        }
    };
    let family = if address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) { "IPv6" } else { "IPv4" };
    let spec = object(service, "spec");
    spec.insert("clusterIP".into(), address.clone().into());
    default(spec, "clusterIPs", json!([address]));
    let families =
        if spec["clusterIPs"].as_array().map(Vec::len) == Some(2) { "PreferDualStack" } else { "SingleStack" };
    default(spec, "ipFamilyPolicy", families);
    default(spec, "ipFamilies", json!([family]));
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        give_node_ports(service, &others);
    }
    Ok(())
}

fn give_node_ports(service: &mut Value, others: &[Value]) {
    let ports = |service: &Value| -> Vec<u64> {
        let ports = at(service, &["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
        ports.filter_map(|port| port.get("nodePort")?.as_u64()).collect()
    };
    let mut taken: Vec<u64> = others.iter().flat_map(ports).collect();
    for port in items(service, &["spec", "ports"]) {
        if port.get("nodePort").is_none()
            && let Some(free) = NODE_PORTS.into_iter().find(|free| !taken.contains(free))
        {
            taken.push(free);
            port["nodePort"] = free.into();
        }
    }
}
