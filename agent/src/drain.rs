//! How the agent stops: no more accepts, what is open runs on until a deadline, then it is reset.
//!
//! Every connection's task runs inside the [`Drain`]'s tracker, so that stopping can wait for the last of them. It does
//! not decide when to stop; `app` does.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The agent's stopping state, cheap to clone; every clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stopped: CancellationToken,
    draining: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` as one of those [`Drain::finish`] waits for.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }

    /// The same, on another runtime.
    pub fn spawn_on<F>(&self, runtime: &Handle, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn_on(task, runtime);
    }

    /// Cancelled once the agent no longer accepts: tunnels are told to go away, connections run on.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when the accept loops are to end, before the tunnels drain.
    #[must_use]
    pub fn stopped(&self) -> CancellationToken {
        self.stopped.clone()
    }

    /// Tasks still running.
    #[must_use]
    pub fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Begins draining, waits up to `deadline` for what is open, then has `cut` end it. Returns how many were cut.
    pub async fn finish(&self, deadline: Duration, cut: impl FnOnce()) -> usize {
        self.stopped.cancel();
        self.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tasks.len();
        cut();
        // A cut connection only has to close its sockets; one that cannot must not keep the agent.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_is_open() {
        let drain = Drain::new();
        drain.spawn(tokio::time::sleep(Duration::from_secs(5)));
        assert_eq!(drain.finish(Duration::from_secs(10), || unreachable!()).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_at_the_deadline() {
        let drain = Drain::new();
        let kill = CancellationToken::new();
        let killed = kill.clone();
        drain.spawn(async move { killed.cancelled().await });
        drain.spawn(std::future::pending());
        let begun = tokio::time::Instant::now();
        assert_eq!(drain.finish(Duration::from_secs(10), || kill.cancel()).await, 2);
        assert!(begun.elapsed() <= Duration::from_secs(11));
    }
}
