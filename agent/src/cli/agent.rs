//! The roles that stay running: `weft agent`, and `weft hold`, which stays while agents come and go.

use std::path::Path;

use weft::app;
use weft::config::{AgentArgs, Config};
use weft::hold::Holder;
use weft::telemetry::logging;

use super::Output;

/// Runs the agent until it is told to stop.
pub(super) fn agent(args: &AgentArgs) -> anyhow::Result<Output> {
    app::run(Config::check(args)?)?;
    Ok(String::new().into())
}

/// Runs the holder until it is killed.
pub(super) fn hold(socket: &Path) -> anyhow::Result<Output> {
    logging::init(logging::Format::Text, "info")?;
    Holder::bind(socket)?.run()?;
    Ok(String::new().into())
}
