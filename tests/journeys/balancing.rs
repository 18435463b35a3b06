//! Balancing, counted by the backends over real connections.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::app::{App, Behaviour, Calls};
use weft_tests::lab::{Endpoint, Lab, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moves};

/// A client on one node and backends on the other, meshed, each counting its connections.
struct Backends {
    lab: Lab,
    a: Node,
    app: App,
    backends: Vec<(Pod, App, u64)>,
}

impl Backends {
    fn new(name: &str, weights: &[Option<u32>]) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let app = lab.pod(&a, "client").create()?.app(&lab)?;
        let mut backends = Vec::new();
        for (number, weight) in weights.iter().enumerate() {
            let name = format!("v{}", number + 1);
            let spec = lab.pod(&b, &name);
            let pod = weight.map_or_else(|| lab.pod(&b, &name), |weight| spec.weight(weight)).create()?;
            let server = pod.app(&lab)?;
            let (listener, _) = server.listen(anywhere(8080), &name, Behaviour::Identify)?;
            backends.push((pod, server, listener));
        }
        lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, a, app, backends })
    }

    fn pods(&self) -> Vec<&Pod> {
        self.backends.iter().map(|(pod, ..)| pod).collect()
    }

    /// Waits until the agent routes to this Service at all.
    fn known(&self, service: &Service) -> Result<()> {
        wait::until("the Service to be steered", wait::DEADLINE, || {
            moves(&self.lab, &self.a, "connect_steer", 1, || self.app.call_once(service.v4()))
        })?;
        Ok(())
    }

    /// Makes the calls, half by each family, and yields what each backend counted meanwhile.
    fn spread(&self, service: &Service, count: u64) -> Result<BTreeMap<String, u64>> {
        self.spread_at(service, count, 16)
    }

    /// [`Backends::spread`] with so many calls at once.
    fn spread_at(&self, service: &Service, count: u64, concurrency: usize) -> Result<BTreeMap<String, u64>> {
        let before = self.counts()?;
        moves(&self.lab, &self.a, "connect_steer", count, || {
            for to in [service.v4(), service.v6()] {
                let summary = self.app.call(Calls::to(to).times(count / 2, concurrency))?;
                ensure!(summary.ok == count / 2 && summary.failed() == 0, "{to}: {summary:?}");
            }
            Ok(())
        })?;
        let after = self.counts()?;
        Ok(after.into_iter().map(|(name, count)| (name.clone(), count - before[&name])).collect())
    }

    fn counts(&self) -> Result<BTreeMap<String, u64>> {
        self.backends
            .iter()
            .map(|(pod, app, listener)| Ok((pod.name().to_owned(), app.seen(*listener)?.accepted)))
            .collect()
    }
}

/// How far `got` of `total` is from `share`, in percentage points.
fn off(got: u64, total: u64, share: f64) -> f64 {
    (got as f64 / total as f64 - share).abs() * 100.0
}

/// `echo` with a TCPRoute to `v1` and `v2` by these weights.
fn routed(lab: &Lab, pods: &[&Pod], weights: [u32; 2]) -> Result<Service> {
    let echo = lab.service("echo").create()?;
    let v1 = lab.service("v1").pods(&pods[..1]).create()?;
    let v2 = lab.service("v2").pods(&pods[1..2]).create()?;
    lab.split("echo", &echo, &[(&v1, weights[0]), (&v2, weights[1])])?;
    Ok(echo)
}

#[test]
fn weights_90_10() -> Result<()> {
    let mesh = Backends::new("weights", &[None, None])?;
    let echo = routed(&mesh.lab, &mesh.pods(), [90, 10])?;
    mesh.known(&echo)?;
    let counts = mesh.spread(&echo, 1000)?;
    // Four standard deviations of 1,000 draws at 10 %.
    ensure!(off(counts["v2"], 1000, 0.1) <= 3.8, "{counts:?}");
    mesh.lab.finish()
}

#[test]
fn weight_zero() -> Result<()> {
    let mesh = Backends::new("zero", &[None, None, Some(0)])?;
    let echo = routed(&mesh.lab, &mesh.pods(), [1, 0])?;
    mesh.known(&echo)?;
    let counts = mesh.spread(&echo, 200)?;
    ensure!(counts["v1"] == 200 && counts["v2"] == 0, "by route: {counts:?}");
    let all = mesh.lab.service("all").pods(&mesh.pods()).create()?;
    mesh.known(&all)?;
    let counts = mesh.spread(&all, 200)?;
    ensure!(counts["v3"] == 0 && counts["v1"] > 0 && counts["v2"] > 0, "by annotation: {counts:?}");
    mesh.lab.finish()
}

#[test]
fn all_weights_zero() -> Result<()> {
    let mesh = Backends::new("zeros", &[None, None])?;
    let echo = routed(&mesh.lab, &mesh.pods(), [1, 1])?;
    mesh.known(&echo)?;
    let echo_again = routed_zero(&mesh.lab, &echo)?;
    wait::until("nothing to be left to pick", wait::DEADLINE, || {
        moves(&mesh.lab, &mesh.a, "connect_steer", 10, || {
            let before = mesh.counts()?;
            let summary = mesh.app.call(Calls::to(echo_again).times(10, 2).deadline_ms(3000))?;
            ensure!(summary.ok == 0 && summary.failed() == 10, "{summary:?}");
            ensure!(summary.errors.keys().all(|error| !error.contains("TimedOut")), "it must fail fast: {summary:?}");
            ensure!(mesh.counts()? == before);
            Ok(())
        })
    })?;
    mesh.lab.finish()
}

