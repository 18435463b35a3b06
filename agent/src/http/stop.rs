//! Why an app's requests are not read on, and how the app gets an answer all the same: in the place of what is not read
//! hyper reads the end of a head, by which [`super::exchange`] is asked for the answer, as it is for every request.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderName;

use super::answer::Fault;
use super::framing::{Place, Unreadable};
use super::hop::BadRequest;

/// Marks the head that ends where reading stopped. An app that sends it itself gains nothing: it is looked for only
/// once there is a reason.
const MARK: HeaderName = HeaderName::from_static("weft-unreadable");
/// What hyper reads instead of what is not read: a request, the rest of one, or what no body can hold.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nweft-unreadable: 1\r\n\r\n";
const REST: &[u8] = b"weft-unreadable: 1\r\n\r\n";
const NO_BODY: &[u8] = b"\0\r\n\r\n";

/// Why an app's requests are not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// What comes is at fault.
    Unreadable(Unreadable),
    /// A head was not complete in its time.
    Late(Duration),
    /// The pod's budget is used up.
    Budget,
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Unreadable(unreadable) => BadRequest::from(unreadable).into(),
            Stop::Late(patience) => Self::Unfinished(patience),
            Stop::Budget => Self::Budget,
        }
    }
}

/// That reason, once there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopped(Arc<OnceLock<Stop>>);

impl Stopped {
    /// Nothing is read any more. Answers what is read in its stead there.
    pub(super) fn at(&self, place: Place, stop: Stop) -> &'static [u8] {
        let _ = self.0.set(stop);
        match place {
            Place::Between => REQUEST,
            Place::Head => REST,
            Place::Body => NO_BODY,
        }
    }

    /// The reason, if this request's head ends there.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<Stop> {
        self.any().filter(|_| headers.contains_key(MARK))
    }

    /// The reason, wherever that is.
    pub(super) fn any(&self) -> Option<Stop> {
        self.0.get().copied()
    }
}
