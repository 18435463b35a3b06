//! After a 101, or a CONNECT that was accepted: what follows is no HTTP any more, and carried byte by byte.

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;

use super::held::Held;

/// Joins the two ends once both have switched, until both have finished, one is lost, or `kill` is cancelled. What the
/// request holds is held to the end, and what is held for the app's connection.
pub(super) async fn relay(
    near: OnUpgrade,
    far: OnUpgrade,
    mut held: Box<Held>,
    kill: CancellationToken,
    _app: impl Send,
) {
    let switched = async { tokio::try_join!(near, far) };
    let joined = tokio::select! {
        biased;
        () = kill.cancelled() => return held.broke("killed", &"a change of policy, or the end of the drain"),
        switched = switched => switched,
    };
    match joined {
        Ok((near, far)) => {
            let outcome = tokio::select! {
                biased;
                () = kill.cancelled() => return held.broke("killed", &"a change of policy, or the end of the drain"),
                outcome = copy(near, far) => outcome,
            };
            match outcome {
                Ok((sent, received)) => {
                    held.carried(sent, received);
                    held.ended();
                }
                Err(error) => held.broke("upstream_reset", &error),
            }
        }
        Err(error) => held.broke("upstream_reset", &error),
    }
}

async fn copy(near: Upgraded, far: Upgraded) -> std::io::Result<(u64, u64)> {
    copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await
}
