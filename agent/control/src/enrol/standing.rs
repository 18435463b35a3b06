//! How each pod of the namespace would stand: those that stay out, and those that could not be served.

use weft_core::route::HBONE_PORT;

use super::judge::After;
use super::pod::Pod;
use crate::install::check::{Finding, some};

pub(super) fn findings(after: &After<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |pods: Vec<&Pod>, what: &str, make: &dyn Fn(String) -> Finding| {
        if !pods.is_empty() {
            let names: Vec<String> = pods.iter().map(ToString::to_string).collect();
            findings.push(make(format!("{}: {what}", some(&names))));
        }
    };
    let of_host = after.staying().filter(|pod| pod.workload.host_network).collect();
    say(of_host, "on the host's network, stays outside the mesh", &|what| {
        Finding::remark(what, "give it a network of its own, or leave the ports it calls Permissive")
    });
    let out = after.staying().filter(|pod| !pod.workload.host_network).collect();
    say(out, "labelled weft.dev/mesh=disabled, stays outside the mesh", &|what| {
        Finding::remark(what, "take its label away, if it is to join")
    });
    let joining = || after.joining.iter().map(|placed| placed.pod);
    let listening = joining().filter(|pod| pod.ports.iter().any(|port| port.number == HBONE_PORT)).collect();
    say(
        listening,
        "declares port 15008, which is the mesh's in every meshed pod: nobody would reach it there",
        &|what| Finding::wrong(what, "have it listen on another port, or label the pod weft.dev/mesh=disabled"),
    );
    let proxied = joining().filter(|pod| pod.proxy.is_some()).collect();
    say(proxied, "in another mesh already: the two would take each other's connections", &|what| {
        Finding::wrong(what, "take it out of the other one first, or label the pod weft.dev/mesh=disabled")
    });
    let virtual_machines = joining().filter(|pod| pod.runtime_class.is_some()).collect();
    say(
        virtual_machines,
        "has a runtime class: a pod in a virtual machine or with a network stack of its own cannot be meshed",
        &|what| {
            Finding::remark(
                what,
                "see whether it runs on the node's kernel (runc, crun); if not, label it weft.dev/mesh=disabled",
            )
        },
    );
    findings
}
