//! A pair of proxies: one in the client's network namespace, one in the server's, where Weft's agents have their sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use weft_tests::lab::Pod;

use super::stage::{HTTP_PORT, SERVER_PORT, Stage, listening};
use super::{Known, Layer, Subject};

/// Where a pair listens.
pub(super) struct Pair<'a> {
    pub(super) stage: &'a Stage,
    pub(super) name: &'static str,
    /// What the client dials: the first proxy.
    pub(super) outbound: SocketAddr,
    /// What the first proxy dials: the second.
    pub(super) inbound: SocketAddr,
    /// What the second proxy dials.
    pub(super) server: SocketAddr,
    /// The cgroups of the processes started so far.
    pub(super) cgroups: std::cell::RefCell<Vec<PathBuf>>,
}

impl<'a> Pair<'a> {
    /// The pair of subject `number`.
    pub(super) fn of(stage: &'a Stage, known: &Known, number: u16) -> Result<Self> {
        let port = match known.layer {
            Layer::Connections => SERVER_PORT,
            Layer::Requests => HTTP_PORT,
        };
        Ok(Self {
            stage,
            name: known.name,
            outbound: (Ipv4Addr::LOCALHOST, 21_000 + number).into(),
            inbound: stage.plain_far.pod.v4(22_000 + number)?,
            server: (Ipv4Addr::LOCALHOST, port).into(),
            cgroups: std::cell::RefCell::default(),
        })
    }

    /// Starts the first proxy and waits for its listener.
    pub(super) fn start_outbound(&self, command: &[String]) -> Result<()> {
        self.start_in(&self.stage.outside, self.outbound.port(), command)
    }

    /// Starts the second proxy and waits for its listener.
    pub(super) fn start_inbound(&self, command: &[String]) -> Result<()> {
        self.start_in(&self.stage.plain_far.pod, self.inbound.port(), command)
    }

    /// Starts a proxy in a pod, in a cgroup of its own, and waits until it listens on a port.
    pub(super) fn start_in(&self, pod: &Pod, port: u16, command: &[String]) -> Result<()> {
        let (process, cgroup) = pod.spawn_apart(&self.stage.lab, self.name, command)?;
        self.cgroups.borrow_mut().push(cgroup);
        listening(&process, pod, port)
    }

    /// The subject the two are.
    pub(super) fn subject(&self) -> Subject {
        Subject {
            name: self.name,
            client: self.stage.outside.clone(),
            to: self.outbound,
            proxies: self.cgroups.borrow().clone(),
            server: self.stage.plain_far.cgroup.clone(),
        }
    }
}
