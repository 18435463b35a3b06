//! Outlier ejection, per endpoint: serving, ejected for a time, probed by one connection, and serving again.
//!
//! ```text
//! serving --(failures in a row, and fewer than half out)--> ejected --(time over)--> due --(one connection)--> probing
//!    ^                                                         ^                                                 |
//!    |                                                         +------------------- it failed -------------------+
//!    +--------------------------------------- any connection succeeded ------------------------------------------+
//! ```
//! A probe is the next connection to the service: should it fail, it is tried elsewhere before its client has noticed.

use std::time::{Duration, Instant};

use crate::model::SuccessRate;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Debug)]
pub struct OutlierSettings {
    /// Connect failures in a row that eject.
    pub failures: u32,
    /// How long the first ejection lasts; the nth lasts n times as long.
    pub base: Duration,
    /// The most that grows to, before jitter.
    pub cap: Duration,
    /// Up to this many hundredths are added at random, so that endpoints ejected together return one by one.
    pub jitter_percent: u32,
    /// Ejects as well: too few successes in all.
    pub success_rate: Option<SuccessRate>,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            base: Duration::from_secs(30),
            cap: Duration::from_secs(300),
            jitter_percent: 10,
            success_rate: None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Serving,
    /// Out until this moment, and then due for a probe.
    Ejected { until: Instant },
    /// A probe is under way.
    Probing { due: Instant },
}

/// The health of one endpoint, as its connections tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlier {
    state: State,
    /// Failures in a row.
    failures: u32,
    /// Ejections lately; one is forgotten for every base period in service.
    ejections: u32,
    readmitted: Option<Instant>,
    tally: Tally,
}

/// Successes and failures of the current interval.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    begun: Option<Instant>,
    good: u32,
    bad: u32,
}

impl Tally {
    /// Notes one more. Returns whether there are too few successes.
    fn note(&mut self, rate: Option<&SuccessRate>, good: bool, now: Instant) -> bool {
        let Some(rate) = rate else { return false };
        if self.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= rate.interval) {
            *self = Self { begun: Some(now), ..Self::default() };
        }
        *(if good { &mut self.good } else { &mut self.bad }) += 1;
        let all = u64::from(self.good) + u64::from(self.bad);
        all >= u64::from(rate.requests) && u64::from(self.good) * 100 < all * u64::from(rate.percent)
    }
}

impl Outlier {
    /// Whether it takes part in balancing.
    pub(super) fn serves(&self) -> bool {
        self.state == State::Serving
    }

    /// Whether the last connection failed: whoever cannot try another endpoint had better not try this one.
    pub(super) fn is_suspect(&self) -> bool {
        self.failures > 0
    }

