//! Which endpoints of a Service a connection may get: what Kubernetes says in the Service and its slices, counted by the
//! backends over real connections, past the proxy as well as through it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{AgentOptions, Endpoint, Lab, NAMESPACE};
use weft_tests::wait;

use crate::fixture::{anywhere, moved, moves, running_agent};
use crate::places::Places;

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
    let policy = |name: &str, sets: Value| {
        let mut policy = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"targetRefs": [{"name": "crowd"}]}
        });
        policy["spec"]
            .as_object_mut()
            .into_iter()
            .for_each(|spec| spec.extend(sets.as_object().cloned().unwrap_or_default()));
        policy
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
        policy("spare", json!({"fallback": {"name": "nobody", "port": 80}})),
        policy("idle", json!({"retryBudget": {"percent": 10}})),
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
        format!("TrafficPolicy {NAMESPACE}/spare: falls back to Service {NAMESPACE}/nobody, which does not exist"),
        format!("TrafficPolicy {NAMESPACE}/idle: sets what has no effect: retryBudget on Service {NAMESPACE}/crowd"),
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
