//! Micro-benchmarks of single decisions: `cargo xtask bench --micro [FILTER]`.
//!
//! What a connection's path calls once each: plan, pick, verdict, and the text of an HBONE request; and the tunnel's frames. Sizes are those a
//! cluster has: a service of two pods, of a hundred, of ten thousand.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft::tunnel::codec::{
    Claims, Forwarded, format_authority, format_baggage, format_forwarded, parse_authority, parse_baggage,
    parse_forwarded,
};
use weft::tunnel::mux::{Code, Decoder, Frame, PAYLOAD_MAX, data_header};
use weft_core::balance::Balancers;
use weft_core::model::{
    Action, Algorithm, AuthorizationPolicy, AuthorizationRule, EndpointAddress, EndpointSlice, Identity, Labels, Match,
    Name, NodeLiveness, ObjectName, PeerMatch, Preference, Scope, Service, ServicePort, SlicePort, Traffic,
    TrafficKind, TrafficPolicy, TrafficPolicyId, TrafficTarget, TrustDomain, Weight, Workload,
};
use weft_core::policy::{Admissions, ConnectionFacts, authorize};
use weft_core::route::plan;
use weft_core::snapshot::{Delta, Family, Resource, ServicePortKey, Snapshot};

const SIZES: [u32; 3] = [2, 100, 10_000];
/// What kubelet takes on a large node.
const PODS_OF_A_NODE: u32 = 250;
/// Bytes of a DATA frame of a bulk transfer.
const PAYLOAD: usize = PAYLOAD_MAX;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

fn object(name: &str) -> ObjectName {
    ObjectName::new("demo", name).expect("a name")
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn address(number: u32) -> IpAddr {
    let [_, a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(10, a, b, c).into()
}

fn pod(number: u32) -> Workload {
    Workload {
        name: object(&format!("pod-{number}")),
        uid: format!("uid-{number}").into(),
        addresses: vec![address(number)],
        service_account: name(&format!("account-{}", number % 100)),
        node: "n1".into(),
        owner: "pod".into(),
        labels: Labels::new(),
        weight: Weight(1),
        mesh: None,
        netns: None,
        host_network: false,
        declared_ports: Vec::new(),
        probe_ports: Vec::new(),
    }
}

/// A service with this many live pods, balanced by an algorithm.
fn mesh(pods: u32, algorithm: Algorithm) -> Snapshot {
    let endpoint = |number| EndpointAddress {
        address: address(number),
        ready: true,
        serving: true,
        terminating: false,
        place: Default::default(),
    };
    let live: BTreeSet<_> = (0..pods).map(|number| format!("uid-{number}").into()).collect();
    let around = [
        Resource::Service(Service {
            name: object("echo"),
            cluster_ips: vec![VIP.into()],
            ports: vec![ServicePort { name: "".into(), port: 80, app_protocol: None }],
            publish_not_ready: false,
            fast_path: true,
            detect: None,
            local_only: false,
            prefers: Preference::None,
            affinity: None,
        }),
        Resource::EndpointSlice(EndpointSlice {
            name: object("echo"),
            service: object("echo"),
            ports: vec![SlicePort { name: "".into(), port: 8080 }],
            endpoints: (0..pods).map(endpoint).collect(),
        }),
        Resource::TrafficPolicy(TrafficPolicy {
            id: TrafficPolicyId { kind: TrafficKind::Weft, name: object("echo") },
            targets: vec![TrafficTarget::Service(object("echo"), None)],
            traffic: Box::new(Traffic { algorithm: Some(algorithm), ..Traffic::default() }),
            created: 0,
        }),
        Resource::Liveness(NodeLiveness { node: "n1".into(), live }),
    ];
    let resources = (0..pods).map(|number| Resource::Workload(pod(number))).chain(around);
    domain_only().apply(resources.map(Delta::Put))
}

fn domain_only() -> Snapshot {
    Snapshot::new(TrustDomain::new("cluster.local").expect("a domain"))
}

fn picking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for (label, algorithm) in [
        ("peak_ewma", Algorithm::PeakEwma),
        ("least_request", Algorithm::LeastRequest),
        ("round_robin", Algorithm::RoundRobin),
        ("random", Algorithm::Random),
    ] {
        for size in SIZES {
            let (snapshot, balancers) = (mesh(size, algorithm), Balancers::new());
            let key = ServicePortKey { service: object("echo"), port: 80, family: Family::V4 };
            let mut state = 1_u64;
            let mut random = move || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state.rotate_right(29)
            };
            let now = Instant::now();
            group.bench_function(BenchmarkId::new(label, size), |bencher| {
                bencher.iter(|| {
                    let mut pick = balancers.pick(&snapshot, &key, &[], now, &mut random).expect("an endpoint");
                    pick.connected(Duration::from_micros(100), now);
                    black_box(pick);
                });
            });
        }
    }
    group.finish();
}

fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    for size in SIZES {
        let (snapshot, source) = (mesh(size, Algorithm::PeakEwma), pod(0));
        for (label, to) in [("vip", SocketAddr::new(VIP.into(), 80)), ("pod", SocketAddr::new(address(1), 8080))] {
            group.bench_function(BenchmarkId::new(label, size), |bencher| {
                bencher.iter(|| plan(black_box(&snapshot), black_box(&source), black_box(to)));
            });
        }
    }
    group.finish();
}

/// A policy that allows one service account of a hundred.
fn allowing(number: u32) -> Resource {
    let accounts = Match { any: vec![object(&format!("account-{number}"))], none: Vec::new() };
    Resource::AuthorizationPolicy(AuthorizationPolicy {
        name: object(&format!("policy-{number}")),
        scope: Scope::Namespace,
        action: Action::Allow,
        audit: false,
        rules: vec![AuthorizationRule {
            from: vec![PeerMatch { service_accounts: accounts, ..PeerMatch::default() }],
            to: Vec::new(),
        }],
        valid: true,
    })
}

fn judging(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("authorize");
    let destination = pod(0);
    let identity = |account: &str| Identity {
        trust_domain: TrustDomain::new("cluster.local").expect("a domain"),
        namespace: name("demo"),
        service_account: name(account),
    };
    for policies in [0, 1, 100, 10_000] {
        let snapshot = domain_only().apply((0..policies).map(allowing).map(Delta::Put));
        for (label, peer) in [("allowed", identity("account-0")), ("stranger", identity("stranger"))] {
            let facts =
                ConnectionFacts { destination: &destination, port: 8080, peer: Some(&peer), source: address(7) };
            group.bench_function(BenchmarkId::new(label, policies), |bencher| {
                bencher.iter(|| authorize(black_box(&snapshot), black_box(&facts)));
            });
        }
    }
    group.finish();
}

/// What the kernel is told of who may connect to whom, of a node full of pods, by policies that name accounts.
fn admitting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admissions");
    let pods: Vec<Workload> = (0..PODS_OF_A_NODE).map(pod).collect();
    for policies in [1, 10, 100] {
        let snapshot = domain_only().apply((0..policies).map(allowing).map(Delta::Put));
        group.bench_function(BenchmarkId::new("node", policies), |bencher| {
            bencher.iter(|| {
                let mut admissions = Admissions::of(&snapshot, (0..).zip(&pods));
                for pod in &pods {
                    black_box(admissions.to(pod));
                }
            });
        });
    }
    group.finish();
}

/// The text of an HBONE request.
fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let to = SocketAddr::new(address(1), 8080);
    let forwarded = Forwarded { client: to, host: Some("echo.demo.svc.cluster.local".into()) };
    let claims = Claims {
        cluster: Some("cluster.local".into()),
        namespace: Some("demo".into()),
        workload: Some(("deployment".into(), "client".into())),
        service: Some("client".into()),
        version: Some("v1".into()),
        ..Claims::default()
    };
    let texts = (format_authority(to), format_forwarded(&forwarded), format_baggage(&claims));
    group.bench_function("authority/write", |bencher| bencher.iter(|| format_authority(black_box(to))));
    group.bench_function("authority/read", |bencher| bencher.iter(|| parse_authority(black_box(&texts.0))));
    group.bench_function("forwarded/write", |bencher| bencher.iter(|| format_forwarded(black_box(&forwarded))));
    group.bench_function("forwarded/read", |bencher| bencher.iter(|| parse_forwarded(black_box(&texts.1))));
    group.bench_function("baggage/write", |bencher| bencher.iter(|| format_baggage(black_box(&claims))));
    group.bench_function("baggage/read", |bencher| bencher.iter(|| parse_baggage(black_box(&texts.2))));
    group.finish();
}

/// Frames of the Weft tunnel: what one stream costs beside its bytes, and how fast DATA of the usual size is read.
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    let data = vec![7; PAYLOAD];
    let cases = [
        ("credit", Frame::Credit(5, 65_536)),
        ("ping", Frame::Ping(7)),
        ("reset", Frame::Reset(5, Code::Cancelled)),
        ("data", Frame::Data { stream: 5, bytes: &data, end: false }),
    ];
    for (label, frame) in cases {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        let mut room = Vec::with_capacity(bytes.len());
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("write", label), |bencher| {
            bencher.iter(|| {
                room.clear();
                black_box(&frame).write(&mut room);
            });
        });
        let mut decoder = Decoder::default();
        group.bench_function(BenchmarkId::new("read", label), |bencher| {
            bencher.iter(|| {
                let mut input = black_box(&bytes[..]);
                while let Some(frame) = decoder.next(&mut input).expect("a frame") {
                    black_box(frame);
                }
            });
        });
    }
    group
        .bench_function("data_header", |bencher| bencher.iter(|| data_header(black_box(5), black_box(PAYLOAD), false)));
    group.finish();
}

criterion_group!(decisions, picking, planning, judging, admitting, headers, frames);
criterion_main!(decisions);
