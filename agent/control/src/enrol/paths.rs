//! Between meshed pods: connections travel from the client pod's address to port 15008 of the server's, and the network
//! sees nothing else of them, but between pods of one node past the proxy. So NetworkPolicies must let 15008 through
//! wherever they let anything through, beside the port itself.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::route::HBONE_PORT;

use super::judge::{After, Placed};
use super::network::{Direction, Policy, Rule};
use super::pod::Pod;
use crate::install::check::{Finding, some};

/// A rule: the namespace and name of its policy, its direction, its index there.
type Place = (String, String, Direction, usize);

/// What a rule would cut off.
#[derive(Default)]
struct Cut {
    /// Pods the policy is about, and their peers.
    pods: BTreeSet<String>,
    peers: BTreeSet<String>,
    ports: BTreeSet<u16>,
}

pub(super) fn findings(after: &After<'_>) -> Vec<Finding> {
    let mut cuts: BTreeMap<Place, Cut> = BTreeMap::new();
    let pairs = |clients: &[_], servers: &[_], cuts: &mut _| {
        for (client, server) in clients.iter().flat_map(|client| servers.iter().map(move |server| (client, server))) {
            judge(after, client, server, cuts);
        }
    };
    pairs(&after.joining, &after.joining, &mut cuts);
    pairs(&after.joining, &after.meshed, &mut cuts);
    pairs(&after.meshed, &after.joining, &mut cuts);
    let mut findings: Vec<_> = cuts.iter().map(|(place, cut)| broken(place, cut)).collect();
    findings.extend(coming(after, &cuts));
    findings
}

/// Notes the rules that let one pod reach another now and would not then.
fn judge(after: &After<'_>, client: &Placed<'_>, server: &Placed<'_>, cuts: &mut BTreeMap<Place, Cut>) {
    if client.egress.is_empty() && server.ingress.is_empty() || client.pod.is(server.pod) {
        return;
    }
    let (egress, ingress) = after.open(client, server);
    let ports = egress.common(&ingress, HBONE_PORT);
    if ports.is_empty() {
        return;
    }
    let mut note = |direction, policies: &[&Policy], pod: &Pod, peer: &Pod| {
        for (policy, number, rule) in rules(policies, direction) {
            let open = if policy.names(rule, peer, &after.namespaces) { rule.ports(server.pod) } else { continue };
            let through: Vec<u16> = ports.iter().copied().filter(|port| open.contains(*port)).collect();
            if !through.is_empty() {
                let cut = cuts.entry((policy.namespace.clone(), policy.name.clone(), direction, number)).or_default();
                cut.pods.insert(pod.to_string());
                cut.peers.insert(peer.to_string());
                cut.ports.extend(through);
            }
        }
    };
    if !ingress.contains(HBONE_PORT) {
        note(Direction::Ingress, &server.ingress, server.pod, client.pod);
    }
    if !egress.contains(HBONE_PORT) {
        note(Direction::Egress, &client.egress, client.pod, server.pod);
    }
}

fn rules<'a>(policies: &[&'a Policy], direction: Direction) -> impl Iterator<Item = (&'a Policy, usize, &'a Rule)> {
    let of = move |policy: &'a Policy| {
        let rules = policy.rules(direction).unwrap_or_default().iter().enumerate();
        rules.map(move |(number, rule)| (policy, number, rule))
    };
    policies.iter().copied().flat_map(of).collect::<Vec<_>>().into_iter()
}

fn broken((namespace, name, direction, number): &Place, cut: &Cut) -> Finding {
    let list = |names: &BTreeSet<String>| some(&names.iter().cloned().collect::<Vec<_>>());
    let ports = some(&cut.ports.iter().map(ToString::to_string).collect::<Vec<_>>());
    let (pods, peers, field) = (list(&cut.pods), list(&cut.peers), direction.field());
    let lets = match direction {
        Direction::Ingress => format!("lets {peers} in to {pods}"),
        Direction::Egress => format!("lets {pods} out to {peers}"),
    };
    Finding::wrong(
        format!(
            "NetworkPolicy {namespace}/{name} {lets} on TCP {ports}, and not on TCP {HBONE_PORT}, where meshed pods meet: \
             their connections would fail"
        ),
        format!("add {{protocol: TCP, port: {HBONE_PORT}}} to its spec.{field}[{number}].ports"),
    )
}

/// Rules of the namespace through which nobody comes yet who would be meshed.
fn coming(after: &After<'_>, cuts: &BTreeMap<Place, Cut>) -> Vec<Finding> {
    let mut found = BTreeSet::new();
    for placed in &after.joining {
        for (direction, policies) in [(Direction::Ingress, &placed.ingress), (Direction::Egress, &placed.egress)] {
            let everybody = rules(policies, direction)
                .any(|(_, _, rule)| rule.is_open() && rule.ports(placed.pod).contains(HBONE_PORT));
            let lacking = rules(policies, direction).filter(|(_, _, rule)| !everybody && rule.leaves_out(HBONE_PORT));
            found.extend(
                lacking.map(|(policy, number, _)| (policy.namespace.clone(), policy.name.clone(), direction, number)),
            );
        }
    }
    found.retain(|place| !cuts.contains_key(place));
    let places: Vec<String> = found
        .iter()
        .map(|(space, name, direction, number)| format!("{space}/{name} spec.{}[{number}]", direction.field()))
        .collect();
    if places.is_empty() {
        return Vec::new();
    }
    vec![Finding::remark(
        format!(
            "NetworkPolicies list TCP ports without {HBONE_PORT}, and no meshed pod passes there yet: {}",
            some(&places)
        ),
        format!("add {{protocol: TCP, port: {HBONE_PORT}}} there before such pods join the mesh"),
    )]
}
