//! Plans are total, truthful about enrolment, and follow Gateway API.

use std::net::SocketAddr;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::balance::Balancers;
use crate::model::{GrantKind, ParentRef, ReferenceGrant, ServicePort, TcpRoute};
use crate::snapshot::{Attachment, BranchFault, Delta, Resource};
use crate::testing::strategies::{ADDRESSES, deltas, workloads};
use crate::testing::{at, domain, ip, key, live, name, object, pod, route, seeded, service, slice, snapshot};

/// What clients may dial: pods, services, strangers and nonsense.
fn dialled() -> impl Strategy<Value = SocketAddr> {
    let odd = [
        "0.0.0.0",
        "127.0.0.1",
        "::1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        "8.8.8.8",
        "10.9.0.2",
        "fd00:9::1",
    ];
    let mapped = ["::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:10.9.0.1"];
    let all: Vec<&str> = ADDRESSES.iter().copied().chain(odd).chain(mapped).collect();
    (select(all), select(vec![80_u16, 81, 8080, 15008, 0])).prop_map(|(text, port)| SocketAddr::new(ip(text), port))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Every input has a plan; no plan, and no pick that follows from one, sends plaintext to an enrolled pod.
    #[test]
    fn plan_is_total_and_never_plaintext_to_the_enrolled(
        deltas in vec(deltas(), 0..40),
        source in workloads(),
        destination in dialled(),
        seed in any::<u64>(),
    ) {
        let snapshot = Snapshot::new(domain()).apply(deltas);
        let is_live = |ip: IpAddr| snapshot.workloads().any(|w| snapshot.is_live(&w) && w.addresses.contains(&ip.to_canonical()));
        let check = |target: &Target| {
            let owner = target.workload.as_ref().map(|w| snapshot.identity_of(w));
            let encrypted = matches!(&target.transport, Transport::Hbone { server } if Some(server) == owner.as_ref());
            prop_assert_eq!(encrypted, is_live(target.address.ip()), "{:?}", target);
            Ok(())
        };
        match plan(&snapshot, &source, destination) {
            Plan::PassThrough(_) => prop_assert!(!is_live(destination.ip())),
            Plan::Direct(target) => {
                prop_assert!(is_live(destination.ip()));
                prop_assert_eq!(target.address, canonical(destination));
                check(&target)?;
            }
            Plan::Balanced(key) => {
                prop_assert!(snapshot.endpoints(&key).is_some());
                let (balancers, mut random, mut tried) = (Balancers::new(), seeded(seed), Vec::new());
                while let Ok(pick) = balancers.pick(&snapshot, &key, &tried, Instant::now(), &mut random) {
                    check(&pick.target)?;
                    prop_assert!(!tried.contains(&pick.target.address));
                    tried.push(pick.target.address);
                }
            }
            Plan::Refuse(RefuseReason::OwnAddress) => {
                prop_assert!(source.addresses.contains(&destination.ip().to_canonical()));
            }
            Plan::Refuse(_) => {}
        }
    }
}

fn mesh() -> Snapshot {
    snapshot([
        Resource::Workload(pod("a/client", "10.0.0.9")),
        Resource::Workload(pod("a/in", "10.0.0.1")),
        Resource::Workload(pod("a/out", "10.0.0.2")),
        Resource::Liveness(live(&["a/client", "a/in"])),
        Resource::Service(service("a/s", "10.9.0.1", 80)),
        Resource::EndpointSlice(slice("a/s", &["10.0.0.1", "10.0.0.2"])),
    ])
}

fn planned(snapshot: &Snapshot, destination: &str) -> Plan {
    plan(snapshot, &pod("a/client", "10.0.0.9"), at(destination))
}

