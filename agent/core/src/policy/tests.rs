//! The indexed evaluator against one that looks at everything, and the rules people rely on by name.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use weft_abi::{AdmitSet, Port, PortKey, Slot};

use super::*;
use crate::model::{AuthorizationPolicy, Match, PeerAuthentication, PortMatch, Scope, Selector};
use crate::snapshot::{Delta, Resource};
use crate::testing::strategies::{ADDRESSES, authentication, authorization, identities, ports, workloads};
use crate::testing::{domain, ip, labels, object, pod, snapshot};

/// The same question, answered policy by policy straight from behaviour in words.
struct Naive<'a> {
    authorization: Vec<&'a AuthorizationPolicy>,
    authentication: Vec<&'a PeerAuthentication>,
}

impl<'a> Naive<'a> {
    /// The policies that select `w`; of two with one name the later, as the snapshot has it.
    fn new(all: &'a [Resource], w: &Workload) -> Self {
        let last =
            |r: &&Resource| all.iter().rfind(|other| other.key() == r.key()).is_some_and(|o| std::ptr::eq(o, *r));
        let mut held: Vec<&Resource> = all.iter().filter(last).collect();
        held.sort_by_key(|r| r.key());
        let mut naive = Self { authorization: Vec::new(), authentication: Vec::new() };
        for resource in held {
            match resource {
                Resource::AuthorizationPolicy(p) if p.name.namespace == w.name.namespace => match &p.scope {
                    Scope::Workloads(selector) if !selector.matches(&w.labels) => {}
                    _ => naive.authorization.push(p),
                },
                Resource::PeerAuthentication(p)
                    if p.name.namespace == w.name.namespace && p.selector.matches(&w.labels) =>
                {
                    naive.authentication.push(p);
                }
                _ => {}
            }
        }
        naive
    }

    fn strict(&self, port: u16) -> bool {
        type Level<'a> = &'a dyn Fn(&PeerAuthentication) -> Option<MtlsMode>;
        let levels: [Level<'_>; 4] = [
            &|p| p.ports.get(&port).copied().filter(|_| !p.selector.is_empty()),
            &|p| p.ports.get(&port).copied().filter(|_| p.selector.is_empty()),
            &|p| p.mode.filter(|_| !p.selector.is_empty()),
            &|p| p.mode.filter(|_| p.selector.is_empty()),
        ];
        for level in levels {
            let said: Vec<MtlsMode> = self.authentication.iter().filter_map(|p| level(p)).collect();
            if !said.is_empty() {
                return said.contains(&MtlsMode::Strict);
            }
        }
        false
    }

    fn matches(policy: &AuthorizationPolicy, facts: &ConnectionFacts<'_>) -> bool {
        fn both<T>(m: &Match<T>, hit: impl Fn(&T) -> bool) -> bool {
            (m.any.is_empty() || m.any.iter().filter(|v| hit(v)).count() > 0) && m.none.iter().all(|v| !hit(v))
        }
        let ours = facts.peer.filter(|p| p.trust_domain == domain());
        policy.valid
            && policy.rules.iter().any(|rule| {
                let from = rule.from.iter().any(|c| {
                    both(&c.principals, |v| facts.peer.is_some_and(|p| p == v))
                        && both(&c.namespaces, |v| ours.is_some_and(|p| p.namespace == *v))
                        && both(&c.service_accounts, |v| {
                            ours.is_some_and(|p| (&p.namespace, &p.service_account) == (&v.namespace, &v.name))
                        })
                        && both(&c.ip_blocks, |v| v.contains(&facts.source))
                });
                let to = rule.to.iter().any(|c| both(&c.ports, |v| *v == facts.port));
                (rule.from.is_empty() || from) && (rule.to.is_empty() || to)
            })
    }

    /// Allowed or why not, and the audited policies that would have refused.
    fn authorize(&self, facts: &ConnectionFacts<'_>) -> (Option<DenyReason>, Vec<ObjectName>) {
        if facts.peer.is_none() && self.strict(facts.port) {
            return (Some(DenyReason::StrictMtls), Vec::new());
        }
        let select = |audit: bool, action: Action| {
            self.authorization.iter().filter(move |p| p.audit == audit && p.valid && p.action == action)
        };
        let allowed = |audit: bool| select(audit, Action::Allow).any(|p| Self::matches(p, facts));
        let verdict = if self.authorization.iter().any(|p| !p.valid && !p.audit) {
            Some(DenyReason::InvalidPolicy)
        } else if select(false, Action::Deny).any(|p| Self::matches(p, facts)) {
            Some(DenyReason::DenyPolicy)
        } else if select(false, Action::Allow).next().is_some() && !allowed(false) {
            Some(DenyReason::NotAllowed)
        } else {
            None
        };
        let none_allows = !allowed(false) && !allowed(true);
        let audited = self.authorization.iter().filter(|p| p.audit).filter(|p| match (p.valid, p.action) {
            (false, _) => true,
            (true, Action::Deny) => Self::matches(p, facts),
            (true, Action::Allow) => none_allows,
        });
        (verdict, audited.map(|p| p.name.clone()).collect())
    }
}

