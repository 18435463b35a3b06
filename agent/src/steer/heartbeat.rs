//! What an agent does for its steering while nothing happens: it tells the hooks that it lives, and keeps the holder complete.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Shared, SteerError};
use crate::sys::clock;

/// How often the hooks are told that the agent lives; a third of what they take for death.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Begins to keep the holder complete, until steering is released.
pub(super) fn keep_holder(shared: &Arc<Shared>) {
    if shared.holder.is_some() {
        tokio::spawn(remind(Arc::downgrade(shared), shared.released.clone()));
    }
}

/// Tells the hooks that this agent lives, now and until steering is released; only the first call begins anything.
pub(super) fn start(shared: &Arc<Shared>) -> Result<(), SteerError> {
    if shared.beats.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    tokio::spawn(beat(Arc::downgrade(shared), shared.released.clone()));
    now(shared)
}

fn now(shared: &Shared) -> Result<(), SteerError> {
    shared.writable()?.update_config(|config| config.heartbeat = clock::monotonic_ns())
}

/// Tells the hooks that this agent lives, until it lets go or dies.
async fn beat(shared: Weak<Shared>, released: CancellationToken) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    while tick(&mut ticks, &released).await {
        let Some(shared) = shared.upgrade() else { return };
        if shared.deaf.load(Ordering::Relaxed) {
            continue;
        }
        match now(&shared) {
            Ok(()) | Err(SteerError::Released) => {}
            Err(error) => tracing::error!(%error, "the hooks cannot be told that the agent lives"),
        }
    }
}

/// Keeps the holder complete, and says once when there is none and once when there is one again.
async fn remind(shared: Weak<Shared>, released: CancellationToken) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    let mut answered = true;
    while tick(&mut ticks, &released).await {
        let Some(shared) = shared.upgrade() else { return };
        let Ok(reminded) = tokio::task::spawn_blocking(move || shared.remind_holder()).await else { return };
        match &reminded {
            Err(error) if answered => tracing::warn!(
                %error,
                "no holder keeps the listeners: while no agent runs, pods will be refused. Is `weft hold` running with the same socket?"
            ),
            Ok(()) if !answered => tracing::info!("the holder keeps the listeners again"),
            _ => {}
        }
        answered = reminded.is_ok();
    }
}

async fn tick(ticks: &mut tokio::time::Interval, released: &CancellationToken) -> bool {
    tokio::select! {
        () = released.cancelled() => false,
        _ = ticks.tick() => true,
    }
}
