//! What a pool knows at the moment, behind its lock: its members, and the lanes they make.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::super::lane::Lane;
use super::super::member::Member;
use super::super::{Random, Settings};
use super::chooser::Chooser;
use super::{Ask, Chosen, Judging, Nothing};
use crate::model::Traffic;
use crate::snapshot::EndpointSet;

/// What is known of the endpoints, and who of them may be picked.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Those of all services, but for what is set for this one.
    pub(super) settings: Arc<Settings>,
    /// What they were made from.
    pub(super) tuned: Option<Arc<Traffic>>,
    pub(super) judging: Judging,
    /// The endpoints the members stand for, and the generation of the snapshot they came with.
    pub(super) adopted: Option<(Arc<EndpointSet>, u64)>,
    pub(super) members: Vec<Arc<Member>>,
    /// All of them.
    pub(super) whole: Chooser,
    /// Those the kernel does not send to directly, and the others' addresses it was made for; made when first asked for.
    pub(super) rest: Option<(Arc<[SocketAddr]>, Chooser)>,
    /// Turns given out since the beginning.
    turn: u64,
}

impl State {
    /// Of no endpoints yet.
    pub(super) fn of(settings: Arc<Settings>) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Replaces the endpoints. Who stays, the same pod at the same address, keeps what is known of it.
    pub(super) fn adopt(&mut self, set: &Arc<EndpointSet>, generation: u64, now: Instant) {
        let mut known: HashMap<_, _> = self.members.drain(..).map(|m| ((m.address, m.uid.clone()), m)).collect();
        let joined = self.adopted.is_some().then_some(now);
        let members = set.endpoints.iter().map(|endpoint| {
            known
                .remove(&(endpoint.address, endpoint.uid.clone()))
                .unwrap_or_else(|| Arc::new(Member::new(endpoint.address, endpoint.uid.clone(), joined)))
        });
        self.members = members.collect();
        self.adopted = Some((set.clone(), generation));
    }

    /// The members an older set lacks, or has as another pod.
    pub(super) fn unknown_to<'a>(&'a self, set: &'a EndpointSet) -> impl Iterator<Item = SocketAddr> + 'a {
        let known = |member: &Member| {
            let at = set.endpoints.binary_search_by(|endpoint| endpoint.address.cmp(&member.address));
            at.is_ok_and(|at| set.endpoints[at].uid == member.uid)
        };
        self.members.iter().filter(move |member| !known(member)).map(|member| member.address)
    }

    /// Sees to it that there is a lane of those not among `besides`.
    pub(super) fn set_besides(&mut self, besides: &Arc<[SocketAddr]>, now: Instant) {
        if self.rest.as_ref().is_some_and(|(held, _)| Arc::ptr_eq(held, besides)) {
            return;
        }
        let Some((set, _)) = &self.adopted else { return };
        let lane = Lane::new(set, &self.members, besides, &self.settings, now);
        self.rest = Some((besides.clone(), Chooser::of(lane)));
    }

    pub(super) fn choose(&mut self, ask: &Ask<'_>, random: Random<'_>) -> Result<Chosen, Nothing> {
        let Self { whole, rest, turn, .. } = self;
        let chooser = match (ask.besides, rest) {
            (Some(_), Some((_, rest))) => rest,
            _ => whole,
        };
        let member = match chooser.choose(ask, turn, &mut *random) {
            Some(member) => member,
            None => chooser.lane.fall_back(ask.tried, &mut *random).ok_or(Nothing::Exhausted)?,
        };
        Ok(Chosen::new(member, false, self.judging, random))
    }
}