fn policies() -> impl Strategy<Value = Vec<Resource>> {
    let any = prop_oneof![
        2 => authorization().prop_map(Resource::AuthorizationPolicy),
        1 => authentication().prop_map(Resource::PeerAuthentication),
    ];
    vec(any, 0..6)
}

fn reason(decision: &Decision) -> Option<DenyReason> {
    match &decision.verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny { reason, .. } => Some(*reason),
    }
}

fn peers() -> impl Strategy<Value = (Option<Identity>, IpAddr)> {
    (option::weighted(0.7, identities()), proptest::sample::select(ADDRESSES).prop_map(ip))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn authorize_agrees_with_a_naive_evaluator(all in policies(), w in workloads(), port in ports(), who in peers()) {
        let s = snapshot(all.clone());
        let facts = ConnectionFacts { destination: &w, port, peer: who.0.as_ref(), source: who.1 };
        let decision = authorize(&s, &facts);
        let (wanted, audited) = Naive::new(&all, &w).authorize(&facts);
        prop_assert_eq!(reason(&decision), wanted);
        prop_assert_eq!(decision.audited, audited);
    }

    /// What the kernel is told agrees with what user space would say.
    #[test]
    fn plaintext_modes_agree_with_authorize(all in policies(), w in workloads(), port in ports(), from in peers()) {
        let s = snapshot(all);
        let modes = plaintext_modes(&s, &w);
        let facts = ConnectionFacts { destination: &w, port, peer: None, source: from.1 };
        let decision = authorize(&s, &facts);
        match modes.ports.get(&port).unwrap_or(&modes.default) {
            PlaintextMode::Pass => prop_assert!(decision.is_allowed() && decision.audited.is_empty()),
            PlaintextMode::Refuse => prop_assert_eq!(reason(&decision), Some(DenyReason::StrictMtls)),
            PlaintextMode::Judge => prop_assert_ne!(reason(&decision), Some(DenyReason::StrictMtls)),
        }
    }

    /// The kernel's evaluator over the compiled sets comes to the verdicts user space comes to, for every pod of the node
    /// that connects to another; and what is not compiled is what only the proxy can do.
    #[test]
    fn kernel_and_user_space_agree(
        all in policies(), w in workloads(), sources in vec(workloads(), 1..6), port in ports(), step in 1..80_u32,
    ) {
        let s = snapshot(all.clone());
        let numbered: Vec<(u32, &Workload)> = (0..).step_by(step as usize).zip(&sources).collect();
        let Some(compiled) = Admissions::of(&s, numbered.iter().copied()).to(&w) else {
            let selecting = Naive::new(&all, &w).authorization;
            prop_assert!(selecting.iter().any(|policy| policy.audit), "{selecting:?}");
            return Ok(());
        };
        let set = |sources: &Sources| AdmitSet::from_words(*sources.words());
        let mut map: HashMap<PortKey, AdmitSet> =
            compiled.ports.iter().map(|(port, of)| (PortKey { cookie: 7, port: u64::from(*port) }, set(of))).collect();
        map.insert(PortKey { cookie: 7, port: 0 }, set(&compiled.default));
        for (number, pod) in numbered {
            let identity = s.identity_of(pod);
            for source in &pod.addresses {
                let facts = ConnectionFacts { destination: &w, port, peer: Some(&identity), source: *source };
                let decision = authorize(&s, &facts);
                let slot = Slot::new(number, &(*source).into());
                let kernel = weft_abi::decide::admits(|key| map.get(&key), 7, Port::new(port), slot);
                let alike = |ip: &&IpAddr| ip.is_ipv4() == source.is_ipv4();
                if pod.addresses.iter().filter(alike).count() > 1 {
                    // Such a pod is not enrolled; if it were, it would be let in nowhere that asks who it is.
                    prop_assert!(decision.is_allowed() || !kernel);
                    continue;
                }
                prop_assert_eq!(kernel, decision.is_allowed());
                prop_assert!(decision.audited.is_empty(), "an audit that nobody writes");
            }
        }
    }

    /// Judged in groups, and once for all destinations that the same policies select, it is what each source's judgement by
    /// itself comes to.
    #[test]
    fn what_is_judged_together_is_judged_as_one_by_one(
        all in policies(), destinations in vec(workloads(), 1..5), sources in vec(workloads(), 1..8),
    ) {
        let s = snapshot(all.clone());
        let numbered: Vec<(u32, &Workload)> = (0..).zip(&sources).collect();
        let mut admissions = Admissions::of(&s, numbered.iter().copied());
        for w in &destinations {
            let Some(together) = admissions.to(w) else {
                prop_assert!(Naive::new(&all, w).authorization.iter().any(|policy| policy.audit));
                continue;
            };
            if Naive::new(&all, w).authorization.is_empty() {
                prop_assert_eq!(together, Admission { default: Sources::ALL, ports: [].into() });
                continue;
            }
            for port in [8080, 8081, 9090] {
                let set = together.ports.get(&port).unwrap_or(&together.default);
                prop_assert_eq!(*set.words(), one_by_one(&s, w, &numbered, port));
            }
        }
    }

    /// A verdict that changed is always one that the changes concern.
    #[test]
    fn changes_concern_every_verdict_that_changed(
        before in policies(), after in policies(), gone in any::<proptest::sample::Index>(),
        old in workloads(), new in workloads(), port in ports(), who in peers(),
    ) {
        let first = snapshot(before.clone()).apply([Delta::Put(Resource::Workload(old.clone()))]);
        let mut deltas: Vec<Delta> = after.into_iter().map(Delta::Put).collect();
        if !before.is_empty() {
            deltas.push(Delta::Remove(before[gone.index(before.len())].key()));
        }
        deltas.push(Delta::Put(Resource::Workload(new.clone())));
        let second = first.apply(deltas);
        let found = changes(&first, &second);
        let judge = |s: &Snapshot| {
            let w = s.workload_named(&old.name)?;
            Some(authorize(s, &ConnectionFacts { destination: w, port, peer: who.0.as_ref(), source: who.1 }))
        };
        let current = second.workload_named(&old.name).unwrap();
        if judge(&first).map(|d| d.verdict) != judge(&second).map(|d| d.verdict) {
            prop_assert!(found.concerns(&old) && found.concerns(current));
        }
        prop_assert!(changes(&second, &second).is_empty());
    }
}

