//! The latest results in `bench/README.md`, between two marks; all else in that file is written by hand.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Report, bars, plot, table};
use crate::subjects::Layer;

/// Where the results of each layer begin, and the plot that gives their overview.
const PLACES: [(Layer, &str, &str); 2] = [
    (Layer::Connections, "<!-- results: written by `cargo xtask bench --update-readme` -->", "overview"),
    (Layer::Requests, "<!-- results of requests: written by `cargo xtask bench --update-readme` -->", "overview-http"),
];
const END: &str = "<!-- end of results -->";

/// Puts a report's tables and plots into the directory of the README.
///
/// # Errors
/// When the README lacks its marks or cannot be written.
pub fn update(report: &Report, directory: &Path) -> Result<()> {
    let path = directory.join("README.md");
    let mut text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    for (layer, begin, plot) in PLACES.into_iter().filter(|(layer, ..)| report.has(*layer)) {
        text = replaced(&text, begin, &results(&report.of(layer), plot))
            .with_context(|| format!("{} lacks its marks", path.display()))?;
    }
    std::fs::write(&path, text)?;
    plot::draw(report, &directory.join("plots"))
}

/// The text with what stands between the marks replaced.
pub(super) fn replaced(text: &str, begin: &str, results: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n\n{results}\n{END}{after}"))
}

/// The machine and the moment, in a sentence or two.
#[must_use]
pub fn described(report: &Report) -> String {
    let machine = &report.machine;
    let memory = machine.memory as f64 / 1e9;
    let busy = if machine.is_busy() { ", **too much for figures to be quoted**" } else { "" };
    format!(
        "{}, commit `{}`. Linux {}, {} CPUs ({}), {memory:.0} GB. Other work on the machine took {:.0} % of its CPU time{busy}.",
        machine.began,
        machine.commit,
        machine.kernel,
        machine.cpus,
        machine.cpu,
        machine.others * 100.0
    )
}

fn results(report: &Report, plot: &str) -> String {
    let (machine, settings) = (&report.machine, &report.settings);
    let mut text = String::new();
    let _ = writeln!(text, "{}", described(report));
    let window = settings.window.as_secs_f64();
    let _ = writeln!(
        text,
        "{} rounds, windows of {window:.2} s, {} idle connections for memory.\n",
        settings.rounds, settings.idle
    );
    for (name, version) in &machine.versions {
        let _ = writeln!(text, "- {name}: {version}");
    }
    let _ = writeln!(text, "\n![overview](plots/{plot}.svg)\n");
    let _ = write!(text, "```\n{}{}```\n", table::render(report).trim_start(), bars::render(report));
    text
}
