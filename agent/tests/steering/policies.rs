//! Random policies, told to the kernel the way the agent tells them, against what user space says of the same
//! connections: every tuple is really dialled. One set follows another, so what a pod no longer has must be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::{select, subsequence},
    strategy::ValueTree as _,
    test_runner::TestRunner,
};
use weft::steer::{EnrolledPod, InboundModes, Steering};
use weft_core::{
    balance::Balancers,
    model::{
        Action, AuthorizationPolicy, AuthorizationRule, Labels, Match, MtlsMode, Name, NodeLiveness, ObjectName,
        PeerAuthentication, PeerMatch, PortMatch, Scope, Selector, TrustDomain, Weight, Workload,
    },
    policy::{ConnectionFacts, DenyReason, PlaintextMode, Verdict, authorize, plaintext_modes},
    same_node::{Local, SameNode, same_node},
    snapshot::{Delta, Resource, Snapshot},
};

use crate::{
    app::App,
    harness::{TestPod, World},
};

/// Sets of policies, one after the other; 72 connections are made under each.
const CASES: usize = 40;

/// An agent follows another after so many of them, and finds what that one wrote.
const SUCCESSION: usize = 8;

/// Ports that policies name, and one that none does.
const PORTS: [u16; 4] = [8080, 8081, 9090, 7070];

/// The pods of the mesh: namespace, service account, and number among the sources, in the first, a middle and the last
/// word of a set.
const PODS: [(&str, &str, u32); 3] = [("a", "x", 0), ("a", "y", 300), ("b", "x", 511)];

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn object(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::new(namespace, name).unwrap()
}

/// A pod as the mesh knows it; one label tells it from the others.
fn workload(pod: &TestPod, (namespace, account, _): (&str, &str, u32)) -> Workload {
    Workload {
        name: ObjectName::new(namespace, &pod.name).unwrap(),
        uid: pod.name.as_str().into(),
        addresses: vec![pod.v4, pod.v6],
        service_account: name(account),
        node: "n1".into(),
        owner: pod.name.as_str().into(),
        labels: [("app".into(), account.into())].into_iter().collect::<Labels>(),
        weight: Weight(1),
        mesh: None,
        netns: None,
        host_network: false,
        declared_ports: Vec::new(),
        probe_ports: Vec::new(),
    }
}

fn matches<T: Clone + std::fmt::Debug + 'static>(values: Vec<T>) -> impl Strategy<Value = Match<T>> {
    let none = prop_oneof![4 => Just(Vec::new()), 1 => vec(select(values.clone()), 1)];
    (vec(select(values), 0..2), none).prop_map(|(any, none)| Match { any, none })
}

fn selectors() -> impl Strategy<Value = Selector> {
    let labels = |app: &str| Selector([("app".into(), app.into())].into_iter().collect());
    prop_oneof![Just(Selector::default()), select(vec!["x", "y"]).prop_map(labels)]
}

/// Most of their rules name ports.
fn authorization() -> impl Strategy<Value = AuthorizationPolicy> {
    let identity = |text: &str| format!("spiffe://cluster.local/ns/{text}").parse().unwrap();
    let blocks = ["10.77.1.0/24", "fd77:1::/64", "10.77.2.2/32", "0.0.0.0/0", "::/0"];
    let from = (
        matches(vec![identity("a/sa/x"), identity("b/sa/x")]),
        matches(vec![name("a"), name("b")]),
        matches(vec![object("a/y"), object("b/x")]),
        matches(blocks.map(|block| block.parse().unwrap()).to_vec()),
    )
        .prop_map(|(principals, namespaces, service_accounts, ip_blocks)| PeerMatch {
            principals,
            namespaces,
            service_accounts,
            ip_blocks,
        });
    let to = matches(PORTS[..3].to_vec()).prop_map(|ports| PortMatch { ports });
    let rule = (vec(from, 0..2), vec(to, 0..3)).prop_map(|(from, to)| AuthorizationRule { from, to });
    let scope = prop_oneof![Just(Scope::Namespace), selectors().prop_map(Scope::Workloads)];
    let what = (select(vec![Action::Allow, Action::Deny]), prop::bool::weighted(0.15), prop::bool::weighted(0.95));
    (select(vec!["a/p1", "a/p2", "a/p3", "b/p1", "b/p2"]), scope, what, vec(rule, 0..3)).prop_map(
        |(named, scope, (action, audit, valid), rules)| AuthorizationPolicy {
            name: object(named),
            scope,
            action,
            audit,
            rules,
            valid,
        },
    )
}

