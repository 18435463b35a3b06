//! How those who want all there is share it: pods of a node, and tunnels of a pod.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use weft_tests::lab::Pod;

use super::run::{CLIENTS, PATIENCE, finished, load};
use crate::load::Outcome;
use crate::subjects::{Server, Stage};

/// Who shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Among {
    /// Two pods of a node that dial one server: the first has one flow, its neighbour four.
    Pods,
    /// Two tunnels of one pod, to two servers of another node, with two flows each.
    Tunnels,
}

/// Both receive for one window. Adds the rates of both, and what the first has of the second's.
///
/// # Errors
/// When one of the two fails as a whole: the reason it gave.
pub fn shares(stage: &Stage, among: Among, length: Duration) -> Result<Outcome> {
    let to = |server: &Server| server.service.v4();
    let (second, towards, flows) = match among {
        Among::Pods => (&stage.second, to(&stage.far), [1, 4]),
        Among::Tunnels => (&stage.client, to(&stage.far_second), [2, 2]),
    };
    let start = |name: &str, pod: &Pod, to: SocketAddr, flows: usize| {
        let (flows, to, window) = (flows.to_string(), to.to_string(), length.as_millis().to_string());
        let command = load(&["bulk", "--flows", &flows, "--to", &to, "--window", &window])?;
        Ok::<_, anyhow::Error>(pod.spawn_apart(&stage.lab, name, &command)?.0)
    };
    let first = start(CLIENTS, &stage.client, to(&stage.far), flows[0])?;
    let second = start("neighbour", second, towards, flows[1])?;
    let mut outcomes = Vec::new();
    for process in [first, second] {
        outcomes.push(finished(&process, length + PATIENCE)?);
    }
    let rate = |outcome: &Outcome| outcome.values.get("gbit_s").copied().unwrap_or_default();
    let rates = [rate(&outcomes[0]), rate(&outcomes[1])];
    let mut both = Outcome::default();
    both.set("gbit_s", rates.iter().sum());
    both.set("share", rates[0] / rates[1].max(f64::MIN_POSITIVE));
    outcomes.into_iter().for_each(|outcome| both.blame(outcome.failures));
    Ok(both)
}
