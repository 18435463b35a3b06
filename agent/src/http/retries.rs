//! How often and when a request may be sent again: what its rule allows, within what no rule has to allow.

use std::time::Duration;

use http::StatusCode;
use weft_core::http::Retry;

/// How often a request is sent again because a connection was gone before it went: nobody has seen it then.
const UNSEEN_MAX: u32 = 3;
/// The time before the first retry where the rule does not say, and the most before any.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

/// The retries of one request.
pub(super) struct Retries<'r> {
    rule: Option<&'r Retry>,
    made: u32,
    unseen: u32,
}

impl<'r> Retries<'r> {
    pub(super) fn new(rule: Option<&'r Retry>) -> Self {
        Self { rule, made: 0, unseen: 0 }
    }

    /// Whether the rule allows another.
    pub(super) fn left(&self) -> bool {
        self.rule.is_some_and(|rule| self.made < rule.attempts)
    }

    /// Whether a response is to be had again.
    pub(super) fn wanted(&self, status: StatusCode) -> bool {
        self.left() && self.rule.is_some_and(|rule| rule.statuses.contains(&status))
    }

    /// A request that nobody has seen may go again.
    pub(super) fn unseen(&mut self) -> bool {
        self.unseen += 1;
        self.unseen <= UNSEEN_MAX
    }

    /// Makes one of those the rule allows; how long to wait before it. `random` is uniform over all of `u64`.
    pub(super) fn make(&mut self, random: u64) -> Duration {
        self.made += 1;
        let first = self.rule.and_then(|rule| rule.backoff).unwrap_or(BACKOFF.0);
        let most = BACKOFF.1.max(first);
        let full = first.saturating_mul(1 << (self.made - 1).min(10)).min(most);
        // Half of it for sure, the rest by chance: those that failed together do not come back together.
        full.div_f64(2.0) + full.div_f64(2.0).mul_f64(random as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_often_as_the_rule_says_and_later_each_time() {
        let rule = Retry { attempts: 4, statuses: vec![StatusCode::SERVICE_UNAVAILABLE], backoff: None };
        let mut retries = Retries::new(Some(&rule));
        assert!(retries.wanted(StatusCode::SERVICE_UNAVAILABLE) && !retries.wanted(StatusCode::BAD_GATEWAY));
        let waits: Vec<_> = (0..4).map(|_| retries.make(u64::MAX)).collect();
        assert_eq!(waits, [25, 50, 100, 200].map(Duration::from_millis));
        assert!(!retries.left() && !retries.wanted(StatusCode::SERVICE_UNAVAILABLE));
        let mut none = Retries::new(None);
        assert!(!none.left());
        assert_eq!((0..5).map(|_| none.unseen()).collect::<Vec<_>>(), [true, true, true, false, false]);
        let long = Retry { backoff: Some(Duration::from_secs(2)), ..rule };
        let least = Retries::new(Some(&long)).make(0);
        assert_eq!(least, Duration::from_secs(1));
    }
}