fn authentication() -> impl Strategy<Value = PeerAuthentication> {
    let mode = || select(vec![MtlsMode::Permissive, MtlsMode::Strict]);
    let ports = btree_map(select(PORTS[..3].to_vec()), mode(), 0..3);
    (select(vec!["a/m1", "a/m2", "b/m1"]), selectors(), option::of(mode()), ports)
        .prop_map(|(named, selector, mode, ports)| PeerAuthentication { name: object(named), selector, mode, ports })
}

/// What holds for a while: policies, and the ports that kubelet probes.
fn cases() -> impl Strategy<Value = (Vec<Resource>, Vec<u16>)> {
    let any = prop_oneof![
        2 => authorization().prop_map(Resource::AuthorizationPolicy),
        1 => authentication().prop_map(Resource::PeerAuthentication),
    ];
    (vec(any, 0..6), subsequence(PORTS.to_vec(), 0..=2))
}

/// Three pods of the mesh, each a client and a server, one that is none of it, and who may do what among them.
struct Stage {
    pods: Vec<TestPod>,
    enrolled: Vec<EnrolledPod>,
    steering: Steering,
    apps: Vec<App>,
    stranger: (TestPod, App),
    base: Snapshot,
    snapshot: Snapshot,
    plan: SameNode,
    /// How often each verdict was given.
    seen: BTreeMap<String, usize>,
}

/// Keeps each connection until the client resets it: a reset that finds none comes by the hook like a SYN.
const SERVE: &str = r#"
import threading
def loop(l):
    l.settimeout(None)
    while True:
        c, _ = l.accept()
        try:
            c.recv(1)
        except OSError:
            pass
        c.close()
for port in PORTS:
    threading.Thread(target=loop, args=(listen('::', port),), daemon=True).start()
"#;

impl Stage {
    async fn new(world: &World) -> Self {
        let pods: Vec<TestPod> = (1..).take(PODS.len()).map(|number| world.pod(number)).collect();
        let mut apps: Vec<App> = pods.iter().map(TestPod::app).collect();
        for app in &mut apps {
            app.ok(&SERVE.replace("PORTS", &format!("{PORTS:?}")));
        }
        let stranger = world.pod(9);
        let stranger = (stranger.app(), stranger);
        let workloads = pods.iter().zip(PODS).map(|(pod, what)| Resource::Workload(workload(pod, what)));
        let live = pods.iter().map(|pod| pod.name.as_str().into()).collect();
        let live = Resource::Liveness(NodeLiveness { node: "n1".into(), live });
        let base = Snapshot::new(TrustDomain::new("cluster.local").unwrap());
        let base = base.apply(workloads.chain([live]).map(Delta::Put));
        let mut stage = Self {
            steering: world.steer(),
            enrolled: Vec::new(),
            apps,
            stranger: (stranger.1, stranger.0),
            snapshot: base.clone(),
            base,
            plan: SameNode::default(),
            seen: BTreeMap::new(),
            pods,
        };
        stage.enrol().await;
        stage
    }

    async fn enrol(&mut self) {
        let addresses: BTreeSet<IpAddr> = self.pods.iter().flat_map(|pod| [pod.v4, pod.v6]).collect();
        self.steering.set_destinations(&addresses).unwrap();
        self.enrolled.clear();
        for pod in &self.pods {
            self.enrolled.push(pod.enrolled(&self.steering).await);
        }
    }

    /// Another agent takes the place of this one.
    async fn succeed(&mut self, world: &World) {
        self.steering.release();
        self.steering = world.steer();
        self.enrol().await;
    }

    /// Tells the kernel what the agent would.
    fn follow(&mut self, policies: &[Resource], probes: &[u16]) {
        self.snapshot = self.base.apply(policies.iter().cloned().map(Delta::Put));
        let locals = self.enrolled.iter().zip(&self.pods).zip(PODS).map(|((enrolled, pod), (.., number))| Local {
            cookie: enrolled.cookie,
            number: Some(number),
            workload: self.snapshot.workload_at(pod.v4).unwrap(),
        });
        let locals: Vec<Local> = locals.collect();
        let choices = weft_abi::Frontend::CHOICES;
        self.plan = same_node(&self.snapshot, &locals, &Balancers::new(), choices, Instant::now());
        self.steering.set_same_node(&self.plan, true).unwrap();
        for local in &locals {
            let modes = InboundModes::new(&plaintext_modes(&self.snapshot, &local.workload), probes);
            self.steering.set_inbound_modes(local.cookie, &modes).unwrap();
        }
    }

