//! `weft.dev TrafficPolicy`.

use weft_core::model::{Algorithm, ObjectName, TrafficPolicy};

use super::Findings;
use crate::crd;

/// Converts a TrafficPolicy.
pub fn convert(object: &crd::TrafficPolicy, findings: &mut Findings) -> Option<TrafficPolicy> {
    let name = super::object_name(&object.metadata, findings);
    let namespace = super::namespace_of(&object.metadata);
    let mut targets = Vec::new();
    for (i, target) in object.spec.target_refs.iter().enumerate() {
        if !matches!(target.group.as_str(), "" | "core") || target.kind != "Service" {
            let reason = format!("{:?} of group {:?} cannot be a target: use a Service", target.kind, target.group);
            findings.error(format!("spec.targetRefs[{i}]"), reason);
            continue;
        }
        let path = format!("spec.targetRefs[{i}].name");
        targets.extend(findings.keep(&path, ObjectName::new(namespace, &target.name)));
    }
    if object.spec.target_refs.is_empty() {
        findings.error("spec.targetRefs", "is empty: name the Services the policy is for");
    }
    let algorithm = object.spec.load_balancer.as_ref().map_or_else(Algorithm::default, |b| algorithm(b.algorithm));
    Some(TrafficPolicy { name: name?, targets, algorithm })
}

fn algorithm(name: crd::AlgorithmName) -> Algorithm {
    match name {
        crd::AlgorithmName::PeakEwma => Algorithm::PeakEwma,
        crd::AlgorithmName::LeastRequest => Algorithm::LeastRequest,
        crd::AlgorithmName::RoundRobin => Algorithm::RoundRobin,
        crd::AlgorithmName::Random => Algorithm::Random,
    }
}
