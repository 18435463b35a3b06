//! The accept loop of a pod's listener, the same for both directions.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How long to wait before accepting again when the process is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Why an accept loop ended.
#[derive(Debug)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The listener no longer accepts. A pod that holds NET_ADMIN can destroy it; every accept then fails with EINVAL,
    /// for ever, and the only remedy is another listener.
    Lost(io::Error),
}

/// Accepts until `stop` is cancelled or the listener is lost, handing each connection to `serve`.
///
/// Told to stop, it first takes what the kernel has already queued: those clients have been told they are connected.
pub async fn accept(listener: &TcpListener, stop: &CancellationToken, serve: impl Fn(TcpStream, SocketAddr)) -> Ended {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => {
                take_queued(listener, &serve);
                return Ended::Stopped;
            }
        };
        match accepted {
            Ok((stream, peer)) => serve(stream, peer),
            Err(error) if exhausted(&error) => {
                tracing::warn!(%error, "cannot accept: raise the agent's open-file limit (LimitNOFILE) or its memory");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            Err(error) if lost(&error) => return Ended::Lost(error),
            // ECONNABORTED and the like concern one connection that is gone already.
            Err(error) => tracing::debug!(%error, "a connection ended before it was accepted"),
        }
    }
}

/// Accepts until the queue is empty, by the socket itself: tokio may not have heard of the last arrivals yet.
fn take_queued(listener: &TcpListener, serve: &impl Fn(TcpStream, SocketAddr)) {
    let socket = socket2::SockRef::from(listener);
    while let Ok((stream, peer)) = socket.accept() {
        let Some(peer) = peer.as_socket() else { continue };
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream.into())
        {
            serve(stream, peer);
        }
    }
}

fn exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn lost(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn takes_what_is_queued_before_it_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let (stop, served) = (CancellationToken::new(), AtomicUsize::new(0));
        stop.cancel();
        let serve = |_, _| {
            served.fetch_add(1, Ordering::Relaxed);
        };
        assert!(matches!(accept(&listener, &stop, serve).await, Ended::Stopped));
        assert_eq!(served.load(Ordering::Relaxed), 2);
    }
}
