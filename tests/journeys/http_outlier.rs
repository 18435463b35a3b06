//! Endpoints that are left out because of what they answered: those that fail too often, at most half of all, until their time is
//! over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Answers, Ask, Http, Requests};
use weft_tests::lab::Endpoint;
use weft_tests::wait;

use crate::http::Web;
use crate::http_policy::{policy, service};

/// How long the first ejection lasts.
const BASE: Duration = Duration::from_secs(2);

#[test]
fn ejected_endpoint_is_tried_again() -> Result<()> {
    let web = Web::serving("readmit", 3, "http")?;
    let settings =
        json!({"outlierDetection": {"consecutiveFailures": 3, "statuses": "Server", "baseEjectionTime": "2s"}});
    policy(&web.lab, "a-outlier", &service("web"), &settings)?;
    let (_, bad, listener) = &web.servers[0];
    let failing = Ask::get("/").with(&[("x-bad", "v1")]);
    let row = |ask: &Ask, http, count| -> Result<Answers> {
        web.steered(1, || web.app.request(Requests::to(web.web.v4(), http, ask.clone(), count)))
    };
    let seen = || -> Result<u64> { Ok(bad.seen(*listener)?.requests) };
    // It fails three times in a row and is left out.
    let out = wait::until("the bad endpoint to be left out", wait::DEADLINE, || {
        let before = seen()?;
        let answers = row(&failing, Http::One, 30)?;
        ensure!(seen()? == before && answers.with(200) == 30, "{answers:?}");
        Ok(Instant::now())
    })?;
    // When its time is over it gets one request, fails it, and is left out for longer.
    let mut times = Vec::new();
    let mut last = seen()?;
    wait::until("it to be tried and left out again", Duration::from_secs(40), || {
        let answers = row(&failing, Http::Two, 12)?;
        let now = seen()?;
        ensure!(answers.with(500) == now - last && now - last <= 1, "{} at once: {answers:?}", now - last);
        if now > last {
            (last, times) = (now, [times.clone(), vec![out.elapsed()]].concat());
        }
        ensure!(times.len() >= 2, "tried {} times", times.len());
        Ok(())
    })?;
    let apart = times[1] - times[0];
    ensure!(apart >= BASE * 2, "left out for {apart:?}, no longer than the first time");
    // And when it answers well it has its part again.
    let well = Ask::get("/");
    wait::until("it to be back", Duration::from_secs(40), || {
        let answers = row(&well, Http::One, 30)?;
        ensure!(answers.with(200) == 30 && answers.names.get("v1") == Some(&10), "{answers:?}");
        Ok(())
    })?;
    // It is no better than before: three in a row, and not one, leave it out.
    let before = seen()?;
    let answers = row(&failing, Http::One, 30)?;
    ensure!(answers.with(500) == 3 && seen()? == before + 3, "{answers:?}");
    web.lab.finish()
}

/// Requests an endpoint needs before its answers are judged.
const LEAST: u64 = 20;

#[test]
fn endpoints_that_fail_too_often_are_left_out() -> Result<()> {
    let web = Web::serving("successrate", 3, "http")?;
    let rate = json!({"percent": 80, "minRequests": LEAST, "interval": "5m"});
    let settings = json!({"outlierDetection": {
        "consecutiveFailures": 3, "statuses": "Server", "baseEjectionTime": "5m", "successRate": rate
    }});
    policy(&web.lab, "a-outlier", &service("web"), &settings)?;
    let (_, bad, listener) = &web.servers[0];
    let seen = || -> Result<u64> { Ok(bad.seen(*listener)?.requests) };
    // In turns, so each has one of every three: the first fails every other time, the second one time in ten, and nobody twice
    // in a row.
    let mut round = 0_u64;
    let mut ask = || -> Result<Answers> {
        round += 1;
        let whom = if round.is_multiple_of(2) {
            "v1"
        } else if round.is_multiple_of(5) {
            "v2"
        } else {
            "nobody"
        };
        let ask = Ask::get("/").with(&[("x-bad", whom)]);
        web.steered(1, || web.app.request(Requests::to(web.web.v4(), Http::One, ask, 3)))
    };
    let before = seen()?;
    let out = wait::until("the one that fails every other time to be left out", wait::DEADLINE, || {
        let answers = ask()?;
        ensure!(!answers.names.contains_key("v1"), "{answers:?}");
        seen()
    })?;
    ensure!(out - before >= LEAST, "left out after {} answers", out - before);
    for _ in 0..100 {
        let answers = ask()?;
        ensure!(!answers.names.contains_key("v1") && answers.names.len() == 2, "{answers:?}");
    }
    web.lab.finish()
}

#[test]
fn ejection_leaves_half_and_is_ignored_below_that() -> Result<()> {
    let web = Web::serving("ejectpanic", 4, "http")?;
    let settings =
        json!({"outlierDetection": {"consecutiveFailures": 3, "statuses": "Server", "baseEjectionTime": "5m"}});
    policy(&web.lab, "a-outlier", &service("web"), &settings)?;
    let ask = |bad: &str, count| {
        let ask = Ask::get("/").with(&[("x-bad", bad)]);
        web.steered(1, || web.app.request(Requests::to(web.web.v4(), Http::Two, ask, count)))
    };
    let become_of = |what: &str, bad: &str, wanted: &[&str]| {
        wait::until(what, wait::DEADLINE, || {
            let answers = ask(bad, 40)?;
            ensure!(answers.names.keys().eq(wanted), "{answers:?}");
            Ok(())
        })
    };
    become_of("the first to be left out", "v1", &["v2", "v3", "v4"])?;
    become_of("the second to be left out", "v2", &["v3", "v4"])?;
    // Half of them are out: the third may fail as it likes.
    let answers = ask("v3", 40)?;
    ensure!(answers.with(500) == 20 && answers.names.keys().eq(["v3", "v4"]), "{answers:?}");
    // One that is well goes, by no fault of its own: of three one would be left. Better all three than that.
    let listed = |count: usize| {
        let pods = web.servers.iter().take(count).map(|(pod, ..)| Endpoint::from(pod));
        web.lab.set_endpoints(&web.web, pods.collect())
    };
    listed(3)?;
    wait::until("those that were left out to be asked again", wait::DEADLINE, || {
        let answers = ask("v1", 40)?;
        ensure!(answers.with(500) > 0 && answers.names.contains_key("v2"), "{answers:?}");
        Ok(())
    })?;
    // The one that answered well is back, and with it there are enough: the other's time is not over.
    become_of("half to be enough again", "v1", &["v2", "v3"])?;
    listed(4)?;
    become_of("all but the one that fails to be asked", "nobody", &["v2", "v3", "v4"])?;
    web.lab.finish()
}
