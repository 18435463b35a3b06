//! One run: every case against every subject, round by round.
//!
//! Within a round a case goes through all subjects before the next case begins, so that what is compared was measured
//! seconds apart; who goes first moves on with each round.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::load::Outcome;
use crate::measures::{CASES, Case, USUAL_RATE, Work, YARDSTICK, connect_cost, idle, shares, window};
use crate::subjects::{Kind, Layer, Stage, Subject, kind, known};

/// The pseudo-subject of what is measured of the kernel alone.
pub const KERNEL: &str = "kernel";

/// The subject of which alone it is measured how its users share it.
const WEFT: &str = "weft";

/// How to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds.
    pub rounds: usize,
    /// Length of a window.
    pub window: Duration,
    /// Idle connections opened to measure memory.
    pub idle: usize,
    /// Looks at what is resident at rest, one a second.
    pub watch: usize,
    /// Bursts of connects in each cgroup, a round.
    pub bursts: usize,
    /// The cases, by name.
    pub cases: Vec<String>,
}

/// What one case found of one subject in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The round, counted from 1; 0 for what is measured once a run.
    pub round: usize,
    /// The case.
    pub case: String,
    /// The subject.
    pub subject: String,
    /// Seconds since the run began.
    pub at: f64,
    /// What was found; its failures are operations that failed.
    pub outcome: Outcome,
    /// Why nothing was found.
    pub error: Option<String>,
}

impl Settings {
    /// The cases to run.
    pub fn cases(&self) -> impl Iterator<Item = &'static Case> {
        CASES.iter().filter(|case| self.cases.iter().any(|name| name == case.name))
    }
}

/// How many samples a run makes.
#[must_use]
pub fn expected(settings: &Settings, subjects: &[Subject]) -> usize {
    let per_case = |case: &Case| match case.work {
        Work::Window(_) | Work::HalfOf(..) => {
            settings.rounds * subjects.iter().filter(|subject| takes_part(subject, case)).count()
        }
        Work::Memory(..) => subjects.iter().filter(|subject| holds_memory(subject, case)).count(),
        Work::Shares(_) => settings.rounds * subjects.iter().filter(|subject| subject.name == WEFT).count(),
        Work::ConnectCost => settings.rounds,
    };
    settings.cases().map(per_case).sum()
}

/// The order of `count` subjects in a round.
#[must_use]
pub fn rotated(count: usize, round: usize) -> Vec<usize> {
    (0..count).map(|at| (at + round) % count).collect()
}

/// Runs everything, telling `progress` before each sample its round, case and subject.
///
/// # Errors
/// Never for a sample that fails: that is a sample too.
pub fn run(
    stage: &Stage,
    subjects: &[Subject],
    settings: &Settings,
    progress: &mut dyn FnMut(usize, &Case, &str),
) -> Result<Vec<Sample>> {
    let mut run = Run { start: Instant::now(), samples: Vec::new(), progress };
    for subject in subjects {
        run.memory(stage, subject, settings);
    }
    for round in 1..=settings.rounds {
        for case in settings.cases() {
            match case.work {
                Work::Memory(..) => {}
                Work::ConnectCost => run.take(round, case, KERNEL, || connect_cost(stage, settings.bursts)),
                Work::Shares(among) => {
                    if subjects.iter().any(|subject| subject.name == WEFT) {
                        run.take(round, case, WEFT, || shares(stage, among, settings.window));
                    }
                }
                Work::Window(arguments) => run.windows(subjects, (round, case), |subject| {
                    window(&stage.lab, subject, arguments, settings.window)
                }),
                Work::HalfOf(rate, arguments) => {
                    let asked = half(&run.samples, rate);
                    let text = format!("{asked:.0}");
                    let arguments = [arguments, &["--rate", &text]].concat();
                    run.windows(subjects, (round, case), |subject| {
                        let mut outcome = window(&stage.lab, subject, &arguments, settings.window)?;
                        outcome.set("asked_per_second", asked);
                        Ok(outcome)
                    });
                }
            }
        }
    }
    Ok(run.samples)
}

/// Half of the median rate of the yardstick so far.
fn half(samples: &[Sample], case: &str) -> f64 {
    let of = |sample: &&Sample| sample.case == case && sample.subject == YARDSTICK;
    let rate = |sample: &Sample| sample.outcome.values.get("per_second").copied();
    let mut rates: Vec<f64> = samples.iter().filter(of).filter_map(rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).map_or(USUAL_RATE, |median| (median / 2.0).round())
}

/// What was found so far.
struct Run<'a> {
    start: Instant,
    samples: Vec<Sample>,
    progress: &'a mut dyn FnMut(usize, &Case, &str),
}

impl Run<'_> {
    fn take(&mut self, round: usize, case: &Case, subject: &str, measured: impl FnOnce() -> Result<Outcome>) {
        (self.progress)(round, case, subject);
        let at = self.start.elapsed().as_secs_f64();
        let (outcome, error) = match measured() {
            Ok(outcome) => (outcome, None),
            Err(error) => (Outcome::default(), Some(format!("{error:#}"))),
        };
        self.samples.push(Sample { round, case: case.name.into(), subject: subject.into(), at, outcome, error });
    }

    /// All that is asked of a subject's memory, one after the other.
    fn memory(&mut self, stage: &Stage, subject: &Subject, settings: &Settings) {
        let mut clients = Vec::new();
        for case in settings.cases().filter(|case| holds_memory(subject, case)) {
            let Work::Memory(arguments, fewer) = case.work else { continue };
            // Memory at rest is a figure of connections: the proxies of requests are the same programs.
            let watch = if case.layer == Layer::Connections { settings.watch } else { 0 };
            self.take(0, case, subject.name, || {
                let (held, outcome) = idle(&stage.lab, subject, arguments, settings.idle / fewer, watch)?;
                clients.push(held);
                Ok(outcome)
            });
        }
    }

    fn windows(
        &mut self,
        subjects: &[Subject],
        (round, case): (usize, &Case),
        measured: impl Fn(&Subject) -> Result<Outcome>,
    ) {
        let present: Vec<_> = subjects.iter().filter(|subject| takes_part(subject, case)).collect();
        for subject in rotated(present.len(), round).into_iter().map(|at| present[at]) {
            self.take(round, case, subject.name, || measured(subject));
        }
    }
}

/// Weft's agents are the same processes for all of its subjects; the first alone finds them fresh.
fn holds_memory(subject: &Subject, case: &Case) -> bool {
    let fresh = kind(subject.name) != Some(Kind::Weft) || ["weft", "http-weft"].contains(&subject.name);
    !subject.proxies.is_empty() && takes_part(subject, case) && fresh
}

/// Whether a case is one of a subject's.
fn takes_part(subject: &Subject, case: &Case) -> bool {
    known(subject.name).is_some_and(|known| known.layer == case.layer && !known.without.contains(&case.measure))
}
