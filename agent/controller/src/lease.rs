//! Which replica writes: the one that holds the Lease `weft-controller` (`coordination.k8s.io`), by the rules and times of
//! client-go's leader election.
//!
//! Whoever holds it writes only until [`Term::may_write`] says otherwise, which is well before another may take it:
//! counted from when a renewal was *sent*, [`RENEW_DEADLINE`] after which no write begins, and no write lasts longer than
//! [`WRITE_LIMIT`]. Clocks of machines are not compared; each replica counts from when it saw the Lease change.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use prometheus_client::metrics::gauge::Gauge;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::parts::Common;

/// The Lease's name.
const NAME: &str = "weft-controller";
/// How long others wait after a renewal they saw before they take the Lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long the holder goes on without a renewal.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between attempts to take or renew it; when it is another's, up to [`JITTER`] longer.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// client-go's jitter factor.
const JITTER: f64 = 1.2;
/// The longest a write may take: less than what lies between the two above.
pub(crate) const WRITE_LIMIT: Duration = Duration::from_secs(4);

/// Until when this replica may write; `None` while another may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Term(Option<Instant>);

impl Term {
    /// Whether this replica holds the Lease, as far as it knows.
    pub(crate) fn holds(self) -> bool {
        self.0.is_some()
    }

    /// A term that lasts until then.
    #[cfg(test)]
    pub(crate) fn until(moment: Instant) -> Self {
        Self(Some(moment))
    }

    /// Whether a write may begin now. It has to be given up after [`WRITE_LIMIT`].
    pub(crate) fn may_write(self) -> bool {
        self.0.is_some_and(|until| Instant::now() < until)
    }
}

/// What to do about a Lease.
#[derive(Clone, PartialEq, Debug)]
enum Step {
    /// Write this, to have it or to keep it.
    Take(LeaseSpec),
    /// It is another's.
    Wait,
}

/// What one replica knows of the Lease.
#[derive(Debug)]
struct Election {
    identity: String,
    /// The Lease as it was last seen, and when it was first seen so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    fn new(identity: String) -> Self {
        Self { identity, seen: None }
    }

    /// What to do about the Lease, which is now `found`.
    fn decide(&mut self, found: Option<&LeaseSpec>, now: Instant, clock: Timestamp) -> Step {
        let renewed = |acquired, transitions| {
            Step::Take(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
                acquire_time: acquired,
                renew_time: Some(MicroTime(clock)),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            })
        };
        let Some(found) = found else { return renewed(Some(MicroTime(clock)), 0) };
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != found) {
            self.seen = Some((found.clone(), now));
        }
        let transitions = found.lease_transitions.unwrap_or_default();
        let holder = found.holder_identity.as_deref().unwrap_or_default();
        if holder == self.identity {
            return renewed(found.acquire_time.clone(), transitions);
        }
        let lasts = found.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = lasts.map_or(LEASE_DURATION, Duration::from_secs);
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if !holder.is_empty() && now < since + lasts {
            return Step::Wait;
        }
        renewed(Some(MicroTime(clock)), transitions.saturating_add(1))
    }
}

/// Takes part in the election until told to stop, and says when this replica is the one that writes. When it stops, the
/// Lease is another's at once.
pub(crate) async fn run(common: Common, term: watch::Sender<Term>) -> Result<(), String> {
    let leader = Gauge::<i64>::default();
    common.telemetry.register(|registry| {
        registry.register("weft_controller_leader", "1 on the replica that holds the Lease and writes", leader.clone());
    });
    let api = Api::<Lease>::namespaced(common.client.clone(), &common.settings.namespace);
    // A restarted container has its predecessor's name, and must not take what that one may still be writing under.
    let identity = format!("{}_{:08x}", common.settings.name, rand::rng().random::<u32>());
    let mut election = Election::new(identity);
    let mut said = None;
    loop {
        let began = Instant::now();
        let attempt = tokio::time::timeout(WRITE_LIMIT, campaign(&api, &mut election));
        let Some(outcome) = common.shutdown.run_until_cancelled(attempt).await else { break };
        let held = term.borrow().0;
        let next = match outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", WRITE_LIMIT.as_secs()))) {
            Ok(true) => Some(began + RENEW_DEADLINE),
            Ok(false) => None,
            Err(reason) => {
                if said.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "the Lease cannot be read or written");
                    said = Some(reason);
                }
                held.filter(|until| Instant::now() < *until)
            }
        };
        if next.is_some() != held.is_some() {
            let known = next.map_or("another replica writes, or none", |_| "this replica writes");
            tracing::info!(identity = election.identity, "the Lease has changed hands: {known}");
        }
        leader.set(next.is_some().into());
        term.send_if_modified(|term| std::mem::replace(&mut term.0, next) != next);
        let pause = match next {
            Some(_) => RETRY_PERIOD,
            None => RETRY_PERIOD.mul_f64(rand::rng().random_range(1.0..1.0 + JITTER)),
        };
        if common.shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    if term.send_replace(Term::default()).holds() {
        let released = tokio::time::timeout(WRITE_LIMIT, release(&api, &election.identity)).await;
        tracing::info!(done = matches!(released, Ok(Ok(()))), "the Lease is given up");
    }
    Ok(())
}

