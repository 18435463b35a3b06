//! Reports of known samples.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bars::{self, Judged};
use super::summary::Summary;
use super::{Report, plot, readme, table};
use crate::load::Outcome;
use crate::machine::Machine;
use crate::measures::{CASES, METRICS, Metric, metric};
use crate::rounds::{Sample, Settings, rotated};
use crate::subjects::Layer;

fn report(samples: Vec<Sample>) -> Report {
    let settings =
        Settings { rounds: 3, window: Duration::from_secs(1), idle: 10, watch: 0, bursts: 1, cases: Vec::new() };
    Report { machine: Machine::default(), settings, absent: vec![("ztunnel".into(), "no binary".into())], samples }
}

fn sample(round: usize, subject: &str, case: &str, values: &[(&str, f64)]) -> Sample {
    let values: BTreeMap<_, _> = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let outcome = Outcome { values, failures: BTreeMap::new() };
    Sample { round, case: case.into(), subject: subject.into(), at: 0.0, outcome, error: None }
}

/// Three rounds of one value.
fn rounds(subject: &str, case: &str, name: &str, values: [f64; 3]) -> Vec<Sample> {
    (1..).zip(values).map(|(round, value)| sample(round, subject, case, &[(name, value)])).collect()
}

fn known(case: &str, name: &str) -> &'static Metric {
    metric(case, name).expect("a metric")
}

#[test]
fn medians_ranges_and_ratios() {
    let mut samples = rounds("relay", "rtt", "p50_us", [100.0, 300.0, 200.0]);
    samples.extend(rounds("weft", "rtt", "p50_us", [90.0, 1000.0, 110.0]).into_iter().skip(1));
    samples.push(sample(3, "weft", "rtt", &[("p50_us", 90.0)]));
    samples.push(sample(4, "weft", "rtt", &[("p50_us", 130.0)]));
    let report = report(samples);
    let summary = Summary::of(&report);
    let rtt = known("rtt", "p50");
    assert_eq!(summary.median(rtt, "relay"), Some(200.0));
    assert_eq!(summary.median(rtt, "weft"), Some(120.0));
    assert_eq!(summary.figure(rtt, "weft").and_then(|figure| figure.range()), Some((90.0, 1000.0)));
    assert_eq!(summary.ratio(rtt, "weft", "relay"), Some(0.6));
    assert_eq!(summary.ratio(rtt, "weft", "haproxy"), None);
    let text = table::render(&report);
    assert!(text.contains("120 (90.0–1,000)") && text.contains("0.60"), "{text}");
}

#[test]
fn cpu_is_the_proxies_per_unit() {
    let values = [("bytes", 2e9), ("cpu.proxies_us", 3e6), ("cpu.ends_us", 1e6), ("cpu.ksoftirqd_us", 0.0)];
    let summary = Summary::of(&report(vec![sample(1, "weft", "throughput-1", &values)]));
    assert_eq!(summary.median(known("throughput-1", "cpu"), "weft"), Some(1.5));
    assert_eq!(summary.median(known("throughput-1", "all"), "weft"), Some(2.0));
    // Where there are no proxies there is no CPU of theirs, and that is no failure.
    let summary = Summary::of(&report(vec![sample(1, "direct", "throughput-1", &[("bytes", 2e9)])]));
    assert_eq!(summary.figure(known("throughput-1", "cpu"), "direct"), None);
}

#[test]
fn failed_samples_are_shown_and_never_dropped() {
    let mut samples = rounds("weft", "connect-16", "per_second", [10.0, 20.0, 30.0]);
    samples[0].error = Some("it hung".into());
    samples[0].outcome = Outcome::default();
    samples[1].outcome.fail("ECONNRESET");
    let report = report(samples);
    let summary = Summary::of(&report);
    let figure = summary.figure(known("connect-16", "rate"), "weft").expect("a figure");
    assert_eq!((figure.values.as_slice(), figure.lost, figure.marred), (&[20.0, 30.0][..], 1, 1));
    let text = table::render(&report);
    for shown in ["25.0 (20.0–30.0)! 1 lost", "it hung", "1 failed: ECONNRESET", "ztunnel: no binary"] {
        assert!(text.contains(shown), "{shown} is missing:\n{text}");
    }
}

fn judged<'a>(judged: &'a [Judged], what: &str, against: &str) -> &'a Judged {
    let found = judged.iter().find(|bar| bar.what == what && bar.asked.contains(against));
    found.unwrap_or_else(|| panic!("no bar {what} against {against}"))
}

