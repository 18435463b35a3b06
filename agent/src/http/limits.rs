//! The times by which a request must have been answered, as its rule has them.

use std::pin::Pin;
use std::time::{Duration, Instant};

use super::answer::Fault;
use super::routing::Routing;

/// The times by which a request must have been answered.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The request's end, and the limit that says so.
    pub(super) whole: Option<(Instant, Duration)>,
    each: Option<Duration>,
}

impl Limits {
    pub(super) fn of(routing: &Routing, begun: Instant) -> Self {
        let timeouts = routing.timeouts();
        Self { whole: timeouts.request.map(|limit| (begun + limit, limit)), each: timeouts.backend_request }
    }

    /// When a try that begins now must be over, and the limit that says so.
    pub(super) fn of_try(&self) -> Option<(Instant, Duration)> {
        let each = self.each.map(|limit| (Instant::now() + limit, limit));
        [self.whole, each].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

/// Waits for `future` until then. It is pinned where it is made: taken by value it would be there twice, and be copied.
///
/// # Errors
/// [`Fault::Timeout`] when the time is over.
pub(super) async fn within<F: Future>(
    limit: Option<(Instant, Duration)>,
    future: Pin<&mut F>,
) -> Result<F::Output, Fault> {
    match limit {
        None => Ok(future.await),
        Some((at, limit)) => tokio::time::timeout_at(at.into(), future).await.map_err(|_| Fault::Timeout(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    #[tokio::test(start_paused = true)]
    async fn time_is_over_when_it_is_said_to_be() {
        let limit = Duration::from_secs(2);
        let soon = Some((tokio::time::Instant::now().into_std() + limit, limit));
        let one = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        };
        assert!(matches!(within(soon, pin!(one())).await, Ok(7)));
        assert!(matches!(within(None, pin!(one())).await, Ok(7)));
        let never = within(soon, pin!(std::future::pending::<()>())).await;
        assert!(matches!(never, Err(Fault::Timeout(said)) if said == limit), "after {limit:?}");
    }

    #[test]
    fn what_is_waited_for_is_held_once() {
        let large = async {
            let held = [0_u8; 4096];
            tokio::task::yield_now().await;
            held.len()
        };
        let large = pin!(large);
        assert!(size_of_val(&within(None, large)) < 512);
    }
}
