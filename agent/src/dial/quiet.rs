//! Connections on which nothing moves any more: ended, where a TrafficPolicy says after how long.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::relay::Traffic;

/// Looks in this many parts of the time.
const LOOKS: u32 = 4;

/// Cancels `kill` once no byte has moved for `limit` (and up to a quarter more). Ends with the connection.
pub fn watch(traffic: &Arc<Traffic>, kill: CancellationToken, limit: Duration) {
    let (traffic, each) = (Arc::downgrade(traffic), (limit / LOOKS).max(Duration::from_millis(10)));
    tokio::spawn(async move {
        let (mut before, mut still) = ((0, 0), 0);
        while still < LOOKS {
            tokio::time::sleep(each).await;
            let Some(traffic) = traffic.upgrade() else { return };
            let now = (traffic.sent(), traffic.received());
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
        tracing::debug!(?limit, "a connection on which nothing moves is ended");
        kill.cancel();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_moves_stays_and_who_does_not_is_ended() {
        let (traffic, kill) = (Arc::new(Traffic::default()), CancellationToken::new());
        watch(&traffic, kill.clone(), Duration::from_secs(8));
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            traffic.count_received(1);
            assert!(!kill.is_cancelled());
        }
        let begun = tokio::time::Instant::now();
        kill.cancelled().await;
        assert!((8..=10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}
