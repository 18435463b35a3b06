//! What the demo shows: a line for what happens now, a line for what was seen, and how long it took.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The demo's output: one screen.
pub(crate) struct Screen {
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), bar: None }
    }

    /// Announces what happens now; a spinner turns while it does, where there is a terminal.
    pub(crate) fn step(&mut self, what: &str) {
        self.settle();
        println!("\n{what}");
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        self.bar = Some(bar);
    }

    /// States what was seen.
    pub(crate) fn saw(&mut self, what: &str, detail: String) {
        self.settle();
        println!("  \u{2713} {what:<10} {detail}");
    }

    /// Shows what a program printed.
    pub(crate) fn show(&mut self, text: &str) {
        self.settle();
        text.lines().for_each(|line| println!("      {line}"));
    }

    /// All of it held.
    pub(crate) fn succeeded(&mut self) {
        self.settle();
        println!("\nAll of it held, in {:.0} s.", self.start.elapsed().as_secs_f32());
    }

    /// Something did not hold.
    pub(crate) fn failed(&mut self, problem: &anyhow::Error) {
        self.settle();
        eprintln!("  \u{2717} {problem:#}");
    }

    fn settle(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
