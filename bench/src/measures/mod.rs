//! What is measured: cases, each one run of the load against a subject, and the metrics read off its outcome.

mod cases;
mod memory;
mod run;
mod shares;

use crate::load::Outcome;
use crate::subjects::Layer;

pub use cases::{CASES, METRICS};
pub use memory::idle;
pub use run::{connect_cost, window};
pub use shares::{Among, shares};

/// One run of the load.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name in results.
    pub name: &'static str,
    /// The measure it belongs to, as filters name it.
    pub measure: &'static str,
    /// Its heading in tables.
    pub title: &'static str,
    /// Of which subjects it is measured.
    pub layer: Layer,
    /// What runs.
    pub work: Work,
    /// Whether `--quick` runs it too.
    pub quick: bool,
}

/// What a case runs.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// A client of `weft-load` with these arguments, for one window; every subject once a round.
    Window(&'static [&'static str]),
    /// The same at a fixed rate: half of the median that [`YARDSTICK`] reached as fast as it could in this run so far, in the
    /// case named first.
    HalfOf(&'static str, &'static [&'static str]),
    /// Memory at rest and with idle connections, which `weft-load idle` opens with these arguments, so many times fewer than
    /// the run says; once a run, before anything else has been through the proxies. Those of a subject's earlier cases stay
    /// open meanwhile: what they gave back would be used again, and not be seen.
    Memory(&'static [&'static str], usize),
    /// How two who want all there is share it; once a round, of Weft alone.
    Shares(Among),
    /// The cost of `connect()` outside the mesh; once a round, for the kernel and not for a subject.
    ConnectCost,
}

/// Whose greatest rate the fixed ones are taken of.
pub const YARDSTICK: &str = "http-envoy";
/// Requests a second where [`YARDSTICK`] was not measured.
pub const USUAL_RATE: f64 = 4000.0;

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// More is.
    Higher,
    /// Less is.
    Lower,
}

/// A figure of a case.
#[derive(Clone, Copy)]
pub struct Metric {
    /// The case it is read off.
    pub case: &'static str,
    /// Its name in results, unique among its case's.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Reads it; `None` where the outcome does not hold it, as the CPU time of proxies where there are none.
    pub of: fn(&Outcome) -> Option<f64>,
}

/// Of which subjects a case is measured.
#[must_use]
pub fn layer(case: &str) -> Option<Layer> {
    CASES.iter().find(|known| known.name == case).map(|case| case.layer)
}

/// The metric of this case and name.
#[must_use]
pub fn metric(case: &str, name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.case == case && metric.name == name)
}
