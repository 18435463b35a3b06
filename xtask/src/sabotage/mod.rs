//! `cargo xtask sabotage`: breaks one line of the product for each scenario and demands that its journey goes red.
//!
//! A test that cannot fail proves nothing, and one that fails because nothing works proves little: every break says what
//! the journey has to complain of. The breaks are made in a copy of the work tree under `target/sabotage`, so an
//! interrupted run leaves no broken source behind. While one break's journeys run, the next is compiled; what runs is
//! always a build with one line broken.

mod copy;
mod table;
mod trial;

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::privileges;
use crate::setup::{Need, ensure};
use crate::shell::say;
use copy::Copy;
use table::{Break, Line};
use trial::{Outcome, Trial};

/// Programs with a line broken, or none, ready to run.
struct Built {
    /// The scenarios this break is for; empty when nothing is broken.
    scenarios: Vec<Break>,
    /// Where the programs lie, or why there are none.
    programs: Result<PathBuf>,
    /// Dropped when the programs have been run.
    _running: Sender<()>,
}

/// Tries the break of every scenario that `filters` choose.
pub(crate) fn run(filters: &[String]) -> Result<()> {
    privileges::demand()?;
    ensure(&[Need::Ebpf, Need::Lab, Need::Clients])?;
    let breaks = table::chosen(table::read()?, filters);
    if breaks.is_empty() {
        bail!("no scenario's name contains any of {filters:?}");
    }
    let copy = Copy::make()?;
    std::fs::create_dir_all(trial::logs())?;
    let begun = Instant::now();
    let mut trials = thread::scope(|scope| {
        // Without room: one break is compiled ahead, not more.
        let (sender, built) = mpsc::sync_channel(0);
        let groups = table::by_line(breaks.clone());
        scope.spawn(move || build_all(&copy, groups, &sender));
        try_all(&breaks, &built)
    })?;
    trials.sort_by(|one, other| one.scenario.cmp(&other.scenario));
    println!();
    for trial in &trials {
        println!("{trial}");
    }
    let failed = trials.iter().filter(|trial| !trial.is_red()).count();
    let logs = trial::logs();
    say(&format!("{} breaks in {} s; what they said: {}", trials.len(), begun.elapsed().as_secs(), logs.display()));
    println!("{} passed, {failed} failed", trials.len() - failed);
    if failed == 0 { Ok(()) } else { bail!("{failed} scenarios did not notice that their line was broken") }
}

/// Compiles the unbroken tree, then each break, handing each over when the one before has been run.
fn build_all(copy: &Copy, groups: Vec<(Line, Vec<Break>)>, ready: &SyncSender<Built>) {
    let hand_over = |scenarios, programs| {
        let (running, ended) = mpsc::channel();
        ready.send(Built { scenarios, programs, _running: running }).ok().map(|()| ended)
    };
    if hand_over(Vec::new(), copy.build(0)).is_none() {
        return;
    }
    for (number, (line, scenarios)) in (1..).zip(groups) {
        let (whole, programs) = match copy.break_line(&line) {
            Ok(whole) => (whole, copy.build(number)),
            Err(problem) => return drop(hand_over(Vec::new(), Err(problem))),
        };
        let Some(ended) = hand_over(scenarios, programs) else { return };
        // Journeys read files of their own directory while they run; everything else of the tree is in the programs.
        if line.file.starts_with("tests/journeys") {
            let _ = ended.recv();
        }
        if let Err(problem) = copy.mend(&line, &whole) {
            return drop(hand_over(Vec::new(), Err(problem)));
        }
    }
}

/// Runs what is built. The journeys without any break come first: one that fails then proves nothing with it.
fn try_all(breaks: &[Break], built: &Receiver<Built>) -> Result<Vec<Trial>> {
    say("the journeys without a break");
    let unbroken = built.recv().context("nothing was compiled")?.programs?;
    let names = trial::journeys(&unbroken)?;
    let unsound = trial::unbroken(&unbroken, breaks, &names)?;
    for (scenario, why) in &unsound {
        say(&format!("{scenario}: {why}"));
    }
    let mut trials = Vec::new();
    for Built { scenarios, programs, _running } in built {
        if scenarios.is_empty() {
            programs?;
            continue;
        }
        for broken in scenarios {
            let begun = Instant::now();
            let outcome = match (&programs, unsound.get(&broken.scenario)) {
                (_, Some(why)) => Outcome::Unsound(why.clone()),
                (Err(problem), None) => Outcome::Unsound(format!("{problem:#}")),
                (Ok(programs), None) => trial::run(programs, &broken, &names),
            };
            let trial = Trial { scenario: broken.scenario, outcome, took: begun.elapsed() };
            trials.push(trial);
            eprintln!("==> {}/{} {}", trials.len(), breaks.len(), trials[trials.len() - 1]);
        }
    }
    Ok(trials)
}
