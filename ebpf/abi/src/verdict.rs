//! Every judgement the hooks can come to: one table with the name, the label of its counter and what the program does.

use crate::ListenerRole;

/// What a program does with a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: the kernel goes on as if the program were not there.
    Pass,
    /// Nothing, after the mesh's bits were taken off the socket's mark: they survive `connect(AF_UNSPEC)`, and a socket
    /// that was steered once must not be steered again by accident.
    PassUnmarked,
    /// Put the mesh's bits on the socket's mark; the pod's own rules bring the SYN to the agent.
    Steer,
    /// The same, with the word that the draw is made and who it did not fall on.
    SteerRest,
    /// Let it go to the endpoint that was drawn, a pod of this node; the kernel says there whose it is.
    Direct,
    /// Fail the connect with an errno.
    Refuse(Refusal),
    /// Give the SYN to the agent's listener of that role.
    Assign(ListenerRole),
    /// Answer the SYN with a reset.
    Drop,
}

/// The errnos a refused connect may see. Not EINTR or EINPROGRESS, which a blocking connect reports as success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Refusal {
    /// EPERM: the socket asks for something an enrolled pod may not have.
    NotPermitted = 1,
    /// ECONNREFUSED: what applications retry.
    ConnectionRefused = 111,
}

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal => $effect:expr;)+) => {
        /// A judgement of a hook; its number is its index in the counters' map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Verdict { $($(#[doc = $doc])+ $name,)+ }

        impl Verdict {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The value of the counter's `verdict` label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What the program does about it.
            #[inline(always)]
            pub const fn effect(self) -> Effect {
                match self { $(Self::$name => $effect,)+ }
            }
        }
    };
}

verdicts! {
    /// connect: not TCP (nor MPTCP), which the mesh leaves alone.
    ConnectNotTcp = "connect_not_tcp" => Effect::Pass;
    /// connect: a pod or host the agent knows and that is not meshed.
    ConnectNotEnrolled = "connect_not_enrolled" => Effect::Pass;
    /// connect: a network namespace the agent has not classified yet.
    ConnectUnclassified = "connect_unclassified" => Effect::Pass;
    /// connect: the same, while unclassified pods are held (`closed`) and the agent is alive.
    RefuseUnclassified = "connect_refuse_unclassified" => Effect::Refuse(Refusal::ConnectionRefused);
    /// connect: the agent itself, dialling from inside the pod's namespace. Its marks are its own business.
    ConnectAgent = "connect_agent" => Effect::Pass;
    /// connect: the pod is being un-enrolled.
    ConnectLeaving = "connect_leaving" => Effect::PassUnmarked;
    /// connect: to loopback, unspecified, link-local, multicast or broadcast, or from a socket bound to lo.
    ConnectLocal = "connect_local" => Effect::PassUnmarked;
    /// connect: the pod's own address.
    ConnectOwnAddress = "connect_own_address" => Effect::PassUnmarked;
    /// connect: no service and no meshed pod is known at the destination.
    ConnectUnknownDestination = "connect_unknown_destination" => Effect::PassUnmarked;
    /// connect: bound to a device other than lo, on which it would leave unmeshed.
    RefuseBoundDevice = "connect_refuse_bound_device" => Effect::Refuse(Refusal::NotPermitted);
    /// connect: the kernel would not change the socket's mark, so it cannot be steered, or not be left alone, safely.
    RefuseMarkFailed = "connect_refuse_mark_failed" => Effect::Refuse(Refusal::ConnectionRefused);
    /// connect: taken by the mesh.
    Steer = "connect_steer" => Effect::Steer;
    /// connect: taken by the mesh, and the draw fell on none of the endpoints the kernel sends to directly.
    SteerRest = "connect_steer_rest" => Effect::SteerRest;
    /// connect: to a pod of this node, directly.
    ConnectSameNode = "connect_same_node" => Effect::Direct;
    /// SYN: not TCP.
    LookupNotTcp = "lookup_not_tcp" => Effect::Pass;
    /// SYN: the agent's delivery to the application, bound to lo.
    LookupDelivery = "lookup_delivery" => Effect::Pass;
    /// SYN: the pod calling its own address.
    LookupOwn = "lookup_own" => Effect::Pass;
    /// SYN: to loopback.
    LookupLoopback = "lookup_loopback" => Effect::Pass;
    /// SYN: to an address that is not the pod's, and not steered.
    LookupForeign = "lookup_foreign" => Effect::Pass;
    /// SYN: from a pod of this node, attested by the kernel, and let in by policy.
    LookupSameNode = "lookup_same_node" => Effect::Pass;
    /// SYN: from a pod of this node, attested by the kernel, and refused by policy.
    DropSameNode = "lookup_drop_same_node" => Effect::Drop;
    /// SYN: plaintext to a port where policy has nothing to say.
    LookupPlaintext = "lookup_plaintext" => Effect::Pass;
    /// SYN: plaintext from the node itself to a port that kubelet probes.
    LookupProbe = "lookup_probe" => Effect::Pass;
    /// SYN: plaintext to a port that takes only mTLS.
    DropPlaintext = "lookup_drop_plaintext" => Effect::Drop;
    /// SYN: a tunnel.
    AssignTunnel = "lookup_assign_tunnel" => Effect::Assign(ListenerRole::Inbound);
    /// SYN: plaintext to a port where the agent must judge the source.
    AssignPlaintext = "lookup_assign_plaintext" => Effect::Assign(ListenerRole::Inbound);
    /// SYN: a steered connection of the pod.
    AssignOutbound = "lookup_assign_outbound" => Effect::Assign(ListenerRole::Outbound);
    /// SYN: it belongs to the agent, whose listener is gone.
    DropNoListener = "lookup_drop_no_listener" => Effect::Drop;
    /// Packet of a pod: its source is the address of an enrolled pod, and another one's.
    GuardSource = "guard_drop_source" => Effect::Drop;
    /// Packet of a pod: its frame is from the hardware address of an enrolled pod on the same bridge, and another one's.
    GuardStation = "guard_drop_station" => Effect::Drop;
    /// Packet of a pod: it claims to be the neighbour at the address of an enrolled pod, and is not.
    GuardNeighbour = "guard_drop_neighbour" => Effect::Drop;
    /// Packet of a pod: only routers send such, to change where their neighbours send theirs.
    GuardRouter = "guard_drop_router" => Effect::Drop;
    /// The end of a connection between pods of this node went unreported: the ring was full.
    RecordLost = "same_node_record_lost" => Effect::Pass;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indices_and_labels_are_unique() {
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, index);
            let same = Verdict::ALL.iter().filter(|other| other.label() == verdict.label());
            assert_eq!(same.count(), 1, "{}", verdict.label());
        }
    }

    #[test]
    fn no_refusal_reads_as_success() {
        const EINTR: i32 = 4;
        const EINPROGRESS: i32 = 115;
        for verdict in Verdict::ALL {
            if let Effect::Refuse(refusal) = verdict.effect() {
                assert!(![0, EINTR, EINPROGRESS].contains(&(refusal as i32)), "{verdict:?}");
            }
        }
    }
}