/// A set of sources as it is told the kernel, each of them judged by itself.
fn one_by_one(s: &Snapshot, destination: &Workload, sources: &[(u32, &Workload)], port: u16) -> [u64; 16] {
    let mut words = [0; 16];
    for (number, pod) in sources {
        let identity = s.identity_of(pod);
        for source in &pod.addresses {
            let alone = pod.addresses.iter().filter(|ip| ip.is_ipv4() == source.is_ipv4()).count() == 1;
            let facts = ConnectionFacts { destination, port, peer: Some(&identity), source: *source };
            if alone && authorize(s, &facts).is_allowed() {
                let place = number * 2 + u32::from(source.is_ipv6());
                words[place as usize / 64] |= 1 << (place % 64);
            }
        }
    }
    words
}

fn allow(named: &str, rules: Vec<AuthorizationRule>) -> AuthorizationPolicy {
    let scope = Scope::Namespace;
    AuthorizationPolicy { name: object(named), scope, action: Action::Allow, audit: false, rules, valid: true }
}

fn from(identity: &str) -> AuthorizationRule {
    let principals = Match { any: vec![identity.parse().unwrap()], none: vec![] };
    AuthorizationRule { from: vec![PeerMatch { principals, ..PeerMatch::default() }], to: vec![] }
}

fn judge(policies: Vec<AuthorizationPolicy>, peer: Option<&str>) -> Decision {
    let s = snapshot(policies.into_iter().map(Resource::AuthorizationPolicy));
    let peer: Option<Identity> = peer.map(|text| text.parse().unwrap());
    let w = pod("a/server", "10.0.0.1");
    let facts = ConnectionFacts { destination: &w, port: 8080, peer: peer.as_ref(), source: ip("10.0.0.2") };
    authorize(&s, &facts)
}

const CLIENT: &str = "spiffe://cluster.local/ns/a/sa/client";
const OTHER: &str = "spiffe://cluster.local/ns/a/sa/other";

#[test]
fn nothing_said_allows_and_an_allow_policy_restricts() {
    assert_eq!(judge(vec![], None).verdict, Verdict::Allow { policy: None });
    let policies = vec![allow("a/p", vec![from(CLIENT)])];
    assert_eq!(judge(policies.clone(), Some(CLIENT)).verdict, Verdict::Allow { policy: Some(object("a/p")) });
    for peer in [Some(OTHER), None] {
        assert_eq!(reason(&judge(policies.clone(), peer)), Some(DenyReason::NotAllowed), "{peer:?}");
    }
    assert_eq!(reason(&judge(vec![allow("a/none", vec![])], Some(CLIENT))), Some(DenyReason::NotAllowed));
}

