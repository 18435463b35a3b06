//! Connections on which nothing moves any more: ended, where a TrafficPolicy says after how long.

use std::sync::Arc;
use std::time::Duration;

use crate::relay::Flow;

/// Looks in this many parts of the time.
const LOOKS: u32 = 4;

/// Ends a connection once no byte has moved for `limit` (and up to a quarter more). Ends with it, too.
pub fn watch(flow: &Arc<Flow>, limit: Duration) {
    let (flow, each) = (Arc::downgrade(flow), (limit / LOOKS).max(Duration::from_millis(10)));
    tokio::spawn(async move {
        let (mut before, mut still) = ((0, 0), 0);
        while still < LOOKS {
            tokio::time::sleep(each).await;
            let Some(flow) = flow.upgrade() else { return };
            let now = (flow.traffic.sent(), flow.traffic.received());
            still = if now == before { still + 1 } else { 0 };
            before = now;
            if still == LOOKS {
                tracing::debug!(?limit, "a connection on which nothing moves is ended");
                flow.kill.end();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_moves_stays_and_who_does_not_is_ended() {
        let flow = Arc::new(Flow::default());
        watch(&flow, Duration::from_secs(8));
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            flow.traffic.count_received(1);
            assert!(!flow.kill.is_ended());
        }
        let begun = tokio::time::Instant::now();
        flow.kill.ended().await;
        assert!((8..=10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}
