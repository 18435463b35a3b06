//! Endpoints that leave while requests are under way: they finish what they have, and get nothing more.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::app::{App, Ask, Behaviour, Http, Payload, Reply, Requests};
use weft_tests::lab::{Endpoint, Pod};
use weft_tests::wait;

use crate::fixture::{anywhere, moved, running_agent};
use crate::http::Web;

/// Requests that go on meanwhile; each of their clients keeps its connections.
fn load(web: &Web) -> Result<Vec<u64>> {
    let body = Payload::Noise { seed: 5, length: 3000 };
    [
        Requests::to(web.web.v4(), Http::One, Ask::get("/"), 0),
        Requests::to(web.web.v4(), Http::Two, Ask::get("/"), 0),
        Requests::to(web.web.v6(), Http::One, Ask::post("/", body.clone()), 0),
        Requests::to(web.web.v6(), Http::Two, Ask::post("/", body), 0),
    ]
    .into_iter()
    .map(|requests| web.app.start_requests(requests.over(2, 2).pause_ms(3)))
    .collect()
}

/// Ends them: none may have failed, and none of the clients may have had to connect again.
fn went_well(web: &Web, load: Vec<u64>) -> Result<BTreeMap<String, u64>> {
    let mut names = BTreeMap::new();
    for one in load {
        let answers = web.app.stop_requests(one)?;
        ensure!(answers.failed() == 0 && answers.with(200) > 50, "{answers:?}");
        ensure!(answers.connections == 2, "a client had to connect again: {answers:?}");
        for (name, count) in answers.names {
            *names.entry(name).or_insert(0) += count;
        }
    }
    Ok(names)
}

fn draining(pod: &Pod) -> Endpoint {
    Endpoint { pod: pod.clone(), ready: false, terminating: true }
}

/// Waits until so many requests in a row over either version go to others than `name`, all of them well.
fn avoided(web: &Web, name: &str) -> Result<()> {
    wait::until(&format!("{name} to get no more requests"), wait::DEADLINE, || {
        for http in [Http::One, Http::Two] {
            let answers = web.app.request(Requests::to(web.web.v4(), http, Ask::get("/"), 50).over(2, 2))?;
            ensure!(answers.with(200) == 50 && !answers.names.contains_key(name), "{answers:?}");
        }
        Ok(())
    })
}

#[test]
fn terminating_endpoint_finishes_its_requests() -> Result<()> {
    let web = Web::serving("httpterm", 2, "http")?;
    let (old, new) = (&web.servers[0], &web.servers[1]);
    let seen = || -> Result<u64> { Ok(old.1.seen(old.2)?.requests + new.1.seen(new.2)?.requests) };
    for http in [Http::One, Http::Two] {
        web.lab.set_endpoints(&web.web, vec![Endpoint::from(&old.0), Endpoint::from(&new.0)])?;
        // Connections to both are there, and kept.
        wait::until("both to answer", wait::DEADLINE, || {
            let answers = web.app.request(Requests::to(web.web.v4(), http, Ask::get("/"), 20).over(1, 4))?;
            ensure!(answers.with(200) == 20 && answers.names.len() == 2, "{answers:?}");
            Ok(())
        })?;
        let before = seen()?;
        let slow: Vec<std::thread::JoinHandle<Result<Reply>>> = web.steered(0, || {
            Ok((0..6)
                .map(|_| {
                    let (app, to) = (web.app.clone(), web.web.v4());
                    std::thread::spawn(move || app.fetch(to, http, Ask::get("/wait/5000")))
                })
                .collect())
        })?;
        wait::until("the requests to be under way", wait::DEADLINE, || {
            let made = seen()? - before;
            ensure!(made == 6, "{made} of 6");
            Ok(())
        })?;
        let load = load(&web)?;
        web.lab.set_endpoints(&web.web, vec![draining(&old.0), Endpoint::from(&new.0)])?;
        web.steered(4, || avoided(&web, "v1"))?;
        let left = old.1.seen(old.2)?.requests;
        ensure!(!slow.iter().any(std::thread::JoinHandle::is_finished), "what was under way was over before");
        web.steered(4, || avoided(&web, "v1"))?;
        ensure!(old.1.seen(old.2)?.requests == left, "it got new requests");
        let mut names = BTreeMap::<String, u64>::new();
        for slow in slow {
            let reply = slow.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            ensure!(reply.status == 200, "{http:?}: {reply:?}");
            *names.entry(reply.header("x-name").context("nobody answered")?.to_owned()).or_default() += 1;
        }
        // In turns: half of them were the leaving one's.
        ensure!(names.get("v1").is_some_and(|count| *count >= 2), "{http:?}: {names:?}");
        went_well(&web, load)?;
    }
    web.lab.finish()
}

/// A pod behind `web`, and its process.
fn replica(web: &Web, name: &str, number: usize) -> Result<(Pod, App, u64)> {
    let node = if number.is_multiple_of(2) { &web.a } else { &web.b };
    let pod = web.lab.pod(node, name).create()?;
    let app = pod.app(&web.lab)?;
    let (listener, _) = app.listen(anywhere(8080), name, Behaviour::Http)?;
    web.lab.wait_live(&pod)?;
    Ok((pod, app, listener))
}

/// Waits until no agent lists a pod behind any Service.
fn forgotten(web: &Web, pod: &Pod) -> Result<()> {
    wait::until(&format!("{} to be taken off the list", pod.name()), wait::DEADLINE, || {
        for node in [&web.a, &web.b] {
            let services = running_agent(&web.lab, node)?.ask("/services")?.to_string();
            ensure!(pod.addresses().iter().all(|ip| !services.contains(&ip.to_string())), "not on {}", node.name());
        }
        Ok(())
    })
}

#[test]
fn rolling_replacement_under_requests() -> Result<()> {
    let web = Web::serving("httprolling", 1, "http")?;
    let first = (0..4).map(|n| replica(&web, &format!("old-{n}"), n)).collect::<Result<Vec<_>>>()?;
    let mut behind: Vec<Endpoint> = first.iter().map(|(pod, ..)| Endpoint::from(pod)).collect();
    web.lab.set_endpoints(&web.web, behind.clone())?;
    avoided(&web, "v1")?;
    let agent = running_agent(&web.lab, &web.a)?;
    let before = agent.verdicts()?;
    let load = load(&web)?;
    let mut second = Vec::new();
    for (n, (pod, app, listener)) in first.into_iter().enumerate() {
        // As a Deployment does it: the new one is ready before the old one is told to go.
        let new = replica(&web, &format!("new-{n}"), n)?;
        behind.push(Endpoint::from(&new.0));
        second.push(new);
        behind[0] = draining(&pod);
        web.lab.set_endpoints(&web.web, behind.clone())?;
        avoided(&web, pod.name())?;
        let left = app.seen(listener)?.requests;
        avoided(&web, pod.name())?;
        ensure!(app.seen(listener)?.requests == left, "{} got new requests", pod.name());
        behind.remove(0);
        web.lab.set_endpoints(&web.web, behind.clone())?;
        forgotten(&web, &pod)?;
        // With it go the connections to it that are kept.
        web.lab.delete_pod(&pod)?;
    }
    for (pod, app, listener) in &second {
        wait::until(&format!("{} to have its part", pod.name()), Duration::from_secs(10), || {
            ensure!(app.seen(*listener)?.requests > 20);
            Ok(())
        })?;
    }
    moved(&agent, &before, "connect_steer", 16)?;
    let names = went_well(&web, load)?;
    ensure!(names.keys().filter(|name| name.starts_with("new-")).count() == 4, "{names:?}");
    web.lab.finish()
}
