//! How often and when a request may be sent again: what its rule and its service port's budget allow, within what no rule has
//! to allow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, StatusCode};
use weft_core::http::Retry;
use weft_core::model::RetryBudget;
use weft_core::traffic::Ledger;

use super::going::Again;
use super::upload::Upload;

/// How often a request is sent again because a connection was gone before it went: nobody has seen it then.
const UNSEEN_MAX: u32 = 3;
/// The time before the first retry where the rule does not say, and the most before any.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

/// The retries of one request.
pub(super) struct Retries<'r> {
    rule: Option<&'r Retry>,
    /// What bounds all retries of the service port; of a request that may be retried.
    budget: Option<(Arc<Ledger>, RetryBudget)>,
    made: u32,
    unseen: u32,
}

impl<'r> Retries<'r> {
    /// Counts the request. `budget` is asked for only where there may be a retry.
    pub(super) fn new(rule: Option<&'r Retry>, budget: impl FnOnce() -> (Arc<Ledger>, RetryBudget)) -> Self {
        let budget = rule.filter(|rule| rule.attempts > 0).map(|_| budget());
        if let Some((ledger, settings)) = &budget {
            ledger.request(settings, Instant::now());
        }
        Self { rule, budget, made: 0, unseen: 0 }
    }

    /// Whether the rule allows another.
    pub(super) fn left(&self) -> bool {
        self.rule.is_some_and(|rule| self.made < rule.attempts)
    }

    /// Whether a response with this head is to be had again.
    pub(super) fn wanted(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        self.left() && self.rule.is_some_and(|rule| rule.wants(status, fields))
    }

    /// The request to send again, if it can be and the budget allows it.
    pub(super) fn repeat(&mut self, again: Again) -> Option<Request<Upload>> {
        let allowed = self.left()
            && again.is_whole()
            && self.budget.as_ref().is_some_and(|(ledger, settings)| ledger.retry(settings, Instant::now()));
        if !allowed {
            again.release();
            return None;
        }
        Some(again.request())
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

    fn of(rule: Option<&Retry>) -> Retries<'_> {
        Retries::new(rule, || (Arc::default(), RetryBudget::default()))
    }

    #[test]
    fn as_often_as_the_rule_says_and_later_each_time() {
        let rule = Retry { attempts: 4, statuses: vec![StatusCode::SERVICE_UNAVAILABLE], backoff: None };
        let (mut retries, none) = (of(Some(&rule)), HeaderMap::new());
        assert!(retries.wanted(StatusCode::SERVICE_UNAVAILABLE, &none));
        assert!(!retries.wanted(StatusCode::BAD_GATEWAY, &none));
        let waits: Vec<_> = (0..4).map(|_| retries.make(u64::MAX)).collect();
        assert_eq!(waits, [25, 50, 100, 200].map(Duration::from_millis));
        assert!(!retries.left() && !retries.wanted(StatusCode::SERVICE_UNAVAILABLE, &none));
        let mut none = of(None);
        assert!(!none.left());
        assert_eq!((0..5).map(|_| none.unseen()).collect::<Vec<_>>(), [true, true, true, false, false]);
        let long = Retry { backoff: Some(Duration::from_secs(2)), ..rule };
        let least = of(Some(&long)).make(0);
        assert_eq!(least, Duration::from_secs(1));
    }
}
