//! Endpoints that were left out because of what they answered: they are tried again when their time is over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Answers, Ask, Http, Requests};
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
