//! The word that ends a connection from outside: policy refuses it now, its pod is gone, or the drain is over.

use std::future::poll_fn;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use tokio_util::sync::CancellationToken;

/// Said once, heard by the one task that carries the connection. A fifth of a cancellation token, of which every connection
/// would have its own.
#[derive(Debug, Default)]
pub struct Kill {
    said: AtomicBool,
    listener: AtomicWaker,
    many: OnceLock<CancellationToken>,
}

impl Kill {
    /// Ends the connection.
    pub fn end(&self) {
        self.said.store(true, Ordering::SeqCst);
        self.listener.wake();
        if let Some(many) = self.many.get() {
            many.cancel();
        }
    }

    /// For a connection that several tasks carry: cancelled when it is ended.
    pub fn token(&self) -> CancellationToken {
        let many = self.many.get_or_init(CancellationToken::new).clone();
        // Ended between the two, it would not have been cancelled.
        if self.is_ended() {
            many.cancel();
        }
        many
    }

    /// Whether it has been ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.said.load(Ordering::SeqCst)
    }

    /// Waits until it is ended. One task may wait at a time.
    pub async fn ended(&self) {
        poll_fn(|cx| {
            if self.is_ended() {
                return Poll::Ready(());
            }
            self.listener.register(cx.waker());
            // Said between the two, it would not have woken anybody.
            if self.is_ended() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_waits_and_who_comes_later_both_hear_it() {
        let kill = Arc::new(Kill::default());
        let waiting = tokio::spawn({
            let kill = Arc::clone(&kill);
            async move { kill.ended().await }
        });
        tokio::task::yield_now().await;
        assert!(!kill.is_ended() && !waiting.is_finished());
        kill.end();
        waiting.await.unwrap();
        kill.ended().await;
    }

    #[test]
    fn tokens_hear_it_whenever_they_were_made() {
        let kill = Kill::default();
        let early = kill.token();
        assert!(!early.is_cancelled());
        kill.end();
        assert!(early.is_cancelled() && kill.token().is_cancelled());
        let kill = Kill::default();
        kill.end();
        assert!(kill.token().is_cancelled());
    }
}