    /// What user space says of a pod's connection to another.
    fn wanted(&self, from: usize, server: usize, to: SocketAddr) -> &'static str {
        if !self.plan.admissions.contains_key(&self.enrolled[server].cookie) {
            return "connect_steer lookup_assign_outbound";
        }
        let source = self.pods[from].address(to.ip());
        let peer = self.snapshot.identity_of(&self.snapshot.workload_at(source).unwrap());
        let destination = &*self.snapshot.workload_at(to.ip()).unwrap();
        let facts = ConnectionFacts { destination, port: to.port(), peer: Some(&peer), source };
        match authorize(&self.snapshot, &facts).is_allowed() {
            true => "connect_same_node lookup_same_node",
            false => "connect_same_node lookup_drop_same_node",
        }
    }

    /// What user space says of plaintext: refused for what it is, or nothing that the proxy would not say as well.
    fn wanted_of_plaintext(&self, to: SocketAddr) -> &'static str {
        let destination = &*self.snapshot.workload_at(to.ip()).unwrap();
        let source = self.stranger.0.address(to.ip());
        let facts = ConnectionFacts { destination, port: to.port(), peer: None, source };
        let decision = authorize(&self.snapshot, &facts);
        if matches!(decision.verdict, Verdict::Deny { reason: DenyReason::StrictMtls, .. }) {
            return "connect_unclassified lookup_drop_plaintext";
        }
        let modes = plaintext_modes(&self.snapshot, destination);
        if *modes.ports.get(&to.port()).unwrap_or(&modes.default) == PlaintextMode::Pass {
            assert!(decision.is_allowed() && decision.audited.is_empty(), "{to}: {decision:?}");
            return "connect_unclassified lookup_plaintext";
        }
        "connect_unclassified lookup_assign_plaintext"
    }

    /// Dials, and asks the hooks' counters what became of it; of the stranger `from` is one too many.
    fn dial(&mut self, from: usize, to: SocketAddr) -> (String, Result<(), i32>) {
        let verdicts = |steering: &Steering| steering.verdicts().unwrap().into_iter().collect::<BTreeMap<_, _>>();
        let before = verdicts(&self.steering);
        let code = "s.setsockopt(1, 13, struct.pack('ii', 1, 0)); s.close()";
        let app = self.apps.get_mut(from).unwrap_or(&mut self.stranger.1);
        let dialled = app.run(&format!("s = dial('{}', {}); {code}", to.ip(), to.port())).map(drop);
        let moved = verdicts(&self.steering).into_iter().filter(|(label, count)| before.get(label) != Some(count));
        (moved.map(|(label, _)| label).collect::<Vec<_>>().join(" "), dialled)
    }

    /// Makes every connection there can be.
    fn compare(&mut self, under: &impl Fn() -> String) {
        for server in 0..self.pods.len() {
            let addresses = [self.pods[server].v4, self.pods[server].v6];
            for to in addresses.iter().flat_map(|ip| PORTS.map(|port| SocketAddr::new(*ip, port))) {
                for from in (0..=self.pods.len()).filter(|from| *from != server) {
                    let wanted = match from == self.pods.len() {
                        true => self.wanted_of_plaintext(to),
                        false => self.wanted(from, server, to),
                    };
                    let (moved, dialled) = self.dial(from, to);
                    assert_eq!(moved, wanted, "from {from} to {to}, under {}", under());
                    let refused = wanted.contains("drop").then_some(libc::ECONNREFUSED);
                    assert_eq!(dialled.err(), refused, "from {from} to {to}, under {}", under());
                    *self.seen.entry(moved).or_default() += 1;
                }
            }
        }
        // Nobody serves what came to the agent.
        for listener in self.enrolled.iter().flat_map(|enrolled| [&enrolled.inbound, &enrolled.outbound]) {
            while listener.accept().is_ok() {}
        }
    }
}

#[test]
fn the_kernels_verdicts_are_user_spaces_port_by_port() {
    isolated!(async |world: World| {
        let mut stage = Stage::new(&world).await;
        let mut runner = TestRunner::default();
        let mut before = (Vec::new(), Vec::new());
        for case in 0..CASES {
            if case % SUCCESSION == SUCCESSION - 1 {
                stage.succeed(&world).await;
            }
            let now = cases().new_tree(&mut runner).unwrap().current();
            stage.follow(&now.0, &now.1);
            stage.compare(&|| format!("{now:#?}\nafter {before:#?}"));
            before = now;
        }
        // All of it was seen: no verdict came about because nothing else could.
        assert_eq!(stage.seen.len(), 6, "{:?}", stage.seen);
    });
}
