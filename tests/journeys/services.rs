//! Which endpoints of a Service a connection may get: what Kubernetes says in the Service and its slices, counted by the
//! backends over real connections, past the proxy as well as through it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Behaviour, Calls};
use weft_tests::lab::{AgentOptions, Endpoint, Lab, NAMESPACE, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moved, moves, running_agent};

/// Far less than any timeout of the mesh, far more than a reset takes.
const FAST: Duration = Duration::from_secs(1);
/// How the hooks take connections to a Service.
const TAKEN: [&str; 3] = ["connect_same_node", "connect_steer", "connect_steer_rest"];

/// A client on node `a` and backends wherever they are wanted, behind the Service `echo`.
struct Places {
    lab: Lab,
    nodes: BTreeMap<&'static str, Node>,
    app: App,
    backends: Vec<(Pod, App, u64)>,
    echo: Service,
}

impl Places {
    /// Backends by name and node; everything meshed.
    fn new(lab: Lab, backends: &[(&str, &'static str)]) -> Result<Self> {
        let mut nodes = BTreeMap::from([("a", lab.node("a")?)]);
        for (_, node) in backends {
            if !nodes.contains_key(node) {
                nodes.insert(*node, lab.node(node)?);
            }
        }
        let app = lab.pod(&nodes["a"], "client").create()?.app(&lab)?;
        let mut made = Vec::new();
        for (name, node) in backends {
            let pod = lab.pod(&nodes[node], name).ports(&[8080]).create()?;
            let server = pod.app(&lab)?;
            let (listener, _) = server.listen(anywhere(8080), name, Behaviour::Identify)?;
            made.push((pod, server, listener));
        }
        let pods: Vec<&Pod> = made.iter().map(|(pod, ..)| pod).collect();
        let echo = lab.service("echo").pods(&pods).create()?;
        lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, nodes, app, backends: made, echo })
    }

    /// Every backend as an endpoint, those named not ready.
    fn endpoints(&self, unready: &[&str]) -> Vec<Endpoint> {
        let endpoint = |pod: &Pod| Endpoint { ready: !unready.contains(&pod.name()), ..Endpoint::from(pod) };
        self.backends.iter().map(|(pod, ..)| endpoint(pod)).collect()
    }

    /// Sets fields of the Service.
    fn spec(&self, fields: &Value) -> Result<()> {
        self.lab.manifests().change("Service", NAMESPACE, "echo", |service| {
            for (key, value) in fields.as_object().into_iter().flatten() {
                service["spec"][key] = value.clone();
            }
        })
    }

    /// What each backend counts of so many calls, half by each family. None fails.
    fn spread(&self, count: u64) -> Result<BTreeMap<String, u64>> {
        let before = self.counts()?;
        for to in [self.echo.v4(), self.echo.v6()] {
            let summary = self.app.call(Calls::to(to).times(count / 2, 8))?;
            ensure!(summary.ok == count / 2 && summary.failed() == 0, "{to}: {summary:?}");
        }
        let after = self.counts()?;
        let gained = after.into_iter().map(|(name, count)| (name.clone(), count - before[&name]));
        Ok(gained.filter(|(_, count)| *count > 0).collect())
    }

    fn counts(&self) -> Result<BTreeMap<String, u64>> {
        let seen = |(pod, app, listener): &(Pod, App, u64)| Ok((pod.name().to_owned(), app.seen(*listener)?.accepted));
        self.backends.iter().map(seen).collect()
    }

    /// Waits until exactly these get connections, all of them taken by the mesh.
    fn only(&self, what: &str, names: &[&str]) -> Result<()> {
        wait::until(what, wait::DEADLINE, || {
            let spread = self.taken(40, || self.spread(40))?;
            let got: Vec<&str> = spread.keys().map(String::as_str).collect();
            ensure!(got == names, "{spread:?}");
            Ok(())
        })
    }

