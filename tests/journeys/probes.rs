//! Kubelet's probes: plaintext from the pod's own node, to the ports that are probed and to no others.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::Behaviour;
use weft_tests::lab::{NAMESPACE, Node};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};
use crate::security::policy;

/// What kubelet finds when it connects from the node's network.
fn probe(node: &Node, to: SocketAddr) -> Result<bool> {
    node.netns().run(move || Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5)).is_ok()))
}

#[test]
fn probe_ports_only() -> Result<()> {
    only_probed_ports(Mesh::up("probes")?)
}

/// The same where the probes are those of Pods that an API server tells of.
#[test]
fn cluster_probe_ports_only() -> Result<()> {
    only_probed_ports(Mesh::serving_in_cluster("cluster-probes")?)
}

fn only_probed_ports(mesh: Mesh) -> Result<()> {
    let probed = mesh.lab.pod(&mesh.b, "probed").ports(&[8080, 8081]).probe(8080).create()?;
    let app = probed.app(&mesh.lab)?;
    for port in [8080, 8081] {
        app.listen(anywhere(port), "probed", Behaviour::Identify)?;
    }
    mesh.lab.wait_live(&probed)?;
    let outsider = mesh.lab.pod(&mesh.b, "outsider").namespace("outside").create()?.app(&mesh.lab)?;
    let (asked, others) = ([probed.v4(8080)?, probed.v6(8080)?], [probed.v4(8081)?, probed.v6(8081)?]);
    let closed_but_for_probes = || -> Result<()> {
        wait::until("plaintext to be refused", wait::DEADLINE, || {
            let refused =
                |to: &SocketAddr| Ok::<_, anyhow::Error>(!probe(&mesh.b, *to)? && outsider.open(*to).is_err());
            ensure!(others.iter().map(refused).all(|r| r.is_ok_and(|r| r)), "let in at a port nobody probes");
            Ok(())
        })?;
        moves(&mesh.lab, &mesh.b, "lookup_probe", 2, || {
            for to in asked {
                ensure!(probe(&mesh.b, to)?, "kubelet's probe of {to} was refused");
                ensure!(!probe(&mesh.a, to)?, "another node was let in at {to}");
                ensure!(outsider.open(to).is_err(), "a pod of the node was let in at {to}");
            }
            Ok(())
        })
    };
    policy(&mesh.lab, "PeerAuthentication", "strict", &json!({"mtls": {"mode": "Strict"}}))?;
    closed_but_for_probes()?;
    // The mesh goes on meanwhile, at both ports.
    mesh.steered(4, || asked.iter().chain(&others).try_for_each(|to| mesh.app.call_once(*to).map(drop)))?;
    // An address the node gets later is its own as well, and no longer when it is taken away.
    let late = |verb: &str| mesh.b.netns().ip(&[format!("addr {verb} 172.18.0.77/32 dev lo")]);
    let from_late = || -> Result<bool> {
        let to = asked[0];
        mesh.b.netns().run(move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::from(([172, 18, 0, 77], 0)).into())?;
            Ok(socket.connect_timeout(&to.into(), Duration::from_secs(5)).is_ok())
        })
    };
    late("add")?;
    wait::holds("the node's new address to be known", || from_late().unwrap_or(false))?;
    late("del")?;
    mesh.lab.manifests().remove("PeerAuthentication", NAMESPACE, "strict");
    // Policies by identity know nobody at the node either.
    let nobody =
        json!({"action": "Allow", "rules": [{"from": [{"principals": ["spiffe://cluster.local/ns/x/sa/nobody"]}]}]});
    policy(&mesh.lab, "AuthorizationPolicy", "nobody", &nobody)?;
    wait::until("the policy to be in force", wait::DEADLINE, || {
        ensure!(mesh.app.open(others[0]).is_err() || mesh.app.call_once(others[0]).is_err());
        Ok(())
    })?;
    // The proxy decides by it at once, the kernel is told a moment later; in between they pass by no policy.
    let mut refused = Vec::new();
    wait::until("kubelet's probes to be told from the rest", wait::DEADLINE, || {
        moves(&mesh.lab, &mesh.b, "lookup_probe", 2, || {
            for to in asked {
                refused.extend((!probe(&mesh.b, to)?).then_some(to));
            }
            Ok(())
        })
    })?;
    ensure!(refused.is_empty(), "kubelet's probes of {refused:?} were refused by policy");
    // Kubelet would kill pods whose probes fail: they pass whether an agent is there or not.
    mesh.agent(&mesh.b)?.process().kill()?;
    ensure!(probe(&mesh.b, asked[0])?, "without an agent the probe was refused");
    mesh.lab.start_agent(&mesh.b, weft_tests::lab::AgentOptions::default())?;
    mesh.lab.finish()
}
