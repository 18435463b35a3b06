//! The kernel's draw and the proxy's choice together, and everything that is to stay off the fast path.

use std::collections::BTreeMap as Map;

use super::*;
use crate::balance::Request;
use crate::model::{Action, AuthorizationPolicy, AuthorizationRule, Name, Namespace, Scope, Weight, Workload};
use crate::snapshot::{Delta, Resource};
use crate::testing::{at, balanced_by, ip, key, labels, live, object, pod, route, seeded, service, slice, snapshot};

/// `a/s:80` at 10.9.0.1 with endpoints of these weights; the first `here` are on this node, live and numbered.
fn mesh(weights: &[u32], here: usize) -> (Snapshot, Vec<Local>) {
    let address = |n: usize| format!("10.0.0.{}", n + 1);
    let workload = |(n, weight): (usize, &u32)| Workload {
        weight: Weight(*weight),
        node: if n < here { "n1".into() } else { "n2".into() },
        ..pod(&format!("a/p{n}"), &address(n))
    };
    let pods: Vec<Workload> = weights.iter().enumerate().map(workload).collect();
    let addresses: Vec<String> = (0..weights.len()).map(address).collect();
    let listed: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let names: Vec<String> = (0..here).map(|n| format!("a/p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let snapshot = snapshot(pods.iter().cloned().map(Resource::Workload)).apply(
        [
            Resource::Service(service("a/s", "10.9.0.1", 80)),
            Resource::EndpointSlice(slice("a/s", &listed)),
            Resource::Liveness(live(&names)),
        ]
        .map(Delta::Put),
    );
    let locals = (0..here).map(|n| Local {
        cookie: 100 + n as u64,
        number: Some(n as u32),
        workload: snapshot.workload(&format!("a/p{n}")).unwrap().clone(),
    });
    let locals = locals.collect();
    (snapshot, locals)
}

fn planned(snapshot: &Snapshot, locals: &[Local]) -> SameNode {
    same_node(snapshot, locals, &Balancers::new(), 16, Instant::now())
}

fn put(snapshot: &Snapshot, resource: Resource) -> Snapshot {
    snapshot.apply([Delta::Put(resource)])
}

/// Makes connections as the hooks and the proxy do together; yields how many each endpoint got.
fn connect(snapshot: &Snapshot, locals: &[Local], count: u32, failing: Option<SocketAddr>) -> Map<SocketAddr, u32> {
    let balancers = Balancers::new();
    let now = Instant::now();
    let mut random = seeded(11);
    let mut counts = Map::new();
    let mut plan = same_node(snapshot, locals, &balancers, 16, now);
    let mut seen = balancers.changes();
    for turn in 0..count {
        if balancers.changes() != seen {
            seen = balancers.changes();
            plan = same_node(snapshot, locals, &balancers, 16, now);
        }
        let frontend = plan.frontends.get(&at("10.9.0.1:80"));
        let drawn = frontend.and_then(|frontend| {
            let number = if frontend.in_turns { turn.wrapping_mul(0x9e37_79b9) } else { (random() >> 32) as u32 };
            frontend.choices.iter().find(|choice| number <= choice.last)
        });
        let address = match drawn {
            Some(choice) if Some(choice.address) != failing => choice.address,
            drawn => {
                // An endpoint that failed is left to the proxy, which draws among all.
                let besides = if drawn.is_none() { plan.drawn.get(&key("a/s:80")) } else { None };
                let mut tried = Vec::new();
                loop {
                    let pick = balancers.pick_for(
                        snapshot,
                        &key("a/s:80"),
                        &Request { besides, tried: &tried, ..Request::default() },
                        now,
                        &mut random,
                    );
                    let mut pick = pick.unwrap();
                    if Some(pick.target.address) == failing {
                        pick.failed(now);
                        tried.push(pick.target.address);
                        continue;
                    }
                    pick.connected(std::time::Duration::from_micros(300), now);
                    break pick.target.address;
                }
            }
        };
        *counts.entry(address).or_default() += 1;
    }
    counts
}

#[test]
fn weights_are_exact_over_endpoints_here_and_elsewhere() {
    for algorithm in [None, Some(Algorithm::Random), Some(Algorithm::RoundRobin)] {
        for here in 0..=4 {
            let (mut snapshot, locals) = mesh(&[10, 20, 30, 40], here);
            if let Some(algorithm) = algorithm {
                snapshot = put(&snapshot, Resource::TrafficPolicy(balanced_by("a/s", algorithm)));
            }
            let counts = connect(&snapshot, &locals, 10_000, None);
            for (n, share) in [0.1, 0.2, 0.3, 0.4].into_iter().enumerate() {
                let got = f64::from(counts[&at(&format!("10.0.0.{}:8080", n + 1))]) / 10_000.0;
                assert!((got - share).abs() <= 0.02, "{algorithm:?}, {here} here: {counts:?}");
            }
        }
    }
}

#[test]
fn an_endpoint_that_fails_is_taken_out_of_the_kernels_draw() {
    let (snapshot, locals) = mesh(&[1, 1, 1, 1], 2);
    let failing = at("10.0.0.1:8080");
    let counts = connect(&snapshot, &locals, 4_000, Some(failing));
    assert!(!counts.contains_key(&failing));
    for n in 2..=4 {
        let got = f64::from(counts[&at(&format!("10.0.0.{n}:8080"))]) / 4_000.0;
        assert!((got - 1.0 / 3.0).abs() < 0.03, "{counts:?}");
    }
}

#[test]
fn one_refusal_leaves_an_endpoint_to_the_proxy_until_that_has_connected_to_it() {
    let (snapshot, locals) = mesh(&[1, 1], 2);
    let (balancers, now) = (Balancers::new(), Instant::now());
    let drawn = || same_node(&snapshot, &locals, &balancers, 16, now).drawn[&key("a/s:80")].to_vec();
    let (one, two) = (at("10.0.0.1:8080"), at("10.0.0.2:8080"));
    assert_eq!(drawn(), [one, two]);
    let seen = balancers.changes();
    balancers.refused(&key("a/s:80"), one, now, 0);
    assert!(balancers.changes() > seen, "the plan is to be made again");
    assert_eq!(drawn(), [two]);
    let plan = same_node(&snapshot, &locals, &balancers, 16, now);
    assert_eq!(plan.frontends[&at("10.9.0.1:80")].choices[0].last, (1 << 31) - 1, "the other's share stays its own");
    let seen = balancers.changes();
    let mut random = seeded(3);
    let besides = plan.drawn.get(&key("a/s:80"));
    let mut pick = balancers
        .pick_for(&snapshot, &key("a/s:80"), &Request { besides, ..Request::default() }, now, &mut random)
        .unwrap();
    assert_eq!(pick.target.address, one);
    pick.connected(std::time::Duration::from_micros(300), now);
    assert!(balancers.changes() > seen);
    assert_eq!(drawn(), [one, two]);
}

#[test]
fn the_proxy_gets_to_probe_an_ejected_endpoint_where_all_others_are_here() {
    let (snapshot, locals) = mesh(&[1, 1], 2);
    let (balancers, now) = (Balancers::new(), Instant::now());
    let last = |now| {
        let plan = same_node(&snapshot, &locals, &balancers, 16, now);
        plan.frontends[&at("10.9.0.1:80")].choices.last().map(|choice| choice.last)
    };
    assert_eq!(last(now), Some(u32::MAX));
    for _ in 0..5 {
        balancers.refused(&key("a/s:80"), at("10.0.0.1:8080"), now, 0);
    }
    assert_eq!(last(now), Some(u32::MAX), "ejected: the other has everything");
    let later = now + std::time::Duration::from_secs(31);
    let share = f64::from(last(later).unwrap()) / f64::from(u32::MAX);
    assert!((share - 32.0 / 33.0).abs() < 1e-6, "{share}");
    let plan = same_node(&snapshot, &locals, &balancers, 16, later);
    let (mut random, besides) = (seeded(5), plan.drawn.get(&key("a/s:80")));
    let pick = balancers
        .pick_for(&snapshot, &key("a/s:80"), &Request { besides, ..Request::default() }, later, &mut random)
        .unwrap();
    assert_eq!(pick.target.address, at("10.0.0.1:8080"));
}

#[test]
fn frontends_are_what_the_plan_would_balance_or_dial_directly() {
    let (snapshot, locals) = mesh(&[1, 3], 1);
    let plan = planned(&snapshot, &locals);
    let dialled: Vec<SocketAddr> = plan.frontends.keys().copied().collect();
    assert_eq!(dialled, [at("10.0.0.1:0"), at("10.9.0.1:80")]);
    let service = &plan.frontends[&at("10.9.0.1:80")];
    assert_eq!(service.choices, [Choice { address: at("10.0.0.1:8080"), cookie: 100, last: (1 << 30) - 1 }]);
    assert_eq!(plan.frontends[&at("10.0.0.1:0")].choices[0].last, u32::MAX);
    assert_eq!(&*plan.drawn[&key("a/s:80")], [at("10.0.0.1:8080")]);
    assert_eq!(plan.sources, Map::from([(100, 0)]));
}

#[test]
fn what_the_kernel_cannot_do_is_left_to_the_proxy() {
    let (base, locals) = mesh(&[1, 1], 2);
    let vip = at("10.9.0.1:80");
    let has = |snapshot: &Snapshot| planned(snapshot, &locals).frontends.contains_key(&vip);
    assert!(has(&base));
    for algorithm in [Algorithm::LeastRequest, Algorithm::PeakEwma] {
        assert!(!has(&put(&base, Resource::TrafficPolicy(balanced_by("a/s", algorithm)))), "{algorithm:?}");
    }
    assert!(!has(&put(&base, Resource::TcpRoute(route("a/r", "a/s", &[("a/s:80", 1)])))), "a route divides it");
    assert!(!has(&put(&base, Resource::TcpRoute(route("b/r", "a/s", &[("a/s:80", 1)])))), "one does for some clients");
    let disabled = crate::model::Service { fast_path: false, ..service("a/s", "10.9.0.1", 80) };
    assert!(!has(&put(&base, Resource::Service(disabled))), "the service says no");
    let namespace =
        Namespace { name: Name::new("a").unwrap(), mesh: None, labels: labels(&[]), fast_path: false, detect: None };
    let off = planned(&put(&base, Resource::Namespace(namespace)), &locals);
    assert_eq!(off, SameNode::default(), "the namespace says no");
    assert!(!has(&put(&base, Resource::Liveness(live(&[])))), "nobody is live");
    let unnumbered: Vec<Local> = locals.iter().cloned().map(|local| Local { number: None, ..local }).collect();
    assert_eq!(planned(&base, &unnumbered).sources, Map::new());
}

#[test]
fn a_pod_under_audit_is_reached_by_the_proxy_only() {
    let (base, locals) = mesh(&[1, 1], 2);
    let audit = AuthorizationPolicy {
        name: object("a/audit"),
        scope: Scope::Namespace,
        action: Action::Deny,
        audit: true,
        rules: vec![AuthorizationRule::default()],
        valid: true,
    };
    let plan = planned(&put(&base, Resource::AuthorizationPolicy(audit)), &locals);
    assert!(plan.frontends.is_empty() && plan.admissions.is_empty() && plan.drawn.is_empty(), "{plan:?}");
}

#[test]
fn the_kernels_table_holds_so_many_and_the_others_are_not_lost() {
    let (snapshot, locals) = mesh(&[1; 6], 6);
    let plan = same_node(&snapshot, &locals, &Balancers::new(), 4, Instant::now());
    let frontend = &plan.frontends[&at("10.9.0.1:80")];
    assert_eq!(frontend.choices.len(), 4);
    assert_eq!(frontend.choices[3].last, u32::try_from((4_u64 << 32) / 6 - 1).unwrap());
    assert_eq!(plan.drawn[&key("a/s:80")].len(), 4);
}

#[test]
fn an_address_that_is_a_services_too_is_the_services() {
    let (base, locals) = mesh(&[1], 1);
    let both = crate::model::Service { cluster_ips: vec![ip("10.0.0.1")], ..service("a/s", "10.0.0.1", 80) };
    let plan = planned(&put(&base, Resource::Service(both)), &locals);
    assert!(!plan.frontends.contains_key(&at("10.0.0.1:0")) && plan.frontends.contains_key(&at("10.0.0.1:80")));
}

#[test]
fn near_endpoints_are_drawn_and_sessions_are_left_to_the_proxy() {
    use crate::model::{EndpointAddress, EndpointSlice, Place, Preference, Service};
    let (base, locals) = mesh(&[1, 1], 1);
    // `mesh` is nowhere; the same on node n1.
    let on = |node: &str, n: usize| EndpointAddress {
        place: std::sync::Arc::new(Place { node: Some(node.into()), ..Place::default() }),
        ..crate::testing::ready(&format!("10.0.0.{}", n + 1))
    };
    let resources = base.workloads().map(|w| Resource::Workload((*w).clone())).chain([
        Resource::Liveness(live(&["a/p0"])),
        Resource::EndpointSlice(EndpointSlice { endpoints: vec![on("n1", 0), on("n2", 1)], ..slice("a/s", &[]) }),
    ]);
    let here = Snapshot::on(crate::testing::domain(), crate::testing::here()).apply(resources.map(Delta::Put));
    let with = |service: Service| planned(&put(&here, Resource::Service(service)), &locals);
    let vip = at("10.9.0.1:80");
    let last = |plan: &SameNode| plan.frontends.get(&vip).map(|frontend| frontend.choices[0].last);
    let plain = || service("a/s", "10.9.0.1", 80);
    assert_eq!(last(&with(plain())), Some((1 << 31) - 1), "half");
    assert_eq!(last(&with(Service { prefers: Preference::SameNode, ..plain() })), Some(u32::MAX), "all");
    assert_eq!(last(&with(Service { local_only: true, ..plain() })), Some(u32::MAX), "all there are");
    let kept = with(Service { affinity: Some(std::time::Duration::from_secs(1)), ..plain() });
    assert_eq!(last(&kept), None);
    let snapshot = put(&here, Resource::Service(Service { affinity: Some(Service::AFFINITY), ..plain() }));
    let why = proxy_only(&snapshot, snapshot.service(&object("a/s")).unwrap(), &key("a/s:80"));
    assert_eq!(why, Some(ProxyOnly::Affinity));
}
