//! NetworkPolicy (`networking.k8s.io/v1`): which TCP ports it leaves open between two pods.
//!
//! What the API leaves to the network is read as most do it: pods on their node's network are addresses, not pods, and
//! an IP block matches the addresses of pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt as _};

use super::pod::Pod;

/// Labels of namespaces, by name.
pub(super) type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// Which end of a connection a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Direction {
    /// The rule is the server's.
    Ingress,
    /// The rule is the client's.
    Egress,
}

impl Direction {
    /// The field of a policy's spec.
    pub(super) const fn field(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Ports, as ranges of which both ends belong to them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Every port.
    pub(super) fn all() -> Self {
        Self(vec![(1, u16::MAX)])
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Those in both, `beside` one.
    pub(super) fn common(&self, other: &Self, beside: u16) -> Vec<u16> {
        // Where two ranges meet, one of them begins, and one of them ends.
        let ends = self.0.iter().chain(&other.0).flat_map(|(first, last)| [*first, *last]);
        let mut found: Vec<u16> =
            ends.filter(|port| *port != beside && self.contains(*port) && other.contains(*port)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// A policy.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) namespace: String,
    pub(super) name: String,
    selector: Selector,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

/// Who may connect and to what. No peers are all peers.
#[derive(Debug)]
pub(super) struct Rule {
    peers: Vec<Peer>,
    /// TCP ports; `None` is every one.
    ports: Option<Vec<PortSpec>>,
}

#[derive(Debug)]
enum Peer {
    Block { net: IpNet, except: Vec<IpNet> },
    Pods { namespaces: Option<Selector>, pods: Selector },
}

#[derive(Debug)]
enum PortSpec {
    Range(u16, u16),
    Named(IntOrString),
}

impl Policy {
    /// Reads a policy; or says what cannot be understood.
    pub(super) fn of(object: &api::NetworkPolicy) -> Result<Self, String> {
        let spec = object.spec.clone().unwrap_or_default();
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let applies = |kind: &str, unsaid: bool| types.iter().any(|t| t == kind) || types.is_empty() && unsaid;
        let (inward, outward) = (spec.ingress.unwrap_or_default(), spec.egress.unwrap_or_default());
        let ingress = applies("Ingress", true).then(|| {
            inward.iter().map(|rule| Rule::of(rule.from.as_deref(), rule.ports.as_deref())).collect::<Result<_, _>>()
        });
        let egress = applies("Egress", !outward.is_empty()).then(|| {
            outward.iter().map(|rule| Rule::of(rule.to.as_deref(), rule.ports.as_deref())).collect::<Result<_, _>>()
        });
        Ok(Self {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
            selector: selector(spec.pod_selector)?,
            ingress: ingress.transpose()?,
            egress: egress.transpose()?,
        })
    }

    /// Whether it restricts a pod in this direction.
    pub(super) fn restricts(&self, direction: Direction, pod: &Pod) -> bool {
        let about = self.namespace == pod.workload.name.namespace.as_str() && !pod.workload.host_network;
        about && self.rules(direction).is_some() && self.selector.matches(&pod.labels)
    }

    /// Its rules of a direction; `None` if it is not about it.
    pub(super) fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether one of its rules is about this peer.
    pub(super) fn names(&self, rule: &Rule, peer: &Pod, namespaces: &Namespaces) -> bool {
        rule.peers.is_empty() || rule.peers.iter().any(|one| one.matches(&self.namespace, peer, namespaces))
    }
}

impl Rule {
    fn of(peers: Option<&[api::NetworkPolicyPeer]>, ports: Option<&[api::NetworkPolicyPort]>) -> Result<Self, String> {
        let peers = peers.unwrap_or_default().iter().map(Peer::of).collect::<Result<_, _>>()?;
        let listed = ports.filter(|ports| !ports.is_empty());
        let tcp = |port: &&api::NetworkPolicyPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let ports = listed.map(|ports| ports.iter().filter(tcp).map(PortSpec::of).collect::<Result<_, _>>());
        Ok(Self { peers, ports: ports.transpose()? })
    }

    /// Whether it is about everybody.
    pub(super) fn is_open(&self) -> bool {
        self.peers.is_empty()
    }

    /// The TCP ports of a server it leaves open.
    pub(super) fn ports(&self, server: &Pod) -> Ports {
        let Some(ports) = &self.ports else { return Ports::all() };
        let range = |port: &PortSpec| match port {
            PortSpec::Range(first, last) => Some((*first, *last)),
            PortSpec::Named(name) => server.port(name).map(|port| (port, port)),
        };
        Ports(ports.iter().filter_map(range).collect())
    }

    /// Whether it lists TCP ports, and this one is not among them.
    pub(super) fn leaves_out(&self, port: u16) -> bool {
        let has = |spec: &PortSpec| matches!(spec, PortSpec::Range(first, last) if (*first..=*last).contains(&port));
        self.ports.as_ref().is_some_and(|ports| !ports.is_empty() && !ports.iter().any(has))
    }
}

impl Peer {
    fn of(peer: &api::NetworkPolicyPeer) -> Result<Self, String> {
        let net = |text: &String| text.parse::<IpNet>().map_err(|_| format!("{text:?} is not an address block"));
        if let Some(block) = &peer.ip_block {
            let except = block.except.iter().flatten().map(net).collect::<Result<_, _>>()?;
            return Ok(Self::Block { net: net(&block.cidr)?, except });
        }
        let namespaces = peer.namespace_selector.clone().map(|selects| selector(Some(selects))).transpose()?;
        Ok(Self::Pods { namespaces, pods: selector(peer.pod_selector.clone())? })
    }

    /// Whether it is a pod, for a policy of namespace `home`.
    fn matches(&self, home: &str, pod: &Pod, namespaces: &Namespaces) -> bool {
        match self {
            Self::Block { net, except } => {
                let within = |ip: &IpAddr| net.contains(ip) && !except.iter().any(|hole| hole.contains(ip));
                pod.workload.addresses.iter().any(within)
            }
            Self::Pods { .. } if pod.workload.host_network => false,
            Self::Pods { namespaces: selects, pods } => {
                let namespace = pod.workload.name.namespace.as_str();
                let there = match selects {
                    None => namespace == home,
                    Some(selects) => selects.matches(namespaces.get(namespace).unwrap_or(&BTreeMap::new())),
                };
                there && pods.matches(&pod.labels)
            }
        }
    }
}

impl PortSpec {
    fn of(port: &api::NetworkPolicyPort) -> Result<Self, String> {
        let number = |port: i32| u16::try_from(port).map_err(|_| format!("{port} is not a port"));
        Ok(match (&port.port, port.end_port) {
            (None, _) => Self::Range(1, u16::MAX),
            (Some(IntOrString::Int(first)), last) => Self::Range(number(*first)?, number(last.unwrap_or(*first))?),
            (Some(name), _) => Self::Named(name.clone()),
        })
    }
}

fn selector(given: Option<LabelSelector>) -> Result<Selector, String> {
    given.unwrap_or_default().try_into().map_err(|error: kube::core::ParseExpressionError| error.to_string())
}

/// The ports of `server` that the policies restricting `pod` in a direction leave open for `peer`: all if there are none.
pub(super) fn open(
    restricting: &[&Policy],
    direction: Direction,
    (peer, server): (&Pod, &Pod),
    namespaces: &Namespaces,
) -> Ports {
    if restricting.is_empty() {
        return Ports::all();
    }
    let mut ports = Ports::default();
    for policy in restricting {
        let rules = policy.rules(direction).unwrap_or_default().iter();
        rules.filter(|rule| policy.names(rule, peer, namespaces)).for_each(|rule| ports.0.extend(rule.ports(server).0));
    }
    ports
}
