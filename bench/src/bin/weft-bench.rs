//! `cargo xtask bench`: sets the stage, runs the rounds, prints tables and bars, writes JSON.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use weft_bench::load::socket::make_room;
use weft_bench::machine::{Machine, Usage};
use weft_bench::measures::CASES;
use weft_bench::report::{Report, bars, plot, readme, table};
use weft_bench::rounds::{self, Settings};
use weft_bench::subjects::{self, ALL, Stage};

/// Descriptors every process of the run may have: the idle connections, twice in a proxy.
const DESCRIPTORS: u64 = 262_144;

/// Descriptors a proxy uses for anything else.
const SPARE: u64 = 500;

/// Measures Weft beside its peers.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// Fewer cases, shorter windows: a first look, not a figure to quote
    #[arg(long)]
    quick: bool,
    /// Rounds [default: 5, quick 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of a window in milliseconds [default: 2000, quick 200]
    #[arg(long)]
    window: Option<u64>,
    /// Only these subjects, by name and commas
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Only these measures or cases, by name and commas
    #[arg(long, value_delimiter = ',')]
    measures: Vec<String>,
    /// Where results are written
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
    /// Puts the results into bench/README.md
    #[arg(long)]
    update_readme: bool,
    /// Shows an earlier run's JSON instead of measuring
    #[arg(long, value_name = "FILE")]
    show: Option<PathBuf>,
    /// Names subjects and measures, and ends
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        list();
        return ExitCode::SUCCESS;
    }
    let report = match &arguments.show {
        Some(file) => Report::read(file),
        None => measure(&arguments),
    };
    match report.and_then(|report| show(&report, &arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs and writes the JSON.
fn measure(arguments: &Arguments) -> Result<Report> {
    let mut settings = settings(arguments)?;
    let room = make_room(DESCRIPTORS)?;
    // A proxy needs two descriptors a connection.
    settings.idle = settings.idle.min(usize::try_from((room - SPARE) / 2)?);
    let mut machine = Machine::now();
    machine.versions = subjects::versions();
    eprintln!("==> setting the stage: two nodes, an agent each, and the peers");
    let stage = Stage::set()?;
    let layers: Vec<_> = settings.cases().map(|case| case.layer).collect();
    let (subjects, absent) = subjects::start(&stage, &arguments.subjects, &layers)?;
    let before = Usage::now(&stage.cgroup());
    let bar = progress(rounds::expected(&settings, &subjects));
    let mut shown = (0, "");
    let samples = rounds::run(&stage, &subjects, &settings, &mut |round, case, subject| {
        bar.set_message(format!("{subject}: {}", case.title));
        bar.inc(1);
        // Where there is no terminal to draw on, a line a case says that it goes on.
        if bar.is_hidden() && std::mem::replace(&mut shown, (round, case.name)) != (round, case.name) {
            eprintln!("round {round} of {}: {}", settings.rounds, case.title);
        }
    })?;
    bar.finish_and_clear();
    machine.others = before.others(&Usage::now(&stage.cgroup()), machine.cpus);
    let absent = absent.into_iter().map(|absent| (absent.name.to_owned(), absent.why)).collect();
    let report = Report { machine, settings, absent, samples };
    println!("{}", report.write(&arguments.output)?.display());
    // What the mesh leaves behind is worth knowing, and no reason to lose the figures.
    if let Err(problem) = stage.lab.finish() {
        eprintln!("taking the stage down: {problem:#}");
    }
    Ok(report)
}

/// Prints the tables and bars, and draws the plots.
fn show(report: &Report, arguments: &Arguments) -> Result<()> {
    println!("{}", readme::described(report));
    println!("{}{}", table::render(report), bars::render(report));
    plot::draw(report, &arguments.output.join("plots"))?;
    if arguments.update_readme {
        readme::update(report, Path::new("bench"))?;
    }
    Ok(())
}

fn settings(arguments: &Arguments) -> Result<Settings> {
    for name in &arguments.subjects {
        ensure!(subjects::kind(name).is_some(), "no subject is called {name}: see --list");
    }
    for name in &arguments.measures {
        let known = CASES.iter().any(|case| case.name == name || case.measure == name);
        ensure!(known, "no measure is called {name}: see --list");
    }
    let named = |name: &str| arguments.measures.iter().any(|wanted| wanted == name);
    let wanted = CASES.iter().filter(|case| match arguments.measures.is_empty() {
        true => case.quick || !arguments.quick,
        false => named(case.name) || named(case.measure),
    });
    let quick = arguments.quick;
    Ok(Settings {
        rounds: arguments.rounds.unwrap_or(if quick { 3 } else { 5 }),
        window: Duration::from_millis(arguments.window.unwrap_or(if quick { 200 } else { 2000 })),
        idle: if quick { 2_000 } else { 10_000 },
        watch: if quick { 0 } else { 30 },
        bursts: if quick { 40 } else { 200 },
        cases: wanted.map(|case| case.name.to_owned()).collect(),
    })
}

fn list() {
    println!("subjects");
    ALL.iter().for_each(|known| println!("  {:<15} {}", known.name, known.title));
    println!("measures and their cases");
    CASES.iter().for_each(|case| println!("  {:<11} {:<15} {}", case.measure, case.name, case.title));
}

fn progress(count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