#[test]
fn deny_wins() {
    let deny = AuthorizationPolicy { action: Action::Deny, ..allow("a/z", vec![from(CLIENT)]) };
    let decision = judge(vec![allow("a/p", vec![from(CLIENT)]), deny], Some(CLIENT));
    assert_eq!(decision.verdict, Verdict::Deny { reason: DenyReason::DenyPolicy, policy: Some(object("a/z")) });
}

#[test]
fn a_policy_that_was_not_understood_refuses_what_it_selects() {
    let broken = AuthorizationPolicy { valid: false, ..allow("a/broken", vec![from(CLIENT)]) };
    let refused = Verdict::Deny { reason: DenyReason::InvalidPolicy, policy: Some(object("a/broken")) };
    assert_eq!(judge(vec![broken.clone(), allow("a/p", vec![from(CLIENT)])], Some(CLIENT)).verdict, refused);
    let others = Scope::Workloads(Selector(labels(&[("app", "other")]).into_iter().collect()));
    assert!(judge(vec![AuthorizationPolicy { scope: others, ..broken }], Some(CLIENT)).is_allowed());
}

#[test]
fn audit_reports_and_refuses_nothing() {
    let audited = AuthorizationPolicy { audit: true, ..allow("a/p", vec![from(CLIENT)]) };
    let decision = judge(vec![audited.clone()], Some(OTHER));
    assert!(decision.is_allowed());
    assert_eq!(decision.audited, [object("a/p")]);
    assert!(judge(vec![audited], Some(CLIENT)).audited.is_empty());
}

#[test]
fn a_port_mode_wins_over_a_namespace_mode() {
    let w = pod("a/server", "10.0.0.1");
    let strict = PeerAuthentication {
        name: object("a/m"),
        selector: Selector::default(),
        mode: Some(MtlsMode::Strict),
        ports: [(9090, MtlsMode::Permissive)].into(),
    };
    let s = snapshot([Resource::PeerAuthentication(strict)]);
    assert_eq!(mtls_mode(&s, &w, 8080), MtlsMode::Strict);
    assert_eq!(mtls_mode(&s, &w, 9090), MtlsMode::Permissive);
    let modes = plaintext_modes(&s, &w);
    assert_eq!((modes.default, modes.ports), (PlaintextMode::Refuse, [(9090, PlaintextMode::Pass)].into()));
    let facts = ConnectionFacts { destination: &w, port: 8080, peer: None, source: ip("10.0.0.2") };
    let refused = Verdict::Deny { reason: DenyReason::StrictMtls, policy: Some(object("a/m")) };
    assert_eq!(authorize(&s, &facts).verdict, refused);
}

#[test]
fn a_selecting_mode_wins_over_a_namespace_mode_and_strict_among_equals() {
    let w = Workload { labels: labels(&[("app", "x")]), ..pod("a/server", "10.0.0.1") };
    let selecting = Selector(labels(&[("app", "x")]).into_iter().collect());
    let said = |named: &str, selector: &Selector, mode| {
        let (name, selector) = (object(named), selector.clone());
        Resource::PeerAuthentication(PeerAuthentication { name, selector, mode: Some(mode), ports: [].into() })
    };
    use MtlsMode::{Permissive, Strict};
    let s = snapshot([said("a/all", &Selector::default(), Strict), said("a/x", &selecting, Permissive)]);
    assert_eq!(mtls_mode(&s, &w, 8080), Permissive);
    assert_eq!(mtls_mode(&s, &pod("a/other", "10.0.0.2"), 8080), Strict);
    let s = s.apply([Delta::Put(said("a/xx", &selecting, Strict))]);
    assert_eq!(mtls_mode(&s, &w, 8080), Strict);
}

#[test]
fn a_deny_policy_for_one_port_leaves_the_others_to_the_kernel() {
    let rule = AuthorizationRule { from: vec![], to: vec![PortMatch { ports: Match { any: vec![22], none: vec![] } }] };
    let deny = AuthorizationPolicy { action: Action::Deny, ..allow("a/ssh", vec![rule]) };
    let modes = plaintext_modes(&snapshot([Resource::AuthorizationPolicy(deny)]), &pod("a/server", "10.0.0.1"));
    assert_eq!((modes.default, modes.ports), (PlaintextMode::Pass, [(22, PlaintextMode::Judge)].into()));
}