#[test]
fn a_pod_dialled_by_its_address_is_reached_by_hbone_if_it_is_live() {
    let mesh = mesh();
    let Plan::Direct(target) = planned(&mesh, "10.0.0.1:8080") else { panic!("not direct") };
    let server = "spiffe://cluster.local/ns/a/sa/default".parse().unwrap();
    assert_eq!(target.transport, Transport::Hbone { server });
    assert_eq!(planned(&mesh, "10.0.0.2:8080"), Plan::PassThrough(PassReason::NotEnrolled));
    assert_eq!(planned(&mesh, "[::ffff:10.0.0.2]:8080"), Plan::PassThrough(PassReason::NotEnrolled));
    assert_eq!(planned(&mesh, "192.0.2.1:443"), Plan::PassThrough(PassReason::UnknownDestination));
    assert_eq!(planned(&mesh, "169.254.169.254:80"), Plan::PassThrough(PassReason::LinkLocal));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let mesh = mesh();
    for (destination, reason) in [
        ("10.0.0.9:80", RefuseReason::OwnAddress),
        ("127.0.0.1:80", RefuseReason::Loopback),
        ("[::1]:80", RefuseReason::Loopback),
        ("[::ffff:127.0.0.1]:80", RefuseReason::Loopback),
        ("0.0.0.0:80", RefuseReason::NotUnicast),
        ("255.255.255.255:80", RefuseReason::NotUnicast),
        ("[ff02::1]:80", RefuseReason::NotUnicast),
        ("10.0.0.1:15008", RefuseReason::ReservedPort),
        ("10.9.0.1:81", RefuseReason::UnknownServicePort),
    ] {
        assert_eq!(planned(&mesh, destination), Plan::Refuse(reason), "{destination}");
    }
}

#[test]
fn of_two_services_with_one_address_the_first_with_the_port_answers() {
    let other = mesh().apply([Delta::Put(Resource::Service(service("a/other", "10.9.0.1", 81)))]);
    assert_eq!(planned(&other, "10.9.0.1:80"), Plan::Balanced(key("a/s:80")));
    assert_eq!(planned(&other, "10.9.0.1:81"), Plan::Balanced(key("a/other:81")));
}

#[test]
fn a_pod_knows_its_own_endpoint() {
    let mesh = mesh();
    let target = Target::at(&mesh, at("10.0.0.1:8080"));
    assert!(target.is_own(&pod("a/in", "10.0.0.1")));
    assert!(!target.is_own(&pod("a/client", "10.0.0.9")));
}