    /// Runs a journey of so many connections and checks that the hooks took each, one way or another.
    fn taken<R>(&self, count: u64, journey: impl FnOnce() -> Result<R>) -> Result<R> {
        let agent = running_agent(&self.lab, &self.nodes["a"])?;
        let sum = |verdicts: &BTreeMap<String, u64>| -> u64 { TAKEN.iter().filter_map(|v| verdicts.get(*v)).sum() };
        let before = sum(&agent.verdicts()?);
        let result = journey()?;
        let by = sum(&agent.verdicts()?) - before;
        ensure!(by >= count, "the hooks took {by} connections, not {count}");
        Ok(result)
    }

    /// The Service's first port, as the agent of `a` tells it.
    fn told(&self) -> Result<Value> {
        let services = running_agent(&self.lab, &self.nodes["a"])?.ask("/services")?;
        let echo = services.as_array().into_iter().flatten().find(|service| service["name"] == "echo");
        Ok(echo.context("the Service is not known")?["ports"][0].clone())
    }

    /// Waits until the Service refuses, at once and without a word to any backend.
    fn refused(&self) -> Result<()> {
        wait::until("the Service to refuse", wait::DEADLINE, || {
            let before = self.counts()?;
            for to in [self.echo.v4(), self.echo.v6()] {
                let begun = Instant::now();
                if let Ok(name) = self.app.call_once(to) {
                    bail!("{name} answered at {to}");
                }
                ensure!(begun.elapsed() < FAST, "a refusal took {:?}", begun.elapsed());
            }
            ensure!(self.counts()? == before);
            Ok(())
        })
    }
}

/// Writes into both slices of `echo` what the EndpointSlice controller would for zones; `None` leaves out the hint.
fn hint(places: &Places, zones: &BTreeMap<&str, &str>, hinted: impl Fn(&str) -> bool) -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        places.lab.manifests().change("EndpointSlice", NAMESPACE, &format!("echo-{family}"), |slice| {
            for endpoint in slice["endpoints"].as_array_mut().into_iter().flatten() {
                let zone = zones[endpoint["nodeName"].as_str().unwrap_or_default()];
                endpoint["zone"] = zone.into();
                let ready = endpoint["conditions"]["ready"] == true;
                if ready && hinted(endpoint["targetRef"]["name"].as_str().unwrap_or_default()) {
                    endpoint["hints"] = json!({"forZones": [{"name": zone}]});
                }
            }
        })?;
    }
    Ok(())
}

#[test]
fn prefer_same_zone() -> Result<()> {
    let lab = Lab::cluster("same-zone")?;
    let places = Places::new(lab, &[("near", "b"), ("far", "c")])?;
    let zones = BTreeMap::from([("a", "east"), ("b", "east"), ("c", "west")]);
    for (node, zone) in &zones {
        places.lab.zone(&places.nodes[node], zone)?;
    }
    places.only("both to get connections without hints", &["far", "near"])?;
    hint(&places, &zones, |_| true)?;
    places.only("the endpoint of the zone to get all", &["near"])?;
    ensure!(places.told()?["endpoints"].as_array().into_iter().flatten().any(|e| e["near"] == "zone"));
    // One without a hint: Kubernetes has not made up its mind, and all are used.
    places.lab.set_endpoints(&places.echo, places.endpoints(&[]))?;
    hint(&places, &zones, |name| name == "near")?;
    places.only("hints to count only where all have them", &["far", "near"])?;
    places.lab.set_endpoints(&places.echo, places.endpoints(&["near"]))?;
    hint(&places, &zones, |_| true)?;
    places.only("another zone to help out where this one has nobody", &["far"])?;
    // The node moves: what is near follows its label.
    places.lab.set_endpoints(&places.echo, places.endpoints(&[]))?;
    hint(&places, &zones, |_| true)?;
    places.lab.zone(&places.nodes["a"], "west")?;
    places.only("the endpoint of the node's new zone to get all", &["far"])?;
    places.lab.finish()
}