#[test]
fn bars_are_met_or_not_or_without_data() {
    assert!(bars::known());
    let mut samples = rounds("weft", "throughput-1", "gbit_s", [9.0; 3]);
    samples.extend(rounds("relay", "throughput-1", "gbit_s", [10.0; 3]));
    samples.extend(rounds("nginx", "throughput-1", "gbit_s", [8.0; 3]));
    samples.extend(rounds("haproxy", "throughput-1", "gbit_s", [2.0; 3]));
    samples.extend(rounds("weft", "rtt", "p50_us", [111.0; 3]));
    samples.extend(rounds("relay", "rtt", "p50_us", [100.0; 3]));
    samples.push(sample(0, "weft", "memory", &[("idle_kb", 3.0), ("rest_largest_mb", 15.1)]));
    let bars = bars::judge(&report(samples));
    assert_eq!(judged(&bars, "weft throughput-1 rate", "relay").met, Some(true));
    let peer = judged(&bars, "weft throughput-1 rate", "nginx");
    assert_eq!((peer.met, peer.found), (Some(false), Some(1.125)));
    assert_eq!(judged(&bars, "weft rtt p50", "relay").met, Some(false));
    assert_eq!(judged(&bars, "weft memory idle", "kB").met, Some(true));
    assert_eq!(judged(&bars, "weft memory rest of one", "MB").met, Some(false));
    assert_eq!(judged(&bars, "kernel hook added", "ns").met, None);
}

#[test]
fn a_layer_that_was_not_measured_has_no_bars() {
    let mut samples = rounds("http-weft", "http1-rate", "per_second", [9.0; 3]);
    let requests = report(samples.clone());
    assert!(requests.has(Layer::Requests) && !requests.has(Layer::Connections));
    assert!(bars::judge(&requests).iter().all(|bar| bar.what.starts_with("http-weft")));
    samples.extend(rounds("weft", "rtt", "p50_us", [1.0; 3]));
    assert_eq!(report(samples).of(Layer::Requests).samples.len(), 3);
}

#[test]
fn the_tables_of_cases_and_metrics_agree() {
    for metric in METRICS {
        assert!(CASES.iter().any(|case| case.name == metric.case), "{} {}", metric.case, metric.name);
        let same = |other: &&Metric| other.case == metric.case && other.name == metric.name;
        assert_eq!(METRICS.iter().filter(same).count(), 1, "{} {}", metric.case, metric.name);
    }
    for case in CASES {
        assert!(METRICS.iter().any(|metric| metric.case == case.name), "nothing is read off {}", case.name);
    }
}

#[test]
fn everyone_goes_first_as_often() {
    let first: Vec<_> = (1..=6).map(|round| rotated(3, round)[0]).collect();
    assert_eq!(first, [1, 2, 0, 1, 2, 0]);
    assert_eq!(rotated(3, 1), [1, 2, 0]);
}

#[test]
fn numbers_have_three_digits() {
    let shown = [0.0123, 0.5, 1.0, 12.34, 99.99, 1234.5, 1_234_567.0].map(table::number);
    assert_eq!(shown, ["0.012", "0.500", "1.00", "12.3", "100", "1,234", "1,234,567"]);
    assert_eq!(table::number(-5.678), "-5.68");
}

#[test]
fn results_replace_those_before_and_nothing_else() {
    let begin = "<!-- results: written by `cargo xtask bench --update-readme` -->";
    let text = format!("a\n{begin}\nold\n<!-- end of results -->\nb\n");
    let new = readme::replaced(&text, begin, "new\n").expect("marks");
    assert!(new.starts_with("a\n") && new.ends_with("\nb\n") && new.contains("new") && !new.contains("old"), "{new}");
    assert_eq!(readme::replaced(&new, begin, "new\n").as_deref(), Some(new.as_str()));
    assert_eq!(readme::replaced("no marks", begin, "new"), None);
}

#[test]
fn plots_are_drawn_of_what_there_is() {
    let directory = std::env::temp_dir().join(format!("weft-plots-{}", std::process::id()));
    let drawn = plot::draw(&report(rounds("weft", "rtt", "p50_us", [1.0, 2.0, 3.0])), &directory);
    let overview = std::fs::read_to_string(directory.join("overview.svg"));
    let files = std::fs::read_dir(&directory).map(Iterator::count);
    let _ = std::fs::remove_dir_all(&directory);
    drawn.expect("plots");
    let overview = overview.expect("an overview");
    assert!(overview.contains(">\nweft\n<") && overview.contains(">\n2.00\n<"), "{overview}");
    assert_eq!(files.expect("a directory"), 2);
}

#[test]
fn reports_survive_their_file() {
    let report = report(rounds("weft", "rtt", "p50_us", [1.0, 2.0, 3.0]));
    let directory = std::env::temp_dir().join(format!("weft-bench-{}", std::process::id()));
    report.write(&directory).expect("a file");
    let read = Report::read(&directory.join("latest.json"));
    let _ = std::fs::remove_dir_all(&directory);
    assert_eq!(read.expect("a report"), report);
}
