//! `cargo xtask demo`: builds what is missing, then hands the terminal to the demo.

use anyhow::Result;

use crate::lab::hand_over;
use crate::setup::{Need, ensure};

/// Runs the demo, in a cluster or without one; its exit code says whether everything it claims held.
pub(crate) fn run(kube: bool) -> Result<()> {
    if !kube {
        return hand_over("weft-demo", &[]);
    }
    ensure(&[Need::Kubectl])?;
    hand_over("weft-demo", &["--kube"])
}