#[test]
fn prefer_same_node() -> Result<()> {
    let places = Places::new(Lab::new("same-node-first")?, &[("here", "a"), ("there", "b")])?;
    places.only("both to get connections", &["here", "there"])?;
    places.spec(&json!({"trafficDistribution": "PreferSameNode"}))?;
    places.only("the endpoint of the node to get all", &["here"])?;
    let spread = moves(&places.lab, &places.nodes["a"], "connect_same_node", 200, || places.spread(200))?;
    ensure!(spread == BTreeMap::from([("here".to_owned(), 200)]), "past the proxy: {spread:?}");
    // The same choice where the proxy makes it.
    places.lab.manifests().change("Service", NAMESPACE, "echo", |service| {
        service["metadata"]["annotations"]["weft.dev/fast-path"] = "disabled".into();
    })?;
    wait::until("the proxy to take all", wait::DEADLINE, || {
        let spread = moves(&places.lab, &places.nodes["a"], "connect_steer", 100, || places.spread(100))?;
        ensure!(spread == BTreeMap::from([("here".to_owned(), 100)]), "through the proxy: {spread:?}");
        Ok(())
    })?;
    places.lab.set_endpoints(&places.echo, places.endpoints(&["here"]))?;
    places.only("another node to help out", &["there"])?;
    places.lab.finish()
}

#[test]
fn internal_traffic_policy_local() -> Result<()> {
    let places = Places::new(Lab::new("local-policy")?, &[("here", "a"), ("there", "b")])?;
    places.only("both to get connections", &["here", "there"])?;
    places.spec(&json!({"internalTrafficPolicy": "Local"}))?;
    places.only("the endpoint of the node to get all", &["here"])?;
    moves(&places.lab, &places.nodes["a"], "connect_same_node", 40, || places.spread(40))?;
    // Another node's client gets that node's endpoint.
    let other = places.lab.pod(&places.nodes["b"], "other").create()?;
    let other_app = other.app(&places.lab)?;
    places.lab.wait_live(&other)?;
    let calls = other_app.call(Calls::to(places.echo.v4()).times(20, 4))?;
    ensure!(calls.names.keys().eq(["there"]) && calls.failed() == 0, "{calls:?}");
    // None here that is ready: refused, although there is one elsewhere.
    let there: Vec<Endpoint> = places.backends[1..].iter().map(|(pod, ..)| Endpoint::from(pod)).collect();
    places.lab.set_endpoints(&places.echo, there)?;
    moves(&places.lab, &places.nodes["a"], "connect_steer", 2, || places.refused())?;
    let agent = running_agent(&places.lab, &places.nodes["a"])?;
    let reasons = agent.metrics()?.by_label("weft_tcp_connections_failed_total", "reason");
    ensure!(reasons.get("no_local_endpoints").is_some_and(|count| *count > 0), "{reasons:?}");
    // One that is on its way out still serves those of its node.
    let draining = |(pod, ..): &(Pod, App, u64)| Endpoint { pod: pod.clone(), ready: false, terminating: true };
    let mixed = vec![draining(&places.backends[0]), Endpoint::from(&places.backends[1].0)];
    places.lab.set_endpoints(&places.echo, mixed)?;
    places.only("the draining endpoint of the node to get all", &["here"])?;
    places.lab.finish()
}

