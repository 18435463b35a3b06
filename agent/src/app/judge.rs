//! Connections that were let in, judged again when what they were judged by has changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_core::policy::changes;
use weft_core::snapshot::Snapshot;

use super::node::Node;
use crate::direct::{client, server};
use crate::live;

impl Node {
    /// Ends what policy now refuses, of the pods the change concerns.
    pub(super) fn judge_again(&mut self, before: &Snapshot, after: &Snapshot) {
        let changed = changes(before, after);
        if changed.is_empty() {
            return;
        }
        let concerned = |uid: &str| after.workload(uid).is_some_and(|w| changed.concerns(w));
        for killed in self.parts.live.judge_again(after, |c| concerned(&c.pod)) {
            let connection = &killed.connection;
            tracing::info!(pod = connection.pod_name().map(tracing::field::display), source = %connection.source(),
                destination = %connection.destination(), reason = %killed.reason, "policy changed: connection ended");
        }
        let pods: BTreeSet<Arc<str>> = self.pods.enrolled.keys().filter(|uid| concerned(uid)).cloned().collect();
        self.judge_kernel(after, &pods);
        self.judged_lately.extend(pods);
    }

    /// Ends what policy refuses of the connections to `pods` that never came by the proxy.
    pub(super) fn judge_kernel(&self, snapshot: &Snapshot, pods: &BTreeSet<Arc<str>>) {
        if pods.is_empty() {
            return;
        }
        let open = match self.parts.steering.attested() {
            Ok(open) => open,
            Err(error) => return tracing::error!(%error, "cannot judge connections between pods of this node again"),
        };
        let attested = open.iter().map(|(tuple, _)| (server(tuple), client(tuple))).collect();
        for enrolled in pods.iter().filter_map(|uid| self.pods.enrolled.get(uid)) {
            let doomed = self.parts.direct.doomed(snapshot, &enrolled.pod, &open);
            let ended = live::end(&enrolled.pod, &doomed).and_then(|ended| {
                Ok(ended + self.parts.live.judge_passed(snapshot, &enrolled.pod, &attested, self.addresses.own())?)
            });
            match ended {
                Ok(0) => {}
                Ok(ended) => {
                    tracing::info!(pod = %enrolled.pod.name, ended, "policy changed: connections past the proxy ended")
                }
                Err(error) => {
                    tracing::warn!(pod = %enrolled.pod.name, %error, "cannot look for connections past the proxy that policy now refuses")
                }
            }
        }
    }
}
