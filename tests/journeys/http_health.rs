//! Endpoints asked how they are: who is not well gets nothing, before anybody has been refused or answered badly.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Ask, Behaviour, Http, Requests};
use weft_tests::lab::{Endpoint, NAMESPACE};
use weft_tests::wait;

use crate::fixture::{anywhere, running_agent};
use crate::http::Web;
use crate::http_policy::{policy, service};

impl Web {
    /// Has the endpoints of `web` asked this, often.
    fn checked(&self, what: &Value, settings: &Value) -> Result<()> {
        let mut check = what.clone();
        check["interval"] = "200ms".into();
        check["healthyThreshold"] = 2.into();
        check["unhealthyThreshold"] = 2.into();
        let mut settings = settings.clone();
        settings["healthCheck"] = check;
        policy(&self.lab, "a-health", &service("web"), &settings)?;
        // Mutual TLS is all the servers take: so that is how they are asked.
        self.lab.manifests().put(json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "PeerAuthentication",
            "metadata": {"name": "strict", "namespace": NAMESPACE}, "spec": {"mtls": {"mode": "Strict"}}
        }))?;
        // From when on they are used under this policy.
        wait::until("endpoints to be checked", wait::DEADLINE, || {
            self.ask(Http::One, 1)?;
            let metrics = running_agent(&self.lab, &self.a)?.metrics()?;
            let good = metrics.sum("weft_health_checks_total", &[("result", "success")]);
            ensure!(good >= 2.0 * self.servers.len() as f64, "{good} good checks");
            Ok(())
        })
    }

    /// Waits until so many endpoints are unwell. Nobody sends them anything meanwhile.
    fn unwell(&self, count: f64) -> Result<()> {
        wait::until("checks to find out", wait::DEADLINE, || {
            let metrics = running_agent(&self.lab, &self.a)?.metrics()?;
            let now = metrics.sum("weft_unhealthy_endpoints", &[("destination_service_name", "web")]);
            ensure!(now == count, "{now} are unwell, not {count}");
            Ok(())
        })
    }

    /// Server `n` says from now on that it is well, or not.
    fn be(&self, n: usize, status: u16) -> Result<()> {
        let (_, server, _) = &self.servers[n];
        let own = "127.0.0.1:8080".parse()?;
        ensure!(server.fetch(own, Http::One, Ask::get(&format!("/be/{status}")))?.saw()?.peer.ip().is_loopback());
        Ok(())
    }

    /// The names of who answers so many requests, each of which has to go well.
    fn ask(&self, http: Http, count: u64) -> Result<Vec<String>> {
        let requests = Requests::to(self.web.v4(), http, Ask::get("/"), count);
        let answers = self.steered(1, || self.app.request(requests))?;
        ensure!(answers.with(200) == count, "{answers:?}");
        Ok(answers.names.into_keys().collect())
    }

    /// One server says that it is not well, and then again that it is.
    fn one_is_unwell_for_a_time(&self, http: Http) -> Result<()> {
        self.be(0, 503)?;
        self.unwell(1.0)?;
        ensure!(self.ask(http, 60)? == ["v2", "v3"]);
        self.be(0, 200)?;
        self.unwell(0.0)?;
        ensure!(self.ask(http, 60)? == ["v1", "v2", "v3"]);
        Ok(())
    }
}

