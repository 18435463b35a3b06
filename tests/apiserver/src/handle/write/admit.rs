//! Admission of new objects: the namespace they go to, the account of a pod, the address of a service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::Call;
use crate::engine::suffix;
use crate::json::{at, default, items, object, text};
use crate::kinds::admit_pod;
use crate::status::{ApiError, FieldError};
use crate::store::{Store, Stored, key};

/// First of the addresses given to services, 10.96.0.0/12 as kubeadm has it. The first two are the API server's and DNS's.
const SERVICES: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const SERVICE_ADDRESSES: u32 = 1 << 20;
const FIRST_FREE: u32 = 11;
const SERVICES_V6: u128 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0).to_bits();
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

/// Cluster addresses, their families, and node ports. The cluster is dual-stack, and IPv4 comes first.
fn give_addresses(call: &Call, store: &Store, service: &mut Value, name: &str) -> Result<(), ApiError> {
    let kind = text(service, &["spec", "type"]).unwrap_or_default().to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    let page = store.page("services", "", "", 0, store.revision(), |_| true);
    let mut addresses = strings(service, "clusterIPs");
    let first = text(service, &["spec", "clusterIP"]).filter(|ip| !ip.is_empty());
    if let Some(first) = first.filter(|_| addresses.is_empty()) {
        addresses.push(first.to_owned());
    }
    let has = |other: &Stored, ip: &String| strings(&other.value(), "clusterIPs").contains(ip);
    let clashes = |ip: &&String| *ip != "None" && page.objects.iter().any(|other| has(other, ip));
    if let Some(clash) = addresses.iter().find(clashes) {
        let why = "failed to allocate IP: provided IP is already allocated";
        let error = FieldError::invalid("spec.clusterIPs", &json!([clash]), why);
        return Err(ApiError::invalid(&call.resource, name, &[error]));
    }
    let families = families(service, &addresses);
    let headless = addresses.first().is_some_and(|ip| ip == "None");
    for family in families.iter().skip(addresses.len()).filter(|_| !headless) {
        addresses.push(free_address(family, &page.objects));
    }
    let spec = object(service, "spec");
    spec.insert("clusterIP".into(), addresses.first().cloned().into());
    spec.insert("clusterIPs".into(), addresses.into());
    default(spec, "ipFamilyPolicy", if families.len() == 2 { "PreferDualStack" } else { "SingleStack" });
    spec.insert("ipFamilies".into(), families.into());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        give_node_ports(service, &page.objects);
    }
    Ok(())
}

/// The families a service has: those it names, those of its addresses, and both where its policy says so.
fn families(service: &Value, addresses: &[String]) -> Vec<String> {
    let mut families = strings(service, "ipFamilies");
    for ip in addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
        if !families.iter().any(|known| known == family) {
            families.push(family.to_owned());
        }
    }
    let both = text(service, &["spec", "ipFamilyPolicy"]).is_some_and(|policy| policy != "SingleStack");
    for family in ["IPv4", "IPv6"] {
        let missing = !families.iter().any(|known| known == family);
        if missing && (families.is_empty() || both) {
            families.push(family.to_owned());
        }
    }
    families
}

/// An address nobody has. The place to begin looking is random, as addresses are in a cluster.
fn free_address(family: &str, others: &[Arc<Stored>]) -> String {
    // Not their JSON: a cluster has many services, and each costs this once.
    let taken = |ip: &String| others.iter().any(|other| other.fields.get("spec.clusterIP") == Some(ip));
    let start = u32::from_be_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 4]));
    let nth = |offset: u32| FIRST_FREE + start.wrapping_add(offset) % (SERVICE_ADDRESSES - FIRST_FREE - 1);
    let address = |offset: u32| match family {
        "IPv6" => Ipv6Addr::from(SERVICES_V6 + u128::from(nth(offset))).to_string(),
        _ => Ipv4Addr::from(SERVICES + nth(offset)).to_string(),
    };
    (0..SERVICE_ADDRESSES).map(address).find(|ip| !taken(ip)).unwrap_or_default()
}

fn strings(service: &Value, field: &str) -> Vec<String> {
    let list = at(service, &["spec", field]).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn give_node_ports(service: &mut Value, others: &[Arc<Stored>]) {
    let ports = |service: &Value| -> Vec<u64> {
        let ports = at(service, &["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
        ports.filter_map(|port| port.get("nodePort")?.as_u64()).collect()
    };
    let mut taken: Vec<u64> = others.iter().flat_map(|other| ports(&other.value())).collect();
    for port in items(service, &["spec", "ports"]) {
        if port.get("nodePort").is_none()
            && let Some(free) = NODE_PORTS.into_iter().find(|free| !taken.contains(free))
        {
            taken.push(free);
            port["nodePort"] = free.into();
        }
    }
}
