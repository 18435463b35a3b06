//! `cargo xtask demo`: builds what is missing, then hands the terminal to the demo.

use anyhow::Result;

use crate::lab::hand_over;

/// Runs the demo; its exit code says whether everything it claims held.
pub(crate) fn run() -> Result<()> {
    hand_over("weft-demo", &[])
}
