//! The judgements against a statement of every fact.

use core::net::IpAddr;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Connect {
    tcp: bool,
    pod: Option<PodEntry>,
    destination: Address,
    agent: bool,
    known: bool,
    device: u32,
    holds: bool,
    draw: Draw,
}

impl ConnectFacts for Connect {
    fn is_tcp(&self) -> bool {
        self.tcp
    }
    fn pod(&self) -> Option<&PodEntry> {
        self.pod.as_ref()
    }
    fn destination(&self) -> &Address {
        &self.destination
    }
    fn is_agent(&self) -> bool {
        self.agent
    }
    fn is_mesh_destination(&self) -> bool {
        self.known
    }
    fn bound_device(&self) -> u32 {
        self.device
    }
    fn holds_unclassified(&self) -> bool {
        self.holds
    }
    fn draw(&self) -> Draw {
        self.draw
    }
}

#[derive(Clone, Debug)]
struct Lookup {
    tcp: bool,
    pod: PodIdentity,
    source: Address,
    destination: Address,
    port: Port,
    device: u32,
    attested: Option<bool>,
    mode: PortMode,
    probe: bool,
}

impl LookupFacts for Lookup {
    fn is_tcp(&self) -> bool {
        self.tcp
    }
    fn pod(&self) -> &PodIdentity {
        &self.pod
    }
    fn source(&self) -> &Address {
        &self.source
    }
    fn destination(&self) -> &Address {
        &self.destination
    }
    fn port(&self) -> Port {
        self.port
    }
    fn ingress_device(&self) -> u32 {
        self.device
    }
    fn admits_attested(&self) -> Option<bool> {
        self.attested
    }
    fn mode(&self, _: Port) -> PortMode {
        self.mode
    }
    fn is_probe(&self, _: Port) -> bool {
        self.probe
    }
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn own() -> [Address; 2] {
    [address("10.0.0.2"), address("fd00::2")]
}

fn steered() -> Connect {
    Connect {
        tcp: true,
        pod: Some(PodEntry { flags: PodEntry::ENROLLED, slot: 0, own: own() }),
        destination: address("10.96.0.10"),
        agent: false,
        known: true,
        device: 0,
        holds: false,
        draw: Draw::Unmade,
    }
}

fn plaintext() -> Lookup {
    Lookup {
        tcp: true,
        pod: PodIdentity { cookie: 7, own: own() },
        source: address("10.0.0.9"),
        destination: address("10.0.0.2"),
        port: Port::new(8080),
        device: 2,
        attested: None,
        mode: PortMode::Pass,
        probe: false,
    }
}

/// Addresses that matter to some branch, and any other.
fn any_address() -> impl Strategy<Value = Address> {
    prop_oneof![
        Just(address("10.0.0.2")),
        Just(address("fd00::2")),
        Just(address("127.0.0.1")),
        Just(address("::1")),
        Just(address("0.0.0.0")),
        Just(address("::")),
        Just(address("169.254.1.1")),
        Just(address("fe80::1")),
        Just(address("224.0.0.1")),
        any::<[u8; 16]>().prop_map(Address::from_octets),
        any::<[u8; 4]>().prop_map(|octets| IpAddr::from(octets).into()),
    ]
}

prop_compose! {
    fn any_connect()(
        tcp: bool, enrolment in 0..4u32, unclassified: bool, destination in any_address(), agent: bool, known: bool,
        device in 0..4u32, holds: bool, draw in prop_oneof![Just(Draw::Unmade), Just(Draw::Here), Just(Draw::Elsewhere)],
    ) -> Connect {
        let pod = (!unclassified).then_some(PodEntry { flags: enrolment, slot: 0, own: own() });
        Connect { tcp, pod, destination, agent, known, device, holds, draw }
    }
}

prop_compose! {
    fn any_lookup()(
        tcp: bool, source in any_address(), destination in any_address(), port in prop_oneof![Just(15008), any::<u16>()],
        device in 1..4u32, attested: Option<bool>, probe: bool, mode in prop_oneof![Just(PortMode::Pass), Just(PortMode::Judge), Just(PortMode::Refuse)],
    ) -> Lookup {
        Lookup { tcp, source, destination, device, attested, mode, probe, port: Port::new(port), ..plaintext() }
    }
}

proptest! {
    #[test]
    fn only_enrolled_tcp_to_the_mesh_is_steered(facts in any_connect()) {
        let enrolled = facts.pod.is_some_and(|pod| pod.flags & PodEntry::ENROLLED != 0);
        let local = is_local(&facts.destination);
        let expected = facts.tcp && enrolled && !facts.agent && facts.known && !local
            && !own().contains(&facts.destination) && facts.device == 0;
        let verdict = connect(&facts);
        prop_assert_eq!(verdict == Verdict::Steer, expected && facts.draw == Draw::Unmade);
        prop_assert_eq!(verdict == Verdict::SteerRest, expected && facts.draw == Draw::Elsewhere);
        prop_assert_eq!(verdict == Verdict::ConnectSameNode, expected && facts.draw == Draw::Here);
    }

    #[test]
    fn an_agent_that_is_not_there_refuses_nobody_it_does_not_own(facts in any_connect()) {
        let facts = Connect { holds: false, ..facts };
        if facts.pod.is_none_or(|pod| pod.flags & PodEntry::ENROLLED == 0) {
            prop_assert!(!matches!(connect(&facts).effect(), crate::Effect::Refuse(_)));
        }
    }

    #[test]
    fn udp_is_never_touched(facts in any_connect(), syn in any_lookup()) {
        prop_assert_eq!(connect(&Connect { tcp: false, ..facts }).effect(), crate::Effect::Pass);
        prop_assert_eq!(lookup(&Lookup { tcp: false, ..syn }).effect(), crate::Effect::Pass);
    }

    #[test]
    fn a_delivery_or_a_call_to_itself_never_comes_back_to_the_agent(facts in any_lookup()) {
        let own_destination = own().contains(&facts.destination);
        if own_destination && (facts.device == LOOPBACK_IFINDEX || own().contains(&facts.source)) {
            prop_assert_eq!(lookup(&facts).effect(), crate::Effect::Pass);
        }
    }

    #[test]
    fn plaintext_obeys_the_ports_mode(facts in any_lookup()) {
        let arrives = facts.tcp && own().contains(&facts.destination) && facts.device != LOOPBACK_IFINDEX
            && !own().contains(&facts.source) && facts.port != Port::new(TUNNEL_PORT);
        let verdict = lookup(&facts);
        prop_assert_eq!(verdict == Verdict::LookupSameNode, arrives && facts.attested == Some(true));
        prop_assert_eq!(verdict == Verdict::DropSameNode, arrives && facts.attested == Some(false));
        let arrives = arrives && facts.attested.is_none();
        let judged = arrives && !facts.probe;
        prop_assert_eq!(verdict == Verdict::LookupProbe, arrives && facts.probe && facts.mode != PortMode::Pass);
        prop_assert_eq!(verdict == Verdict::DropPlaintext, judged && facts.mode == PortMode::Refuse);
        prop_assert_eq!(verdict == Verdict::LookupPlaintext, arrives && facts.mode == PortMode::Pass);
        prop_assert_eq!(verdict == Verdict::AssignPlaintext, judged && facts.mode == PortMode::Judge);
    }
}

#[test]
fn each_reason_not_to_steer_has_its_own_verdict() {
    let cases = [
        (Connect { tcp: false, ..steered() }, Verdict::ConnectNotTcp),
        (Connect { pod: None, ..steered() }, Verdict::ConnectUnclassified),
        (Connect { pod: None, holds: true, ..steered() }, Verdict::RefuseUnclassified),
        (
            Connect { pod: None, holds: true, destination: address("127.0.0.1"), ..steered() },
            Verdict::ConnectUnclassified,
        ),
        (Connect { pod: Some(PodEntry::default()), ..steered() }, Verdict::ConnectNotEnrolled),
        (
            Connect { pod: Some(PodEntry { flags: PodEntry::LEAVING, slot: 0, own: own() }), ..steered() },
            Verdict::ConnectLeaving,
        ),
        (Connect { agent: true, ..steered() }, Verdict::ConnectAgent),
        (Connect { destination: address("127.9.9.9"), ..steered() }, Verdict::ConnectLocal),
        (Connect { destination: address("fd00::2"), ..steered() }, Verdict::ConnectOwnAddress),
        (Connect { known: false, ..steered() }, Verdict::ConnectUnknownDestination),
        (Connect { device: 2, ..steered() }, Verdict::RefuseBoundDevice),
        (Connect { device: LOOPBACK_IFINDEX, ..steered() }, Verdict::ConnectLocal),
        (Connect { device: 2, draw: Draw::Here, ..steered() }, Verdict::RefuseBoundDevice),
        (steered(), Verdict::Steer),
        (Connect { draw: Draw::Here, ..steered() }, Verdict::ConnectSameNode),
        (Connect { draw: Draw::Elsewhere, ..steered() }, Verdict::SteerRest),
    ];
    for (facts, expected) in cases {
        assert_eq!(connect(&facts), expected, "{facts:?}");
    }
}

#[test]
fn a_bound_socket_may_still_go_where_the_mesh_is_not() {
    assert_eq!(connect(&Connect { device: 2, known: false, ..steered() }), Verdict::ConnectUnknownDestination);
}

#[test]
fn each_fate_of_a_syn() {
    let cases = [
        (Lookup { tcp: false, ..plaintext() }, Verdict::LookupNotTcp),
        (Lookup { device: LOOPBACK_IFINDEX, ..plaintext() }, Verdict::LookupDelivery),
        (Lookup { source: address("10.0.0.2"), ..plaintext() }, Verdict::LookupOwn),
        (
            Lookup { destination: address("127.0.0.1"), device: LOOPBACK_IFINDEX, ..plaintext() },
            Verdict::LookupLoopback,
        ),
        (Lookup { destination: address("10.0.0.3"), ..plaintext() }, Verdict::LookupForeign),
        (
            Lookup { destination: address("10.96.0.1"), device: LOOPBACK_IFINDEX, ..plaintext() },
            Verdict::AssignOutbound,
        ),
        (Lookup { port: Port::new(TUNNEL_PORT), mode: PortMode::Refuse, ..plaintext() }, Verdict::AssignTunnel),
        (Lookup { attested: Some(true), mode: PortMode::Refuse, ..plaintext() }, Verdict::LookupSameNode),
        (Lookup { attested: Some(false), ..plaintext() }, Verdict::DropSameNode),
        (Lookup { attested: Some(true), port: Port::new(TUNNEL_PORT), ..plaintext() }, Verdict::AssignTunnel),
        (Lookup { mode: PortMode::Judge, ..plaintext() }, Verdict::AssignPlaintext),
        (Lookup { mode: PortMode::Refuse, ..plaintext() }, Verdict::DropPlaintext),
        (Lookup { probe: true, mode: PortMode::Refuse, ..plaintext() }, Verdict::LookupProbe),
        (Lookup { probe: true, attested: Some(false), ..plaintext() }, Verdict::DropSameNode),
        (plaintext(), Verdict::LookupPlaintext),
    ];
    for (facts, expected) in cases {
        assert_eq!(lookup(&facts), expected, "{facts:?}");
    }
}

#[test]
fn a_pod_of_one_family_does_not_own_the_absence_of_the_other() {
    let pod = PodEntry { flags: PodEntry::ENROLLED, slot: 0, own: [address("10.0.0.2"), Address::UNSPECIFIED] };
    let facts = Connect { pod: Some(pod), destination: Address::UNSPECIFIED, ..steered() };
    assert_eq!(connect(&facts), Verdict::ConnectLocal);
}
