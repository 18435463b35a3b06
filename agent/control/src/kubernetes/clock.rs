//! How far this node's clock is from the API server's, by the date of its answers.
//!
//! Certificates are valid from a moment to a moment, and whoever compares these with a clock that is off believes too little
//! or too much. Nothing is decided by it: it is said.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::DATE;

/// Clocks that are further apart are said to be: certificates are issued as valid since some minutes.
const TOLERATED: Duration = Duration::from_secs(60);
/// Nothing has been heard yet.
const UNKNOWN: i64 = i64::MIN;

/// The distance between two clocks, as it was when the API server last answered.
#[derive(Debug)]
pub(super) struct Clock(AtomicI64);

impl Default for Clock {
    fn default() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }
}

impl Clock {
    /// Takes note of an answer that was asked for and came at these times.
    pub(super) fn note(&self, headers: &HeaderMap, asked: SystemTime, answered: SystemTime) {
        let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        if let Some(date) = date {
            self.0.store(offset(date, asked, answered), Ordering::Relaxed);
        }
    }

    /// Milliseconds by which this node's clock is at least ahead; behind where negative.
    pub(super) fn milliseconds(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|ms| *ms != UNKNOWN)
    }

    /// What is wrong with it, in words that stay the same for a minute.
    pub(super) fn complaint(&self) -> Option<String> {
        let ms = self.milliseconds()?;
        let apart = Duration::from_millis(ms.unsigned_abs());
        (apart >= TOLERATED).then(|| {
            let (minutes, where_to) = (apart.as_secs() / 60, if ms > 0 { "ahead of" } else { "behind" });
            format!(
                "this node's clock is {minutes} min {where_to} the API server's: certificates count as not yet valid, or as \
                 expired, when they are not; see that the node follows NTP"
            )
        })
    }
}

/// The date was cut to the second, and true at some time between question and answer: of all distances that fit, the least.
fn offset(date: SystemTime, asked: SystemTime, answered: SystemTime) -> i64 {
    let ms = |at: SystemTime| i64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(0);
    let (least, most) = (ms(asked) - ms(date) - 1000, ms(answered) - ms(date));
    if least > 0 { least } else { most.min(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_distance_that_fits_is_taken() {
        let at = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
        for (date, asked, answered, expected) in [
            (5_000, 5_000, 5_100, 0),
            (5_000, 5_900, 6_100, 0),
            (5_000, 4_000, 7_000, 0),
            (5_000, 8_000, 8_200, 2_000),
            (5_000, 2_000, 2_200, -2_800),
        ] {
            assert_eq!(offset(at(date), at(asked), at(answered)), expected, "{date} {asked} {answered}");
        }
    }

    #[test]
    fn an_hour_is_said_and_a_second_is_not() {
        let clock = Clock::default();
        assert_eq!((clock.milliseconds(), clock.complaint()), (None, None));
        let now = SystemTime::now();
        let mut headers = HeaderMap::new();
        let mut note = |date: SystemTime| {
            headers.insert(DATE, httpdate::fmt_http_date(date).parse().unwrap());
            clock.note(&headers, now, now);
            clock.complaint()
        };
        assert_eq!(note(now + Duration::from_secs(30)), None);
        let behind = note(now + Duration::from_secs(3602)).unwrap();
        assert!(behind.contains("60 min behind"), "{behind}");
        let ahead = note(now - Duration::from_secs(3602)).unwrap();
        assert!(ahead.contains("60 min ahead of"), "{ahead}");
    }
}