#[test]
fn session_affinity() -> Result<()> {
    let backends = [("v1", "a"), ("v2", "b"), ("v3", "b"), ("v4", "b")];
    let places = Places::new(Lab::new("affinity")?, &backends)?;
    places.only("all to get connections", &["v1", "v2", "v3", "v4"])?;
    places.spec(&json!({"sessionAffinity": "ClientIP"}))?;
    wait::until("the Service's clients to keep their endpoints", wait::DEADLINE, || {
        let told = places.told()?;
        ensure!(told["affinity_seconds"] == 10_800 && told["proxy_only"] == "sessionAffinity: ClientIP", "{told}");
        Ok(())
    })?;
    // One of the four is on this node: a session is kept for it as for the others, so that none goes past the proxy.
    let own = kept(&places, None)?;
    let agent = running_agent(&places.lab, &places.nodes["a"])?;
    let before = agent.verdicts()?;
    ensure!(kept(&places, Some(&own))? == own);
    moved(&agent, &before, "connect_steer", 20)?;
    ensure!(agent.verdicts()?.get("connect_same_node") == before.get("connect_same_node"), "past the proxy");
    // Others come and go.
    let all = || places.endpoints(&[]);
    let others: Vec<Endpoint> = all().into_iter().filter(|e| e.pod.name() != own).collect();
    for gone in &others {
        let left = all().into_iter().filter(|e| e.pod.name() != gone.pod.name()).collect();
        places.lab.set_endpoints(&places.echo, left)?;
        ensure!(kept(&places, Some(&own))? == own);
    }
    places.lab.set_endpoints(&places.echo, all())?;
    // A successor knows no session, and sends the client where its predecessor did.
    places.lab.start_agent(&places.nodes["a"], AgentOptions::default())?;
    ensure!(kept(&places, Some(&own))? == own);
    // It accepts a moment longer, by what it knew.
    wait::until("the predecessor to be gone", wait::DEADLINE, || agent.process().exited().context("it runs on"))?;
    // Its endpoint goes: another has the client, and keeps it when the first is back.
    places.lab.set_endpoints(&places.echo, others.clone())?;
    wait::until("another endpoint to have the client", wait::DEADLINE, || {
        let name = places.app.call_once(places.echo.v4())?;
        ensure!(name != own, "{name} still has it");
        Ok(())
    })?;
    let second = kept(&places, None)?;
    places.lab.set_endpoints(&places.echo, all())?;
    wait::until("the first endpoint to be listed again", wait::DEADLINE, || {
        let told = places.told()?;
        let count = told["endpoints"].as_array().map(Vec::len);
        ensure!(count == Some(8), "{told}");
        Ok(())
    })?;
    ensure!(kept(&places, Some(&second))? == second);
    // A second without a connection ends the session, once that is all it is given.
    places.spec(&json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}))?;
    wait::until("the time to be a second", wait::DEADLINE, || {
        let told = places.told()?;
        ensure!(told["affinity_seconds"] == 1, "{told}");
        Ok(())
    })?;
    let over = Instant::now() + Duration::from_millis(1200);
    wait::until("a second to pass", wait::DEADLINE, || {
        ensure!(Instant::now() > over);
        Ok(())
    })?;
    ensure!(kept(&places, None)? == own, "a client whose time is over goes where it would have gone at first");
    places.lab.finish()
}

/// Who answers all of 20 calls in a row; waits for `wanted`, if it is known who that should be.
fn kept(places: &Places, wanted: Option<&str>) -> Result<String> {
    let summary = places.app.call(Calls::to(places.echo.v4()).times(20, 4))?;
    ensure!(summary.failed() == 0 && summary.names.len() == 1, "one client was sent to several: {summary:?}");
    let name = summary.names.keys().next().cloned().unwrap_or_default();
    ensure!(wanted.is_none_or(|wanted| wanted == name), "the client moved from {wanted:?} to {name}");
    Ok(name)
}

/// A Service whose ports lead to other numbers at each of its pods.
#[test]
fn named_ports() -> Result<()> {
    let places = Places::new(Lab::new("named-ports")?, &[("v1", "b"), ("v2", "b")])?;
    let mut slices = Vec::new();
    for (number, (pod, app, _)) in (0_u16..).zip(&places.backends) {
        let (http, admin) = (8100 + number, 9100 + number);
        app.listen(anywhere(http), &format!("{}-http", pod.name()), Behaviour::Identify)?;
        app.listen(anywhere(admin), &format!("{}-admin", pod.name()), Behaviour::Identify)?;
        for (family, v4) in [("IPv4", true), ("IPv6", false)] {
            let ip = pod.addresses().iter().find(|ip| ip.is_ipv4() == v4).context("an address of each family")?;
            slices.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {
                    "name": format!("ported-{}-{}", pod.name(), family.to_lowercase()), "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": "ported"}
                },
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": 53},
                    {"name": "admin", "protocol": "TCP", "port": admin},
                    {"name": "http", "protocol": "TCP", "port": http}
                ],
                "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}, "nodeName": pod.node().name()}]
            }));
        }
    }
    let vips = ["10.96.200.1", "fd00:10:96::200:1"];
    places.lab.manifests().put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "ported", "namespace": NAMESPACE},
        "spec": {
            "clusterIP": vips[0], "clusterIPs": vips, "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 80, "targetPort": "dns"},
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "appProtocol": "postgresql"},
                {"name": "admin", "protocol": "TCP", "port": 81, "targetPort": "mgmt"}
            ]
        }
    }))?;
    slices.into_iter().try_for_each(|slice| places.lab.manifests().put(slice))?;
    for (port, name) in [(80, "http"), (81, "admin")] {
        let wanted: Vec<String> = ["v1", "v2"].iter().map(|pod| format!("{pod}-{name}")).collect();
        for vip in vips {
            let to = SocketAddr::new(vip.parse()?, port);
            wait::until(&format!("both pods to answer at {to}"), wait::DEADLINE, || {
                moves(&places.lab, &places.nodes["a"], "connect_steer", 40, || {
                    let summary = places.app.call(Calls::to(to).times(40, 4))?;
                    ensure!(summary.failed() == 0 && summary.names.keys().eq(&wanted), "{summary:?}");
                    Ok(())
                })
            })?;
        }
    }
    let services = running_agent(&places.lab, &places.nodes["a"])?.ask("/services")?;
    let ported = services.as_array().into_iter().flatten().find(|service| service["name"] == "ported");
    let ports = &ported.context("it is not known")?["ports"];
    ensure!(ports[0]["app_protocol"] == "postgresql" && ports[1].get("app_protocol").is_none(), "{ports}");
    places.lab.finish()
}

