//! So many in so long: a bucket of tokens that fills steadily, kept as the one moment at which it would be full again
//! (the generic cell rate algorithm). Nothing has to run for it.

use std::time::{Duration, Instant};

use crate::model::Rate;

/// A bucket; full until something is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When it is full again.
    full: Option<Instant>,
}

impl Bucket {
    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one. Then none is taken.
    pub fn take(&mut self, rate: &Rate, now: Instant) -> Result<(), Duration> {
        let (each, whole) = (rate.each(), rate.whole());
        let full = self.full.map_or(now, |full| full.max(now));
        let missing = full.saturating_duration_since(now);
        if missing + each > whole {
            return Err(missing + each - whole);
        }
        self.full = Some(full + each);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(count: u32, per: u64, burst: u32) -> Rate {
        Rate { count, per: Duration::from_millis(per), burst }
    }

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let (rate, now) = (rate(10, 1000, 3), Instant::now());
        let mut bucket = Bucket::default();
        assert_eq!((0..5).filter(|_| bucket.take(&rate, now).is_ok()).count(), 3);
        assert_eq!(bucket.take(&rate, now), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(&rate, now + Duration::from_millis(99)), Err(Duration::from_millis(1)));
        assert!(bucket.take(&rate, now + Duration::from_millis(100)).is_ok());
        assert_eq!((0..5).filter(|_| bucket.take(&rate, now + Duration::from_secs(60)).is_ok()).count(), 3);
    }

    proptest! {
        /// In no stretch of time more than its share and a burst; and whoever waits as long as told gets one.
        #[test]
        fn never_more_than_the_rate_and_a_burst(
            count in 1_u32..50, per in 1_u64..5_000, burst in 1_u32..20, gaps in proptest::collection::vec(0_u64..500, 1..200),
        ) {
            let (rate, begin) = (rate(count, per, burst), Instant::now());
            let (mut bucket, mut now, mut taken) = (Bucket::default(), begin, Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                match bucket.take(&rate, now) {
                    Ok(()) => taken.push(now),
                    Err(wait) => prop_assert!(bucket.clone().take(&rate, now + wait).is_ok()),
                }
            }
            for (at, from) in taken.iter().enumerate() {
                for (to, until) in taken.iter().enumerate().skip(at) {
                    let most = (*until - *from).as_secs_f64() * 1000.0 * f64::from(count) / per as f64 + f64::from(burst);
                    prop_assert!((to - at + 1) as f64 <= most + 0.001, "{} of {most}", to - at + 1);
                }
            }
        }
    }
}
