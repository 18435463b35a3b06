//! Slow start: the weight of a new endpoint grows over a window, so that a cold process is not met with a full share.

use std::time::{Duration, Instant};

/// Weights are counted in hundredths while some endpoint grows.
pub(super) const WHOLE: u64 = 100;

/// The share a new endpoint begins with, in hundredths, and the steps it grows in. Each step rebuilds the table of its
/// service port, so there are few.
const STEP: u32 = 10;

/// How fast the weight of a new endpoint grows.
///
/// An endpoint is new if it appears while its service port is in use; those known from the beginning are not.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlowStart {
    /// From a tenth of the weight to all of it; zero turns slow start off.
    pub window: Duration,
}

impl SlowStart {
    /// The share of its weight that an endpoint has, in hundredths, and when that next changes.
    pub(super) fn share(self, joined: Option<Instant>, now: Instant) -> (u64, Option<Instant>) {
        let Some(joined) = joined.filter(|_| !self.window.is_zero()) else { return (WHOLE, None) };
        let steps = WHOLE as u32 / STEP;
        let step = self.window / steps;
        let passed = now.saturating_duration_since(joined);
        if step.is_zero() || passed >= self.window {
            return (WHOLE, None);
        }
        let done = u32::try_from(passed.as_nanos() / step.as_nanos()).map_or(steps, |done| done.min(steps - 1));
        (u64::from(STEP * (done + 1)), Some(joined + step * (done + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_in_tenths_and_ends_whole() {
        let slow = SlowStart { window: Duration::from_secs(100) };
        let joined = Instant::now();
        for tenth in 0..10_u32 {
            let now = joined + Duration::from_secs(10) * tenth + Duration::from_secs(3);
            let next = joined + Duration::from_secs(10) * (tenth + 1);
            assert_eq!(slow.share(Some(joined), now), (u64::from(tenth + 1) * 10, Some(next)));
        }
        assert_eq!(slow.share(Some(joined), joined + Duration::from_secs(100)), (WHOLE, None));
    }

    #[test]
    fn is_off_by_default_and_for_endpoints_that_were_there() {
        let now = Instant::now();
        assert_eq!(SlowStart::default().share(Some(now), now), (WHOLE, None));
        assert_eq!(SlowStart { window: Duration::from_secs(1) }.share(None, now), (WHOLE, None));
        assert_eq!(SlowStart { window: Duration::from_nanos(3) }.share(Some(now), now), (WHOLE, None));
    }
}
