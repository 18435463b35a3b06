//! `gateway.networking.x-k8s.io XBackendTrafficPolicy`: how clients of Services keep their endpoint, and how many of their requests
//! may be retries.

use std::time::Duration;

use gateway_api::apis::experimental::xbackendtrafficpolicies as api;
use weft_core::model::{
    ObjectName, Rate, RetryBudget, Traffic, TrafficKind, TrafficPolicy, TrafficPolicyId, TrafficTarget,
};

use super::{Findings, http_route, session};

/// Converts one. Targets that are no Services are somebody else's.
pub fn convert(object: &api::XBackendTrafficPolicy, findings: &mut Findings) -> Option<TrafficPolicy> {
    let name = super::object_name(&object.metadata, findings)?;
    let namespace = super::namespace_of(&object.metadata);
    let mut targets = Vec::new();
    for (index, given) in object.spec.target_refs.iter().enumerate() {
        let path = format!("spec.targetRefs[{index}]");
        if !(matches!(given.group.as_str(), "" | "core") && given.kind == "Service") {
            findings.warning(path, "is not a Service (group \"\"): this target is left to its own controller");
            continue;
        }
        let target = findings.keep(format!("{path}.name"), ObjectName::new(namespace, &given.name));
        targets.extend(target.map(|service| TrafficTarget::Service(service, None)));
    }
    let retry_budget = object.spec.retry_constraint.as_ref().map(|given| budget(given, findings));
    let owner = format!("XBackendTrafficPolicy {name}");
    let session = object.spec.session_persistence.as_ref();
    let session = session.and_then(|given| session::convert("spec.sessionPersistence", given, &owner, findings));
    let traffic = Box::new(Traffic { retry_budget, session, ..Traffic::default() });
    let id = TrafficPolicyId { kind: TrafficKind::Gateway, name };
    Some(TrafficPolicy { id, targets, traffic, created: super::created(&object.metadata) })
}

/// What is absent is as GEP-3388 has it, which is as it is without.
fn budget(given: &api::XBackendTrafficPolicyRetryConstraint, findings: &mut Findings) -> RetryBudget {
    let usual = RetryBudget::default();
    let (share, rate) = (given.budget.as_ref(), given.min_retry_rate.as_ref());
    let percent = share.and_then(|share| share.percent).map_or(Ok(usual.percent), |percent| {
        let within = u32::try_from(percent).ok().filter(|percent| *percent <= 100);
        within.ok_or_else(|| format!("{percent} is not 0 to 100"))
    });
    let percent = findings.keep("spec.retryConstraint.budget.percent", percent).unwrap_or(usual.percent);
    let mut time = |path: &str, given: Option<&String>, usual: Duration| {
        let read = given.and_then(|text| http_route::duration(path, text, findings));
        match read {
            Some(time) if time.is_zero() => {
                findings.error(path, "must be longer than nothing");
                usual
            }
            Some(time) => time,
            None => usual,
        }
    };
    let interval = share.and_then(|share| share.interval.as_ref());
    let interval = time("spec.retryConstraint.budget.interval", interval, usual.interval);
    let per = rate.and_then(|rate| rate.interval.as_ref());
    let per = time("spec.retryConstraint.minRetryRate.interval", per, usual.least.per);
    let count = rate.and_then(|rate| rate.count).map_or(Ok(usual.least.count), |count| {
        u32::try_from(count).map_err(|_| format!("{count} is not a number of retries"))
    });
    let count = findings.keep("spec.retryConstraint.minRetryRate.count", count).unwrap_or(usual.least.count);
    RetryBudget { percent, interval, least: Rate { count, per, burst: count } }
}
