//! How many retries a service port is asked to bear: a share of its requests, and a few besides.
//!
//! Requests and retries are counted over a window that moves in tenths. What the few besides allow counts against nothing
//! else, so that a service with little traffic can be tried again at all.

use std::time::Instant;

use super::bucket::Bucket;
use crate::model::RetryBudget;

/// Parts of the window.
const SLOTS: u64 = 10;

/// What a service port's retries have spent.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    window: Window,
    least: Bucket,
}

impl Budget {
    /// A request is made for the first time.
    pub fn request(&mut self, settings: &RetryBudget, now: Instant) {
        self.window.slot(settings, now).requests += 1;
    }

    /// Whether it may be made again now; if so, that is counted.
    pub fn retry(&mut self, settings: &RetryBudget, now: Instant) -> bool {
        if self.least.take(&settings.least, now).is_ok() {
            return true;
        }
        let current = self.window.advance(settings, now);
        let (requests, retries) = self.window.sums(current);
        let allowed = (retries + 1) * 100 <= requests * u64::from(settings.percent);
        if allowed {
            self.window.slot(settings, now).retries += 1;
        }
        allowed
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u64,
    requests: u64,
    retries: u64,
}

#[derive(Clone, Debug, Default)]
struct Window {
    /// When the first slot began, and how long a window is.
    begun: Option<(Instant, std::time::Duration)>,
    slots: [Slot; SLOTS as usize],
}

impl Window {
    /// The number of the slot that is current. A window of another length begins anew.
    fn advance(&mut self, settings: &RetryBudget, now: Instant) -> u64 {
        if self.begun.is_none_or(|(_, interval)| interval != settings.interval) {
            *self = Self { begun: Some((now, settings.interval)), ..Self::default() };
        }
        let begun = self.begun.map_or(now, |(begun, _)| begun);
        let each = (settings.interval / SLOTS as u32).as_nanos().max(1);
        // From `SLOTS` on, so that the slots that were never used are of no window.
        SLOTS + u64::try_from(now.saturating_duration_since(begun).as_nanos() / each).unwrap_or(u64::MAX - SLOTS)
    }

    fn slot(&mut self, settings: &RetryBudget, now: Instant) -> &mut Slot {
        let number = self.advance(settings, now);
        let slot = &mut self.slots[(number % SLOTS) as usize];
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot
    }

    /// Requests and retries of the window that ends with a slot.
    fn sums(&self, current: u64) -> (u64, u64) {
        let inside = self.slots.iter().filter(|slot| slot.number + SLOTS > current);
        inside.fold((0, 0), |(requests, retries), slot| (requests + slot.requests, retries + slot.retries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Rate;
    use proptest::prelude::*;
    use std::time::Duration;

    fn settings(percent: u32, seconds: u64, least: u32) -> RetryBudget {
        RetryBudget { percent, interval: Duration::from_secs(seconds), least: Rate::per_second(least) }
    }

    #[test]
    fn a_fifth_and_ten_a_second_besides() {
        let (settings, begin) = (RetryBudget::default(), Instant::now());
        let mut budget = Budget::default();
        (0..1000).for_each(|_| budget.request(&settings, begin));
        assert_eq!((0..1000).filter(|_| budget.retry(&settings, begin)).count(), 210);
        let later = begin + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| budget.retry(&settings, later)).count(), 10);
        // The window has passed: what was spent is, too, and so is what it was a share of.
        let much_later = begin + Duration::from_secs(12);
        assert_eq!((0..1000).filter(|_| budget.retry(&settings, much_later)).count(), 10);
    }

    #[test]
    fn nothing_is_nothing() {
        let (settings, now) = (settings(0, 10, 0), Instant::now());
        let mut budget = Budget::default();
        (0..1000).for_each(|_| budget.request(&settings, now));
        assert!(!budget.retry(&settings, now));
    }

    proptest! {
        /// Over the whole time never more retries than the share of all requests, and the few besides.
        #[test]
        fn never_more_than_share_and_floor(
            percent in 0_u32..100, seconds in 1_u64..30, least in 0_u32..20,
            steps in proptest::collection::vec((0_u64..300, 0_u32..10, 0_u32..10), 1..200),
        ) {
            let (settings, begin) = (settings(percent, seconds, least), Instant::now());
            let (mut budget, mut now) = (Budget::default(), begin);
            let (mut requests, mut retries) = (0_u64, 0_u64);
            for (gap, made, again) in steps {
                now += Duration::from_millis(gap);
                (0..made).for_each(|_| budget.request(&settings, now));
                requests += u64::from(made);
                retries += (0..again).filter(|_| budget.retry(&settings, now)).count() as u64;
                let floor = f64::from(least) * ((now - begin).as_secs_f64() + 1.0);
                let most = requests as f64 * f64::from(percent) / 100.0 + floor;
                prop_assert!(retries as f64 <= most + 0.001, "{retries} of {most}");
            }
        }
    }
}
