//! `weft hold`: the role that stays while agents come and go.

use std::path::Path;

use weft::hold::Holder;
use weft::telemetry::logging;

use super::Output;

/// Runs the holder until it is killed.
pub(super) fn hold(socket: &Path) -> anyhow::Result<Output> {
    logging::init(logging::Format::Text, "info")?;
    Holder::bind(socket)?.run()?;
    Ok(String::new().into())
}