#[test]
fn publish_not_ready() -> Result<()> {
    let places = Places::new(Lab::cluster("not-ready")?, &[("up", "b"), ("coming", "b")])?;
    places.lab.set_endpoints(&places.echo, places.endpoints(&["coming"]))?;
    places.only("the ready endpoint to get all", &["up"])?;
    places.spec(&json!({"publishNotReadyAddresses": true}))?;
    places.only("the others to be as good", &["coming", "up"])?;
    places.spec(&json!({"publishNotReadyAddresses": false}))?;
    places.only("the ready endpoint to get all again", &["up"])?;
    places.lab.finish()
}

#[test]
fn topology_spill_over() -> Result<()> {
    let backends = [("near1", "a"), ("near2", "b"), ("far1", "c"), ("far2", "c")];
    let places = Places::new(Lab::new("spill")?, &backends)?;
    for (node, zone) in [("a", "east"), ("b", "east"), ("c", "west")] {
        places.lab.zone(&places.nodes[node], zone)?;
    }
    places.spec(&json!({"trafficDistribution": "PreferSameZone"}))?;
    places.only("the endpoints of the zone to get all", &["near1", "near2"])?;
    // Half of the zone is well: it takes 7/5 of a half, of which the kernel draws its own node's part.
    places.lab.set_endpoints(&places.echo, places.endpoints(&["near2"]))?;
    places.only("the other zone to take what this one cannot", &["far1", "far2", "near1"])?;
    let spread = moves(&places.lab, &places.nodes["a"], "connect_same_node", 600, || places.spread(1000))?;
    let near = spread.get("near1").copied().unwrap_or_default();
    // Four standard deviations of 1,000 draws at 70 %.
    ensure!(near.abs_diff(700) <= 58, "{spread:?}");
    ensure!(spread["far1"].abs_diff(150) <= 46 && spread["far2"].abs_diff(150) <= 46, "{spread:?}");
    // An endpoint that refuses is out after a while, and with it the zone is: nobody's connection fails on the way.
    places.lab.set_endpoints(&places.echo, places.endpoints(&[]))?;
    places.only("the endpoints of the zone to get all again", &["near1", "near2"])?;
    places.lab.manifests().change("Service", NAMESPACE, "echo", |service| {
        service["metadata"]["annotations"]["weft.dev/fast-path"] = "disabled".into();
    })?;
    wait::until("the proxy to take all", wait::DEADLINE, || {
        moves(&places.lab, &places.nodes["a"], "connect_steer", 40, || places.spread(40)).map(drop)
    })?;
    for (_, app, listener) in &places.backends[..2] {
        app.unlisten(*listener)?;
    }
    places.app.call(Calls::to(places.echo.v4()).times(100, 4)).and_then(|summary| {
        ensure!(summary.failed() == 0 && summary.names.keys().eq(["far1", "far2"]), "{summary:?}");
        Ok(())
    })?;
    places.lab.finish()
}

