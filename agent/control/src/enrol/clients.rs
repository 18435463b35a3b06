//! Pods that call the namespace's, as its policies would judge them from then on: PeerAuthentications and
//! AuthorizationPolicies are in force at meshed pods only, so that the label brings them into force.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::model::ObjectName;
use weft_core::policy::{ConnectionFacts, DenyReason, PlaintextMode, Verdict, authorize, plaintext_modes};

use super::judge::{After, Placed};
use super::plaintext::{behind, policy, refused};
use crate::install::check::{Finding, some};

/// Stands for the ports of a pod that says nothing of its ports.
const ANY: u16 = u16::MAX;

/// What a policy would refuse.
#[derive(Default)]
struct Refused {
    servers: BTreeSet<String>,
    ports: BTreeSet<u16>,
    clients: BTreeSet<ObjectName>,
}

type Refusals = BTreeMap<(String, Option<ObjectName>), (DenyReason, Refused)>;

pub(super) fn findings(after: &After<'_>) -> Vec<Finding> {
    let mut refusals = Refusals::new();
    for server in &after.joining {
        let modes = plaintext_modes(&after.snapshot, &server.pod.workload);
        if modes.default == PlaintextMode::Pass && modes.ports.is_empty() {
            continue;
        }
        let ports = ports(after, server);
        for client in &after.outside {
            judge(after, (client, false), server, &ports, &mut refusals);
        }
        for client in after.joining.iter().chain(&after.meshed) {
            judge(after, (client, true), server, &ports, &mut refusals);
        }
    }
    refusals.into_iter().map(|((_, name), (reason, refused))| finding(after, reason, name.as_ref(), &refused)).collect()
}

/// The ports a pod serves, as far as anybody says.
fn ports(after: &After<'_>, server: &Placed<'_>) -> BTreeSet<u16> {
    let declared = server.pod.ports.iter().map(|port| port.number);
    let served = after.cluster.services.iter().flat_map(|service| behind(service, server.pod));
    let mut ports: BTreeSet<u16> = declared.chain(served).collect();
    if ports.is_empty() {
        ports.insert(ANY);
    }
    ports
}

fn judge(
    after: &After<'_>,
    (client, meshed): (&Placed<'_>, bool),
    server: &Placed<'_>,
    ports: &BTreeSet<u16>,
    refusals: &mut Refusals,
) {
    let Some(source) = client.pod.workload.addresses.first().copied().filter(|_| !client.pod.is(server.pod)) else {
        return;
    };
    let (egress, ingress) = after.open(client, server);
    for port in ports.iter().copied().filter(|port| egress.contains(*port) && ingress.contains(*port)) {
        let denied = if meshed {
            let identity = after.snapshot.identity_of(&client.pod.workload);
            let facts = ConnectionFacts { destination: &server.pod.workload, port, peer: Some(&identity), source };
            match authorize(&after.snapshot, &facts).verdict {
                Verdict::Deny { reason, policy } => Some((reason, policy)),
                Verdict::Allow { .. } => None,
            }
        } else {
            refused(after, server.pod, port, source)
        };
        let Some((reason, name)) = denied else { continue };
        let (_, refused) =
            refusals.entry((policy(reason, name.as_ref()), name)).or_insert_with(|| (reason, Refused::default()));
        refused.servers.insert(server.pod.to_string());
        refused.ports.insert(port);
        refused.clients.insert(client.pod.workload.name.clone());
    }
}

fn finding(after: &After<'_>, reason: DenyReason, name: Option<&ObjectName>, refused: &Refused) -> Finding {
    let by = policy(reason, name);
    let servers = some(&refused.servers.iter().cloned().collect::<Vec<_>>());
    let port = |port: &u16| if *port == ANY { "any port".to_owned() } else { format!("port {port}") };
    let ports = some(&refused.ports.iter().map(port).collect::<Vec<_>>());
    let clients = clients(after, &refused.clients);
    match reason {
        DenyReason::StrictMtls => Finding::wrong(
            format!(
                "{by} is Strict: {servers} would refuse plaintext ({ports}) of pods that stay outside the mesh: {clients}"
            ),
            "mesh those who call it, or make it Permissive (mtls, or portLevelMtls for single ports) until they are",
        ),
        DenyReason::InvalidPolicy => Finding::wrong(
            format!("{by} cannot be understood: {servers} would refuse everybody ({ports}): {clients}"),
            "mend it: what is wrong stands below",
        ),
        DenyReason::DenyPolicy | DenyReason::NotAllowed => Finding::remark(
            format!("{by} would come into force at {servers} ({ports}), and refuse {clients}"),
            "nothing to do, if that is what it is for; audit: true only reports whom it would refuse",
        ),
    }
}

/// Who they are: by name where they are neighbours, else how many of which namespace.
fn clients(after: &After<'_>, clients: &BTreeSet<ObjectName>) -> String {
    let (near, far): (Vec<_>, Vec<_>) = clients.iter().partition(|name| name.namespace == *after.namespace);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &far {
        *counts.entry(name.namespace.as_str()).or_default() += 1;
    }
    let far = counts.into_iter().map(|(namespace, count)| match count {
        1 => format!("a pod of {namespace}"),
        count => format!("{count} pods of {namespace}"),
    });
    some(&near.iter().map(ToString::to_string).chain(far).collect::<Vec<_>>())
}
