//! `weft.dev WorkloadSlice`: what the controller, or without a cluster a node's agent, has published.

use std::net::IpAddr;
use std::sync::Arc;

use weft_core::model::{Name, NameError, NodeLiveness, ObjectName, Weight, Workload};

use super::Findings;
use crate::crd::{self, SlicePod, SliceWorkload};

/// Converts what a node's agent publishes in a directory: who of its pods is served.
pub fn convert(object: &crd::WorkloadSlice, findings: &mut Findings) -> Option<NodeLiveness> {
    super::object_name(&object.metadata, findings)?;
    let Some(node) = object.spec.node.as_deref().filter(|node| !node.is_empty()) else {
        findings.error("spec.node", "is empty: name the node (slices of a controller are of use in its cluster only)");
        return None;
    };
    let live = object.spec.workloads.iter().filter(|workload| workload.live);
    let live = live.map(|workload| Arc::from(workload.uid.as_str())).collect();
    Some(NodeLiveness { node: node.into(), live })
}

/// A pod of another node, as a slice of the controller has it.
///
/// # Errors
/// Names that are none, which no API server gave to a Pod.
pub fn workload(uid: &str, pod: &SlicePod) -> Result<Workload, NameError> {
    let name = ObjectName::new(&pod.namespace, &pod.name)?;
    let addresses = pod.ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
    Ok(Workload {
        uid: uid.into(),
        addresses: addresses.collect(),
        service_account: Name::new(&pod.service_account)?,
        node: pod.node.as_str().into(),
        owner: pod.workload.as_deref().unwrap_or(&pod.name).into(),
        weight: pod.weight.map_or_else(Weight::default, |weight| Weight(weight.min(Weight::MAX))),
        host_network: pod.host_network,
        name,
        // Selectors, labels and ports matter on a pod's own node only.
        labels: Default::default(),
        mesh: None,
        netns: None,
        declared_ports: Vec::new(),
        probe_ports: Vec::new(),
    })
}

/// What a slice says of a pod; `None` of one that has no address yet, or no node.
#[must_use]
pub fn entry(workload: &Workload, live: bool) -> Option<SliceWorkload> {
    if workload.addresses.is_empty() || workload.node.is_empty() {
        return None;
    }
    let pod = SlicePod {
        namespace: workload.name.namespace.to_string(),
        name: workload.name.name.to_string(),
        service_account: workload.service_account.to_string(),
        node: workload.node.to_string(),
        ips: workload.addresses.iter().map(ToString::to_string).collect(),
        workload: (*workload.owner != *workload.name.name.as_str()).then(|| workload.owner.to_string()),
        weight: (workload.weight != Weight::default()).then_some(workload.weight.0),
        host_network: workload.host_network,
    };
    Some(SliceWorkload { uid: workload.uid.to_string(), live, pod: Some(pod) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_of_a_pod_is_what_other_nodes_need_of_it() {
        let pod = r#"{"metadata": {"name": "cart-1", "namespace": "shop", "uid": "u-1", "labels": {"app": "cart"},
                "annotations": {"weft.dev/weight": "7"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "cart", "containers": []},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}"#;
        let pod = crate::resource::pod::convert(&serde_json::from_str(pod).unwrap(), &mut Findings::default()).unwrap();
        let entry = entry(&pod, true).unwrap();
        let text = serde_json::to_string(&entry).unwrap();
        let read: SliceWorkload = serde_json::from_str(&text).unwrap();
        assert_eq!(read, entry);
        let known = workload(&read.uid, read.pod.as_ref().unwrap()).unwrap();
        assert_eq!(known, Workload { labels: Default::default(), ..pod });
        assert_eq!(super::entry(&Workload { addresses: Vec::new(), ..known }, true), None);
    }
}