#[test]
fn health_by_http() -> Result<()> {
    let web = Web::serving("healthhttp", 3, "http")?;
    let settings =
        json!({"outlierDetection": {"consecutiveFailures": 3, "statuses": "Server", "baseEjectionTime": "5m"}});
    web.checked(&json!({"http": {"path": "/well", "statuses": [200]}}), &settings)?;
    web.one_is_unwell_for_a_time(Http::One)?;
    // All of them: better an endpoint that says it is unwell than none.
    (0..3).try_for_each(|n| web.be(n, 503))?;
    web.unwell(3.0)?;
    ensure!(web.ask(Http::One, 60)? == ["v1", "v2", "v3"]);
    (0..3).try_for_each(|n| web.be(n, 200))?;
    web.unwell(0.0)?;
    // One that answers badly is left out for minutes, or until its checks have gone well often enough.
    wait::until("an endpoint to be left out and to return", wait::DEADLINE, || {
        let bad = Requests::to(web.web.v4(), Http::One, Ask::get("/").with(&[("x-bad", "v1")]), 30);
        let failed = web.app.request(bad)?.with(500);
        ensure!((3..=6).contains(&failed), "{failed} of 30 failed: it was not left out");
        ensure!(!web.ask(Http::One, 6)?.contains(&"v1".to_owned()), "it is back already");
        wait::until("it to return", wait::DEADLINE, || {
            ensure!(web.ask(Http::One, 12)?.contains(&"v1".to_owned()));
            Ok(())
        })
    })?;
    // Without the policy nobody is asked.
    web.lab.manifests().remove("TrafficPolicy", NAMESPACE, "a-health");
    wait::until("checks to end", wait::DEADLINE, || {
        let metrics = running_agent(&web.lab, &web.a)?.metrics()?;
        ensure!(!metrics.samples().iter().any(|sample| sample.name == "weft_unhealthy_endpoints"));
        Ok(())
    })?;
    web.lab.finish()
}

#[test]
fn health_by_grpc() -> Result<()> {
    let web = Web::serving("healthgrpc", 3, "grpc")?;
    web.checked(&json!({"grpc": {"service": "lab.Echo"}}), &json!({}))?;
    web.one_is_unwell_for_a_time(Http::Two)?;
    web.lab.finish()
}

#[test]
fn health_by_tcp() -> Result<()> {
    let web = Web::with("healthtcp", 3, &Behaviour::Http, "example.com/other")?;
    web.answers()?;
    web.checked(&json!({"tcp": {}}), &json!({}))?;
    let many = || -> Result<Vec<String>> {
        let names =
            (0..12).map(|_| Ok(web.ask(Http::One, 1)?.concat())).collect::<Result<std::collections::BTreeSet<_>>>()?;
        Ok(names.into_iter().collect())
    };
    let (_, server, listener) = &web.servers[0];
    server.unlisten(*listener)?;
    web.unwell(1.0)?;
    ensure!(many()? == ["v2", "v3"]);
    server.listen(anywhere(8080), "v1", Behaviour::Http)?;
    web.unwell(0.0)?;
    ensure!(many()? == ["v1", "v2", "v3"]);
    web.lab.finish()
}

#[test]
fn health_of_new_endpoints_is_asked_at_once() -> Result<()> {
    let web = Web::serving("healthnew", 2, "http")?;
    let hourly = json!({"http": {"path": "/well", "statuses": [200]}, "interval": "1h", "unhealthyThreshold": 1});
    policy(&web.lab, "a-health", &service("web"), &json!({"healthCheck": hourly}))?;
    wait::until("endpoints to be checked", wait::DEADLINE, || {
        web.ask(Http::One, 1)?;
        let metrics = running_agent(&web.lab, &web.a)?.metrics()?;
        let good = metrics.sum("weft_health_checks_total", &[("result", "success")]);
        ensure!(good == 2.0, "{good} good checks");
        Ok(())
    })?;
    // One that was never well comes, and nobody has sent anything since.
    let pod = web.lab.pod(&web.b, "v3").create()?;
    let server = pod.app(&web.lab)?;
    server.listen(anywhere(8080), "v3", Behaviour::Http)?;
    server.fetch("127.0.0.1:8080".parse()?, Http::One, Ask::get("/be/503"))?.saw()?;
    web.lab.wait_live(&pod)?;
    let pods = web.servers.iter().map(|(pod, ..)| pod).chain([&pod]);
    web.lab.set_endpoints(&web.web, pods.map(Endpoint::from).collect())?;
    web.unwell(1.0)?;
    ensure!(web.ask(Http::One, 60)? == ["v1", "v2"]);
    // Nor does anybody wait an hour for other settings.
    server.fetch("127.0.0.1:8080".parse()?, Http::One, Ask::get("/be/200"))?.saw()?;
    let often = json!({"http": {"path": "/well", "statuses": [200]}, "interval": "200ms"});
    policy(&web.lab, "a-health", &service("web"), &json!({"healthCheck": often}))?;
    web.unwell(0.0)?;
    web.lab.finish()
}
