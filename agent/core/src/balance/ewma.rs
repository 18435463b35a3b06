//! What connect times say of an endpoint: the estimate behind peak EWMA, quick to believe bad news and slow to believe
//! good news, and whether two endpoints can be told apart at all.

use std::time::{Duration, Instant};

/// How long a sample weighs: after this time 1/e of it is left.
pub(super) const TAU: Duration = Duration::from_secs(10);

/// What an endpoint that was never measured is taken to need.
pub(super) const INITIAL: Duration = Duration::from_millis(30);

/// Mean connect times that differ by no more than this factor tell nothing apart.
const NOISE: f64 = 2.0;

/// What a new sample counts in the mean and in the mean deviation: 1/8 and 1/4, as TCP smooths round trips (RFC 6298).
const GAINS: (f64, f64) = (0.125, 0.25);

/// An exponentially weighted moving average of connect times, sensitive to peaks, with their mean and deviation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ewma {
    /// When the last sample came and what is known since; `None` before the first.
    held: Option<(Timing, Instant)>,
}

/// Connect times of one endpoint, all in seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Timing {
    /// What a connection is expected to take: the moving average that peaks replace.
    pub(super) estimate: f64,
    /// The mean of the last samples, of which no single one moves it much.
    mean: f64,
    /// How far samples are from the mean, on average.
    deviation: f64,
}

impl Timing {
    /// As if every sample had been this one.
    fn steady(seconds: f64) -> Self {
        Self { estimate: seconds, mean: seconds, deviation: 0.0 }
    }

    /// What one sample tells: that the next may be quite another. The first connection to a pod often opens a tunnel, or
    /// wakes up what has slept, and no one sample is to keep everything from an endpoint until it fades.
    fn first(seconds: f64) -> Self {
        Self { deviation: seconds, ..Self::steady(seconds) }
    }

    /// Two timings to be compared.
    ///
    /// One that was never measured is taken to be as good as the other, up to the initial 30 ms: it is by being picked
    /// that it gets measured.
    pub(super) fn comparable(first: Option<Self>, second: Option<Self>) -> (Self, Self) {
        let initial = INITIAL.as_secs_f64();
        let unmeasured = |other: Option<Self>| match other {
            Some(other) if other.mean <= initial => other,
            _ => Self::steady(initial),
        };
        (first.unwrap_or_else(|| unmeasured(second)), second.unwrap_or_else(|| unmeasured(first)))
    }

    /// Whether the two cannot be told apart: their means are within a factor of two, or within their deviations.
    ///
    /// A single peak moves the mean by an eighth of its height and the deviation by a quarter, and the deviation fades
    /// no faster: it never tells two endpoints apart. Seven in a row do.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let (fast, slow) = if self.mean <= other.mean { (self, other) } else { (other, self) };
        slow.mean <= NOISE * fast.mean || slow.mean - fast.mean <= slow.deviation + fast.deviation
    }
}

impl Ewma {
    /// Takes a sample: one above the estimate replaces it; otherwise, with Δ the time since the sample before,
    /// estimate · e^(−Δ/τ) + sample · (1 − e^(−Δ/τ)). The first sample is the first estimate.
    pub(super) fn observe(&mut self, sample: Duration, now: Instant) {
        let sample = sample.as_secs_f64();
        let Some((held, at)) = self.held else {
            self.held = Some((Timing::first(sample), now));
            return;
        };
        let kept = if sample > held.estimate { 0.0 } else { decay(now.saturating_duration_since(at)) };
        let left = fading(at, now);
        let (mean, deviation) = (held.mean * left, held.deviation * left);
        let off = sample - mean;
        let timing = Timing {
            estimate: held.estimate * kept + sample * (1.0 - kept),
            mean: mean + GAINS.0 * off,
            deviation: deviation + GAINS.1 * (off.abs() - deviation),
        };
        // Threads read the clock before they take the lock: a sample may be a little older than the last.
        self.held = Some((timing, at.max(now)));
    }