    /// When it is due for a probe; `None` while it serves or is being probed.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Ejected { until } => Some(until),
            State::Serving | State::Probing { .. } => None,
        }
    }

    /// Begins a probe.
    pub(super) fn probe(&mut self) {
        if let State::Ejected { until } = self.state {
            self.state = State::Probing { due: until };
        }
    }

    /// Ends a probe that said nothing: the connection was given up for another reason.
    pub(super) fn unprobe(&mut self) {
        if let State::Probing { due } = self.state {
            self.state = State::Ejected { until: due };
        }
    }

    /// A connection stood. Returns whether that readmits the endpoint.
    pub(super) fn succeeded(&mut self, rate: Option<&SuccessRate>, now: Instant) -> bool {
        self.failures = 0;
        self.tally.note(rate, true, now);
        let readmits = !self.serves();
        if readmits {
            self.state = State::Serving;
            self.readmitted = Some(now);
        }
        readmits
    }

    /// A connection failed; `probe` tells whether it was the probe. `may_eject` is asked only when it matters. Returns
    /// whether the endpoint was ejected.
    pub(super) fn failed(
        &mut self,
        settings: &OutlierSettings,
        probe: bool,
        now: Instant,
        jitter: u64,
        may_eject: impl FnOnce() -> bool,
    ) -> bool {
        self.failures = self.failures.saturating_add(1);
        let too_few = self.tally.note(settings.success_rate.as_ref(), false, now);
        let ejects = match self.state {
            State::Serving => (too_few || self.failures >= settings.failures) && may_eject(),
            State::Probing { .. } => probe,
            // Connections begun before the ejection say nothing new.
            State::Ejected { .. } => false,
        };
        if ejects {
            self.eject(settings, now, jitter);
        }
        ejects
    }

    fn eject(&mut self, settings: &OutlierSettings, now: Instant, jitter: u64) {
        if self.serves() && !settings.base.is_zero() {
            let calm = self.readmitted.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            let forgotten = u32::try_from(calm.as_nanos() / settings.base.as_nanos()).unwrap_or(u32::MAX);
            self.ejections = self.ejections.saturating_sub(forgotten);
        }
        self.ejections = self.ejections.saturating_add(1);
        self.failures = 0;
        self.tally = Tally::default();
        let lasts = settings.base.saturating_mul(self.ejections).min(settings.cap);
        let share = (jitter as f64 / u64::MAX as f64) * f64::from(settings.jitter_percent) / 100.0;
        self.state = State::Ejected { until: now + lasts + lasts.mul_f64(share) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: fn() -> OutlierSettings = OutlierSettings::default;

    fn fail(outlier: &mut Outlier, times: u32, now: Instant) -> bool {
        (0..times).fold(false, |_, _| outlier.failed(&SETTINGS(), false, now, 0, || true))
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_between_does_not() {
        let now = Instant::now();
        let mut outlier = Outlier::default();
        assert!(!fail(&mut outlier, 4, now));
        assert!(!outlier.succeeded(None, now), "it was serving all along");
        assert!(!fail(&mut outlier, 4, now));
        assert!(fail(&mut outlier, 1, now));
        assert!(!outlier.serves());
        assert_eq!(outlier.due(), Some(now + Duration::from_secs(30)));
    }

    #[test]
    fn too_few_successes_eject_though_none_fail_in_a_row() {
        let rate = SuccessRate { percent: 80, requests: 10, interval: Duration::from_secs(10) };
        let settings = OutlierSettings { success_rate: Some(rate), ..OutlierSettings::default() };
        let ejects = |good: u32, bad: u32, apart: u64| {
            let (mut now, mut outlier) = (Instant::now(), Outlier::default());
            (0..good).for_each(|_| _ = outlier.succeeded(Some(&rate), now));
            (0..bad).any(|_| {
                now += Duration::from_secs(apart);
                let out = outlier.failed(&settings, false, now, 0, || true);
                outlier.failures = 0;
                out
            })
        };
        assert!(ejects(20, 6, 0) && !ejects(20, 5, 0));
        assert!(!ejects(0, 9, 0) && ejects(0, 10, 0), "so many at least");
        assert!(!ejects(0, 20, 5), "within the interval");
    }

    #[test]
    fn it_stays_while_it_may_not_be_ejected() {
        let now = Instant::now();
        let mut outlier = Outlier::default();
        for _ in 0..20 {
            assert!(!outlier.failed(&SETTINGS(), false, now, 0, || false));
        }
        assert!(outlier.failed(&SETTINGS(), false, now, 0, || true), "and goes as soon as it may");
    }

    #[test]
    fn each_failed_probe_lasts_longer_up_to_the_cap() {
        let mut now = Instant::now();
        let mut outlier = Outlier::default();
        fail(&mut outlier, 5, now);
        for n in 2..15_u64 {
            now = outlier.due().unwrap();
            outlier.probe();
            assert_eq!(outlier.due(), None, "one probe at a time");
            assert!(!outlier.failed(&SETTINGS(), false, now, 0, || true), "only the probe counts");
            assert!(outlier.failed(&SETTINGS(), true, now, 0, || true));
            assert_eq!(outlier.due(), Some(now + Duration::from_secs((30 * n).min(300))));
        }
    }

    #[test]
    fn a_probe_given_up_is_due_again_and_one_that_stands_readmits() {
        let now = Instant::now();
        let mut outlier = Outlier::default();
        fail(&mut outlier, 5, now);
        let due = outlier.due();
        outlier.probe();
        outlier.unprobe();
        assert_eq!(outlier.due(), due);
        outlier.probe();
        assert!(outlier.succeeded(None, now));
        assert!(outlier.serves());
    }

    #[test]
    fn failures_of_older_connections_do_not_prolong_an_ejection() {
        let now = Instant::now();
        let mut outlier = Outlier::default();
        fail(&mut outlier, 5, now);
        let due = outlier.due();
        assert!(!fail(&mut outlier, 10, now + Duration::from_secs(5)));
        assert_eq!(outlier.due(), due);
    }

    #[test]
    fn time_in_service_forgets_ejections() {
        let now = Instant::now();
        let mut outlier = Outlier::default();
        fail(&mut outlier, 5, now);
        outlier.probe();
        outlier.failed(&SETTINGS(), true, now, 0, || true);
        outlier.probe();
        outlier.succeeded(None, now);
        let later = now + Duration::from_secs(90);
        fail(&mut outlier, 5, later);
        assert_eq!(outlier.due(), Some(later + Duration::from_secs(30)));
    }

    #[test]
    fn jitter_adds_up_to_a_tenth() {
        let now = Instant::now();
        let mut outlier = Outlier::default();
        for _ in 0..5 {
            outlier.failed(&SETTINGS(), false, now, u64::MAX, || true);
        }
        assert_eq!(outlier.due(), Some(now + Duration::from_secs(33)));
    }
}
