//! Tables of text: a block for each case with subjects as rows, then Weft as multiples of the others, then what failed.

use std::fmt::Write as _;

use super::Report;
use super::summary::{Figure, Summary};
use crate::measures::{CASES, METRICS, Metric};
use crate::rounds::KERNEL;
use crate::subjects::ALL;

/// The whole report as text.
#[must_use]
pub fn render(report: &Report) -> String {
    let summary = Summary::of(report);
    let mut text = String::new();
    for case in CASES.iter().filter(|case| report.samples.iter().any(|sample| sample.case == case.name)) {
        let metrics: Vec<_> = METRICS.iter().filter(|metric| metric.case == case.name).collect();
        let _ = writeln!(text, "\n{}", case.title);
        text.push_str(&figures(report, &summary, &metrics));
    }
    for (subject, bases) in [
        ("weft", &["direct", "relay", "envoy-tls", "envoy-h2", "haproxy", "nginx", "ztunnel"][..]),
        ("http-weft", &["http-direct", "http-envoy", "http-envoy-both", "http-haproxy", "http-nginx"]),
        ("weft-near", &["direct-near", "relay", "weft"]),
        ("weft-pass", &["direct", "relay", "weft"]),
    ] {
        text.push_str(&ratios(report, &summary, subject, bases));
    }
    text.push_str(&failures(report));
    text
}

/// Rows of subjects, columns of metrics: median, and least to greatest.
fn figures(report: &Report, summary: &Summary, metrics: &[&Metric]) -> String {
    let mut rows = vec![heading(metrics.iter().map(|metric| {
        if metric.name == "rate" { metric.unit.to_owned() } else { format!("{} {}", metric.name, metric.unit) }
    }))];
    for subject in subjects(report) {
        let cells: Vec<_> = metrics.iter().map(|metric| summary.figure(metric, subject).map(cell)).collect();
        if cells.iter().any(Option::is_some) {
            rows.push(row(subject, cells.into_iter().map(Option::unwrap_or_default)));
        }
    }
    align(&rows)
}

/// Weft's medians as multiples of those of others.
fn ratios(report: &Report, summary: &Summary, subject: &str, bases: &[&str]) -> String {
    let bases: Vec<_> = bases.iter().copied().filter(|base| subjects(report).any(|known| known == *base)).collect();
    let mut rows = vec![heading(bases.iter().map(|base| (*base).to_owned()))];
    for case in CASES {
        for metric in METRICS.iter().filter(|metric| metric.case == case.name) {
            let cells: Vec<_> = bases.iter().map(|base| summary.ratio(metric, subject, base)).collect();
            if cells.iter().any(Option::is_some) {
                let shown = cells.into_iter().map(|ratio| ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default());
                rows.push(row(&format!("{} {}", case.name, metric.name), shown));
            }
        }
    }
    if rows.len() == 1 {
        return String::new();
    }
    format!("\n{subject}: its median divided by that of\n{}", align(&rows))
}

/// What failed and what is absent, in full.
fn failures(report: &Report) -> String {
    let mut text = String::new();
    for sample in &report.samples {
        let place = format!("  round {} {} {}", sample.round, sample.subject, sample.case);
        if let Some(error) = &sample.error {
            let _ = writeln!(text, "{place}: no sample: {error}");
        }
        for (reason, count) in &sample.outcome.failures {
            let _ = writeln!(text, "{place}: {count} failed: {reason}");
        }
    }
    let failed = if text.is_empty() { "nothing\n".to_owned() } else { format!("\n{text}") };
    let absent: Vec<_> = report.absent.iter().map(|(name, why)| format!("  {name}: {why}\n")).collect();
    let absent = if absent.is_empty() { String::new() } else { format!("absent\n{}", absent.concat()) };
    format!("\nfailed: {failed}{absent}")
}

/// A figure in a cell. `!` marks samples with failed operations, and what was lost is counted.
fn cell(figure: &Figure) -> String {
    let mut text = match (figure.median(), figure.range()) {
        (Some(median), Some((least, most))) if figure.values.len() > 1 => {
            format!("{} ({}–{})", number(median), number(least), number(most))
        }
        (Some(median), _) => number(median),
        (None, _) => "none".to_owned(),
    };
    if figure.marred > 0 {
        text.push('!');
    }
    if figure.lost > 0 {
        let _ = write!(text, " {} lost", figure.lost);
    }
    text
}

/// Three significant digits, and thousands in groups.
#[must_use]
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    let plain = format!("{value:.digits$}");
    if digits > 0 {
        return plain;
    }
    let (sign, plain) = plain.strip_prefix('-').map_or(("", plain.as_str()), |rest| ("-", rest));
    let groups: Vec<_> = plain.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    format!("{sign}{}", groups.join(","))
}

/// Subjects in the tables' order, the kernel last.
fn subjects(report: &Report) -> impl Iterator<Item = &str> {
    let known = ALL.iter().map(|known| known.name).chain([KERNEL]);
    known.filter(|name| report.samples.iter().any(|sample| sample.subject == *name))
}

fn heading(cells: impl Iterator<Item = String>) -> Vec<String> {
    row("", cells)
}

fn row(first: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    [first.to_owned()].into_iter().chain(cells).collect()
}

/// Pads columns to their widest cell.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
    text
}
