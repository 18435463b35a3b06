//! A node: a network namespace that forwards between its pods and the fabric, and a cgroup that its pods' are below.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use super::cgroup;
use super::netns::NetNs;
use super::rundir::RunDir;

/// How a node's pods are linked to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Layout {
    /// A link each with a route to it, as Calico, Cilium and ptp do it.
    #[default]
    Routed,
    /// All on one bridge, as bridge, flannel and kubenet do it.
    Bridged,
}

/// A node of the lab. Clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    index: u8,
    layout: Layout,
    netns: NetNs,
    cgroup: PathBuf,
}

impl Node {
    pub(super) fn create(run: &RunDir, fabric: &NetNs, name: &str, layout: Layout, others: &[Self]) -> Result<Self> {
        let index = u8::try_from(others.len() + 1)?;
        let netns = NetNs::create(&run.path().join("netns").join(format!("node-{name}")))?;
        let node_cgroup = run.cgroup().join(name);
        cgroup::create(&node_cgroup.join("pods"))?;
        let node = Self { inner: Arc::new(Inner { name: name.to_owned(), index, layout, netns, cgroup: node_cgroup }) };
        node.connect(fabric)?;
        for other in others {
            node.netns().ip(&other.routes_to())?;
            other.netns().ip(&node.routes_to())?;
        }
        Ok(node)
    }

    fn connect(&self, fabric: &NetNs) -> Result<()> {
        let ns = self.netns();
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            // Addresses are the lab's to give: waiting for duplicates would only delay every test.
            ("net/ipv6/conf/default/accept_dad", "0"),
        ] {
            ns.sysctl(name, value)?;
        }
        let (v4, v6) = self.addresses();
        let port = self.fabric_port();
        ns.ip(&[
            format!("link add eth0 type veth peer name {port} netns {}", fabric.path().display()),
            format!("addr add {v4}/24 dev eth0"),
            format!("addr add {v6}/64 dev eth0 nodad"),
            "link set eth0 up".into(),
        ])?;
        fabric.ip(&[format!("link set {port} master br0"), format!("link set {port} up")])?;
        if self.inner.layout == Layout::Bridged {
            let (v4, v6) = self.gateways();
            ns.ip(&[
                format!("link add {BRIDGE} type bridge"),
                format!("addr add {v4}/24 dev {BRIDGE}"),
                format!("addr add {v6}/64 dev {BRIDGE} nodad"),
                format!("link set {BRIDGE} up"),
            ])?;
        }
        Ok(())
    }

    /// What its pods route everything beyond their links by.
    pub(super) fn gateways(&self) -> (Ipv4Addr, Ipv6Addr) {
        match self.inner.layout {
            Layout::Routed => (GATEWAY_V4, GATEWAY_V6),
            Layout::Bridged => self.pod_addresses(1),
        }
    }

    /// How its pods are linked to it.
    pub(super) fn layout(&self) -> Layout {
        self.inner.layout
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.inner.netns
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.inner.cgroup
    }

    /// Its own addresses on the fabric.
    #[must_use]
    pub fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        let index = self.inner.index;
        (Ipv4Addr::new(172, 18, 0, index), Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, index.into()))
    }

    /// TCP ports listened on in it, by whomever.
    ///
    /// # Errors
    /// When its namespace cannot be entered.
    pub fn listening_ports(&self) -> Result<Vec<u16>> {
        super::state::listening_ports(self.netns())
    }

    /// The addresses of its `n`th pod.
    pub(super) fn pod_addresses(&self, n: u8) -> (Ipv4Addr, Ipv6Addr) {
        let index = self.inner.index;
        (Ipv4Addr::new(10, 244, index, n), Ipv6Addr::new(0xfd00, 0x10, 0x244, index.into(), 0, 0, 0, n.into()))
    }

    /// The name of its port in the fabric's namespace: where captures listen.
    #[must_use]
    pub fn fabric_port(&self) -> String {
        format!("n{}", self.inner.index)
    }

    /// `ip` lines by which another node reaches this node's pods.
    fn routes_to(&self) -> Vec<String> {
        let index = self.inner.index;
        let (v4, v6) = self.addresses();
        vec![
            format!("route add 10.244.{index}.0/24 via {v4}"),
            format!("route add fd00:10:244:{index:x}::/64 via {v6}"),
        ]
    }

    /// Joins the node's end of a pod's link to the bridge, or adds the host routes to the pod behind it.
    pub(super) fn connect_pod(&self, link: &str, addresses: &[IpAddr]) -> Result<()> {
        if self.inner.layout == Layout::Bridged {
            return self.netns().ip(&[format!("link set {link} master {BRIDGE}"), format!("link set {link} up")]);
        }
        let mut lines = vec![
            format!("link set {link} up"),
            format!("addr add {GATEWAY_V4}/32 dev {link}"),
            format!("addr add {GATEWAY_V6}/64 dev {link} nodad"),
        ];
        lines.extend(addresses.iter().map(|ip| format!("route replace {ip} dev {link}")));
        self.netns().ip(&lines)
    }
}

/// The bridge of a node whose pods share one.
const BRIDGE: &str = "cni0";

/// What pods route everything by: the same address on the node's end of every pod's link.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// As [`GATEWAY_V4`].
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