    /// What is known; `None` before the first sample.
    ///
    /// Without a sample for longer than τ it fades by the same formula, as if fed zeros from then on: otherwise an
    /// endpoint that was slow once, and is avoided for it, would never be measured again.
    pub(super) fn timing(&self, now: Instant) -> Option<Timing> {
        let (held, at) = self.held?;
        let left = fading(at, now);
        Some(Timing { estimate: held.estimate * left, mean: held.mean * left, deviation: held.deviation * left })
    }
}

/// What is left of something last confirmed at `at`: all of it for τ.
fn fading(at: Instant, now: Instant) -> f64 {
    decay(now.saturating_duration_since(at).saturating_sub(TAU))
}

fn decay(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / TAU.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: Option<Timing>, right: f64) {
        let left = left.expect("a sample was taken").estimate;
        assert!((left - right).abs() < 1e-6, "{left} is not {right} s");
    }

    fn ms(millis: f64) -> Option<Timing> {
        Some(Timing::steady(millis / 1e3))
    }

    fn alike(first: Option<Timing>, second: Option<Timing>) -> bool {
        let (first, second) = Timing::comparable(first, second);
        assert_eq!(first.is_like(&second), second.is_like(&first));
        first.is_like(&second)
    }

    #[test]
    fn a_peak_replaces_the_estimate_and_less_decays_towards_it() {
        let start = Instant::now();
        let mut ewma = Ewma::default();
        assert_eq!(ewma.timing(start), None);
        ewma.observe(Duration::from_millis(10), start);
        near(ewma.timing(start), 0.010);
        ewma.observe(Duration::from_millis(50), start);
        near(ewma.timing(start), 0.050);
        let later = start + Duration::from_secs(10);
        ewma.observe(Duration::from_millis(10), later);
        let e = (-1.0_f64).exp();
        near(ewma.timing(later), 0.050 * e + 0.010 * (1.0 - e));
    }

    #[test]
    fn an_estimate_without_samples_fades_only_after_tau() {
        let start = Instant::now();
        let mut ewma = Ewma::default();
        ewma.observe(Duration::from_millis(100), start);
        near(ewma.timing(start + TAU), 0.1);
        near(ewma.timing(start + TAU * 2), 0.1 * (-1.0_f64).exp());
    }

    #[test]
    fn time_running_backwards_changes_nothing() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut ewma = Ewma::default();
        ewma.observe(Duration::from_millis(100), start);
        ewma.observe(Duration::from_millis(10), start - Duration::from_secs(50));
        near(ewma.timing(start), 0.1);
    }

    #[test]
    fn timings_within_a_factor_of_two_are_alike_and_others_are_not() {
        assert!(alike(ms(10.0), ms(20.0)));
        assert!(!alike(ms(10.0), ms(21.0)));
        assert!(alike(None, None));
        assert!(alike(None, ms(2.0)), "unmeasured is as good as the other");
        assert!(!alike(ms(100.0), None), "but for the initial 30 ms");
    }

    #[test]
    fn a_first_peak_tells_nothing_apart() {
        let now = Instant::now();
        let (mut peaked, mut calm) = (Ewma::default(), Ewma::default());
        peaked.observe(Duration::from_millis(500), now);
        for _ in 0..50 {
            calm.observe(Duration::from_micros(300), now);
            assert!(alike(peaked.timing(now), calm.timing(now)), "{peaked:?}");
            peaked.observe(Duration::from_micros(300), now);
        }
    }

    #[test]
    fn one_peak_tells_nothing_apart_and_seven_do() {
        let now = Instant::now();
        let (mut peaked, mut calm) = (Ewma::default(), Ewma::default());
        for _ in 0..100 {
            peaked.observe(Duration::from_micros(300), now);
            calm.observe(Duration::from_micros(300), now);
        }
        peaked.observe(Duration::from_millis(500), now);
        for _ in 0..50 {
            assert!(alike(peaked.timing(now), calm.timing(now)), "{peaked:?}");
            peaked.observe(Duration::from_micros(300), now);
        }
        (0..7).for_each(|_| peaked.observe(Duration::from_millis(500), now));
        assert!(!alike(peaked.timing(now), calm.timing(now)), "{peaked:?}");
    }
}
