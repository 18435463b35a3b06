//! Steering against the kernel: real programs, real namespaces and cgroups, real processes as applications.
//!
//! Every test runs in a process, a cgroup and a set of namespaces of its own, so nothing it does can reach the machine
//! or another test, and nothing of it is left whatever happens. Tests named `invariant_NN_*` each prove one of the
//! facts about the kernel that steering rests on, several by showing what happens without it. They need root, and say
//! so when they lack it.

#[macro_use]
mod harness;
mod app;
mod pair;

mod attacks;
mod firewall;
mod guard;
mod hijack;
mod inbound;
mod lifecycle;
mod outbound;
mod policies;
mod reversal;
mod same_node;
mod unclassified;
mod upgrade;
