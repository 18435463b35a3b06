//! From samples to what is read: medians and spread, ratios, bars, tables.

pub mod bars;
pub mod plot;
pub mod readme;
pub mod summary;
pub mod table;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::measures::layer;
use crate::rounds::{Sample, Settings};
use crate::subjects::Layer;

/// Everything a run found: what is written as JSON and what all else is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where and of what.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// Subjects that were asked for and could not be had, each with why.
    pub absent: Vec<(String, String)>,
    /// Every sample, the failed ones too.
    pub samples: Vec<Sample>,
}

impl Report {
    /// Whether anything of this layer was measured.
    #[must_use]
    pub fn has(&self, wanted: Layer) -> bool {
        self.samples.iter().any(|sample| layer(&sample.case) == Some(wanted))
    }

    /// What it found of one layer.
    #[must_use]
    pub fn of(&self, wanted: Layer) -> Self {
        let samples = self.samples.iter().filter(|sample| layer(&sample.case) == Some(wanted)).cloned().collect();
        Self { samples, ..self.clone() }
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// When it is not there or not of this version.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report of this version", path.display()))
    }

    /// Writes it as JSON under its time and as `latest.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, directory: &Path) -> Result<std::path::PathBuf> {
        std::fs::create_dir_all(directory)?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        let path = directory.join(format!("{}.json", self.machine.began.replace(':', "-")));
        for path in [&path, &directory.join("latest.json")] {
            std::fs::write(path, &text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(path)
    }
}
