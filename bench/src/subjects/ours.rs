//! Our own subjects: no proxy, the plain relay, and Weft in its three positions.

use anyhow::{Result, bail};
use weft_tests::lab::binary;

use super::pair::Pair;
use super::{Stage, Subject};

/// Direct connections and Weft: nothing is started for them, the address and the pod decide.
pub(super) fn without_pair(stage: &Stage, name: &'static str) -> Result<Subject> {
    let agents = || stage.agents.iter().map(weft_tests::lab::Agent::cgroup).collect::<Vec<_>>();
    let (client, server, proxies) = match name {
        "http-direct" => (&stage.outside, &stage.plain_web, Vec::new()),
        "http-weft" => (&stage.client, &stage.web, agents()),
        "direct" => (&stage.outside, &stage.plain_far, Vec::new()),
        "direct-near" => (&stage.outside, &stage.plain_near, Vec::new()),
        "weft" => (&stage.client, &stage.far, agents()),
        "weft-near" => (&stage.client, &stage.near, agents()),
        "weft-pass" => (&stage.client, &stage.plain_far, agents()),
        _ => bail!("nobody knows a subject {name}"),
    };
    Ok(Subject { name, client: client.clone(), to: server.service.v4(), proxies, server: server.cgroup.clone() })
}

/// The plain relay, twice.
pub(super) fn relay(pair: &Pair<'_>) -> Result<Subject> {
    let command = |listen: String, upstream: String| -> Result<Vec<String>> {
        let program = binary("weft-relay")?.display().to_string();
        Ok(vec![program, "--listen".into(), listen, "--upstream".into(), upstream])
    };
    pair.start_inbound(&command(pair.inbound.to_string(), pair.server.to_string())?)?;
    pair.start_outbound(&command(pair.outbound.to_string(), pair.inbound.to_string())?)?;
    Ok(pair.subject())
}
