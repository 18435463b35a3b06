//! How the agent ends: it lets go of what a successor needs, drains, and takes away what nobody will need.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::node::{Node, Stop};
use crate::admin::{self, Client, Status, Transition};
use crate::config::Config;
use crate::telemetry::MetricsServer;

/// How long tunnels may take to write what ended connections left in them.
const FAREWELL: Duration = Duration::from_secs(2);
/// After a hand-over, how long the predecessor goes on accepting: what was on its way to it is not turned away.
const ACCEPT_LONGER: Duration = Duration::from_millis(300);
/// How long a predecessor waits for its successor to serve every pod.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(15);

/// Waits until the successor, which now answers on the admin socket, serves every pod: loading programs and certificates
/// takes it a moment, in which this agent goes on accepting from the sockets they share.
async fn successor_serves(config: &Config) {
    let deadline = Instant::now() + SUCCESSOR_WAIT;
    let client = Client::new(&config.admin_socket);
    while Instant::now() < deadline {
        let status: Result<Status, _> = client.get("/status").await;
        if status.is_ok_and(|status| status.pid != std::process::id() && status.waiting_for.is_empty()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::warn!("the successor is not ready after {SUCCESSOR_WAIT:?}; draining all the same");
}

/// The word to stop.
struct Told(Signal, Signal);

impl Told {
    fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Lets go of what a successor needs, accepts a moment longer if there is one, and drains.
pub(super) async fn finish(
    node: Node,
    stop: Stop,
    admin: admin::Server,
    exporter: Option<MetricsServer>,
) -> anyhow::Result<()> {
    let removing = node.is_off() && matches!(stop, Stop::Signal);
    let Node { parts, pods, config, .. } = node;
    let waits = config.wait_after_handover && matches!(stop, Stop::Handover(_));
    // Before anybody can be told that this agent has let go: from then on it may be told to stop.
    let told = if waits { Some(Told::listen()?) } else { None };
    drop(exporter);
    let broken = match stop {
        Stop::Signal => None,
        Stop::Broken(what) => Some(what),
        Stop::Handover(reply) => {
            tracing::info!("handing over to a successor");
            parts.steering.release();
            let _ = reply.send(Ok(Transition { done: "steering is released; draining".into() }));
            admin.close().await;
            successor_serves(&config).await;
            tokio::time::sleep(ACCEPT_LONGER).await;
            None
        }
    };
    pods.stop_accepting().await;
    let drain = &parts.inbound.drain;
    tracing::info!(open = drain.open(), deadline = ?config.drain_deadline, "draining");
    let cut = drain.finish(config.drain_deadline, || parts.live.kill_all()).await;
    if cut > 0 {
        tracing::warn!(cut, "connections were cut at the drain deadline");
    }
    // A relay that has ended may still have bytes under way in its tunnel.
    parts.outbound.http.close();
    let _ = tokio::time::timeout(FAREWELL, parts.outbound.dialer.pool.close()).await;
    parts.live.flush();
    if removing {
        // Nobody is to come after a disabled agent: its pins would steer nothing, and stay for ever.
        parts.steering.remove_all().await.context("cannot take steering off the node")?;
    }
    parts.steering.release();
    if let Some(told) = told {
        tracing::info!("drained; a successor serves this node, waiting to be told to stop");
        told.wait().await;
    }
    tracing::info!("stopped");
    match broken {
        Some(what) => anyhow::bail!("stopped because {what}"),
        None => Ok(()),
    }
}