#[test]
fn every_reason_has_a_label_of_its_own() {
    let labels: std::collections::BTreeSet<_> = RefuseReason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), RefuseReason::ALL.len());
    assert!(labels.iter().all(|label| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
}

fn with_routes(routes: impl IntoIterator<Item = TcpRoute>) -> Snapshot {
    mesh()
        .apply(
            [Resource::Service(service("a/v1", "10.9.0.2", 80)), Resource::Service(service("b/v2", "10.9.0.3", 80))]
                .map(Delta::Put),
        )
        .apply(routes.into_iter().map(|route| Delta::Put(Resource::TcpRoute(route))))
}

fn decides(snapshot: &Snapshot) -> Option<String> {
    snapshot.split(&key("a/s:80"), None).map(|split| split.route.to_string())
}

#[test]
fn the_oldest_route_decides_then_the_smallest_name() {
    let (x, y) = (route("a/x", "a/s", &[("a/v1:80", 1)]), route("a/y", "a/s", &[("a/v1:80", 1)]));
    assert_eq!(decides(&with_routes([y.clone(), x.clone()])).as_deref(), Some("a/x"));
    let younger = TcpRoute { created: 5, ..x.clone() };
    let s = with_routes([younger.clone(), y.clone()]);
    assert_eq!(decides(&s).as_deref(), Some("a/y"));
    assert_eq!(s.attachments(&younger), [Attachment::Superseded(object("a/y"))]);
    assert_eq!(s.attachments(&y), [Attachment::Accepted]);
}

#[test]
fn a_route_for_another_port_decides_nothing() {
    let mut ported = route("a/x", "a/s", &[("a/v1:80", 1)]);
    ported.parents[0].port = Some(81);
    let mut lost = route("a/z", "a/nowhere", &[]);
    lost.parents.push(ParentRef { port: Some(7), ..ParentRef::whole(object("a/s")) });
    let s = with_routes([ported.clone(), lost.clone()]);
    assert_eq!(decides(&s), None);
    assert_eq!(s.attachments(&ported), [Attachment::NoPort]);
    assert_eq!(s.attachments(&lost), [Attachment::NoService, Attachment::NoPort]);
}

#[test]
fn a_port_may_be_told_by_its_name() {
    let mut ports = service("a/s", "10.9.0.1", 80);
    ports.ports[0].name = "web".into();
    ports.ports.push(ServicePort { name: "alt".into(), port: 81, app_protocol: None });
    let s = mesh().apply([Delta::Put(Resource::Service(ports))]);
    let attached = |port: Option<u16>, section: &str| {
        let parent = ParentRef { port, section: Some(section.into()), ..ParentRef::whole(object("a/s")) };
        let route = TcpRoute { parents: vec![parent], ..route("a/x", "a/s", &[]) };
        let s = s.apply([Delta::Put(Resource::TcpRoute(route.clone()))]);
        let decides = ["a/s:80", "a/s:81"].map(|port| s.split(&key(port), None).is_some());
        (decides, s.attachments(&route))
    };
    assert_eq!(attached(None, "web"), ([true, false], vec![Attachment::Accepted]));
    assert_eq!(attached(Some(81), "alt"), ([false, true], vec![Attachment::Accepted]));
    assert_eq!(attached(Some(80), "alt"), ([false, false], vec![Attachment::NoPort]), "both have to fit");
    assert_eq!(attached(None, "none"), ([false, false], vec![Attachment::NoPort]));
}

#[test]
fn a_consumers_route_decides_for_its_namespaces_clients_in_place_of_the_producers() {
    let of =
        |s: &Snapshot, client: &str| s.split(&key("a/s:80"), Some(&name(client))).map(|split| split.route.to_string());
    let consumer = route("b/y", "a/s", &[("b/v2:80", 1), ("a/v1:80", 1)]);
    let alone = with_routes([consumer.clone()]);
    assert_eq!([of(&alone, "a"), of(&alone, "b"), of(&alone, "c")], [None, Some("b/y".into()), None]);
    assert_eq!(decides(&alone), None, "of whom nothing is known is no consumer");
    let (younger, older) = (TcpRoute { created: 9, ..route("b/x", "a/s", &[]) }, route("a/z", "a/s", &[]));
    let both = alone.apply([&younger, &older].map(|route| Delta::Put(Resource::TcpRoute(route.clone()))));
    assert_eq!(
        [of(&both, "a"), of(&both, "b"), of(&both, "c")],
        [Some("a/z".into()), Some("b/y".into()), Some("a/z".into())]
    );
    assert_eq!(both.attachments(&consumer), [Attachment::Accepted], "whatever the producer's age");
    assert_eq!(both.attachments(&younger), [Attachment::Superseded(object("b/y"))]);
    assert_eq!(both.attachments(&older), [Attachment::Accepted]);
    let faults: Vec<_> =
        both.split(&key("a/s:80"), Some(&name("b"))).unwrap().branches.iter().map(|b| b.fault).collect();
    assert_eq!(faults, [None, Some(BranchFault::NotGranted)], "its own namespace, and one it was not granted");
    let gone = both.apply([Delta::Remove(crate::snapshot::Key::TcpRoute(consumer.name))]);
    assert_eq!([of(&gone, "a"), of(&gone, "b")], [Some("a/z".into()), Some("b/x".into())]);
}

#[test]
fn faulty_backends_are_told_apart() {
    let backends = [("a/v1:80", 1), ("a/v1:99", 1), ("a/none:80", 1), ("b/v2:80", 1), ("b/none:80", 1)];
    let s = with_routes([route("a/x", "a/s", &backends)]);
    let faults =
        |s: &Snapshot| s.split(&key("a/s:80"), None).unwrap().branches.iter().map(|b| b.fault).collect::<Vec<_>>();
    let not_granted = Some(BranchFault::NotGranted);
    let (no_port, no_service) = (Some(BranchFault::NoPort), Some(BranchFault::NoService));
    assert_eq!(faults(&s), [None, no_port, no_service, not_granted, not_granted]);
    let grant = ReferenceGrant { name: object("b/g"), from: vec![(GrantKind::Tcp, name("a"))], to: vec![name("v2")] };
    let granted = s.apply([Delta::Put(Resource::ReferenceGrant(grant.clone()))]);
    assert_eq!(faults(&granted)[3..], [None, not_granted], "for the Service it names");
    let any = s.apply([Delta::Put(Resource::ReferenceGrant(ReferenceGrant { to: vec![], ..grant }))]);
    assert_eq!(faults(&any)[3..], [None, no_service], "for any Service of its namespace");
}
