//! Which rule takes a request, where several may: Gateway API's order of precedence.
//!
//! Among all rules of all routes of one kind for one port: an exact path, then a regular expression, then the longest prefix; then a condition
//! on the method; then the most conditions on headers, then on the query; then the older route, then the smaller name, then
//! the earlier rule. Of GRPCRoutes: the longest service, the longest method, the most headers. Gateway API leaves it
//! open where regular expressions stand; after prefixes, a rule for `/` would hide all of them. A condition of which only
//! a part is understood counts as that part, after those of the same rank that are understood whole.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use http::request::Parts;

use super::{Filters, HttpMatch, HttpRoute, HttpRouteId, HttpRule, PathMatch, TextMatch};
use crate::model::{BackendRef, Traffic};
use crate::snapshot::BranchFault;
use crate::traffic::RuleKey;

/// The rules for one service port and the clients they are meant for, in the order in which they are asked.
#[derive(Debug, Default, PartialEq)]
pub struct HttpRouter {
    candidates: Vec<Candidate>,
    /// Positions of those with an exact path, by it. They stand first.
    exact: HashMap<Arc<str>, Vec<usize>>,
    /// The first of the others.
    rest: usize,
}

#[derive(Debug, PartialEq)]
struct Candidate {
    rank: Rank,
    condition: HttpMatch,
    routed: Arc<Routed>,
}

/// A rule and what its references lead to.
#[derive(Debug, PartialEq)]
pub struct Routed {
    /// The route it is of, and its place there, from 0.
    pub id: RuleKey,
    /// The rule.
    pub rule: Arc<HttpRule>,
    /// Why all its requests are refused, if they are.
    pub refused: Option<Arc<str>>,
    /// Why the requests to each backend are refused, if they are, in the order of the rule's.
    faults: Vec<Option<BranchFault>>,
    /// Which mirrors can have copies, in the order of the rule's filters'.
    mirrors: Vec<bool>,
    /// The sum of the backends' weights.
    weights: u64,
    /// What TrafficPolicies set for the requests it takes.
    pub traffic: Option<Arc<Traffic>>,
}

/// The rule for a request, and which of its conditions was met.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The rule.
    pub routed: &'a Arc<Routed>,
    /// The condition.
    pub condition: &'a HttpMatch,
}

/// The backend for a request.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Target<'a> {
    /// Its place among the rule's.
    pub index: usize,
    /// The Service port.
    pub backend: &'a BackendRef,
    /// What is done to the requests that go there, besides the rule's filters.
    pub filters: &'a Filters,
}

/// Why a rule gives a request to nobody. Gateway API asks for status 500 for all of them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The rule asks for what cannot be done.
    #[error("a rule of {0} cannot be followed: {1}")]
    Unsupported(HttpRouteId, Arc<str>),
    /// The rule has no backends, or all have weight 0.
    #[error("a rule of {0} sends nowhere; give it backendRefs with a weight")]
    Nowhere(HttpRouteId),
    /// The share of a backend that is no Service.
    #[error("{0} refers to {1}, which nothing can be sent to; use a Service")]
    Kind(HttpRouteId, Arc<str>),
    /// The share of a backend that cannot have it.
    #[error("{route} refers to {} port {}: {fault}", backend.service, backend.port)]
    Backend {
        /// The route.
        route: HttpRouteId,
        /// The backend.
        backend: BackendRef,
        /// What is wrong with it.
        fault: BranchFault,
    },
}

impl Refusal {
    /// The reason as a metric label, in snake case.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unsupported(..) => "rule_unsupported",
            Self::Nowhere(_) => "all_weights_zero",
            Self::Kind(..) => "backend_kind",
            Self::Backend { fault, .. } => fault.label(),
        }
    }
}

/// Greater is asked first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    class: u8,
    length: usize,
    method_length: usize,
    method: bool,
    headers: usize,
    query: usize,
    whole: bool,
}

impl Rank {
    const EXACT: u8 = 2;

    fn of(condition: &HttpMatch) -> Self {
        let text = |text: &Option<TextMatch>| text.as_ref().map_or(0, TextMatch::length);
        let (class, length, method_length) = match &condition.path {
            PathMatch::Exact(path) => (Self::EXACT, path.len(), 0),
            PathMatch::Regex(pattern) => (1, pattern.text().len(), 0),
            PathMatch::Prefix(prefix) => (0, prefix.len(), 0),
            PathMatch::Grpc { service, method } => (0, text(service), text(method)),
        };
        let (headers, query) = (condition.headers.len(), condition.query.len());
        let (method, whole) = (condition.method.is_some(), !condition.unclear);
        Self { class, length, method_length, method, headers, query, whole }
    }
}