fn routed_zero(lab: &Lab, echo: &Service) -> Result<std::net::SocketAddr> {
    lab.manifests().change("TCPRoute", echo.namespace(), "echo", |route| {
        for backend in route["spec"]["rules"][0]["backendRefs"].as_array_mut().into_iter().flatten() {
            backend["weight"] = 0.into();
        }
    })?;
    Ok(echo.v4())
}

#[test]
fn dead_endpoint_no_client_error() -> Result<()> {
    let mesh = Backends::new("dead", &[None, None, None])?;
    let echo = mesh.lab.service("echo").pods(&mesh.pods()).create()?;
    mesh.known(&echo)?;
    // One refuses, one is gone from the network without a word; both stay listed as ready.
    let (_, refusing, listener) = &mesh.backends[0];
    refusing.unlisten(*listener)?;
    mesh.backends[1].0.netns().ip(&["link set eth0 down".into()])?;
    moves(&mesh.lab, &mesh.a, "connect_steer", 200, || {
        for to in [echo.v4(), echo.v6()] {
            let summary = mesh.app.call(Calls::to(to).times(100, 8))?;
            ensure!(summary.ok == 100 && summary.failed() == 0, "{summary:?}");
            ensure!(summary.names.keys().eq(["v3"].iter()), "{summary:?}");
        }
        Ok(())
    })?;
    mesh.backends[1].0.reconnect()?;
    mesh.lab.finish()
}

#[test]
fn slow_endpoint_gets_less() -> Result<()> {
    let mesh = Backends::new("slow", &[None, None])?;
    let (_, slow, listener) = &mesh.backends[1];
    slow.unlisten(*listener)?;
    // Much longer than a connection takes through a machine that is busy with other tests: it is that ratio which is measured.
    let delay_ms = u64::try_from(Duration::from_millis(400).as_millis())?;
    let (slow_listener, _) = slow.listen(anywhere(8080), "v2", Behaviour::Slow { delay_ms })?;
    let echo = mesh.lab.service("echo").pods(&mesh.pods()).create()?;
    mesh.known(&echo)?;
    for (algorithm, most) in [("PeakEwma", 0.35), ("LeastRequest", 0.35)] {
        mesh.lab.algorithm(&echo, algorithm)?;
        mesh.settled(&echo, algorithm)?;
        let before = slow.seen(slow_listener)?.accepted;
        moves(&mesh.lab, &mesh.a, "connect_steer", 600, || {
            let summary = mesh.app.call(Calls::to(echo.v4()).times(600, 12))?;
            ensure!(summary.failed() == 0, "{summary:?}");
            Ok(())
        })?;
        let share = (slow.seen(slow_listener)?.accepted - before) as f64 / 600.0;
        ensure!(share < most && share > 0.0, "{algorithm}: the slow endpoint got {share}");
    }
    mesh.lab.finish()
}

#[test]
fn panic_threshold() -> Result<()> {
    let mesh = Backends::new("panic", &[None, None, None, None])?;
    let echo = mesh.lab.service("echo").pods(&mesh.pods()).create()?;
    mesh.known(&echo)?;
    let unready = |count: usize| -> Result<()> {
        let endpoints =
            mesh.pods().into_iter().enumerate().map(|(i, pod)| Endpoint { ready: i >= count, ..Endpoint::from(pod) });
        mesh.lab.set_endpoints(&echo, endpoints.collect())
    };
    // One of four unready: it gets nothing.
    unready(1)?;
    wait::until("an unready endpoint to get nothing", wait::DEADLINE, || {
        let counts = mesh.spread(&echo, 100)?;
        ensure!(counts["v1"] == 0 && counts["v2"] > 0 && counts["v3"] > 0 && counts["v4"] > 0, "{counts:?}");
        Ok(())
    })?;
    // All unready: better all of them than none.
    unready(4)?;
    wait::until("all to be tried when none is ready", wait::DEADLINE, || {
        let counts = mesh.spread(&echo, 100)?;
        ensure!(counts.values().all(|&count| count > 0), "{counts:?}");
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn split_10000() -> Result<()> {
    let mesh = Backends::new("split", &[Some(6), Some(3), Some(1)])?;
    let echo = mesh.lab.service("echo").pods(&mesh.pods()).create()?;
    mesh.known(&echo)?;
    for (algorithm, tolerance, concurrency) in
        [("RoundRobin", 1.0, 16), ("Random", 3.0, 16), ("LeastRequest", 3.0, 16), ("PeakEwma", 3.0, 16)]
    {
        mesh.lab.algorithm(&echo, algorithm)?;
        mesh.settled(&echo, algorithm)?;
        let counts = mesh.spread_at(&echo, 10_000, concurrency)?;
        println!("{algorithm}: {counts:?}");
        for (name, share) in [("v1", 0.6), ("v2", 0.3), ("v3", 0.1)] {
            ensure!(off(counts[name], 10_000, share) <= tolerance, "{algorithm}: {counts:?}");
        }
    }
    mesh.lab.finish()
}

impl Backends {
    /// Waits until the agent says that it balances the Service so.
    fn settled(&self, service: &Service, algorithm: &str) -> Result<()> {
        let agent = self.lab.agent_on(&self.a).context("no agent")?;
        wait::until(&format!("{} to be balanced by {algorithm}", service.name()), wait::DEADLINE, || {
            let services = agent.ask("/services")?;
            let mine = services.as_array().into_iter().flatten().find(|known| known["name"] == service.name());
            let said = mine.and_then(|known| known["ports"][0]["algorithm"].as_str()).unwrap_or_default();
            let plain = |text: &str| text.replace(['_', '-', ' '], "").to_lowercase();
            ensure!(plain(said) == plain(algorithm), "it is balanced by {said:?}");
            Ok(())
        })
    }
}
