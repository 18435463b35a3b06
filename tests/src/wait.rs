//! Waiting for a condition, with a deadline. The lab and its journeys never sleep to let something happen: they poll
//! what they want to be true, and fail with the last thing they saw.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. Long enough to leave a two-core machine to the processes waited for.
const INTERVAL: Duration = Duration::from_millis(20);

/// Time that ordinary conditions get before a journey fails: generous, since a machine shared with a build is slow.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls `condition` until it yields a value; an `Err` means "not yet" and its text ends up in the failure.
///
/// # Errors
/// When `deadline` passes: what was waited for, and the last reason it was not so.
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match condition() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if start.elapsed() >= deadline {
            bail!("after {deadline:?} still waiting for {what}: {last:#}");
        }
        std::thread::sleep(INTERVAL);
    }
}

/// [`until`] for a plain yes or no, with the usual [`DEADLINE`].
///
/// # Errors
/// When the deadline passes.
pub fn holds(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(what, DEADLINE, || if condition() { Ok(()) } else { bail!("it does not hold") })
}