impl HttpRouter {
    /// The router of `routes`, which are all of one kind; `fault` says what is wrong with a backend of one of them, `traffic`
    /// what TrafficPolicies set for a rule, by its name, `clash` why a rule that could be followed is not, if so.
    #[must_use]
    pub fn new<'a>(
        routes: impl Iterator<Item = &'a Arc<HttpRoute>>,
        fault: impl Fn(&HttpRoute, &BackendRef) -> Option<BranchFault>,
        traffic: impl Fn(&HttpRouteId, Option<&str>) -> Option<Traffic>,
        clash: impl Fn(&HttpRule) -> Option<Arc<str>>,
    ) -> Self {
        let mut routes: Vec<_> = routes.collect();
        routes.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        let mut candidates = Vec::new();
        for route in routes {
            for (index, rule) in route.rules.iter().enumerate() {
                let traffic = traffic(&route.id, rule.name.as_deref()).map(Arc::new);
                let refused = rule.unsupported.clone().or_else(|| clash(rule));
                let routed = Arc::new(Routed { traffic, refused, ..Routed::new(route, index, rule, &fault) });
                candidates.extend(rule.matches.iter().map(|condition| Candidate {
                    rank: Rank::of(condition),
                    condition: condition.clone(),
                    routed: routed.clone(),
                }));
            }
        }
        // Stable: equals keep the order of age, name and place.
        candidates.sort_by(|a, b| Reverse(&a.rank).cmp(&Reverse(&b.rank)));
        let rest = candidates.partition_point(|candidate| candidate.rank.class == Rank::EXACT);
        let mut exact: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (at, candidate) in candidates[..rest].iter().enumerate() {
            if let PathMatch::Exact(path) = &candidate.condition.path {
                exact.entry(path.clone()).or_default().push(at);
            }
        }
        Self { candidates, exact, rest }
    }

    /// The rule that takes a request; `None` (404) where there is none.
    #[must_use]
    pub fn find(&self, request: &Parts) -> Option<Chosen<'_>> {
        let exact = self.exact.get(request.uri.path()).into_iter().flatten().map(|at| &self.candidates[*at]);
        let mut all = exact.chain(&self.candidates[self.rest..]);
        let found = all.find(|candidate| candidate.condition.fits(request))?;
        Some(Chosen { routed: &found.routed, condition: &found.condition })
    }

    /// Its rules, in the order in which they are asked, some more than once.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Routed>> {
        self.candidates.iter().map(|candidate| &candidate.routed)
    }
}

impl Routed {
    fn new(
        route: &HttpRoute,
        index: usize,
        rule: &Arc<HttpRule>,
        fault: impl Fn(&HttpRoute, &BackendRef) -> Option<BranchFault>,
    ) -> Self {
        let backends = rule.backends.iter();
        let shares = backends.clone().map(|backend| backend.backend.weight);
        let weights = shares.chain(rule.foreign.iter().map(|foreign| foreign.weight)).map(|w| u64::from(w.0)).sum();
        let faults = backends.map(|backend| fault(route, &backend.backend)).collect();
        let mirrors = rule.filters.mirrors.iter().map(|mirror| fault(route, &mirror.backend).is_none()).collect();
        let (id, rule) = ((route.id.clone(), index), rule.clone());
        Self { id, rule, refused: None, faults, mirrors, weights, traffic: None }
    }

    /// The backend for a request, by weight; `random` is uniform over all of `u64`.
    ///
    /// # Errors
    /// [`Refusal`] where the request goes to nobody.
    pub fn target(&self, random: u64) -> Result<Target<'_>, Refusal> {
        if let Some(why) = &self.refused {
            return Err(Refusal::Unsupported(self.id.0.clone(), why.clone()));
        }
        // Multiplied, not divided: the high half of the product is uniform below the sum.
        let mut left = ((u128::from(random) * u128::from(self.weights)) >> 64) as u64;
        for (index, (backend, fault)) in self.rule.backends.iter().zip(&self.faults).enumerate() {
            let weight = u64::from(backend.backend.weight.0);
            if left >= weight {
                left -= weight;
                continue;
            }
            let backend_ref = &backend.backend;
            return match fault {
                None => Ok(Target { index, backend: backend_ref, filters: &backend.filters }),
                Some(fault) => {
                    let (route, backend) = (self.id.0.clone(), backend_ref.clone());
                    Err(Refusal::Backend { route, backend, fault: *fault })
                }
            };
        }
        for foreign in &self.rule.foreign {
            let weight = u64::from(foreign.weight.0);
            if left < weight {
                return Err(Refusal::Kind(self.id.0.clone(), foreign.what.clone()));
            }
            left -= weight;
        }
        Err(Refusal::Nowhere(self.id.0.clone()))
    }

    /// The backends that requests may go to, whatever their weights: those who went there before may.
    pub fn targets(&self) -> impl Iterator<Item = Target<'_>> {
        let all = self.rule.backends.iter().zip(&self.faults).enumerate();
        let open = all.filter(|(_, (_, fault))| fault.is_none() && self.refused.is_none());
        open.map(|(index, (backend, _))| Target { index, backend: &backend.backend, filters: &backend.filters })
    }

    /// Who gets a copy of a request; `random` gives numbers uniform over all of `u64`.
    pub fn copies<'a>(&'a self, mut random: impl FnMut() -> u64 + 'a) -> impl Iterator<Item = &'a BackendRef> {
        let mirrors = self.rule.filters.mirrors.iter().zip(&self.mirrors);
        mirrors.filter(move |(mirror, there)| **there && mirror.takes(random())).map(|(mirror, _)| &mirror.backend)
    }
}
