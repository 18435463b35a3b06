//! What becomes of a request whose try went wrong: it is sent again if nobody has seen it, or if its rule and its service port's
//! budget allow that; else the app is told.

use std::time::Instant;

use http::{Request, Response};
use weft_core::balance::Pick;

use super::answer::Fault;
use super::exchange::Ended;
use super::going::Again;
use super::retries::Retries;
use super::upload::Upload;
use super::wire::{Lent, Unsent};

/// A request that is sent again.
pub(super) enum Next {
    /// Nobody has seen it.
    AtOnce(Request<Upload>),
    /// It is one of the retries its rule allows.
    Later(Request<Upload>),
}

/// What to send again after a response, if it is one that the rule wants to be had again.
pub(super) fn once_more<B>(
    response: &Response<B>,
    again: Option<Again>,
    retries: &mut Retries<'_>,
) -> Option<Request<Upload>> {
    let again = again?;
    if retries.wanted(response.status(), response.headers()) {
        return retries.repeat(again);
    }
    again.release();
    None
}

/// What to send again after a failure, if anything.
pub(super) fn after(
    unsent: Unsent,
    lent: &Lent,
    mut pick: Pick,
    again: Option<Again>,
    retries: &mut Retries<'_>,
) -> Result<Next, Ended> {
    let Unsent { request, error } = unsent;
    tracing::debug!(endpoint = %pick.target.address, %error, "a request was not answered");
    let (reset, unseen) = (reset_reason(&error), retries.unseen());
    let refused = reset == Some(h2::Reason::REFUSED_STREAM) || is_left_out(&error);
    let idempotent = again.as_ref().is_some_and(|again| again.is_whole() && (refused || again.is_idempotent()));
    match (request, again) {
        (Some(request), _) if unseen => return Ok(Next::AtOnce(*request)),
        // An endpoint that resets the stream has seen the request, unless it says otherwise: its connection is not gone.
        (None, Some(again)) if unseen && idempotent && (refused || (reset.is_none() && lent.is_used())) => {
            return Ok(Next::AtOnce(again.request()));
        }
        (_, Some(again)) if retries.left() => {
            if let Some(request) = retries.repeat(again) {
                pick.failed(Instant::now());
                return Ok(Next::Later(request));
            }
        }
        _ => {}
    }
    if !lent.is_used() {
        pick.failed(Instant::now());
    }
    match (reset, lent) {
        (Some(_), Lent::Http2(_)) => Err(Ended::Reset(error)),
        _ => Err(Fault::Upstream(error).into()),
    }
}

/// What of HTTP/2 an error comes from.
fn http2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// The code of an HTTP/2 stream's reset, if that is what happened.
fn reset_reason(error: &hyper::Error) -> Option<h2::Reason> {
    http2_error(error).filter(|error| error.is_reset() && error.is_remote())?.reason()
}

/// Whether the peer's GOAWAY says that it has not looked at the request: h2 gives this error to streams beyond the last one it
/// names, and to those that came too late to be sent (RFC 9113, 6.8). Others go on.
fn is_left_out(error: &hyper::Error) -> bool {
    http2_error(error).is_some_and(|error| error.is_go_away() && error.is_remote())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    #[tokio::test]
    async fn what_a_server_that_goes_away_has_not_looked_at_is_told_apart() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut sender, connection) =
            http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        let mut server = h2::server::handshake(far).await.unwrap();
        let request = || Request::get("http://a/").body(Empty::new()).unwrap();
        let seen = tokio::spawn(sender.send_request(request()));
        let (_stream, respond) = server.accept().await.unwrap().unwrap();
        // Sent before the GOAWAY has come, and never read.
        let unseen = tokio::spawn(sender.send_request(request()));
        tokio::task::yield_now().await;
        server.abrupt_shutdown(h2::Reason::NO_ERROR);
        assert!(server.accept().await.is_none());
        let unseen = unseen.await.unwrap().unwrap_err();
        assert!(is_left_out(&unseen), "{unseen:?}");
        drop((respond, server));
        let seen = seen.await.unwrap().unwrap_err();
        assert!(!is_left_out(&seen), "nobody knows what was done: {seen:?}");
    }
}
