//! What a client found: named numbers, and what failed by reason.

use std::collections::BTreeMap;
use std::fmt::Display;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The result of one client's run, printed as one line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Numbers by name; the unit is the name's ending.
    pub values: BTreeMap<String, f64>,
    /// Operations that failed, by reason. They are in no latency and no rate.
    pub failures: BTreeMap<String, u64>,
}

impl Outcome {
    /// Adds a number.
    pub fn set(&mut self, name: &str, value: f64) {
        self.values.insert(name.to_owned(), value);
    }

    /// Counts a failed operation.
    pub fn fail(&mut self, reason: impl Display) {
        *self.failures.entry(reason.to_string()).or_default() += 1;
    }

    /// Takes over another client's failures.
    pub fn blame(&mut self, failures: BTreeMap<String, u64>) {
        for (reason, count) in failures {
            *self.failures.entry(reason).or_default() += count;
        }
    }

    /// Failed operations in all.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Adds a count of operations, their rate over `seconds`, and the percentiles of their latencies in microseconds.
    pub fn operations(&mut self, latencies: &Histogram<u64>, seconds: f64) {
        self.set("operations", latencies.len() as f64);
        self.set("per_second", latencies.len() as f64 / seconds);
        for (name, quantile) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
            self.set(name, latencies.value_at_quantile(quantile) as f64 / 1000.0);
        }
        self.set("min_us", latencies.min() as f64 / 1000.0);
        self.set("max_us", latencies.max() as f64 / 1000.0);
    }
}

/// The longest latency told from a longer one, in nanoseconds: two minutes, more than any run lasts.
const LONGEST: u64 = 120_000_000_000;

/// A histogram of nanoseconds with three significant digits.
///
/// # Panics
/// Never: the bounds are valid.
#[must_use]
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST, 3).expect("valid bounds")
}

/// Notes a latency.
pub fn note(latencies: &mut Histogram<u64>, took: std::time::Duration) {
    latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
}