/// Takes or renews the Lease; whether this replica has it now.
async fn campaign(api: &Api<Lease>, election: &mut Election) -> Result<bool, String> {
    let text = |error: kube::Error| error.to_string();
    let found = api.get_opt(NAME).await.map_err(text)?;
    let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
    let Step::Take(spec) = election.decide(spec.as_ref(), Instant::now(), Timestamp::now()) else { return Ok(false) };
    let written = match found {
        Some(lease) => api.replace(NAME, &PostParams::default(), &Lease { spec: Some(spec), ..lease }).await,
        None => {
            let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
        }
    };
    match written {
        Ok(lease) => {
            election.seen = lease.spec.map(|spec| (spec, Instant::now()));
            Ok(true)
        }
        // What the holder's word is worth until the next attempt, the one before says.
        Err(kube::Error::Api(status)) if status.code == 409 => Err("another wrote it at the same moment".into()),
        Err(error) => Err(text(error)),
    }
}

/// Leaves the Lease to whoever comes first.
async fn release(api: &Api<Lease>, identity: &str) -> Result<(), kube::Error> {
    let mut lease = api.get(NAME).await?;
    let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(identity)) else {
        return Ok(());
    };
    spec.holder_identity = None;
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(step: Step) -> LeaseSpec {
        match step {
            Step::Take(spec) => spec,
            Step::Wait => panic!("it waits"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_left_alone_until_its_time_is_over_by_the_own_clock() {
        let (mut one, mut two) = (Election::new("one".into()), Election::new("two".into()));
        let clock = Timestamp::UNIX_EPOCH;
        let start = Instant::now();
        let held = taken(one.decide(None, start, clock));
        assert_eq!(held.lease_duration_seconds, Some(15));
        assert_eq!(two.decide(Some(&held), start, clock), Step::Wait);
        let seconds = Duration::from_secs;
        assert_eq!(two.decide(Some(&held), start + seconds(14), clock), Step::Wait);
        // A renewal: its time begins anew when it is seen, whatever the holder's clock says.
        let renewed = taken(one.decide(Some(&held), start + seconds(14), Timestamp::from_second(5).unwrap()));
        assert_eq!((renewed.acquire_time.clone(), renewed.lease_transitions), (held.acquire_time, Some(0)));
        assert_eq!(two.decide(Some(&renewed), start + seconds(16), clock), Step::Wait);
        assert_eq!(two.decide(Some(&renewed), start + seconds(30), clock), Step::Wait);
        let stolen = taken(two.decide(Some(&renewed), start + seconds(31), clock));
        assert_eq!((stolen.holder_identity.as_deref(), stolen.lease_transitions), (Some("two"), Some(1)));
        assert_eq!(one.decide(Some(&stolen), start + seconds(31), clock), Step::Wait);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_given_up_is_free_at_once() {
        let mut two = Election::new("two".into());
        let free = LeaseSpec { holder_identity: None, lease_transitions: Some(3), ..LeaseSpec::default() };
        let step = two.decide(Some(&free), Instant::now(), Timestamp::UNIX_EPOCH);
        assert_eq!(taken(step).lease_transitions, Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_writes_when_another_may() {
        let begun = Instant::now();
        let term = Term(Some(begun + RENEW_DEADLINE));
        assert!(term.may_write() && !Term::default().may_write());
        tokio::time::advance(RENEW_DEADLINE).await;
        assert!(!term.may_write());
        // The last write that may begin is over before another replica takes the Lease.
        assert!(RENEW_DEADLINE + WRITE_LIMIT < LEASE_DURATION);
    }
}
