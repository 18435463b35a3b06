//! Plots as SVG: for each metric a panel of bars, a subject each; the bar is the median, the line through its end goes from
//! the least to the greatest sample.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{
    DrawingArea, EmptyElement, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE,
};
use plotters::style::{Color, TextStyle};

use super::Report;
use super::summary::{Figure, Summary};
use super::table::number;
use crate::measures::{Better, CASES, METRICS, Metric, metric};
use crate::subjects::{ALL, Kind, kind};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The panels of the overviews: case and metric.
const OVERVIEWS: [(&str, &[(&str, &str)]); 2] = [("overview", OVERVIEW), ("overview-http", OVERVIEW_HTTP)];

const OVERVIEW_HTTP: &[(&str, &str)] = &[
    ("http1-rate", "cpu"),
    ("http1-latency", "p99"),
    ("http2-rate", "cpu"),
    ("http2-latency", "p99"),
    ("grpc-rate", "cpu"),
    ("grpc-latency", "p99"),
];

const OVERVIEW: &[(&str, &str)] = &[
    ("rtt", "p50"),
    ("latency-64-32", "p99"),
    ("operations", "cpu"),
    ("connect-16", "rate"),
    ("connect-16", "cpu"),
    ("throughput-1", "rate"),
    ("throughput-4", "rate"),
    ("throughput-4", "cpu"),
    ("mixed", "p50"),
    ("memory", "idle"),
];

const WIDTH: i32 = 560;
const ROW: i32 = 20;
const HEAD: i32 = 34;
const FOOT: i32 = 14;
/// Where bars begin, and how long the longest is.
const LEFT: i32 = 110;
const LONGEST: i32 = 330;

/// Draws the overviews and a file for each case into a directory.
///
/// # Errors
/// When a file cannot be written.
pub fn draw(report: &Report, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let summary = Summary::of(report);
    for (file, panels) in OVERVIEWS {
        let overview: Vec<_> = panels.iter().filter_map(|(case, name)| metric(case, name)).collect();
        sheet(&summary, &overview, &directory.join(format!("{file}.svg")))?;
    }
    for case in CASES {
        let metrics: Vec<_> = METRICS.iter().filter(|metric| metric.case == case.name).collect();
        sheet(&summary, &metrics, &directory.join(format!("{}.svg", case.name)))?;
    }
    Ok(())
}

/// The panels that have data, in two columns.
fn sheet(summary: &Summary, metrics: &[&Metric], path: &Path) -> Result<()> {
    let panels: Vec<_> = metrics.iter().map(|metric| (*metric, rows(summary, metric))).collect();
    let panels: Vec<_> = panels.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
    let height = |row: &[(&Metric, Vec<Row<'_>>)]| row.iter().map(|(_, rows)| panel_height(rows.len())).max();
    let total: i32 = panels.chunks(2).filter_map(height).sum();
    if total == 0 {
        return Ok(());
    }
    let columns = i32::try_from(panels.len().min(2))?;
    let size = (u32::try_from(WIDTH * columns)?, u32::try_from(total)?);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let mut top = 0;
    for row in panels.chunks(2) {
        for (column, (metric, rows)) in (0..).zip(row) {
            panel(&root, (WIDTH * column, top), metric, rows)?;
        }
        top += height(row).unwrap_or_default();
    }
    root.present().map_err(failed)
}

type Row<'a> = (&'static str, &'a Figure);

/// The subjects that have a figure, in the tables' order.
fn rows<'a>(summary: &'a Summary, metric: &Metric) -> Vec<Row<'a>> {
    let figure = |name| summary.figure(metric, name).filter(|figure| figure.median().is_some());
    ALL.iter().filter_map(|known| Some((known.name, figure(known.name)?))).collect()
}

fn panel_height(rows: usize) -> i32 {
    HEAD + FOOT + ROW * i32::try_from(rows).unwrap_or_default()
}

fn panel(root: &Area<'_>, (left, top): (i32, i32), metric: &Metric, rows: &[Row<'_>]) -> Result<()> {
    let case = CASES.iter().find(|case| case.name == metric.case).map_or(metric.case, |case| case.title);
    let direction = if metric.better == Better::Higher { "more is better" } else { "less is better" };
    let name = if metric.name == "rate" { String::new() } else { format!("{} ", metric.name) };
    write(root, (left + 8, top + 6), 13, case)?;
    write(root, (left + 8, top + 20), 10, &format!("{name}{}; {direction}", metric.unit))?;
    // A single wild sample must not flatten the bars: the scale is that of the medians.
    let longest = rows.iter().filter_map(|(_, figure)| figure.median()).fold(0.0, f64::max);
    let at = |value: f64| left + LEFT + length(value, longest);
    for (index, (subject, figure)) in (0..).zip(rows) {
        let (Some(median), Some((least, most))) = (figure.median(), figure.range()) else { continue };
        let y = top + HEAD + ROW * index;
        write(root, (left + 8, y + 2), 12, subject)?;
        let bar = [(left + LEFT, y + 2), (at(median), y + ROW - 5)];
        root.draw(&Rectangle::new(bar, colour(subject).filled())).map_err(failed)?;
        let middle = y + ROW / 2 - 1;
        let spread = PathElement::new(vec![(at(least), middle), (at(most), middle)], RGBColor(40, 40, 40));
        root.draw(&spread).map_err(failed)?;
        let beyond = at(median).max(at(most)) + 6;
        write(root, (beyond, y + 2), 12, &number(median))?;
    }
    Ok(())
}

/// Pixels of a value; a spread may go a little beyond the longest bar and ends there.
fn length(value: f64, longest: f64) -> i32 {
    let pixels = value.max(0.0) / longest.max(f64::MIN_POSITIVE) * f64::from(LONGEST);
    pixels.min(f64::from(LONGEST + 50)) as i32
}

fn colour(subject: &str) -> RGBColor {
    match kind(subject) {
        Some(Kind::Direct) => RGBColor(150, 150, 150),
        Some(Kind::Relay) => RGBColor(110, 140, 170),
        Some(Kind::Weft) => RGBColor(200, 90, 40),
        Some(Kind::Peer) | None => RGBColor(120, 165, 120),
    }
}

fn write(root: &Area<'_>, (x, y): (i32, i32), size: i32, text: &str) -> Result<()> {
    let style = TextStyle::from(("sans-serif", size).into_font()).color(&RGBColor(30, 30, 30));
    root.draw(&(EmptyElement::at((x, y)) + Text::new(text.to_owned(), (0, 0), style))).map_err(failed)
}

fn failed(problem: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {problem}")
}
