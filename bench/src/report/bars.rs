//! The bars a change is held to, each checked against the medians of the run.

use std::fmt::Write as _;

use super::Report;
use super::summary::Summary;
use super::table::number;
use crate::measures::{Better, METRICS, Metric, layer, metric};
use crate::rounds::KERNEL;
use crate::subjects::{ALL, Kind};

/// What a figure is held against.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// A multiple of another subject's median.
    Subject(&'static str),
    /// A multiple of the best peer's median.
    BestPeer,
    /// A plain number.
    Number,
}

/// One bar.
struct Bar {
    subject: &'static str,
    case: &'static str,
    metric: &'static str,
    against: Against,
    /// The least multiple (or number) for metrics where more is better, the greatest for others.
    limit: f64,
}

const fn bar(subject: &'static str, case: &'static str, metric: &'static str, against: Against, limit: f64) -> Bar {
    Bar { subject, case, metric, against, limit }
}

const RELAY: Against = Against::Subject("relay");
const DIRECT: Against = Against::Subject("direct-near");
const ENVOY: Against = Against::Subject("http-envoy");
const PEER: Against = Against::BestPeer;

const BARS: &[Bar] = &[
    bar("weft-near", "throughput-1", "rate", DIRECT, 0.95),
    bar("weft-near", "throughput-4", "rate", DIRECT, 0.95),
    bar("weft-near", "rtt", "p50", DIRECT, 1.05),
    bar("weft-near", "connect-16", "rate", DIRECT, 0.85),
    bar("weft", "throughput-1", "rate", RELAY, 0.85),
    bar("weft", "throughput-4", "rate", RELAY, 0.85),
    bar("weft", "throughput-1", "rate", PEER, 1.3),
    bar("weft", "throughput-4", "rate", PEER, 1.3),
    bar("weft", "rtt", "p50", RELAY, 1.10),
    bar("weft", "rtt", "p50", PEER, 1.0),
    bar("weft", "operations", "cpu", RELAY, 0.8),
    bar("weft", "connect-16", "rate", RELAY, 1.1),
    bar("weft", "connect-16", "cpu", RELAY, 0.75),
    bar("weft", "connect-16", "rate", PEER, 1.5),
    bar("weft", "connect-16", "cpu", PEER, 1.0 / 1.5),
    bar("weft", "throughput-1", "cpu", RELAY, 1.25),
    bar("weft", "throughput-4", "cpu", RELAY, 1.25),
    bar("weft", "throughput-1", "cpu", PEER, 0.75),
    bar("weft", "throughput-4", "cpu", PEER, 0.75),
    bar("weft", "mixed", "p50", RELAY, 1.0),
    bar("weft", "memory", "idle", Against::Number, 3.0),
    bar("weft", "memory", "rest of one", Against::Number, 15.0),
    bar("http-weft", "http1-rate", "cpu", ENVOY, 1.0 / 1.3),
    bar("http-weft", "http2-rate", "cpu", ENVOY, 1.0 / 1.3),
    bar("http-weft", "grpc-rate", "cpu", ENVOY, 1.0 / 1.3),
    bar("http-weft", "http1-latency", "p99", ENVOY, 0.8),
    bar("http-weft", "http2-latency", "p99", ENVOY, 0.8),
    bar("http-weft", "grpc-latency", "p99", ENVOY, 0.8),
    bar(KERNEL, "hook", "added", Against::Number, 300.0),
];

/// How a bar was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What is judged.
    pub what: String,
    /// What was asked, in words.
    pub asked: String,
    /// The multiple or number found; `None` if a figure is missing.
    pub found: Option<f64>,
    /// Whether it is met; `None` if a figure is missing.
    pub met: Option<bool>,
}

/// Judges every bar.
#[must_use]
pub fn judge(report: &Report) -> Vec<Judged> {
    let summary = Summary::of(report);
    let known = |bar: &Bar| metric(bar.case, bar.metric).map(|metric| one(&summary, bar, metric));
    BARS.iter().filter(|bar| layer(bar.case).is_some_and(|layer| report.has(layer))).filter_map(known).collect()
}

fn one(summary: &Summary, bar: &Bar, metric: &Metric) -> Judged {
    let (found, whose) = match bar.against {
        Against::Subject(base) => (summary.ratio(metric, bar.subject, base), format!(" of {base}")),
        Against::BestPeer => match best_peer(summary, metric) {
            Some(peer) => (summary.ratio(metric, bar.subject, peer), format!(" of the best peer, {peer}")),
            None => (None, " of the best peer".to_owned()),
        },
        Against::Number => (summary.median(metric, bar.subject), format!(" {}", metric.unit)),
    };
    let more = metric.better == Better::Higher;
    let met = found.map(|found| if more { found >= bar.limit } else { found <= bar.limit });
    Judged {
        what: format!("{} {} {}", bar.subject, bar.case, metric.name),
        asked: format!("{} {}{whose}", if more { "≥" } else { "≤" }, number(bar.limit)),
        found,
        met,
    }
}

/// The peer with the best median.
fn best_peer(summary: &Summary, metric: &Metric) -> Option<&'static str> {
    let peers = ALL.iter().filter(|known| known.kind == Kind::Peer).map(|known| known.name);
    let found = peers.filter_map(|peer| Some((peer, summary.median(metric, peer)?)));
    let best = |a: &(&str, f64), b: &(&str, f64)| a.1.total_cmp(&b.1);
    let best = if metric.better == Better::Higher { found.max_by(best) } else { found.min_by(best) };
    best.map(|(peer, _)| peer)
}

/// The bars as text.
#[must_use]
pub fn render(report: &Report) -> String {
    let judged = judge(report);
    let mut text = "\nbars\n".to_owned();
    for bar in &judged {
        let met = match bar.met {
            Some(true) => "met    ",
            Some(false) => "NOT MET",
            None => "no data",
        };
        let found = bar.found.map_or_else(|| "–".to_owned(), number);
        let _ = writeln!(text, "  {met}  {:<28}  {found:>8}  asked {}", bar.what, bar.asked);
    }
    let count = |met| judged.iter().filter(|bar| bar.met == met).count();
    let _ = writeln!(text, "  {} met, {} not met, {} without data", count(Some(true)), count(Some(false)), count(None));
    text
}

/// Every metric a bar names exists.
#[must_use]
pub fn known() -> bool {
    BARS.iter().all(|bar| METRICS.iter().any(|metric| metric.case == bar.case && metric.name == bar.metric))
}
