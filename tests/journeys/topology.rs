//! Near endpoints before far ones, as `trafficDistribution`, hints and `internalTrafficPolicy` of a Service have it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{App, Calls};
use weft_tests::lab::{Endpoint, Lab, NAMESPACE, Pod};
use weft_tests::wait;

use crate::fixture::{moves, running_agent};
use crate::places::Places;

/// Where nodes are.
const ZONES: [(&str, &str); 3] = [("a", "east"), ("b", "east"), ("c", "west")];

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
    let zones = BTreeMap::from(ZONES);
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
    same_node_first(Lab::new("same-node-first")?)
}

#[test]
fn cluster_prefer_same_node() -> Result<()> {
    same_node_first(Lab::cluster("cluster-same-node")?)
}

fn same_node_first(lab: Lab) -> Result<()> {
    let places = Places::new(lab, &[("here", "a"), ("there", "b")])?;
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
    this_node_only(Lab::new("local-policy")?)
}

#[test]
fn cluster_internal_traffic_policy_local() -> Result<()> {
    this_node_only(Lab::cluster("cluster-local-policy")?)
}

fn this_node_only(lab: Lab) -> Result<()> {
    let places = Places::new(lab, &[("here", "a"), ("there", "b")])?;
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
fn locality_spills_over() -> Result<()> {
    spill_over(Lab::new("spill")?, |_| Ok(()))
}

#[test]
fn cluster_locality_spills_over() -> Result<()> {
    // An agent knows no other node's Node: where endpoints are, their slices say.
    spill_over(Lab::cluster("cluster-spill")?, |places| hint(places, &ZONES.into(), |_| true))
}

/// `told` is done whenever endpoints are named anew, as by the EndpointSlice controller.
fn spill_over(lab: Lab, told: impl Fn(&Places) -> Result<()>) -> Result<()> {
    let backends = [("near1", "a"), ("near2", "b"), ("far1", "c"), ("far2", "c")];
    let places = Places::new(lab, &backends)?;
    for (node, zone) in ZONES {
        places.lab.zone(&places.nodes[node], zone)?;
    }
    told(&places)?;
    places.spec(&json!({"trafficDistribution": "PreferSameZone"}))?;
    places.only("the endpoints of the zone to get all", &["near1", "near2"])?;
    // Half of the zone is well: it takes 7/5 of a half, of which the kernel draws its own node's part.
    places.lab.set_endpoints(&places.echo, places.endpoints(&["near2"]))?;
    told(&places)?;
    places.only("the other zone to take what this one cannot", &["far1", "far2", "near1"])?;
    let spread = moves(&places.lab, &places.nodes["a"], "connect_same_node", 600, || places.spread(1000))?;
    let near = spread.get("near1").copied().unwrap_or_default();
    // Four standard deviations of 1,000 draws at 70 %.
    ensure!(near.abs_diff(700) <= 58, "{spread:?}");
    ensure!(spread["far1"].abs_diff(150) <= 46 && spread["far2"].abs_diff(150) <= 46, "{spread:?}");
    // An endpoint that refuses is out after a while, and with it the zone is: nobody's connection fails on the way.
    places.lab.set_endpoints(&places.echo, places.endpoints(&[]))?;
    told(&places)?;
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
