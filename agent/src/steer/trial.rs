//! What an agent does to the kernel, done once where nobody lives: a cgroup without processes, a network namespace without a
//! pod, pins of an instance of its own. Nothing is steered by it, and nothing of it is left.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::{io, path::PathBuf};

use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use weft_abi::{PodIdentity, program};

use super::{PodNetwork, SteerConfig, SteerError, Steering, object::find};
use crate::sys::{NetNs, diag, link};

/// What was tried, and what came of it.
#[derive(Debug)]
pub struct Tried {
    /// What the kernel is to do.
    pub what: &'static str,
    /// Whether it did.
    pub outcome: Result<(), SteerError>,
    /// What is lost where it does not; nothing: no pod can be meshed.
    pub lost: Option<&'static str>,
}

const DIRECTLY: Option<&str> = Some("connections between pods of one node go through the proxy");

/// Tries everything. The cgroup of `config` should have no processes, and its instance be nobody's.
pub async fn trial(config: SteerConfig) -> Vec<Tried> {
    let cgroup = config.cgroup.clone();
    let mut tried = Vec::new();
    let mut note = |what, lost, outcome: Result<(), SteerError>| {
        let held = outcome.is_ok();
        tried.push(Tried { what, outcome, lost });
        held
    };
    let pod = match NetNs::fresh() {
        Ok(pod) => pod,
        Err(error) => {
            note(
                "makes and enters network namespaces",
                None,
                Err(SteerError::pod("trial", "make a namespace for")(error)),
            );
            return tried;
        }
    };
    let addresses = match link::give_loopback(&pod, &[V4, V6]).await {
        Ok(()) => vec![V4, V6],
        // A kernel without IPv6: there is one to be had, or the next step says why not.
        Err(_) => link::give_loopback(&pod, &[V4]).await.map_or_else(|_| Vec::new(), |()| vec![V4]),
    };
    let ended = end_a_connection(&pod).map_err(SteerError::pod("trial", "end a connection of"));
    let policy = Some("connections that are open outlast a policy that refuses them");
    note("ends open connections (CONFIG_INET_DIAG_DESTROY)", policy, ended);
    let steering = match Steering::open(config) {
        Ok(steering) => steering,
        Err(error) => {
            note("takes the programs, and runs them for a cgroup (cgroup/connect)", None, Err(error));
            return tried;
        }
    };
    note("takes the programs, and runs them for a cgroup (cgroup/connect)", None, Ok(()));
    let enrolled = steering.enrol(network(&pod, addresses)).await.map(drop);
    note("steers a network namespace (sk_lookup, rules and routes, sysctls, transparent sockets)", None, enrolled);
    let flow = steering.shared.programs.install_flow(&cgroup);
    note("follows connections past the proxy (cgroup/getpeername, sock_ops)", DIRECTLY, flow);
    note("guards the links of pods (tcx, Linux 6.6)", DIRECTLY, guard(&steering, &pod));
    if let Err(error) = steering.remove_all().await {
        note("is as it was before", Some("pins of this trial are left on the BPF file system"), Err(error));
    }
    tried
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

fn network(pod: &Arc<NetNs>, addresses: Vec<IpAddr>) -> PodNetwork {
    let (netns, uid): (PathBuf, _) = (pod.path(), "trial".to_owned());
    PodNetwork { uid, netns, addresses, avoid_ports: Vec::new(), modes: super::InboundModes::default() }
}

/// The kernel of a container without the option answers that it does not know how.
fn end_a_connection(pod: &NetNs) -> io::Result<()> {
    let held = pod.run(|| -> io::Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        Ok((listener, client))
    })??;
    let ended = diag::destroy_matching(pod, |_| true)?;
    drop(held);
    if ended > 0 { Ok(()) } else { Err(io::Error::other("the kernel lists none")) }
}

fn guard(steering: &Steering, pod: &NetNs) -> Result<(), SteerError> {
    let mut ebpf = steering.shared.programs.load(0, PodIdentity::default())?;
    let guard: &mut SchedClassifier = find(&mut ebpf, program::GUARD)?;
    guard.load().map_err(SteerError::load)?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attached = pod.run(|| guard.attach_with_options("lo", TcAttachType::Ingress, order).map(drop));
    attached.map_err(SteerError::pod("trial", "enter"))?.map_err(SteerError::load)
}