#[test]
fn misfits_are_reported() -> Result<()> {
    let places = Places::new(Lab::new("misfits")?, &[("server", "b")])?;
    places.only("the Service to be served", &["server"])?;
    let agent = running_agent(&places.lab, &places.nodes["a"])?;
    ensure!(agent.ask("/status")?["problems"] == json!([]), "a problem with what fits");
    let server = &places.backends[0].0;
    let own = server.addresses()[0];
    let route = |name: &str, parent: &str, backend: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": parent}],
                "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]
            }
        })
    };
    // A thousand endpoints, of which one is there.
    let mut crowd: Vec<Value> = (0..999)
        .map(|n| json!({"addresses": [format!("10.250.{}.{}", n / 250, 1 + n % 250)], "conditions": {"ready": false}}))
        .collect();
    crowd.push(json!({"addresses": [own.to_string()], "conditions": {"ready": true}, "nodeName": "b"}));
    let slice = |name: &str, service: &str, endpoints: &[Value]| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "tcp", "port": 8080}], "endpoints": endpoints
        })
    };
    let misfits = [
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "twin", "namespace": NAMESPACE, "labels": {"weft.dev/mesh": "disabled"}},
            "spec": {"nodeName": "b", "containers": []}, "status": {"phase": "Running", "podIP": own.to_string()}
        }),
        route("first", "crowd", "crowd"),
        route("second", "crowd", "crowd"),
        route("lost", "nothing", "nobody"),
        slice("orphan", "nothing", &[]),
    ];
    places.lab.manifests().put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "crowd", "namespace": NAMESPACE},
        "spec": {"clusterIP": "10.96.200.2", "ports": [{"name": "tcp", "port": 80, "targetPort": 8080}]}
    }))?;
    places.lab.manifests().put(slice("crowd", "crowd", &crowd))?;
    misfits.iter().try_for_each(|object| places.lab.manifests().put(object.clone()))?;
    let wanted = [
        format!("Pod {NAMESPACE}/twin: has the address {own}, and so has Pod {NAMESPACE}/server"),
        format!(
            "TCPRoute {NAMESPACE}/second: has no effect on {NAMESPACE}/crowd: the route {NAMESPACE}/first comes first"
        ),
        format!("TCPRoute {NAMESPACE}/lost: is attached to Service {NAMESPACE}/nothing, which does not exist"),
        format!("TCPRoute {NAMESPACE}/lost: sends to Service {NAMESPACE}/nobody, which does not exist"),
        format!("EndpointSlice {NAMESPACE}/orphan: belongs to Service {NAMESPACE}/nothing, which does not exist"),
    ];
    let problems = || -> Result<Vec<String>> {
        let status = agent.ask("/status")?;
        Ok(status["problems"].as_array().into_iter().flatten().filter_map(|p| p.as_str().map(str::to_owned)).collect())
    };
    wait::until("every misfit to be reported", wait::DEADLINE, || {
        let problems = problems()?;
        for wanted in &wanted {
            ensure!(problems.iter().any(|problem| problem.contains(wanted)), "{wanted} is not among {problems:#?}");
        }
        ensure!(problems.len() == wanted.len(), "{problems:#?}");
        let counted = agent.metrics()?.sum("weft_config_problems", &[("severity", "warning")]);
        ensure!(counted == wanted.len() as f64, "{counted} are counted");
        Ok(())
    })?;
    // All else works on: what fits, and a thousand endpoints in one slice.
    places.only("the Service to be served as before", &["server"])?;
    moves(&places.lab, &places.nodes["a"], "connect_steer", 20, || {
        let summary = places.app.call(Calls::to("10.96.200.2:80".parse()?).times(20, 4))?;
        ensure!(summary.failed() == 0 && summary.names.keys().eq(["server"]), "{summary:?}");
        Ok(())
    })?;
    for object in &misfits {
        let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        places.lab.manifests().remove(word("/kind"), NAMESPACE, word("/metadata/name"));
    }
    wait::until("the reports to be gone with their causes", wait::DEADLINE, || {
        ensure!(problems()?.is_empty(), "{:#?}", problems()?);
        ensure!(agent.metrics()?.sum("weft_config_problems", &[("severity", "warning")]) == 0.0);
        Ok(())
    })?;
    places.lab.finish()
}
