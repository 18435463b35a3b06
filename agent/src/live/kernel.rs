//! Plaintext connections that the kernel passed to the app without the agent: the registry does not know them, a change
//! of policy can concern them all the same. They are found and ended in the pod's own namespace.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use weft_core::model::Workload;
use weft_core::policy::{ConnectionFacts, authorize};
use weft_core::snapshot::Snapshot;

use super::Live;
use crate::pod::Pod;
use crate::sys::diag;
use crate::tunnel::HBONE_PORT;

impl Live {
    /// Ends the plaintext connections to `pod` that the kernel passed and `snapshot` refuses; those it attested, given by
    /// the pod's end and the other, are judged elsewhere, and kubelet's probes, from addresses of `node`, not at all. Returns
    /// how many.
    ///
    /// # Errors
    /// When the namespace's sockets cannot be listed.
    pub fn judge_passed(
        &self,
        snapshot: &Snapshot,
        pod: &Pod,
        attested: &HashSet<(SocketAddr, SocketAddr)>,
        node: &BTreeSet<IpAddr>,
    ) -> std::io::Result<usize> {
        let Some(workload) = pod.workload(snapshot) else { return Ok(0) };
        let open = diag::connections(&pod.netns)?;
        if open.is_empty() {
            return Ok(0);
        }
        let listening: HashSet<u16> = diag::listeners(&pod.netns)?.iter().map(|l| l.local.port()).collect();
        let carried: HashSet<(SocketAddr, SocketAddr)> =
            self.list().into_iter().map(|(_, c)| (c.destination(), c.source())).collect();
        let mut pairs: HashSet<(SocketAddr, SocketAddr)> = open.iter().map(|c| (c.local, c.remote)).collect();
        let doomed = |c: &diag::Connection, pairs: &HashSet<(SocketAddr, SocketAddr)>| {
            let inbound = pod.addresses.contains(&c.local.ip()) && listening.contains(&c.local.port());
            // A delivery's other end, or the pod calling itself, is in the same namespace; a passed connection's is not.
            let ours = c.local.port() == HBONE_PORT
                || pairs.contains(&(c.remote, c.local))
                || attested.contains(&(c.local, c.remote))
                || carried.contains(&(c.local, c.remote));
            let probe = workload.probe_ports.contains(&c.local.port()) && node.contains(&c.remote.ip());
            inbound && !ours && !probe && !allowed(snapshot, workload, c)
        };
        let suspects: Vec<&diag::Connection> = open.iter().filter(|c| doomed(c, &pairs)).collect();
        if suspects.is_empty() {
            return Ok(0);
        }
        // Looked again: of a connection that was made while the sockets were listed the first time, one end may be missing.
        pairs.extend(diag::connections(&pod.netns)?.iter().map(|c| (c.local, c.remote)));
        let ended: Vec<bool> = suspects
            .into_iter()
            .filter(|c| doomed(c, &pairs))
            .map(|c| diag::destroy(&pod.netns, c))
            .collect::<std::io::Result<_>>()?;
        Ok(ended.into_iter().filter(|ended| *ended).count())
    }
}

/// Ends these connections of `pod`, each given by the pod's end and the other. Returns how many there were.
///
/// # Errors
/// When the namespace's sockets cannot be listed.
pub fn end(pod: &Pod, doomed: &HashSet<(SocketAddr, SocketAddr)>) -> std::io::Result<usize> {
    if doomed.is_empty() {
        return Ok(0);
    }
    diag::destroy_matching(&pod.netns, |c| doomed.contains(&(c.local, c.remote)))
}

fn allowed(snapshot: &Snapshot, workload: &Workload, connection: &diag::Connection) -> bool {
    let facts = ConnectionFacts {
        destination: workload,
        port: connection.local.port(),
        peer: None,
        source: connection.remote.ip(),
    };
    authorize(snapshot, &facts).is_allowed()
}
