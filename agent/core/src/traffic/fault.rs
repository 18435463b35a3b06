//! What goes wrong on purpose with a request.

use std::time::Duration;

use http::StatusCode;

use crate::model::Fault;

impl Fault {
    /// How long a request waits, and what it is answered if it is not sent. Each number of `random` is uniform over all of
    /// `u64`, and one of the two falls on a request apart from the other.
    #[must_use]
    pub fn befalls(&self, random: [u64; 2]) -> (Option<Duration>, Option<StatusCode>) {
        let among = |percent: u32, random: u64| random % 100 < u64::from(percent);
        let delay = self.delay.filter(|(percent, _)| among(*percent, random[0])).map(|(_, delay)| delay);
        let abort = self.abort.filter(|(percent, _)| among(*percent, random[1])).map(|(_, status)| status);
        (delay, abort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_it_says() {
        let fault = Fault { delay: Some((30, Duration::from_secs(1))), abort: Some((100, StatusCode::BAD_GATEWAY)) };
        let delayed = (0..1000).filter(|random| fault.befalls([*random, 0]).0.is_some()).count();
        assert_eq!((delayed, fault.befalls([99, 99])), (300, (None, Some(StatusCode::BAD_GATEWAY))));
        assert_eq!(Fault::default().befalls([0, 0]), (None, None));
    }
}
