//! What is learned of a pool's endpoints, by connections and by checks: who is ejected or unhealthy, and who returns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::member::Member;
use super::super::outlier::Outlier;
use super::super::{Checkable, lock};
use super::{Judging, Pool};
use crate::model::HealthCheck;

impl Pool {
    /// Who is eligible has changed.
    fn unsettle(&self) {
        self.stale.store(true, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection to `member` stood.
    pub(in super::super) fn connected(&self, member: &Member, judging: Judging, took: Duration, now: Instant) {
        match member.connected(judging.success_rate.as_ref(), took, now) {
            (true, _) => self.unsettle(),
            (false, true) => drop(self.changes.fetch_add(1, Ordering::Relaxed)),
            (false, false) => {}
        }
    }

    /// A connection that was not picked here failed at `address`.
    pub(in super::super) fn refused(&self, address: SocketAddr, now: Instant, jitter: u64) {
        let member = lock(&self.state).members.iter().find(|member| member.address == address).cloned();
        if let Some(member) = member {
            self.failed(&member, false, now, jitter);
        }
    }

    /// A connection to `member` failed. Ejections are counted under the pool's lock, so that two at once cannot both
    /// be the last one that is allowed.
    pub(in super::super) fn failed(&self, member: &Arc<Member>, probe: bool, now: Instant, jitter: u64) {
        let state = lock(&self.state);
        let spares = || state.whole.lane.spares(member);
        let news = |outlier: &mut Outlier| {
            let suspect = outlier.is_suspect();
            (outlier.failed(&state.settings.outlier, probe, now, jitter, spares), !suspect)
        };
        match member.outlier(news) {
            (true, _) => {
                member.ejected();
                self.unsettle();
            }
            (false, true) => drop(self.changes.fetch_add(1, Ordering::Relaxed)),
            (false, false) => {}
        }
    }

    /// An endpoint was checked; what it is from now on, if that is new.
    pub(in super::super) fn checked(
        &self,
        (address, uid): &Checkable,
        good: bool,
        settings: &HealthCheck,
        now: Instant,
    ) -> Option<bool> {
        let state = lock(&self.state);
        let member = state.members.iter().find(|member| member.address == *address && member.uid == *uid)?;
        let (changes, readmits) = member.checked(good, settings, now);
        if changes || readmits {
            self.unsettle();
        }
        changes.then_some(good)
    }

    /// Endpoints are not checked any more.
    pub(in super::super) fn unchecked(&self) {
        let unwell = lock(&self.state).members.iter().filter(|member| member.unchecked()).count();
        if unwell > 0 {
            self.unsettle();
        }
    }

    /// How many endpoints checks find unhealthy.
    pub(in super::super) fn unhealthy(&self) -> usize {
        lock(&self.state).members.iter().filter(|member| !member.is_healthy()).count()
    }

    /// A probe ended without saying anything.
    pub(in super::super) fn unprobe(&self, member: &Member) {
        member.outlier(|outlier| outlier.unprobe());
        self.stale.store(true, Ordering::Relaxed);
    }
}
