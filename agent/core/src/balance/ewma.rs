//! The estimate behind peak EWMA: quick to believe bad news, slow to believe good news.

use std::time::{Duration, Instant};

/// How long a sample weighs: after this time 1/e of it is left.
pub(super) const TAU: Duration = Duration::from_secs(10);

/// What an endpoint that was never measured is taken to need.
pub(super) const INITIAL: Duration = Duration::from_millis(30);

/// An exponentially weighted moving average of connect times, sensitive to peaks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ewma {
    /// The estimate in seconds and when its last sample came; `None` before the first.
    held: Option<(f64, Instant)>,
}

impl Ewma {
    /// Takes a sample: one above the estimate replaces it; otherwise, with Δ the time since the sample before,
    /// estimate · e^(−Δ/τ) + sample · (1 − e^(−Δ/τ)). The first sample is the first estimate.
    pub(super) fn observe(&mut self, sample: Duration, now: Instant) {
        let sample = sample.as_secs_f64();
        let estimate = match self.held {
            Some((held, at)) if sample <= held => {
                let kept = decay(now.saturating_duration_since(at));
                held * kept + sample * (1.0 - kept)
            }
            _ => sample,
        };
        // Threads read the clock before they take the lock: a sample may be a little older than the last.
        let latest = self.held.map_or(now, |(_, at)| at.max(now));
        self.held = Some((estimate, latest));
    }

    /// The estimate; `None` before the first sample.
    ///
    /// One that got no sample for longer than τ fades by the same formula, as if fed zeros from then on: otherwise an
    /// endpoint that was slow once, and is avoided for it, would never be measured again.
    pub(super) fn estimate(&self, now: Instant) -> Option<Duration> {
        let (held, at) = self.held?;
        let stale = now.saturating_duration_since(at).saturating_sub(TAU);
        Some(Duration::from_secs_f64(held * decay(stale)))
    }
}

fn decay(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / TAU.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: Duration, right: f64) {
        assert!((left.as_secs_f64() - right).abs() < 1e-6, "{left:?} is not {right} s");
    }

    #[test]
    fn a_peak_replaces_the_estimate_and_less_decays_towards_it() {
        let start = Instant::now();
        let mut ewma = Ewma::default();
        assert_eq!(ewma.estimate(start), None);
        ewma.observe(Duration::from_millis(10), start);
        near(ewma.estimate(start).unwrap(), 0.010);
        ewma.observe(Duration::from_millis(50), start);
        near(ewma.estimate(start).unwrap(), 0.050);
        let later = start + Duration::from_secs(10);
        ewma.observe(Duration::from_millis(10), later);
        let e = (-1.0_f64).exp();
        near(ewma.estimate(later).unwrap(), 0.050 * e + 0.010 * (1.0 - e));
    }

    #[test]
    fn an_estimate_without_samples_fades_only_after_tau() {
        let start = Instant::now();
        let mut ewma = Ewma::default();
        ewma.observe(Duration::from_millis(100), start);
        near(ewma.estimate(start + TAU).unwrap(), 0.1);
        near(ewma.estimate(start + TAU * 2).unwrap(), 0.1 * (-1.0_f64).exp());
    }

    #[test]
    fn time_running_backwards_changes_nothing() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut ewma = Ewma::default();
        ewma.observe(Duration::from_millis(100), start);
        ewma.observe(Duration::from_millis(10), start - Duration::from_secs(50));
        near(ewma.estimate(start).unwrap(), 0.1);
    }
}
